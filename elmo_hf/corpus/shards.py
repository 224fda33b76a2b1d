"""Shards of a corpus, readable from any saved position: the parts shared by all formats.

A *shard* has a `name` and opens readers. A *reader* yields sentences and knows its current `position`. Readers work by
blocks of a few thousand sentences, so memory does not depend on the size of the corpus. A position consists of a
block's place in the shard and the number of sentences taken from the block.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from .records import identifier_of_record, sentences_of_record
from .rules import ReadingRules
from .tagged_text import Sentence, is_blank, text_of

# JSON: [place of the block, number of sentences taken from it]; None is the beginning.
Position = list[Any] | None

MEMORY_BLOCK = 4096  # sentences


@dataclass
class Block:
    """Consecutive sentences of a shard.

    Attributes:
        place: JSON; position of the block in the shard.
        sentences: the sentences.
        numbers: number of each sentence's line or record, counted from `place`.
        identifiers: the name of each sentence, if the rules name a column for them.
    """

    place: Any
    sentences: list[Sentence] = field(default_factory=list)
    numbers: Sequence[int] = field(default_factory=list)
    identifiers: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Record:
    """A sentence and its origin.

    Attributes:
        identifier: its name, as text; `None` without one.
        sentence: a text, a list of words, or words with POS tags.
        find_where: returns its location, for messages.
    """

    identifier: str | None
    sentence: Sentence
    find_where: Callable[[], str] = field(compare=False)

    @property
    def where(self) -> str:
        return self.find_where()


class ShardReader(Protocol):
    """Reader of the sentences of one shard, in order."""

    @property
    def position(self) -> Position:
        """Position of the next sentence, for `Shard.open`."""

    def take(self, count: int) -> list[str]:
        """Take the next `count` sentences, each as one text (see `tagged_text`); fewer only at the end."""

    def blocks(self) -> Iterator[Block]:
        """Yield the remaining sentences in blocks; not to be mixed with `take`."""

    def close(self) -> None:
        """Release files."""


class Shard(Protocol):
    """A part of a corpus. Picklable, so that worker processes can open it."""

    @property
    def name(self) -> str:
        """Readable location, for messages."""

    @property
    def may_be_empty(self) -> bool:
        """True if a shard without sentences is not an error."""

    @property
    def is_sequential(self) -> bool:
        """True if seeking to a place means reading everything before it."""

    @property
    def identity(self) -> list[Any]:
        """JSON value that changes with the content, as far as can be told without reading it."""

    def open(self, position: Position = None) -> ShardReader:
        """Open a reader that starts at `position`."""

    def where(self, place: Any, number: int) -> str:
        """Readable location of line or record `number` of the block at `place`, for messages."""


def records_of(shard: Shard, position: Position = None) -> Iterator[tuple[Position, Record]]:
    """Yield the records of a shard with numbered rules from a position on, each with its own position."""
    skipped = position[1] if position is not None else 0
    with closing(shard.open(position)) as reader:
        for block in reader.blocks():
            for index in range(skipped, len(block.sentences)):
                name = block.identifiers[index] if block.identifiers else None
                where = partial(shard.where, block.place, block.numbers[index])
                yield [block.place, index], Record(name, block.sentences[index], where)
            skipped = 0


class BlockReader(ABC):
    """Base class of readers that produce blocks."""

    def __init__(self, position: Position) -> None:
        self._block: Block | None = None
        self._given = 0
        self._resume_at = position

    @abstractmethod
    def seek(self, place: Any) -> None:
        """Make the block at `place` the next one."""

    @abstractmethod
    def next_block(self) -> Block | None:
        """The next block, possibly without sentences; `None` at the end of the shard."""

    def close(self) -> None:  # noqa: B027 - many have none
        """Release files."""

    @property
    def position(self) -> Position:
        if self._resume_at is not None:
            return self._resume_at
        return None if self._block is None else [self._block.place, self._given]

    def take(self, count: int) -> list[str]:
        if self._resume_at is not None:
            place, given = self._resume_at
            self._resume_at = None
            self.seek(place)
            self._load()
            self._given = given
        sentences: list[str] = []
        while len(sentences) < count:
            if self._block is not None:
                part = self._block.sentences[self._given : self._given + count - len(sentences)]
                self._given += len(part)
                sentences += map(text_of, part)
            if len(sentences) < count and not self._load():
                break
        return sentences

    def blocks(self) -> Iterator[Block]:
        if self._resume_at is not None:
            self.seek(self._resume_at[0])
            self._resume_at = None
        while (block := self.next_block()) is not None:
            yield block

    def _load(self) -> bool:
        following = self.next_block()
        if following is None:
            return False
        self._block, self._given = following, 0
        return True


class RecordSentences:
    """Converter of a shard's records to sentences. Records without text are skipped and reported at the shard's end.

    Args:
        shard: the shard, for messages.
        rules: names of the columns, and treatment of blank lines.
    """

    def __init__(self, shard: Shard, rules: ReadingRules) -> None:
        self._shard, self._rules = shard, rules
        self._without_text = 0
        self._first_without_text = ""

    def block(self, place: Any, numbered: Iterable[tuple[int, Any]], tag_names: Sequence[str] | None = None) -> Block:
        """Convert records, numbered from `place`, to a block; `tag_names` names POS tags stored as numbers."""
        block, numbers = Block(place), []
        for number, record in numbered:
            where = partial(self._shard.where, place, number)
            sentences = sentences_of_record(record, self._rules, where, tag_names)
            if sentences is None:
                self._without_text += 1
                self._first_without_text = self._first_without_text or where()
                continue
            for sentence in sentences:
                if self._rules.keeps_blank_lines or not is_blank(sentence):
                    block.sentences.append(sentence)
                    numbers.append(number)
            if self._rules.id_column is not None:
                block.identifiers.append(identifier_of_record(record, self._rules.id_column, where))
        block.numbers = numbers
        return block

    def tell(self) -> None:
        """Warn of skipped records; called at the end of the shard."""
        if self._without_text:
            column = self._rules.text_column
            warnings.warn(
                f"{self._shard.name}: left out {self._without_text:,} records whose column {column!r} is null, the "
                f"first of them at {self._first_without_text}",
                stacklevel=2,
            )
            self._without_text, self._first_without_text = 0, ""


@dataclass(frozen=True)
class MemoryShard:
    """A shard of sentences in memory."""

    name: str
    sentences: tuple[Sentence, ...]

    may_be_empty = is_sequential = False

    @property
    def identity(self) -> list[Any]:
        return [self.name, len(self.sentences), sum(len(text_of(each)) for each in self.sentences)]

    def open(self, position: Position = None) -> "MemoryReader":
        return MemoryReader(self, position)

    def where(self, place: int, number: int) -> str:
        return f"{self.name}, sentence {place + number}"


class MemoryReader(BlockReader):
    """Reader of a [`MemoryShard`]; a place is the number of a sentence."""

    def __init__(self, shard: MemoryShard, position: Position) -> None:
        super().__init__(position)
        self._sentences = shard.sentences
        self._next = 0

    def seek(self, place: int) -> None:
        self._next = place

    def next_block(self) -> Block | None:
        place = self._next
        if place >= len(self._sentences):
            return None
        self._next = place + MEMORY_BLOCK
        found = list(self._sentences[place : self._next])
        return Block(place, found, range(len(found)))

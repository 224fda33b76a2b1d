"""Parts of a corpus that can be read one by one, from any saved position: the shared ways of all formats.

A *shard* has a `name` and opens readers; a *reader* gives sentences, and its `position` is where it stands. Every
reader works block by block, a few thousand sentences at a time, so that memory does not depend on the corpus, and a
position is a block's place in the shard and the number of sentences given from the block.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from .records import identifier_of_record, sentences_of_record
from .rules import ReadingRules
from .tagged_text import Sentence, is_blank, text_of

# JSON: [place of the block, sentences given from it]; None is the beginning.
Position = list[Any] | None

MEMORY_BLOCK = 4096  # sentences


@dataclass
class Block:
    """Consecutive sentences of a shard.

    Attributes:
        place: JSON; where the block begins in the shard.
        sentences: what it holds.
        numbers: of the line or record of each sentence, counted from `place`.
        identifiers: the name of each sentence, where the rules have a column of them.
    """

    place: Any
    sentences: list[Sentence] = field(default_factory=list)
    numbers: Sequence[int] = field(default_factory=list)
    identifiers: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Record:
    """A sentence and where it is from.

    Attributes:
        identifier: its name, as text; `None` without one.
        sentence: a text, a list of words, or words with parts of speech beside them.
        find_where: finds its place, for messages.
    """

    identifier: str | None
    sentence: Sentence
    find_where: Callable[[], str] = field(compare=False)

    @property
    def where(self) -> str:
        return self.find_where()


class ShardReader(Protocol):
    """Reads the sentences of one shard in order."""

    @property
    def position(self) -> Position:
        """Where the next sentence is; `Shard.open` takes it."""

    def take(self, count: int) -> list[str]:
        """The next `count` sentences, each as one text (see `tagged_text`); fewer only at the end."""

    def blocks(self) -> Iterator[Block]:
        """What is left, block by block; for a reader that nothing is taken from otherwise."""

    def close(self) -> None:
        """Release files."""


class Shard(Protocol):
    """A part of a corpus. Picklable, so that worker processes can open it."""

    @property
    def name(self) -> str:
        """For messages: where a person finds it."""

    @property
    def may_be_empty(self) -> bool:
        """Whether it is nothing to report that the shard holds no sentence."""

    @property
    def is_sequential(self) -> bool:
        """Whether a place is found only by reading all before it."""

    @property
    def identity(self) -> list[Any]:
        """JSON that changes when the content does, as far as can be told without reading it."""

    def open(self, position: Position = None) -> ShardReader:
        """A reader from `position` on."""

    def where(self, place: Any, number: int) -> str:
        """For messages: the line or record `number` after the beginning of the block at `place`."""


def records_of(shard: Shard, position: Position = None) -> Iterator[tuple[Position, Record]]:
    """The records of a shard of numbered rules from a position on, each with its own position."""
    reader = shard.open(position)
    skipped = position[1] if position is not None else 0
    try:
        for block in reader.blocks():
            for index in range(skipped, len(block.sentences)):
                name = block.identifiers[index] if block.identifiers else None
                where = partial(shard.where, block.place, block.numbers[index])
                yield [block.place, index], Record(name, block.sentences[index], where)
            skipped = 0
    finally:
        reader.close()


class BlockReader(ABC):
    """A reader whose blocks are lists of sentences."""

    def __init__(self, position: Position) -> None:
        self._block: Block | None = None
        self._given = 0
        self._resume_at = position

    @abstractmethod
    def seek(self, place: Any) -> None:
        """Make the block at `place` the next one."""

    @abstractmethod
    def next_block(self) -> Block | None:
        """The next block, which may have no sentence; `None` at the end of the shard."""

    @abstractmethod
    def close(self) -> None:
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
    """Makes a shard's records sentences. Those without text are left out, counted, and told of at the shard's end.

    Args:
        shard: for messages.
        rules: the columns, and what becomes of blank lines.
    """

    def __init__(self, shard: Shard, rules: ReadingRules) -> None:
        self._shard, self._rules = shard, rules
        self._without_text = 0
        self._first_without_text = ""

    def block(self, place: Any, numbered: Iterable[tuple[int, Any]], tag_names: Sequence[str] | None = None) -> Block:
        """The block of records, each with its number from `place`; `tag_names` of parts of speech that are numbers."""
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
        """Warn of what was left out; called at the end of the shard."""
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
    """Sentences that are in memory already."""

    name: str
    sentences: tuple[Sentence, ...]

    @property
    def may_be_empty(self) -> bool:
        return False

    @property
    def is_sequential(self) -> bool:
        return False

    @property
    def identity(self) -> list[Any]:
        return [self.name, len(self.sentences), sum(len(text_of(each)) for each in self.sentences)]

    def open(self, position: Position = None) -> "MemoryReader":
        return MemoryReader(self, position)

    def where(self, place: int, number: int) -> str:
        return f"{self.name}, sentence {place + number}"


class MemoryReader(BlockReader):
    """Reads a [`MemoryShard`]; a place is the number of a sentence."""

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

    def close(self) -> None:
        pass

"""Parts of a corpus that can be read one by one, from any saved position: the shared ways of all formats.

A *shard* has a `name` and opens readers; a *reader* gives sentences, and its `position` is where it stands. Every
reader works block by block, a few thousand sentences at a time, so that memory does not depend on the corpus, and a
position is a block's place in the shard and the number of sentences given from the block.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

# JSON: [place of the block, sentences given from it]; None is the beginning.
Position = list[Any] | None

MEMORY_BLOCK = 4096  # sentences


class ShardReader(Protocol):
    """Reads the sentences of one shard in order."""

    @property
    def position(self) -> Position:
        """Where the next sentence is; `Shard.open` takes it."""

    def take(self, count: int) -> list[str]:
        """The next `count` sentences; fewer only at the end."""

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
    def identity(self) -> list[Any]:
        """JSON that changes when the content does, as far as can be told without reading it."""

    def open(self, position: Position = None) -> ShardReader:
        """A reader from `position` on."""


class BlockReader(ABC):
    """A reader whose blocks are lists of sentences."""

    def __init__(self, position: Position) -> None:
        self._place: Any = None
        self._block: list[str] = []
        self._given = 0
        self._resume_at = position

    @abstractmethod
    def seek(self, place: Any) -> None:
        """Make the block at `place` the next one."""

    @abstractmethod
    def next_block(self) -> tuple[Any, list[str]] | None:
        """The place and the sentences of the next block, which may be none; `None` at the end of the shard."""

    @abstractmethod
    def close(self) -> None:
        """Release files."""

    @property
    def position(self) -> Position:
        if self._resume_at is not None:
            return self._resume_at
        return None if self._place is None else [self._place, self._given]

    def take(self, count: int) -> list[str]:
        if self._resume_at is not None:
            place, given = self._resume_at
            self._resume_at = None
            self.seek(place)
            self._load()
            self._given = given
        sentences: list[str] = []
        while len(sentences) < count:
            part = self._block[self._given : self._given + count - len(sentences)]
            sentences += part
            self._given += len(part)
            if len(sentences) < count and not self._load():
                break
        return sentences

    def _load(self) -> bool:
        following = self.next_block()
        if following is None:
            return False
        self._place, self._block = following
        self._given = 0
        return True


@dataclass(frozen=True)
class MemoryShard:
    """Sentences that are in memory already."""

    name: str
    sentences: tuple[str, ...]

    @property
    def may_be_empty(self) -> bool:
        return False

    @property
    def identity(self) -> list[Any]:
        return [self.name, len(self.sentences), sum(map(len, self.sentences))]

    def open(self, position: Position = None) -> "MemoryReader":
        return MemoryReader(self, position)


class MemoryReader(BlockReader):
    """Reads a [`MemoryShard`]; a place is the number of a sentence."""

    def __init__(self, shard: MemoryShard, position: Position) -> None:
        super().__init__(position)
        self._sentences = shard.sentences
        self._next = 0

    def seek(self, place: int) -> None:
        self._next = place

    def next_block(self) -> tuple[int, list[str]] | None:
        place = self._next
        if place >= len(self._sentences):
            return None
        self._next = place + MEMORY_BLOCK
        return place, list(self._sentences[place : self._next])

    def close(self) -> None:
        pass

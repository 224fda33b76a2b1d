"""Batches of items of similar length, with results returned in the original order."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class BatchSize:
    """Maximum size of a batch, in rows or in words including padding.

    Attributes:
        rows, words: the bounds; `None` for no bound. A longer row forms a batch of its own.
    """

    rows: int | None = None
    words: int | None = None

    @classmethod
    def of(cls, words: int | None, device: torch.device) -> "BatchSize":
        """Size of this many words; by default a size for the device.

        On a GPU a step of the recurrence over 512 rows takes not much longer than one over 128 (docs/gpu.md). The
        number of words bounds the memory.
        """
        if words is not None:
            return cls(words=words)
        return cls(rows=512, words=16384) if device.type == "cuda" else cls(words=2048)

    def holds(self, rows: int, longest: int) -> bool:
        """True if a batch can have `rows` rows whose longest has `longest` words."""
        if self.rows is not None and rows > self.rows:
            return False
        return self.words is None or rows == 1 or rows * longest <= self.words

    def fills(self, batches: int, rows: int, words: int) -> bool:
        """True if `rows` rows with `words` words in total, without padding, are enough for `batches` batches."""
        if self.rows is not None and rows >= batches * self.rows:
            return True
        return self.words is not None and words >= batches * self.words


def read_in_batches(
    items: Iterable[Item],
    read: Callable[[list[Item]], Iterable[Result]],
    length: Callable[[Item], int],
    size: BatchSize,
    window: int | None = None,
) -> Iterator[Result]:
    """Read items in batches of similar length.

    Args:
        items: any iterable; read as a stream.
        read: returns the results of a batch's items, in their order; the last item is the longest. Its return value is
            iterated only after `read` was called for the next batch, so it may start asynchronous work.
        length: number of words of an item as they are read, including boundaries.
        size: maximum size of a batch.
        window: number of batches whose items are sorted together and held in memory; `None` for all.

    Yields:
        The result of each item, in the order of the items.
    """
    for pool in pools(items, length, size, window):
        yield from _read_pool(pool, read, length, size)


def pools(
    items: Iterable[Item], length: Callable[[Item], int], size: BatchSize, window: int | None
) -> Iterator[list[Item]]:
    """Consecutive items to be sorted and read together; arguments as in [`read_in_batches`].

    A pool depends only on the items after the previous pool, so that reading can resume after any pool.
    """
    pool: list[Item] = []
    words = 0
    for item in items:
        pool.append(item)
        words += length(item)
        if window is not None and size.fills(window, len(pool), words):
            yield pool
            pool, words = [], 0
    yield pool


def _read_pool(
    pool: list[Item], read: Callable[[list[Item]], Iterable[Result]], length: Callable[[Item], int], size: BatchSize
) -> list[Result]:
    results: dict[int, Result] = {}
    begun: tuple[list[int], Iterable[Result]] = [], []
    for places in batches_of_similar_length([length(item) for item in pool], size):
        following = places, read([pool[place] for place in places])
        results.update(zip(*begun, strict=True))
        begun = following
    results.update(zip(*begun, strict=True))
    return [results[place] for place in range(len(pool))]


def batches_of_similar_length(lengths: Sequence[int], size: BatchSize) -> Iterator[list[int]]:
    """Indices of the rows of each batch, from the shortest rows to the longest."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        # The next row is the longest of the batch.
        if batch and not size.holds(len(batch) + 1, lengths[place]):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch

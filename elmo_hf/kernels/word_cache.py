"""Cache of word vectors between batches.

The vector of a word depends only on the word, and the 20,000 most frequent words make up 96 % of running text.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .prepared_weights import Fingerprint, can_have_fingerprint, kept_words

# The cache is set-associative: a word may be in any of this many slots.
WAYS = 8
# Held while a layer's cache is created, so that two threads share one.
_MAKING = threading.Lock()


def kept_vectors(
    layer: nn.Module,
    max_megabytes: float,
    rows: Tensor,
    weights: Sequence[Tensor],
    encode: Callable[[Tensor], Tensor],
) -> Tensor:
    """Vectors of distinct words from `encode`, cached for the layer until `release`.

    The cache is outside the model: copies and pickles do not contain it. Nothing is cached if changes of the weights
    cannot be detected.

    Args:
        layer: the word layer, the key of the cache.
        max_megabytes: maximum size of the cache.
        rows, weights, encode: as in `WordCache.vectors`.
    """
    if not all(map(can_have_fingerprint, weights)):
        return encode(rows)
    with _MAKING:
        cache = kept_words.get(layer)
        if cache is None or cache.max_megabytes != max_megabytes:
            cache = kept_words[layer] = WordCache(max_megabytes)
    return cache.vectors(rows, weights, encode)


def row_hashes(rows: Tensor) -> Tensor:
    """Hashes of rows, (n, length) int64 -> (n,) int64, as in the model's `distinct_rows`; collisions are possible."""
    multipliers = torch.full((rows.shape[1],), 0x5851F42D4C957F2D, dtype=torch.int64, device=rows.device).cumprod(0)
    return (rows * multipliers).sum(dim=1)


def pays_on(device: torch.device) -> bool:
    """True on a CPU. On a GPU, computing vectors takes less time than a look-up in the cache."""
    return device.type == "cpu"


def _kind_of(rows: Tensor) -> tuple[Any, ...]:
    """Everything besides the weights that a word's vector depends on, including autocast's dtype."""
    device = rows.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return rows.device, rows.shape[1], autocast


class WordCache:
    """Set-associative cache of bounded size: integers that a word layer reads of a word -> the word's vector.

    The hash of a word selects a set of `WAYS` slots; a new word replaces the least recently used slot of its set. Rows
    are compared in full, so hash collisions are harmless.

    Args:
        max_megabytes: maximum size (1 MB is 10 ** 6 bytes), more than 0.
    """

    def __init__(self, max_megabytes: float) -> None:
        self.max_megabytes = max_megabytes
        # Held so that no other thread evicts a slot between lookup and read: operators release the GIL.
        self._lock = threading.RLock()
        self.clear()

    def clear(self) -> None:
        """Empty the cache."""
        self._made_with: Fingerprint | None = None
        self._kind: tuple[Any, ...] | None = None
        self._clock = 0
        # Per slot: the row of its word, the row's hash, the word's vector, and the time of its last use (0: empty).
        self._rows = self._hashes = self._vectors = self._asked = torch.empty(0)
        self.words_asked = self.words_found = 0

    def __len__(self) -> int:
        """Number of cached words."""
        return int(self._asked.count_nonzero())

    def vectors(self, rows: Tensor, weights: Sequence[Tensor], encode: Callable[[Tensor], Tensor]) -> Tensor:
        """Vectors of distinct words, from the cache or from `encode`.

        Args:
            rows: (n, length), int64, distinct.
            weights: all weights that `encode` reads; a change empties the cache.
            encode: (m, length) rows -> (m, width) vectors.

        Returns:
            (n, width).
        """
        if not pays_on(rows.device):
            return encode(rows)
        with self._lock, torch.no_grad():
            return self._vectors_of(rows, weights, encode)

    def _vectors_of(self, rows: Tensor, weights: Sequence[Tensor], encode: Callable[[Tensor], Tensor]) -> Tensor:
        if self._made_with is None or not self._made_with.is_of(weights):
            self.clear()
            self._made_with = Fingerprint(weights)
        if not len(rows):
            return encode(rows)
        hashes = row_hashes(rows)
        if self._kind is None or self._kind != _kind_of(rows):
            vectors = encode(rows)
            self._allocate(rows, vectors)
            self.words_asked += len(rows)
            self._keep(rows, hashes, vectors)
            return vectors
        slots, found = self._find(rows, hashes)
        self._clock += 1
        self._asked[slots[found]] = self._clock
        self.words_asked += len(rows)
        self.words_found += int(found.sum())
        if bool(found.all()):
            return self._vectors[slots]
        missing = found.logical_not().nonzero().squeeze(1)
        made = encode(rows[missing])
        result = self._vectors[slots.masked_fill(~found, 0)]
        result[missing] = made
        self._keep(rows[missing], hashes[missing], made)
        return result

    @torch.inference_mode(False)  # an inference tensor cannot be written outside inference mode
    def _allocate(self, rows: Tensor, vectors: Tensor) -> None:
        slot_bytes = 4 * rows.shape[1] + 8 + 8 + vectors.element_size() * vectors.shape[1]
        slots = max(1, int(self.max_megabytes * 1e6 / slot_bytes / WAYS)) * WAYS
        # Pages that are never written take no physical memory.
        self._rows = rows.new_empty(slots, rows.shape[1], dtype=torch.int32)
        self._hashes = rows.new_empty(slots)
        self._vectors = vectors.new_empty(slots, vectors.shape[1])
        self._asked = rows.new_zeros(slots)
        self._kind = _kind_of(rows)

    def _sets(self, hashes: Tensor) -> Tensor:
        """(n,) hashes -> (n, WAYS) slots of each word's set."""
        # The low bits of the polynomial hash depend on little of the row; the middle bits depend on all of it.
        first = (hashes >> 20).remainder(len(self._asked) // WAYS) * WAYS
        return first[:, None] + torch.arange(WAYS, device=hashes.device)

    def _find(self, rows: Tensor, hashes: Tensor) -> tuple[Tensor, Tensor]:
        """Each word's slot (n,), and whether the word was found (n,)."""
        sets = self._sets(hashes)
        alike = self._hashes[sets].eq(hashes[:, None]) & self._asked[sets].ne(0)  # [n, WAYS]
        # Of several words with one hash in one set, only the first is cached; the others are computed each time.
        slots = sets.gather(1, alike.to(torch.uint8).argmax(dim=1, keepdim=True)).squeeze(1)
        found = alike.any(dim=1)
        candidates = found.nonzero().squeeze(1)
        same = self._rows[slots[candidates]].eq(rows[candidates]).all(dim=1)
        found[candidates] = same
        return slots, found

    def _keep(self, rows: Tensor, hashes: Tensor, vectors: Tensor) -> None:
        """Write new words over the least recently used slots of their sets."""
        self._clock += 1
        sets = self._sets(hashes)
        oldest = sets.gather(1, self._asked[sets].argsort(dim=1, stable=True))  # [n, WAYS]
        # Several words of this batch may belong to one set: the k-th takes the k-th oldest slot.
        order = sets[:, 0].argsort(stable=True)
        first = sets[order, 0]
        place = torch.arange(len(first), device=first.device)
        begins = torch.ones_like(first, dtype=torch.bool)
        begins[1:] = first[1:] != first[:-1]
        rank = place - place.where(begins, torch.zeros_like(place)).cummax(0).values
        fits = rank < WAYS
        chosen, rank = order[fits], rank[fits]
        slots = oldest[chosen, rank]
        self._rows[slots] = rows[chosen].to(self._rows.dtype)
        self._hashes[slots] = hashes[chosen]
        self._vectors[slots] = vectors[chosen]
        self._asked[slots] = self._clock

"""The order in which a corpus is read: epoch after epoch, shuffled within bounded memory, resumable.

bilm-tf shuffles the list of shards, loads a whole shard and shuffles its sentences (`LMDataset`). Here the list is
shuffled too, and then the sentences of one *window* at a time. A window of at least a shard's length is bilm-tf's
shuffle; a smaller one bounds the memory. Every order is a function of (seed, epoch, window). So the state of a run is a
few numbers, and resuming reads one window again instead of the corpus.
"""

import warnings
from typing import Any

import numpy as np

from elmo_hf.corpus.sentences import Corpus
from elmo_hf.corpus.shards import Position, ShardReader

# Sentences read from a shard at a time, and the mean length at which a window counts as full: windows are bounded in
# characters too, since a "sentence" may be a document.
SENTENCES_AT_A_TIME = 1024
CHARACTERS_PER_SENTENCE = 256


class SentenceOrder:
    """Iterator over the sentences of a corpus, `epochs` times or endlessly.

    Args:
        corpus: the sentences.
        seed: seed of the order; equal seeds give equal orders.
        epochs: number of passes over the corpus; `None` for no end.
        shuffle: shuffle shards and sentences in each epoch, else keep the corpus's order.
        window: sentences shuffled together, the maximum in memory (and at most 256 characters times as many).

    Attributes:
        epoch: epoch of the last returned sentence, from 0.
        sentences: number of sentences returned in this epoch.

    Raises:
        ValueError: (on reading) the corpus has no sentence.
    """

    def __init__(
        self, corpus: Corpus, *, seed: tuple[int, ...], epochs: int | None, shuffle: bool, window: int
    ) -> None:
        if window < 1:
            raise ValueError(f"shuffle window of {window} sentences: expected at least 1")
        if epochs is not None and epochs < 1:
            raise ValueError(f"epochs={epochs}: expected at least 1, or None for no end")
        self.corpus = corpus
        self.seed = seed
        self.epochs = epochs
        self.shuffle = shuffle
        # Without shuffling there is no reason to hold many sentences.
        self.window = window if shuffle else min(window, SENTENCES_AT_A_TIME)
        self._reader: ShardReader | None = None
        self._seen_any = False  # True if the open shard has returned a sentence
        self._empty_shards: set[str] = set()
        self._window_start: tuple[int, Position]  # start of the loaded window: shard in this epoch's order, position
        self._next_start: tuple[int, Position]
        self._begin_epoch(0)

    def __iter__(self) -> "SentenceOrder":
        return self

    def __next__(self) -> str:
        while self._taken == len(self._sentences):
            if not self._load_window() and not self._end_epoch():
                raise StopIteration
        sentence = self._sentences[self._taken]
        self._sentences[self._taken] = ""  # frees memory: two whole windows are never held at once
        self._taken += 1
        self.sentences += 1
        return sentence

    def __getstate__(self) -> dict[str, Any]:
        """State without the open shard and the window, which another process reads again (`load_state_dict`)."""
        return {**vars(self), "_reader": None, "_sentences": [], "_taken": 0}

    def state_dict(self) -> dict[str, Any]:
        """Position of the next sentence: numbers and a position in a shard, for JSON."""
        place, position = self._window_start
        return {
            "epoch": self.epoch,
            "window": self._windows,
            "shard": place,
            "position": position,
            "taken": self._taken,
            "sentences": self.sentences,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a `state_dict`, with the same corpus and arguments.

        Raises:
            ValueError: the corpus ends before the position.
        """
        self._close()
        self._begin_epoch(state["epoch"])
        self._windows = state["window"]
        self._next_start = self._window_start = (state["shard"], state["position"])
        self.sentences = state["sentences"]
        if self._windows:
            self._windows -= 1
            self._load_window()
        if state["taken"] > len(self._sentences):
            raise ValueError(
                f"the saved position, sentence {state['taken']} of a window of {len(self._sentences)} in epoch "
                f"{self.epoch}, lies beyond {self.corpus.name}: the corpus has changed since. Restore it, or start a "
                "new run from the saved weights"
            )
        self._taken = state["taken"]

    def _begin_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.sentences = 0
        self._order = list(range(len(self.corpus.shards)))
        if self.shuffle:
            self._order = self._generator(epoch).permutation(len(self._order)).tolist()
        self._windows = 0  # windows loaded in this epoch
        self._window_start = self._next_start = (0, None)
        self._sentences: list[str] = []
        self._taken = 0

    def _end_epoch(self) -> bool:
        """Begin the next epoch, if there is one."""
        if self.sentences == 0:
            raise ValueError(
                f"{self.corpus.name} holds no sentence: expected text with one sentence per line. Check the files, the "
                "text column, and whether every line was skipped"
            )
        if self.epochs is not None and self.epoch + 1 >= self.epochs:
            return False
        self._begin_epoch(self.epoch + 1)
        return True

    def _load_window(self) -> bool:
        """Load the next window; at the end of the epoch return False and change nothing."""
        place, position = start = self._next_start
        sentences: list[str] = []
        characters = 0
        while (
            place < len(self._order)
            and len(sentences) < self.window
            and characters < self.window * CHARACTERS_PER_SENTENCE
        ):
            shard = self.corpus.shards[self._order[place]]
            if self._reader is None:
                self._reader = shard.open(position)
                self._seen_any = position is not None
            asked = min(SENTENCES_AT_A_TIME, self.window - len(sentences))
            part = self._reader.take(asked)
            sentences += part
            characters += sum(map(len, part))
            position = self._reader.position
            self._seen_any = self._seen_any or bool(part)
            if len(part) < asked:
                if not self._seen_any and not shard.may_be_empty:
                    self._warn_of_empty(shard.name)
                self._close()
                place, position = place + 1, None
        if not sentences:
            return False
        if self.shuffle:
            order = self._generator(self.epoch, self._windows).permutation(len(sentences))
            sentences = [sentences[index] for index in order.tolist()]
        self._sentences, self._taken = sentences, 0
        self._window_start, self._next_start = start, (place, position)
        self._windows += 1
        return True

    def _generator(self, *path: int) -> np.random.Generator:
        # The length comes first: otherwise (1, 2) and (1, 2, 0) would seed the same generator.
        return np.random.default_rng([len(path), *self.seed, *path])

    def _warn_of_empty(self, name: str) -> None:
        if name not in self._empty_shards:
            self._empty_shards.add(name)
            warnings.warn(f"{name} holds no sentence", stacklevel=2)

    def _close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

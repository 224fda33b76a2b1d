"""Batches of sentences for truncated backpropagation: every row of a batch reads its own running text.

The rules are bilm-tf's (`LMDataset`, `BidirectionalLMDataset`, `_get_batch`). A sentence is `<S> w1 ... wn </S>`, read
backwards for the backward direction; inputs are all but the last word, targets all but the first. A row at the end of
its sentence takes the next one from an order shared by all rows, and is filled to exactly `steps` words across
sentences. The two directions read the corpus in separate orders, so a batch has different sentences for each.

Unlike bilm-tf, the last, incomplete batches of a finite run are padded and not dropped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from elmo_hf.checks import at_least_one
from elmo_hf.corpus.sentences import Corpus
from elmo_hf.corpus.tagged_text import TaggedSentence, sentence_of
from elmo_hf.corpus.word_encoder import WordEncoder, word_splitter

from .sentence_order import SentenceOrder

if TYPE_CHECKING:
    from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

IGNORED_LABEL = -100
STATE_VERSION = 1
# Sentences sorted by length together, with `sentence_independent`: this many batches, up to this many rows.
BATCHES_OF_POOL = 64
ROWS_OF_POOL = 2**16


@dataclass(frozen=True)
class StreamBatch:
    """One unroll of all rows; time runs along dim 1 in reading order (the backward stream is already reversed).

    Position t of a row's labels is the word after position t of its inputs, in that direction's reading order.

    Attributes:
        forward_input_ids: (rows, steps) int64 word ids; padding 0.
        forward_character_ids: (rows, steps, max_characters_per_word) int16; padding words are rows of zeros. `None`
            without characters (models with word inputs).
        forward_labels: (rows, steps) int64 word ids; -100 for no target (padding at the end of a row, only at the end
            of a finite corpus and in sentence-independent batches).
        backward_input_ids, backward_character_ids, backward_labels: the same for the backward stream.
        words: number of forward targets other than -100 in this batch.
        backward_words: number of backward targets; equal to `words` except at the end of a finite corpus.
        starts_fresh: True if the recurrent states must be zero before this batch (sentence-independent batches).
        forward_pos_tag_ids, backward_pos_tag_ids: (rows, steps) int64, POS tags of the inputs; 0 for none, at
            boundaries and at padding. `None` without POS tags.
        forward_starts, backward_starts: (rows,) bool, True if a row's first word is the boundary before a sentence.
    """

    forward_input_ids: Tensor
    forward_character_ids: Tensor | None
    forward_labels: Tensor
    backward_input_ids: Tensor
    backward_character_ids: Tensor | None
    backward_labels: Tensor
    words: int
    backward_words: int = -1
    starts_fresh: bool = False
    forward_pos_tag_ids: Tensor | None = None
    backward_pos_tag_ids: Tensor | None = None
    forward_starts: Tensor | None = None
    backward_starts: Tensor | None = None

    def __post_init__(self) -> None:
        if self.backward_words < 0:
            object.__setattr__(self, "backward_words", int(self.backward_labels.ne(IGNORED_LABEL).sum()))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "StreamBatch":
        """The same batch with its tensors on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "StreamBatch":
        """The same batch in page-locked memory, from which copies to a GPU can overlap with work."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> "StreamBatch":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors: dict[str, Any] = {name: function(each) for name, each in values.items() if isinstance(each, Tensor)}
        return replace(self, **tensors)


class _Words(NamedTuple):
    """A sentence in reading order, with boundaries; `tags` are the ids of its POS tags, if the model has any."""

    words: list[str]
    tags: list[int]

    def backwards(self, start: int, end: int) -> "_Words":
        """The words `start` to `end` - 1 in reverse order."""
        return _Words(self.words[start:end][::-1], self.tags[start:end][::-1])


NO_WORDS = _Words([], [])

# A run of one row: its sentence, the index of the first target, and the number of targets.
_Run = tuple[_Words, int, int]


class _Row:
    """Current sentence of one row and the row's place in it."""

    __slots__ = ("sentence", "taken", "targets", "words")

    def __init__(self) -> None:
        self.sentence = ""
        self.words = NO_WORDS  # always empty in rows of other processes
        self.targets = 0  # targets of the sentence: its words and one boundary
        self.taken = 0  # targets already used


class _RunningStream:
    """One direction of bilm-tf's `_get_batch`, over the rows of all processes; keeps words only of its own rows."""

    def __init__(self, order: SentenceOrder, streams: "SentenceStreams", reverse: bool) -> None:
        self.order = order
        self.streams = streams
        self.reverse = reverse
        self.rows = [_Row() for _ in range(streams.total_rows)]
        self.exhausted = False

    def next_runs(self) -> tuple[list[list[_Run]], int]:
        """Runs of each of this process's rows, and the number of targets of all rows of all processes."""
        own, steps = self.streams.own_rows, self.streams.steps
        runs: list[list[_Run]] = []
        given = 0
        for number, row in enumerate(self.rows):
            mine = number in own
            of_row: list[_Run] = []
            missing = steps
            while missing:
                if row.taken == row.targets and not self._refill(row, mine):
                    break
                count = min(missing, row.targets - row.taken)
                of_row.append((row.words, row.taken, count))
                row.taken += count
                missing -= count
            given += steps - missing
            if mine:
                runs.append(of_row)
        return runs, given

    def _refill(self, row: _Row, mine: bool) -> bool:
        sentence = None if self.exhausted else self.streams.draw(self.order)
        if sentence is None:
            self.exhausted = True
            return False
        self._put(row, sentence, mine)
        return True

    def _put(self, row: _Row, sentence: str, mine: bool) -> None:
        row.sentence, row.taken = sentence, 0
        row.words = self.streams.bounded(sentence, self.reverse) if mine else NO_WORDS
        row.targets = len(row.words.words) - 1 if mine else len(self.streams.split(sentence)) + 1

    def state_dict(self) -> dict[str, Any]:
        unfinished = [[row.sentence, row.taken] if row.taken < row.targets else None for row in self.rows]
        return {"order": self.order.state_dict(), "rows": unfinished}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order.load_state_dict(state["order"])
        self.exhausted = False
        self.rows = [_Row() for _ in range(self.streams.total_rows)]
        for number, (row, saved) in enumerate(zip(self.rows, state["rows"], strict=True)):
            if saved is not None:
                sentence, taken = saved
                self._put(row, sentence, number in self.streams.own_rows)
                row.taken = taken


class _IndependentBatches:
    """Batches whose rows are single sentences of similar length, the same ones in both directions.

    A pool of sentences is sorted by length and cut into batches, and the batches are shuffled. A sentence of more than
    `steps` targets is split, and its parts start from zero states like any other row.
    """

    def __init__(self, order: SentenceOrder, streams: "SentenceStreams") -> None:
        self.order = order
        self.streams = streams
        self.pool: list[list[tuple[str, int, int]]] = []
        self.pools = 0
        self.given = 0
        self.start = order.state_dict()

    def next_runs(self) -> tuple[list[list[_Run]], list[list[_Run]], int, int]:
        """Runs of this process's rows in each direction; the longest row and the number of targets of all rows."""
        if self.given == len(self.pool):
            self._fill()
        if not self.pool:
            return [], [], 0, 0
        pieces = self.pool[self.given]
        self.given += 1
        counts = [count for _, _, count in pieces]
        forward: list[list[_Run]] = []
        backward: list[list[_Run]] = []
        read, words = "", self.streams.bounded("", False)
        for number in self.streams.own_rows:
            if number >= len(pieces):
                forward.append([])
                backward.append([])
                continue
            sentence, start, count = pieces[number]
            # A very long sentence fills many rows of a batch; it is split into words once.
            if sentence is not read:
                read, words = sentence, self.streams.bounded(sentence, False)
            end = len(words.words) - start
            forward.append([(words, start, count)])
            backward.append([(words.backwards(end - count - 1, end), 0, count)])
        return forward, backward, max(counts), sum(counts)

    def _fill(self) -> None:
        rows, steps = self.streams.total_rows, self.streams.steps
        order = self.order
        self.start = order.state_dict()
        pieces: list[tuple[str, int, int]] = []
        while len(pieces) < max(rows, min(rows * BATCHES_OF_POOL, ROWS_OF_POOL)):
            sentence = self.streams.draw(order)
            if sentence is None:
                break
            targets = len(self.streams.split(sentence)) + 1
            pieces += [(sentence, start, min(steps, targets - start)) for start in range(0, targets, steps)]
        if order.shuffle:
            pieces.sort(key=lambda piece: piece[2])
        batches = [pieces[start : start + rows] for start in range(0, len(pieces), rows)]
        if order.shuffle:
            generator = np.random.default_rng([*order.seed, self.pools])
            batches = [batches[index] for index in generator.permutation(len(batches)).tolist()]
        self.pool, self.given = batches, 0
        self.pools += 1

    def state_dict(self) -> dict[str, Any]:
        return {"order": self.start, "pools": self.pools, "given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.order.load_state_dict(state["order"])
        self.pools, self.pool, self.given = state["pools"], [], 0
        if self.pools:
            self.pools -= 1
            self._fill()
        self.given = state["given"]


class SentenceStreams:
    """Iterator over the batches of a corpus; its position can be saved and restored exactly.

    With several processes, process p returns rows p * rows ... (p + 1) * rows - 1 of the batches of a single process
    with num_processes * rows rows. So no sentence is lost or repeated in an epoch, and all processes have equally many
    batches. Every process reads and splits the whole text, but encodes only its own rows.

    Args:
        corpus: the sentences.
        tokenizer: tokenizer with the vocabulary, the character rows and the pre-tokenization; or a [`WordEncoder`].
        rows: rows of a batch in this process.
        steps: words of a row, the length of backpropagation through time (bilm-tf: 20). With `sentence_independent`,
            the longest row.
        seed: seed of the order of sentences.
        process_index, num_processes: number of this process, and number of processes.
        epochs: number of passes over the corpus; `None` for no end.
        shuffle: new order in each epoch and direction, else the corpus's order.
        shuffle_window: sentences shuffled together, after the shards (see [`SentenceOrder`]): bounds the memory.
        pre_tokenization: `"whitespace"` for tokenized text, `"ptb"` for raw text; by default the tokenizer's rule for
            lines of a corpus.
        sentence_independent: every row is one sentence, states start at zero, batches have sentences of similar length
            and are padded to their longest row; both directions read the same sentences.
        character_ids: return character rows; not needed by models with word inputs.
        pos_tag_ids: return ids of the corpus's POS tags, for models that read them.

    Attributes:
        character_ids, pos_tag_ids: as above.
        batches: number of batches so far.
        words: number of forward targets so far, of all processes together.

    Raises:
        ValueError: an argument out of range; a vocabulary without `<S>`, `</S>`, `<UNK>`; POS tags that the
            corpus or the tokenizer does not have; while iterating: no sentence in the corpus, or fewer sentences than
            rows; a POS tag that the tokenizer does not know.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: "ElmoTokenizer | WordEncoder",
        rows: int,
        steps: int,
        *,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
        epochs: int | None = None,
        shuffle: bool = True,
        shuffle_window: int = 2**16,
        pre_tokenization: str | None = None,
        sentence_independent: bool = False,
        character_ids: bool = True,
        pos_tag_ids: bool = False,
    ) -> None:
        at_least_one(rows=rows, steps=steps, num_processes=num_processes)
        if not 0 <= process_index < num_processes:
            raise ValueError(f"process_index={process_index}: expected 0 to num_processes - 1 = {num_processes - 1}")
        if seed < 0:
            raise ValueError(f"seed={seed}: expected 0 or more")
        if isinstance(tokenizer, WordEncoder):
            self.encoder = tokenizer
            rule = pre_tokenization or "whitespace"
            character_replacements = None
        else:
            self.encoder = WordEncoder.from_tokenizer(tokenizer)
            rule = pre_tokenization or tokenizer.corpus_pre_tokenization
            character_replacements = tokenizer.character_replacements if rule == "ptb" else None
        if pos_tag_ids and not corpus.is_tagged:
            raise ValueError(
                f"{corpus.name} has no POS tags, which the model reads: name their column "
                "(pos_column), or the separator between a word and its tag (pos_separator)"
            )
        if pos_tag_ids and self.encoder.pos_tags is None:
            raise ValueError("the tokenizer has no POS tags: make it with pos_tag_set=[...]")
        self._words_of = word_splitter(rule, character_replacements)
        self.corpus = corpus
        self.rows, self.steps = rows, steps
        self.total_rows = rows * num_processes
        self.own_rows = range(process_index * rows, (process_index + 1) * rows)
        self.character_ids = character_ids
        self.pos_tag_ids = pos_tag_ids
        self.settings = {
            "corpus": corpus.fingerprint,
            "total_rows": self.total_rows,
            "steps": steps,
            "seed": seed,
            "shuffle": shuffle,
            "shuffle_window": shuffle_window,
            "pre_tokenization": "tagged" if corpus.is_tagged else rule,
            "sentence_independent": sentence_independent,
        }
        self._orders = [
            SentenceOrder(corpus, seed=(seed, direction), epochs=epochs, shuffle=shuffle, window=shuffle_window)
            for direction in range(1 if sentence_independent else 2)
        ]
        self._independent: _IndependentBatches | None = None
        self._running: list[_RunningStream] = []
        if sentence_independent:
            self._independent = _IndependentBatches(self._orders[0], self)
        else:
            self._running = [_RunningStream(order, self, bool(way)) for way, order in enumerate(self._orders)]
        self.batches = 0
        self.words = 0
        self._at_the_start = self.state_dict()

    @property
    def epoch(self) -> int:
        """Epoch of the last sentence in the forward direction, from 0."""
        return self._orders[0].epoch

    def __iter__(self) -> Iterator[StreamBatch]:
        """Return this object: iteration continues at its position. `reset` goes back to the first batch."""
        return self

    def __next__(self) -> StreamBatch:
        forward_runs, backward_runs, length = self._advance()
        forward, words = self._encode(forward_runs, length)
        backward, backward_words = self._encode(backward_runs, length)
        tensors: dict[str, Any] = {f"forward_{name}": tensor for name, tensor in forward.items()}
        tensors |= {f"backward_{name}": tensor for name, tensor in backward.items()}
        fresh = self._independent is not None
        return StreamBatch(**tensors, words=words, backward_words=backward_words, starts_fresh=fresh)

    def skip(self) -> None:
        """Move past the next batch without making it; raise `StopIteration` after the last one."""
        self._advance()

    def _advance(self) -> tuple[list[list[_Run]], list[list[_Run]], int]:
        """Runs of this process's rows in each direction, and the length of the longest row."""
        if self._independent is not None:
            forward_runs, backward_runs, length, forward_given = self._independent.next_runs()
            backward_given = forward_given
        else:
            length = self.steps
            forward_runs, forward_given = self._running[0].next_runs()
            backward_runs, backward_given = self._running[1].next_runs()
        if forward_given + backward_given == 0:
            raise StopIteration
        self.batches += 1
        self.words += forward_given
        return forward_runs, backward_runs, length

    def reset(self) -> None:
        """Go back to the first batch."""
        self.load_state_dict(self._at_the_start)

    def state_dict(self) -> dict[str, Any]:
        """Position before the next batch, for JSON: little more than one sentence per row, for a corpus of any size.

        It is the same in every process. Any number of processes with the same total number of rows can continue it.
        """
        return {
            "version": STATE_VERSION,
            "settings": dict(self.settings),
            "batches": self.batches,
            "words": self.words,
            "streams": [stream.state_dict() for stream in self._streams()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the batch after `state_dict`.

        Raises:
            ValueError: the state is of another corpus, other settings or another version.
        """
        if state.get("version") != STATE_VERSION:
            raise ValueError(
                f"data position of version {state.get('version')!r}: expected {STATE_VERSION}. Resume with the version "
                "of elmo-hf that wrote it"
            )
        differing = [
            f"{name} was {state['settings'].get(name)!r} and is {value!r}"
            for name, value in self.settings.items()
            if state["settings"].get(name) != value
        ]
        if differing:
            raise ValueError(
                f"the saved data position belongs to other settings: {'; '.join(differing)}. Resume with the same "
                "settings, or start a new run from the saved weights"
            )
        for stream, saved in zip(self._streams(), state["streams"], strict=True):
            stream.load_state_dict(saved)
        self.batches = state["batches"]
        self.words = state["words"]

    def _streams(self) -> Sequence[_RunningStream | _IndependentBatches]:
        return self._running if self._independent is None else [self._independent]

    def draw(self, order: SentenceOrder) -> str | None:
        """Next sentence of an order, `None` after the last; raises if the corpus has fewer sentences than rows."""
        epoch, sentences = order.epoch, order.sentences
        sentence = next(order, None)
        if (sentence is None or order.epoch != epoch) and sentences < self.total_rows:
            raise ValueError(
                f"{self.corpus.name} has {sentences} sentences, and the batches of all processes have "
                f"{self.total_rows} rows: some would never read one. Use fewer rows, or more text"
            )
        return sentence

    def split(self, text: str) -> list[str]:
        """Words of a sentence from `draw`."""
        return self._words_of(sentence_of(text, self.corpus.is_tagged))

    def bounded(self, text: str, reverse: bool) -> _Words:
        """Words of a sentence with its boundaries, in reading order."""
        sentence = sentence_of(text, self.corpus.is_tagged)
        words = [self.encoder.bos_token, *self._words_of(sentence), self.encoder.eos_token]
        tags: list[int] = []
        if self.pos_tag_ids and isinstance(sentence, TaggedSentence):
            try:
                tags = self.encoder.pos_tag_ids(sentence)
            except ValueError as error:
                raise ValueError(f"{self.corpus.name}: {error}") from None
        bounded = _Words(words, tags)
        return bounded.backwards(0, len(words)) if reverse else bounded

    def _encode(self, runs: list[list[_Run]], length: int) -> tuple[dict[str, Tensor | None], int]:
        """Encode the runs of each row: inputs and labels (rows, length) and starts (rows,); the number of labels."""
        words: list[str] = []
        tags: list[int] = []
        counts: list[int] = []  # targets of each run
        filled: list[int] = []  # positions used in each row
        for of_row in runs:
            for run, start, count in of_row:
                words += run.words[start : start + count + 1]
                tags += run.tags[start : start + count + 1]
                counts.append(count)
            filled.append(sum(count for _, _, count in of_row))
        # A run of n targets has n + 1 words: inputs are all but the last, targets all but the first.
        of_runs = np.array(counts, np.int64)
        ends = np.cumsum(of_runs + 1)
        is_input, is_target = np.ones((2, len(words)), np.bool_)
        is_input[ends - 1] = False
        is_target[ends - 1 - of_runs] = False
        slots = self.encoder.slots(words)
        inputs = slots[is_input]
        here = np.arange(length) < np.array(filled)[:, None]  # [rows, length]
        input_ids = np.zeros(here.shape, np.int64)
        input_ids[here] = self.encoder.word_ids[inputs]
        labels = np.full(here.shape, IGNORED_LABEL, np.int64)
        labels[here] = self.encoder.word_ids[slots[is_target]]
        characters = None
        if self.character_ids:
            rows = np.zeros((*here.shape, self.encoder.max_characters_per_word), self.encoder.character_ids.dtype)
            rows[here] = self.encoder.character_ids[inputs]
            characters = torch.from_numpy(rows)
        tensors = {
            "input_ids": torch.from_numpy(input_ids),
            "character_ids": characters,
            "labels": torch.from_numpy(labels),
            "starts": torch.tensor([bool(of_row) and of_row[0][1] == 0 for of_row in runs]),
        }
        if self.pos_tag_ids:
            pos_tags = np.zeros(here.shape, np.int64)
            pos_tags[here] = np.array(tags, np.int64)[is_input]
            tensors["pos_tag_ids"] = torch.from_numpy(pos_tags)
        return tensors, len(inputs)

"""Held-out perplexity of a biLM, by direction, with the full softmax and every word counted once.

bilm-tf's `run_test.py` averages the losses of batches and drops incomplete batches, so its result depends on the batch
size. Here, the log-probabilities of all words are summed in float64, independently of batching.

Memory does not depend on the length of the text, since sentences are scored as a stream.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import starmap
from operator import itemgetter
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elmo_hf.checks import at_least_one
from elmo_hf.corpus.cut_words import CutWords
from elmo_hf.corpus.sentences import Corpus
from elmo_hf.corpus.tagged_text import TaggedSentence
from elmo_hf.corpus.word_encoder import WordEncoder, line_splitter, word_splitter
from elmo_hf.model.modeling_elmo import ElmoForPreTraining
from elmo_hf.model.packing import PackedBatch
from elmo_hf.model.state import ElmoState

from .batching import BatchSize, read_in_batches
from .evaluation import in_evaluation
from .loading import check_mask, check_pos_tags
from .sentence_streams import read_streams

if TYPE_CHECKING:
    from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

# Independent sentences are sorted by length over this many batches, so that rows of a batch need little padding.
BATCHES_AT_A_TIME = 16


@dataclass(frozen=True)
class SentenceScore:
    """Log-probabilities of one sentence.

    The forward direction predicts the words and then `</S>`; the backward direction predicts the words from last to
    first and then `<S>`. Both therefore have one more target than the sentence has words.

    Attributes:
        index: index of the sentence in the text, from 0.
        words: number of words, without boundaries.
        unknown: number of words outside the vocabulary, which are scored as `<UNK>`.
        forward, backward: log-probabilities in nats, including boundaries; `backward` is NaN for a model without that
            direction.
        forward_log_probs: (words + 1,) float32, on request: of each word in text order, then of `</S>`.
        backward_log_probs: (words + 1,) float32, on request: of `<S>`, then of each word in text order.
    """

    index: int
    words: int
    unknown: int
    forward: float
    backward: float
    forward_log_probs: NDArray[np.float32] | None = None
    backward_log_probs: NDArray[np.float32] | None = None

    @property
    def targets(self) -> int:
        """Number of predictions per direction."""
        return self.words + 1

    @property
    def forward_perplexity(self) -> float:
        return perplexity_of(-self.forward / self.targets)

    @property
    def backward_perplexity(self) -> float:
        return perplexity_of(-self.backward / self.targets)


@dataclass
class TextScore:
    """Log-probabilities of a text, summed over its sentences. Scores of several texts or processes can be added.

    Attributes:
        sentences, words, unknown: counts, without boundaries.
        forward_log_prob, backward_log_prob: sums in nats over `targets` predictions each.
    """

    sentences: int = 0
    words: int = 0
    unknown: int = 0
    forward_log_prob: float = 0.0
    backward_log_prob: float = 0.0

    def add(self, score: SentenceScore) -> None:
        """Add the score of a sentence."""
        self.sentences += 1
        self.words += score.words
        self.unknown += score.unknown
        self.forward_log_prob += score.forward
        self.backward_log_prob += score.backward

    @classmethod
    def of(cls, scores: Iterable[SentenceScore]) -> "TextScore":
        """The sum of the scores of sentences."""
        total = cls()
        for score in scores:
            total.add(score)
        return total

    def __add__(self, other: "TextScore") -> "TextScore":
        return TextScore(
            self.sentences + other.sentences,
            self.words + other.words,
            self.unknown + other.unknown,
            self.forward_log_prob + other.forward_log_prob,
            self.backward_log_prob + other.backward_log_prob,
        )

    @property
    def targets(self) -> int:
        """Number of predictions per direction: all words, and one boundary per sentence."""
        return self.words + self.sentences

    @property
    def forward(self) -> float:
        """Perplexity of the forward direction."""
        return self._perplexity(self.forward_log_prob)

    @property
    def backward(self) -> float:
        """Perplexity of the backward direction."""
        return self._perplexity(self.backward_log_prob)

    @property
    def both(self) -> float:
        """Geometric mean of both perplexities, exp of the mean loss, as reported by bilm-tf.

        For a model without backward direction, the forward perplexity.
        """
        return self._perplexity(self.log_prob)

    @property
    def log_prob(self) -> float:
        """Mean of both directions' log-probabilities in nats, or that of the only direction."""
        directions = self.forward_log_prob, self.backward_log_prob
        return self.forward_log_prob if math.isnan(self.backward_log_prob) else sum(directions) / 2

    def _perplexity(self, log_prob: float) -> float:
        if not self.targets:
            raise ValueError("targets=0: no sentence was scored; perplexity needs text with at least one line")
        return perplexity_of(-log_prob / self.targets)


def perplexity_of(loss: float) -> float:
    """exp(loss), or infinity if it overflows, as it may for an untrained or broken model."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def perplexity(
    model: ElmoForPreTraining,
    tokenizer: "ElmoTokenizer",
    sentences: Iterable[str | Sequence[str] | TaggedSentence],
    *,
    rows: int = 32,
    steps: int = 20,
    carry_state: bool = True,
    pre_tokenization: str | None = None,
) -> TextScore:
    """Compute the perplexity of a text; arguments and errors as in `score_sentences`.

    Raises:
        ValueError: also for a text without any sentence.
    """
    options: dict[str, Any] = {"rows": rows, "steps": steps, "carry_state": carry_state}
    total = TextScore.of(score_sentences(model, tokenizer, sentences, pre_tokenization=pre_tokenization, **options))
    if not total.sentences:
        raise ValueError("sentences is empty: perplexity needs at least one line")
    return total


@torch.no_grad()
def score_sentences(
    model: ElmoForPreTraining,
    tokenizer: "ElmoTokenizer",
    sentences: Iterable[str | Sequence[str] | TaggedSentence],
    *,
    rows: int = 32,
    steps: int = 20,
    carry_state: bool = True,
    per_word: bool = False,
    pre_tokenization: str | None = None,
) -> Iterator[SentenceScore]:
    """Score every sentence of a text with the full softmax.

    Args:
        model: the model, run in evaluation mode whatever its own mode, on its own device.
        tokenizer: the model's tokenizer.
        sentences: each a string, a list of words, or a [`TaggedSentence`], which models that read POS tags need; other
            models use only its words. Read as a stream.
        rows: number of sentences per batch.
        steps: number of words of each row per batch.
        carry_state: carry recurrent states as bilm-tf does in training and testing: every row is a running text that
            continues with the next sentence when one ends. With `False`, every sentence starts from zero states, and
            the result does not depend on `rows` or the order of sentences. A Transformer reads whole sentences,
            whatever `steps`, and needs `False`.
        per_word: also return the log-probability of every word.
        pre_tokenization: rule that splits strings into words, `"whitespace"` or `"ptb"`. By default, lines of a
            [`Corpus`] are split like the model's training text, and other strings like raw text.

    Yields:
        One score per sentence, in the order of the text.

    Raises:
        ValueError: impossible sizes, a vocabulary or POS tags that do not match the model, a sentence without POS tags
            for a model that needs them, or carried states for a Transformer.
    """
    if carry_state and not model.elmo.encoder.carries_state:
        raise ValueError(
            "carry_state=True: this model is a Transformer, which has no state to carry from sentence to sentence: set "
            "carry_state=False (--sentence_independent)"
        )
    at_least_one(rows=rows, steps=steps)
    if len(tokenizer) != model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} words and the model vocab_size={model.config.vocab_size}: load the "
            "tokenizer that belongs to the model"
        )
    model.check_words()
    check_pos_tags(model.config, tokenizer)
    check_mask(model.config, tokenizer)
    encoder = WordEncoder.from_tokenizer(tokenizer)
    if isinstance(sentences, Corpus) or pre_tokenization is not None:
        split = line_splitter(tokenizer, pre_tokenization)
    else:
        split = word_splitter(tokenizer.pre_tokenization, tokenizer.character_replacements)

    def given(sentence: str | Sequence[str] | TaggedSentence) -> _Given:
        tagged = sentence if isinstance(sentence, TaggedSentence) else None
        return split(sentence if isinstance(sentence, str | TaggedSentence) else list(sentence)), tagged

    scorer = _Scorer(in_evaluation(model), encoder, tokenizer.unk_token_id, rows, steps, per_word)
    texts: Iterator[_Given] = map(given, sentences)
    if model.config.character_filters:
        texts = CutWords(tokenizer.spelling).over(texts, itemgetter(0))
    numbered = enumerate(texts)
    yield from _in_order(scorer.running(numbered)) if carry_state else scorer.independent(numbered)


def _in_order(scores: Iterator[SentenceScore]) -> Iterator[SentenceScore]:
    """Reorder scores by sentence. A score is held back until all earlier sentences are done."""
    waiting: dict[int, SentenceScore] = {}
    following = 0
    for score in scores:
        waiting[score.index] = score
        while following in waiting:
            yield waiting.pop(following)
            following += 1


# The words of a sentence, and the sentence with its POS tags if it has them.
_Given = tuple[list[str], TaggedSentence | None]


@dataclass
class _Reading:
    """A sentence being read by a row: its ids, its model inputs, and its scores so far."""

    index: int
    ids: NDArray[np.int64]  # (words + 2,), with boundaries
    inputs: list[NDArray[Any]]  # model inputs: ids, character rows (words + 2, length), POS tags
    unknown: int
    taken: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0])
    parts: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]] = field(default_factory=lambda: ([], []))

    @property
    def targets(self) -> int:
        return len(self.ids) - 1

    def finish(self, per_word: bool) -> SentenceScore:
        forward = backward = None
        if per_word:
            forward = np.concatenate(self.parts[0])
            backward = np.concatenate(self.parts[1])[::-1].copy()
        return SentenceScore(self.index, self.targets - 1, self.unknown, self.sums[0], self.sums[1], forward, backward)


class _Scorer:
    """Scorer that feeds rows of sentences to the model, a few words at a time."""

    def __init__(
        self,
        model: ElmoForPreTraining,
        encoder: WordEncoder,
        unknown_id: int,
        rows: int,
        steps: int,
        per_word: bool,
    ) -> None:
        self.model, self.encoder, self.unknown_id = model, encoder, unknown_id
        self.rows, self.steps, self.per_word = rows, steps, per_word
        self.device = next(model.parameters()).device
        self.input_names: tuple[str, ...] = model.elmo.embeddings.input_names
        # Without a carried state, a sentence has to be read as a whole.
        self.reads_in_parts = model.elmo.encoder.carries_state

    def running(self, texts: Iterator[tuple[int, _Given]]) -> Iterator[SentenceScore]:
        """Score sentences with carried states: every row is a running text."""
        readings: list[_Reading | None] = [None] * self.rows
        state: ElmoState | None = None
        exhausted = False
        while True:
            runs: list[list[tuple[_Reading, int, int]]] = []
            for row in range(self.rows):
                of_row: list[tuple[_Reading, int, int]] = []
                missing = self.steps
                while missing:
                    reading = readings[row]
                    if reading is None:
                        following = None if exhausted else next(texts, None)
                        if following is None:
                            exhausted = True
                            break
                        reading = readings[row] = self._encode(*following)
                    count = min(missing, reading.targets - reading.taken)
                    of_row.append((reading, reading.taken, count))
                    reading.taken += count
                    missing -= count
                    if reading.taken == reading.targets:
                        readings[row] = None
                runs.append(of_row)
            if not any(runs):
                return
            state = self._score(runs, state)
            yield from self._finished(runs)

    def independent(self, texts: Iterator[tuple[int, _Given]]) -> Iterator[SentenceScore]:
        """Score sentences independently, from zero states, in batches of similar length."""
        return read_in_batches(
            starmap(self._encode, texts),
            self._read_independently,
            lambda reading: reading.targets,
            BatchSize(rows=self.rows),
            BATCHES_AT_A_TIME,
        )

    def _read_independently(self, batch: list[_Reading]) -> list[SentenceScore]:
        longest_first = batch[::-1]  # so that unfinished rows come first
        state: ElmoState | None = None
        while longest_first[0].taken < longest_first[0].targets:
            runs = []
            for reading in longest_first:
                left = reading.targets - reading.taken
                count = min(self.steps, left) if self.reads_in_parts else left
                runs.append([(reading, reading.taken, count)] if count else [])
                reading.taken += count
            state = self._score(runs, state)
        return [reading.finish(self.per_word) for reading in batch]

    def _encode(self, index: int, given: _Given) -> _Reading:
        words, tagged = given
        ids, characters = self.encoder.encode([self.encoder.bos_token, *words, self.encoder.eos_token])
        read: dict[str, NDArray[Any]] = {"input_ids": ids, "character_ids": characters}
        if "pos_tag_ids" in self.input_names:
            if tagged is None:
                raise ValueError(
                    f"sentence {index}, {' '.join(words[:8])!r}: no POS tags, which the model reads (num_pos_tags): "
                    "give them (pos_column or pos_separator of a text; pos_tags with lists of words)"
                )
            read["pos_tag_ids"] = np.array(self.encoder.pos_tag_ids(tagged), np.int64)
        inputs = [read[name] for name in self.input_names]
        return _Reading(index, ids, inputs, int((ids[1:-1] == self.unknown_id).sum()))

    def _finished(self, runs: list[list[tuple[_Reading, int, int]]]) -> Iterator[SentenceScore]:
        for of_row in runs:
            for reading, start, count in of_row:
                if start + count == reading.targets:
                    yield reading.finish(self.per_word)

    def _score(self, runs: list[list[tuple[_Reading, int, int]]], state: ElmoState | None) -> ElmoState | None:
        """Read a run of words in every row, record their scores, and return the state."""
        steps = max(sum(count for _, _, count in of_row) for of_row in runs)
        examples = next(of_row[0][0].inputs for of_row in runs if of_row)
        inputs = [np.zeros((2, len(runs), steps, *example.shape[1:]), example.dtype) for example in examples]
        labels = np.full((2, len(runs), steps), -1, np.int64)
        for row, of_row in enumerate(runs):
            place = 0
            for reading, start, count in of_row:
                here = slice(place, place + count)
                for direction, step in enumerate((1, -1)):
                    for given, own in zip(inputs, reading.inputs, strict=True):
                        given[direction, row, here] = own[::step][start : start + count]
                    labels[direction, row, here] = reading.ids[::step][start + 1 : start + 1 + count]
                place += count
        tensors = [torch.from_numpy(given) for given in inputs]
        scores, state = self._log_probabilities(tensors, torch.from_numpy(labels), state)
        for row, of_row in enumerate(runs):
            place = 0
            for reading, _, count in of_row:
                for direction in range(2):
                    part = scores[direction, row, place : place + count]
                    reading.sums[direction] += float(part.sum(dtype=np.float64))
                    if self.per_word:
                        reading.parts[direction].append(part)
                place += count
        return state

    def _log_probabilities(
        self, inputs: list[Tensor], labels: Tensor, state: ElmoState | None
    ) -> tuple[NDArray[np.float32], ElmoState | None]:
        """Log-probabilities of the labels (2, rows, steps) given the model inputs, each (2, rows, steps, ...).

        Labels of -1, at the end of rows, give 0.
        """
        elmo, encoder = self.model.elmo, cast("Any", self.model.elmo.encoder)
        rows = labels.shape[1]
        labels = labels.to(self.device)
        real = labels[0] >= 0  # the same positions in both directions: the two read the same sentences
        packing = PackedBatch.from_mask(real)
        given = [each.to(self.device).flatten(0, 1) for each in inputs]
        words = elmo.embeddings(*given, mask=real.repeat(2, 1))  # [2 * rows, steps, P]
        # Both directions are already in reading order, so the forward index packs both.
        if not encoder.carries_state:
            read = read_streams(encoder, words[:rows], words[rows:], real)
            top = torch.cat([packing.pack(each, packing.forward_index) for each in read])
        else:
            forward, backward = (packing.pack(each, packing.forward_index) for each in words.split(rows))
            initial = encoder.state_for(rows, words, state)
            outputs, final = encoder.run_layers(
                forward, backward, packing.batch_sizes, ElmoState(*(part[:, :, packing.row_order] for part in initial))
            )
            top = torch.cat(outputs[-1])
            restore = torch.argsort(packing.row_order)
            state = ElmoState(*(part[:, :, restore] for part in final))
        targets = labels.flatten(1)[:, packing.forward_index]  # [2, total]
        found = self.model.softmax.log_probabilities(top, targets.flatten())
        scores = found.new_zeros(2, real.numel())
        scores[:, packing.forward_index] = found.view(2, -1)
        if not self.model.config.bidirectional:
            scores[1] = torch.nan
        return scores.view(labels.shape).float().cpu().numpy(), state

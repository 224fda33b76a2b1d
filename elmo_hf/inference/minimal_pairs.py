"""Minimal pairs: does a language model prefer the grammatical sentence of a pair?

Scoring follows BLiMP (Warstadt et al. 2020, "BLiMP: The Benchmark of Linguistic Minimal Pairs for English"): a pair is
correct if the acceptable sentence as a whole has the higher log-probability, not normalized by length. Ties are
incorrect. Each direction is scored separately, and both together by the sum of their log-probabilities.
"""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from elmo_hf.checks import at_least_one
from elmo_hf.corpus.lines import numbered_lines
from elmo_hf.corpus.records import parse_json
from elmo_hf.model.language_model import ElmoForPreTraining
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .loading import Name, load_model, load_tokenizer
from .perplexity import SentenceScore
from .scoring import score

Direction = Literal["forward", "backward", "both"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "both")

# Differences below this, in nats, are ties. Batching changes a sentence's score by less.
TIE = 1e-4

# Fields of a record with their accepted names: this package's, and those of BLiMP's files.
_FIELDS = {
    "good": ("good", "sentence_good"),
    "bad": ("bad", "sentence_bad"),
    "kind": ("kind", "uid", "UID"),
    "phenomenon": ("phenomenon", "linguistics_term"),
}


@dataclass(frozen=True)
class MinimalPair:
    """Two sentences that differ in one point, as raw text.

    Attributes:
        good, bad: the acceptable and the unacceptable sentence.
        kind: the paradigm, BLiMP's `uid`.
        phenomenon: the group that the paradigm belongs to.
    """

    good: str
    bad: str
    kind: str = ""
    phenomenon: str = ""


@dataclass(frozen=True)
class PairScore:
    """A model's scores of a pair.

    Attributes:
        pair: the sentences.
        good, bad: their scores.
    """

    pair: MinimalPair
    good: SentenceScore
    bad: SentenceScore

    @property
    def unknown(self) -> int:
        """Number of words of both sentences outside the vocabulary."""
        return self.good.unknown + self.bad.unknown

    def difference(self, direction: Direction) -> float:
        """Log-probability of the good sentence minus that of the bad one, in nats; NaN for an absent direction."""
        forward, backward = (getattr(self.good, each) - getattr(self.bad, each) for each in DIRECTIONS[:2])
        return {"forward": forward, "backward": backward, "both": forward + backward}[direction]

    def is_right(self, direction: Direction) -> bool:
        return self.difference(direction) > TIE

    def is_tie(self, direction: Direction) -> bool:
        return abs(self.difference(direction)) <= TIE


@dataclass(frozen=True)
class PairAccuracy:
    """Accuracy on the pairs of a kind, of a phenomenon, or on all pairs.

    Attributes:
        level: `"kind"`, `"phenomenon"` or `"all"`.
        name: name of the kind or phenomenon.
        phenomenon: the phenomenon of a kind.
        pairs: number of pairs.
        forward, backward, both: accuracies; NaN for an absent direction.
        ties: share of ties by both directions (or the only one); ties count as incorrect.
        with_unknown: share of pairs with a word outside the vocabulary.
        known, unknown: accuracies by both directions (or the only one) on the pairs without and with such a word; NaN
            if there are none.
    """

    level: Literal["kind", "phenomenon", "all"]
    name: str
    phenomenon: str
    pairs: int
    forward: float
    backward: float
    both: float
    ties: float
    with_unknown: float
    known: float
    unknown: float


def read_minimal_pairs(files: Iterable[str | os.PathLike[str]], limit: int | None = None) -> list[MinimalPair]:
    """Read pairs from JSON-lines files, plain or compressed.

    Args:
        files: paths or globs. A record has `good`, `bad`, `uid` and `phenomenon`, or the names in BLiMP's files
            (`sentence_good`, `sentence_bad`, `UID`, `linguistics_term`). The kind defaults to the file's name.
        limit: read at most this many pairs of each kind.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is not a pair, named in the message; a limit below 1; no pair at all.
    """
    at_least_one(limit=limit)
    files = list(files)
    pairs: list[MinimalPair] = []
    counts: dict[str, int] = {}
    for path in _paths(files):
        for number, line in numbered_lines(path):
            if not line.strip():
                continue
            pair = _pair_of(line, path, number)
            counts[pair.kind] = counts.get(pair.kind, 0) + 1
            if limit is None or counts[pair.kind] <= limit:
                pairs.append(pair)
    if not pairs:
        raise ValueError(f"{', '.join(map(str, files))}: no minimal pairs, expected one a line")
    return pairs


def _paths(files: Iterable[str | os.PathLike[str]]) -> Iterator[str]:
    for name in (os.fspath(file) for file in files):
        found = [name] if os.path.exists(name) else sorted(glob.glob(name))
        if not found:
            raise FileNotFoundError(f"{name}: no such file, expected minimal pairs as JSON lines")
        yield from found


def _pair_of(line: str, path: str, number: int) -> MinimalPair:
    where = f"{path}, line {number}"
    record = parse_json(line, lambda: where, "a minimal pair")
    if not isinstance(record, dict):
        raise ValueError(f"{where}: {line.strip()!r:.60}: expected a JSON object with 'good' and 'bad'")
    values = {"kind": Path(path).name.split(".")[0], "phenomenon": ""}
    for name, spellings in _FIELDS.items():
        value = next((record[each] for each in spellings if each in record), values.get(name))
        if not isinstance(value, str) or (not value.strip() and name in ("good", "bad")):
            raise ValueError(f"{where}: {name}={value!r}: expected a text, under one of {', '.join(spellings)}")
        values[name] = value
    return MinimalPair(**values)


def score_minimal_pairs(
    pairs: Sequence[MinimalPair],
    model: ElmoForPreTraining | Name | None = None,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool | None = None,
) -> list[PairScore]:
    """Score both sentences of every pair independently. Sentences with the same words are scored once.

    Args:
        pairs: pairs of raw text, which the tokenizer splits by its pre-tokenization.
        model, tokenizer, batch_size, device, dtype, progress: as in `score`.

    Raises:
        ValueError: as in `score`.
    """
    reader = load_model(model, ElmoForPreTraining, device, dtype)
    words_of = load_tokenizer(tokenizer, model)
    places: dict[tuple[str, ...], int] = {}
    numbers = []
    for pair in pairs:
        split = (tuple(word for word, _ in words_of.words(text)) for text in (pair.good, pair.bad))
        numbers.append([places.setdefault(words, len(places)) for words in split])
    scores = score(list(map(list, places)), reader, words_of, batch_size=batch_size, progress=progress).sentences
    return [PairScore(pair, scores[good], scores[bad]) for pair, (good, bad) in zip(pairs, numbers, strict=True)]


def pair_accuracies(scores: Sequence[PairScore]) -> list[PairAccuracy]:
    """Compute accuracies by kind, then by phenomenon, in order of first occurrence, then over all pairs.

    Raises:
        ValueError: no pairs.
    """
    if not scores:
        raise ValueError("scores is empty: expected at least one pair")
    kinds = _grouped(scores, lambda each: each.pair.kind)
    phenomena = _grouped(scores, lambda each: each.pair.phenomenon)
    rows = [_accuracy("kind", name, group[0].pair.phenomenon, group) for name, group in kinds.items()]
    rows += [_accuracy("phenomenon", name, name, group) for name, group in phenomena.items() if name]
    return [*rows, _accuracy("all", "all", "", scores)]


def _grouped(scores: Iterable[PairScore], key: Callable[[PairScore], str]) -> dict[str, list[PairScore]]:
    groups: dict[str, list[PairScore]] = {}
    for each in scores:
        groups.setdefault(key(each), []).append(each)
    return groups


def _accuracy(
    level: Literal["kind", "phenomenon", "all"], name: str, phenomenon: str, scores: Sequence[PairScore]
) -> PairAccuracy:
    has_backward = scores[0].good.backward == scores[0].good.backward  # not NaN
    last: Direction = "both" if has_backward else "forward"

    def share(chosen: Sequence[PairScore], test: Callable[[PairScore], bool]) -> float:
        return sum(map(test, chosen)) / len(chosen) if chosen else float("nan")

    def right(direction: Direction) -> float:
        is_there = has_backward or direction == "forward"
        return share(scores, lambda pair: pair.is_right(direction)) if is_there else float("nan")

    by_words = [[each for each in scores if bool(each.unknown) == has] for has in (False, True)]
    known, unknown = (share(chosen, lambda pair: pair.is_right(last)) for chosen in by_words)
    ties = share(scores, lambda pair: pair.is_tie(last))
    with_unknown = len(by_words[1]) / len(scores)
    shares = right("forward"), right("backward"), right("both"), ties, with_unknown, known, unknown
    return PairAccuracy(level, name, phenomenon, len(scores), *shares)


def cost_of_unknown_words(rows: Iterable[PairAccuracy]) -> float:
    """Accuracy on pairs without unknown words minus that on pairs with unknown words, compared within each kind.

    The result is a mean over kinds, weighted by the smaller of the two numbers of pairs; NaN if no kind has both. A
    plain difference would also reflect which kinds contain unknown words.
    """
    total = weights = 0.0
    for row in rows:
        if row.level == "kind" and 0 < row.with_unknown < 1:
            weight = row.pairs * min(row.with_unknown, 1 - row.with_unknown)
            total += weight * (row.known - row.unknown)
            weights += weight
    return total / weights if weights else float("nan")

"""Conversion plans, made from names, shapes and options without reading weights.

`convert` and `verify` read weights only by a plan, so nothing is allocated for a file that does not match its options.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from elmo_hf import ElmoConfig

from .errors import CheckpointError
from .rules import Entry, Rule, check_complete, expand
from .source import Source

SOFTMAX = ("softmax/W", "softmax/b")


@dataclass(frozen=True)
class Plan:
    """The plan of a source whose names and shapes match its options.

    Attributes:
        config: Configuration without token ids and vocabulary size, which come from the tokenizer.
        stored: Standard name -> stored name of every tensor.
        entries: Conversion of each tensor.
        words: Rows of the word embedding and the softmax; `None` if no tensor has one row per word.
        has_softmax: True if there is a softmax.
    """

    config: ElmoConfig
    stored: Mapping[str, str]
    entries: tuple[Entry, ...]
    words: int | None
    has_softmax: bool


def fit(
    source: Source,
    config: ElmoConfig,
    words: int | None,
    rules: Iterable[Rule],
    origins: Mapping[str, str],
    stored: Mapping[str, str] | None = None,
    mixes: bool = False,
) -> Plan:
    """Match the names and shapes of a source with a conversion table.

    Args:
        source: An open source.
        config: Sizes given by its options.
        words: Rows of the word embedding and the softmax.
        rules, origins: Conversion table of its format, and the options that define its symbols.
        stored: Standard name -> stored name; `None` if they are the same.
        mixes: True if it has scalar mixes.

    Raises:
        CheckpointError: missing tensors, tensors that are not part of the model, or shapes that contradict the options.
    """
    stored = {name: name for name in source.tensors} if stored is None else stored
    has_softmax = any(name in stored for name in SOFTMAX)
    entries = tuple(expand(rules, config, words, origins, mixes=mixes, softmax=has_softmax))
    check_complete(entries, stored, source.file)
    for entry in entries:
        entry.check_shape(source.tensors[stored[entry.original]].shape, source.file)
    return Plan(config, stored, entries, words, has_softmax)


def rows_of_softmax(source: Source, stored: Mapping[str, str]) -> int | None:
    """Number of vocabulary lines that the softmax was trained with; `None` without softmax.

    Raises:
        CheckpointError: there is a softmax without a vocabulary for its rows.
    """
    name = next((name for name in reversed(SOFTMAX) if name in stored), None)
    if name is None:
        return None
    if source.vocabulary is None:
        raise CheckpointError(
            f"{source.file}: comes with softmax weights, whose rows mean nothing without the vocabulary: give its file "
            "with --vocabulary, or leave the softmax out with --without-softmax"
        )
    shape = source.tensors[stored[name]].shape
    return shape[0] if shape else 0


def check_words(plan: Plan, source: Source) -> None:
    """Raise `CheckpointError` if the word embedding or the softmax does not have one row per word of the vocabulary."""
    if plan.words is None or source.vocabulary is None:
        return
    listed = len(source.vocabulary.words)
    if plan.words == listed:
        return
    reads_words = plan.config.word_embedding_size > 0
    part = "table of words" if reads_words else "softmax"
    remedy = "" if reads_words else ", or leave the softmax out (--without-softmax)"
    raise CheckpointError(
        f"{source.vocabulary.file}: has {listed} words, but the {part} of {source.file} has {plan.words} rows; give "
        f"the vocabulary that the model was trained with{remedy}"
    )

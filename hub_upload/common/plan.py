"""The plan of what a source becomes, from names, shapes and options alone: no value of a weight is read here.

`convert` reads what a plan allows, and so does `verify`: nothing is allocated for a file that does not fit its options.
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
    """A source whose names and shapes fit its options.

    Attributes:
        config: Without the ids and the number of words, which are the tokenizer's.
        stored: Standard name -> stored name of every tensor.
        entries: What becomes of each.
        words: Rows of the table of words and the softmax; `None` if no tensor has a row a word.
        has_softmax: Whether there is a softmax.
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
    """Compare the names and shapes of a source with a table.

    Args:
        source: An open source.
        config: Sizes that its options say.
        words: Rows of the table of words and the softmax.
        rules, origins: The table of its format, and the options that its symbols come from.
        stored: Standard name -> stored name; `None` where these are the same.
        mixes: Whether it has scalar mixes.

    Raises:
        CheckpointError: tensors that are missing, not part of the model or of another shape than the options say.
    """
    stored = {name: name for name in source.tensors} if stored is None else stored
    has_softmax = any(name in stored for name in SOFTMAX)
    entries = tuple(expand(rules, config, words, origins, mixes=mixes, softmax=has_softmax))
    check_complete(entries, stored, source.file)
    for entry in entries:
        entry.check_shape(source.tensors[stored[entry.original]].shape, source.file)
    return Plan(config, stored, entries, words, has_softmax)


def rows_of_softmax(source: Source, stored: Mapping[str, str]) -> int | None:
    """Lines of the vocabulary that the softmax was trained with; `None` if there is no softmax.

    Raises:
        CheckpointError: there is one, and no vocabulary to say which words its rows are.
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
    """Raise `CheckpointError` if the table of words or the softmax has not one row for each word of the vocabulary."""
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

"""What a source is to become, from names, shapes and options alone: no value of a weight is read here.

`convert` reads what a plan allows, and so does `verify`: nothing is allocated for a file that does not fit its options.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from elmo_hf import ElmoConfig

from ..many_languages import rules as elmoformanylangs
from ..transformer_lm import rules as allennlp_language_model
from .errors import CheckpointError
from .options import config_from_options, is_word_model
from .rules import ALLENNLP_RULES, BILM_RULES, Entry, Rule, check_complete, expand, rename
from .source import Source

SOFTMAX = ("softmax/W", "softmax/b")
WORD_TABLE = "embedding"
# The variance's epsilon in AllenNLP's ScalarMix.
ALLENNLP_EPSILON = 1e-13


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


def make_plan(source: Source, notes: list[str]) -> Plan:
    """Compare a source with its options.

    Args:
        source: An open source.
        notes: Receives a sentence for each value that was assumed or reinterpreted.

    Raises:
        CheckpointError: options that are impossible, tensors that are missing, not part of the model or of another
            shape than the options say, or rows of words without a vocabulary.
    """
    stored = _standard_names(source)
    config = _configuration(source, stored, notes)
    has_softmax = any(name in stored for name in SOFTMAX)
    words = _rows_of_words(source, stored)
    rules: Iterable[Rule] = ALLENNLP_RULES if source.layout == "allennlp" else BILM_RULES
    dimensions = None
    if source.layout == "elmoformanylangs":
        rules, dimensions = elmoformanylangs.rules(config), elmoformanylangs.dimensions(config, words)
    elif source.layout == "allennlp-language-model":
        name = allennlp_language_model.embedder_name(stored, source.file)
        rules = allennlp_language_model.rules(config, name)
        dimensions = allennlp_language_model.dimensions(config, words, name)
        stored = allennlp_language_model.without_unused(stored, config)
    # A bare biLM of AllenNLP has no mixes.
    mixes = _number_of_mixes(stored) > 0
    entries = tuple(expand(rules, config, words, mixes=mixes, softmax=has_softmax, dimensions=dimensions))
    check_complete(entries, stored, source.file)
    for entry in entries:
        entry.check_shape(source.tensors[stored[entry.original]].shape, source.file)
    return Plan(config, stored, entries, words, has_softmax)


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


def _standard_names(source: Source) -> dict[str, str]:
    if source.layout in ("allennlp", "allennlp-language-model", "elmoformanylangs"):
        return {name: name for name in source.tensors}
    return rename(source.tensors)


def _number_of_mixes(stored: Mapping[str, str]) -> int:
    return sum(name.endswith(".gamma") for name in stored)


def _rows_of_words(source: Source, stored: Mapping[str, str]) -> int | None:
    """Lines of the vocabulary that the model was trained with; `None` if no tensor has a row for each.

    Raises:
        CheckpointError: a tensor has, and there is no vocabulary to say which words they are.
    """
    if source.layout == "elmoformanylangs":
        return elmoformanylangs.rows_of_words(source)
    named = [name for name in (WORD_TABLE, *reversed(SOFTMAX)) if name in stored]
    if not named:
        return None
    if source.vocabulary is None:
        if named[0] == WORD_TABLE:
            raise CheckpointError(
                f"{source.file}: reads words by the line they have in its vocabulary, and there is none beside it: "
                "give its file with --vocabulary"
            )
        raise CheckpointError(
            f"{source.file}: comes with softmax weights, whose rows mean nothing without the vocabulary: give its file "
            "with --vocabulary, or leave the softmax out with --without-softmax"
        )
    shape = source.tensors[stored[named[0]]].shape
    return shape[0] if shape else 0


def _configuration(source: Source, stored: Mapping[str, str], notes: list[str]) -> ElmoConfig:
    assert source.options is not None
    if source.layout == "elmoformanylangs":
        return elmoformanylangs.config_of(source, notes)
    if source.layout == "allennlp-language-model":
        return allennlp_language_model.config_of(source, notes)
    fields: dict[str, Any] = {}
    if source.layout == "allennlp":
        # AllenNLP always projects, and has the forget bias of 1 inside the stored bias.
        fields.update(character_projection=True, cell_projection=True, forget_bias=0.0)
        if source.mixes is not None:
            count = _number_of_mixes(stored)
            # Stored mixes say more than the settings they were made with, once they are read.
            fixed = None if count else source.mixes.fixed
            fields.update(
                num_representations=max(1, count),
                scalar_mix="learned" if fixed is None else "fixed",
                scalar_mix_parameters=fixed,
                scalar_mix_layer_norm="tokens" if source.mixes.layer_norm else None,
                representation_dropout=source.mixes.dropout,
            )
            if source.mixes.layer_norm:
                fields.update(scalar_mix_layer_norm_epsilon=ALLENNLP_EPSILON)
        if not source.options.get("lstm", {}).get("use_skip_connections"):
            raise CheckpointError(
                f"{source.options_file}: lstm.use_skip_connections is not true, which AllenNLP refuses: these are not "
                "the options of this model"
            )
    else:
        # bilm-tf projects only between different sizes; a file written by AllenNLP's rules has both all the same.
        fields.update(
            {
                field: True
                for field, name in (
                    ("character_projection", "CNN_proj/W_proj"),
                    ("cell_projection", "RNN_0/RNN/MultiRNNCell/Cell0/LSTMCell/W_P_0"),
                )
                if name in stored
            }
        )
        if is_word_model(source.options) and source.options.get("share_embedding_softmax") is True:
            # The dump of such a model, which has no softmax, has nothing to share.
            fields.update(tie_word_embeddings="softmax/b" in stored)
    return config_from_options(source.options, source.options_file, notes, **fields)

"""Conversion table of AllenNLP's `Elmo` inside a task model: names, sizes and resulting parameters."""

import numpy as np

from elmo_hf import ElmoConfig

from ..bilm_tf.options import config_from_options
from ..bilm_tf.rules import ORIGINS
from ..common.errors import CheckpointError
from ..common.plan import Plan, fit
from ..common.rules import Rule, allennlp_characters, allennlp_lstm, copied
from ..common.source import Source
from ..common.transforms import COPY
from .reader import ElmoSource

# Epsilon of the variance in AllenNLP's ScalarMix.
MIX_EPSILON = 1e-13
_ENCODER = "_elmo_lstm._token_embedder"

# Names are relative to the module's prefix. The reader joins `scalar_mix_k.scalar_parameters.j` into one vector.
RULES = (
    Rule(
        f"{_ENCODER}._char_embedding_weights",
        "C D",
        "embeddings.character_embeddings.weight",
        COPY,
        "The row of padded words is already there.",
    ),
    *allennlp_characters(f"{_ENCODER}.char_conv_{{filter}}", f"{_ENCODER}._highways._layers.{{highway}}"),
    *copied(
        f"{_ENCODER}._projection", "embeddings.projection", "P F", "The same linear layer.", "character_projection"
    ),
    *allennlp_lstm("_elmo_lstm._elmo_lstm.{side}_layer_{layer}"),
    Rule(
        "scalar_mix_{mix}.scalar_parameters",
        "layers+1",
        "scalar_mixes.{mix}.weights",
        COPY,
        "Raw weights, before the softmax, in both.",
        "mixes",
    ),
    Rule("scalar_mix_{mix}.gamma", "1", "scalar_mixes.{mix}.gamma", COPY, "The same scale.", "mixes"),
)


def make_plan(source: Source, notes: list[str]) -> Plan:
    """Match a source with its options."""
    assert isinstance(source, ElmoSource)
    if source.mixes.layer_norm:
        notes.append(
            "do_layer_norm: each layer is normalized over all words of a batch, so that a sentence's result depends on "
            "the sentences beside it, as in AllenNLP"
        )
    # A bare biLM has no mixes.
    count = sum(name.endswith(".gamma") for name in source.tensors)
    # Stored mixes take precedence over settings; they are read later.
    fixed = None if count else source.mixes.fixed
    fields = {"scalar_mix_layer_norm_epsilon": MIX_EPSILON} if source.mixes.layer_norm else {}
    if not source.options.get("lstm", {}).get("use_skip_connections"):
        raise CheckpointError(
            f"{source.options_file}: lstm.use_skip_connections is not true, which AllenNLP refuses: these are not the "
            "options of this model"
        )
    config = config_from_options(
        source.options,
        source.options_file,
        notes,
        # AllenNLP always projects, and includes the forget bias of 1 in the stored bias.
        character_projection=True,
        cell_projection=True,
        forget_bias=0.0,
        num_representations=max(1, count),
        scalar_mix="learned" if fixed is None else "fixed",
        scalar_mix_parameters=fixed,
        scalar_mix_layer_norm="tokens" if source.mixes.layer_norm else None,
        representation_dropout=source.mixes.dropout,
        **fields,
    )
    return fit(source, config, None, RULES, ORIGINS, mixes=count > 0)


def fix_mixes(config: ElmoConfig, source: Source, notes: list[str]) -> None:
    """Move the stored values of fixed mixes, which AllenNLP did not train, into the configuration.

    Stored values take precedence over the archive's config.json, as in AllenNLP after loading an archive. Values that a
    single fixed mix cannot represent remain weights.
    """
    assert isinstance(source, ElmoSource)
    configured = source.mixes.fixed
    mixes = [name.removesuffix(".gamma") for name in source.tensors if name.endswith(".gamma")]
    if configured is None or not mixes:
        return
    weights = [source.tensors[f"{name}.scalar_parameters"].read() for name in mixes]
    gammas = [float(source.tensors[f"{name}.gamma"].read()[0]) for name in mixes]
    if any(gamma != 1 for gamma in gammas) or any(not np.array_equal(weights[0], other) for other in weights[1:]):
        notes.append(
            f"config.json has scalar_mix_parameters {configured}, which AllenNLP would not have trained, but the "
            f"stored mixes are trained or differ (gamma {', '.join(f'{gamma:.9g}' for gamma in gammas)}): kept as "
            'learned mixes (scalar_mix="learned"), with every stored value; freeze them with '
            "model.scalar_mixes.requires_grad_(False) to keep them"
        )
        return
    # Use the configuration's spelling if it gives the same float32 numbers.
    if not np.array_equal(np.array(configured, np.float32), weights[0]):
        notes.append(
            f"config.json has scalar_mix_parameters {configured}, the weight file {weights[0].tolist()}: took those of "
            "the weight file, as AllenNLP does"
        )
        configured = weights[0].tolist()
    config.scalar_mix_parameters = list(configured)
    config.scalar_mix = "fixed"

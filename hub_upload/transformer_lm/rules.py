"""Conversion of AllenNLP Transformer language models in both directions: sizes, names and words.

Source: allennlp-models `lm/modules/seq2seq_encoders/bidirectional_lm_transformer.py`, AllenNLP
`modules/seq2vec_encoders/cnn_highway_encoder.py`.
"""

import re
from collections.abc import Iterable
from typing import Any

from elmo_hf import ElmoConfig, ElmoTokenizer

from ..common.errors import CheckpointError
from ..common.options import DEFAULT_CHARACTERS_PER_WORD, NUM_CHARACTERS, OptionsReader, make_config
from ..common.plan import Plan, fit, rows_of_softmax
from ..common.rules import SOFTMAX_RULES, Rule, allennlp_characters, copied
from ..common.source import Source
from ..common.tokenizer import make_tokenizer
from ..common.transforms import COPY, FIRST_OF_ONE
from .reader import META, TRANSFORMER, UNKNOWN

# Number of heads, which is fixed in the program and not stored in archives.
HEADS = 8
# Number of rows of its position embedding; tables of other sizes do not load.
POSITIONS = 5000
POSITION_TABLE = "_contextualizer._position.positional_encoding"
EMBEDDER = "_text_field_embedder.token_embedder_{name}."
EPSILON_UP_TO_0_9, EPSILON_FROM_1_0 = 1e-6, 1e-13


def embedder_name(names: Iterable[str], file: str) -> str:
    """Name of the character embedder in the archive, usually `token_characters`.

    Raises:
        CheckpointError: there is none, or several.
    """
    pattern = r"_text_field_embedder\.token_embedder_([^.]+)\._embedding\._module\.weight"
    found = sorted({match[1] for name in names if (match := re.fullmatch(pattern, name))})
    if len(found) == 1:
        return found[0]
    inputs = sorted({name for name in names if name.startswith("_text_field_embedder.")})
    if not found and any(re.fullmatch(r"_text_field_embedder\.token_embedder_[^.]+\.weight", name) for name in inputs):
        raise CheckpointError(
            f"{file}: this language model reads words by their id ({inputs[0]}), and only those that read characters "
            "(character_encoding) are converted"
        )
    raise CheckpointError(
        f"{file}: expected one table of characters, {EMBEDDER.format(name='token_characters')}_embedding._module.weight"
        f", and there {'is none' if not found else 'are several: ' + ', '.join(found)}"
    )


def rules(config: ElmoConfig, name: str) -> tuple[Rule, ...]:
    """Conversion table of a configuration; `name` comes from `embedder_name`."""
    embedder = EMBEDDER.format(name=name.replace("{", "{{").replace("}", "}}"))
    encoder = f"{embedder}_encoder._module."
    stack, block = "_contextualizer._{side}_transformer.", "encoder.layers.{layer}.{side}_block."
    layer = f"{stack}layers.{{layer}}."
    norms = {
        f"{stack}norm": "encoder.{side}_norm",
        f"{layer}sublayer.0.norm": f"{block}attention_norm",
        f"{layer}sublayer.1.norm": f"{block}feed_forward_norm",
    }
    if config.character_layer_norm:
        norms[f"{encoder}_layer_norm"] = "embeddings.layer_norm"
    linear, order = "The same linear layer.", "Query, key, value and output are numbered in this order."
    return (
        Rule(
            f"{embedder}_embedding._module.weight",
            "C D",
            "embeddings.character_embeddings.weight",
            COPY,
            "Ids are the same, 0 for padded words; the row of that id is kept, though no word reads it.",
        ),
        *allennlp_characters(f"{encoder}char_conv_{{filter}}", f"{encoder}_highways._layers.{{highway}}"),
        *copied(f"{encoder}_projection", "embeddings.projection", "P F", linear, "character_projection"),
        *(
            Rule(f"{theirs}.{name}", "P", f"{ours}.{part}", COPY, "The same layer norm.")
            for theirs, ours in norms.items()
            for name, part in (("gamma", "weight"), ("beta", "bias"))
        ),
        *(
            rule
            for number, letter in enumerate("qkvo")
            for rule in copied(f"{layer}self_attn.linears.{number}", f"{block}attention.{letter}_proj", "P P", order)
        ),
        *copied(f"{layer}feed_forward.w_1", f"{block}feed_forward.up_proj", "hidden P", linear),
        *copied(f"{layer}feed_forward.w_2", f"{block}feed_forward.down_proj", "P hidden", linear),
        Rule(
            POSITION_TABLE,
            "1 positions P",
            "encoder.positions.encodings",
            FIRST_OF_ONE,
            "Both directions share it; kept as stored, because a sine's last bits differ from library to library.",
        ),
        *SOFTMAX_RULES,
    )


def origins(name: str) -> dict[str, str]:
    """Key of `config.json` for each symbol of a shape; `name` comes from `embedder_name`."""
    embedder = f"model.text_field_embedder.token_embedders.{name}"
    return {
        "filters": f"{embedder}.encoder.filters",
        "C": "the number of ids that the indexer makes",
        "D": f"{embedder}.embedding.embedding_dim",
        "P": "model.contextualizer.input_dim",
        "hidden": "model.contextualizer.hidden_dim",
        "positions": "its own",
        "words": "the number of lines of the vocabulary file and one",
    }


def make_plan(source: Source, notes: list[str]) -> Plan:
    """Match a source with its options."""
    config = config_of(source, notes)
    words = rows_of_softmax(source, {name: name for name in source.tensors})
    name = embedder_name(source.tensors, source.file)
    # With `projection_location` null, the program creates a character projection but does not use it.
    unused = "_encoder._module._projection."
    stored = {name: name for name in source.tensors if config.character_projection or unused not in name}
    return fit(source, config, words, rules(config, name), origins(name), stored)


def config_of(source: Source, notes: list[str]) -> ElmoConfig:
    """Make the configuration of an open archive.

    Raises:
        CheckpointError: a missing or invalid size or an unsupported part in `config.json`, or a vocabulary that does
            not match the softmax; the message names file and key.
    """
    name, reader = embedder_name(source.tensors, source.file), OptionsReader(source.options, source.options_file)
    embedder = f"model.text_field_embedder.token_embedders.{name}"
    reader.choice(f"{embedder}.type", ("character_encoding",))
    reader.choice(f"dataset_reader.token_indexers.{name}.type", ("elmo_characters",), default="elmo_characters")
    reader.choice(f"{embedder}.encoder.type", ("cnn-highway",))
    size = reader.size("model.contextualizer.input_dim")
    if size % HEADS:
        raise CheckpointError(
            f"{source.options_file}: model.contextualizer.input_dim is {size}, expected a multiple of {HEADS}, the "
            "number of heads that AllenNLP always makes"
        )
    positions = source.tensors[POSITION_TABLE].shape if POSITION_TABLE in source.tensors else ()
    if len(positions) != 3:
        raise CheckpointError(f"{source.file}: expected {POSITION_TABLE!r} of three axes, found {positions or 'none'}")
    _check_vocabulary(source)
    _note_boundaries(reader, notes)
    dropout = reader.probability("model.contextualizer.dropout", default=0.1)
    return make_config(
        {
            "encoder_type": "transformer",
            "num_characters": NUM_CHARACTERS,
            "max_characters_per_word": DEFAULT_CHARACTERS_PER_WORD,
            "character_embedding_size": reader.size(f"{embedder}.embedding.embedding_dim"),
            "character_filters": reader.filters(f"{embedder}.encoder.filters"),
            "character_activation": reader.choice(f"{embedder}.encoder.activation", ("relu", "tanh"), default="relu"),
            "num_highway_layers": reader.size(f"{embedder}.encoder.num_highway", lowest=0),
            **_projection(source, reader, f"{embedder}.encoder", size, notes),
            "character_layer_norm": reader.choice(f"{embedder}.encoder.do_layer_norm", (True, False), default=False),
            "projection_size": size,
            "num_attention_heads": HEADS,
            "feed_forward_size": reader.size("model.contextualizer.hidden_dim"),
            "num_hidden_layers": reader.size("model.contextualizer.num_layers"),
            "max_position_embeddings": positions[1],
            "layer_norm_epsilon": _epsilon(source, notes),
            "transformer_dropout": dropout,
            "attention_dropout": dropout,
            "transformer_input_dropout": reader.probability("model.contextualizer.input_dropout", default=0.0),
            "softmax_dropout": reader.probability("model.dropout", default=0.0),
            # The value of AllenNLP's embedder for such a model.
            "representation_dropout": 0.0,
        },
        source.options_file,
    )


def _projection(
    source: Source, reader: OptionsReader, encoder: str, size: int, notes: list[str]
) -> dict[str, bool | str]:
    """Fields for the position of the character projection. With `null`, AllenNLP creates one but does not use it."""
    place = reader.get(f"{encoder}.projection_location")
    if place is None and "projection_location" in (reader.get(encoder) or {}):
        count = sum(pair[1] for pair in reader.filters(f"{encoder}.filters"))
        if count != size:
            raise CheckpointError(
                f"{source.options_file}: {encoder}.projection_location is null, which leaves {count} values of the "
                f"filters, but model.contextualizer.input_dim is {size}"
            )
        notes.append("left out the projection of the characters, which projection_location null does not use")
        return {"character_projection": False}
    reader.choice(f"{encoder}.projection_location", ("after_highway", "after_cnn"), default="after_highway")
    projected = reader.size(f"{encoder}.projection_dim")
    if projected != size:
        raise CheckpointError(
            f"{source.options_file}: {encoder}.projection_dim is {projected}, but model.contextualizer.input_dim is "
            f"{size}"
        )
    return {"character_projection": True, "character_projection_location": place or "after_highway"}


def _epsilon(source: Source, notes: list[str]) -> float:
    """Epsilon of the layer norms, which changed between AllenNLP 0.9 and 1.0 and is not stored in archives."""
    options = source.options
    if source.layer_norm_epsilon is not None:
        return source.layer_norm_epsilon
    if META in options or "data_loader" in options:
        epsilon, sign = EPSILON_FROM_1_0, META if META in options else "'data_loader' in config.json"
        reason = f"that of AllenNLP from 1.0 on, of which {sign} is a sign"
    elif "iterator" in options:
        epsilon, reason = EPSILON_UP_TO_0_9, "that of AllenNLP up to 0.9, of which 'iterator' in config.json is a sign"
    else:
        epsilon, reason = EPSILON_UP_TO_0_9, "that of AllenNLP up to 0.9, which wrote the published archive"
    notes.append(
        f"the archive does not hold the epsilon of its layer norms: took {epsilon:g}, {reason}; AllenNLP before and "
        f"from 1.0 on computes with {EPSILON_UP_TO_0_9:g} and {EPSILON_FROM_1_0:g}, choose with --layer-norm-epsilon"
    )
    return epsilon


def _check_vocabulary(source: Source) -> None:
    """Raise `CheckpointError` unless the softmax has exactly one class more than the vocabulary has lines."""
    if source.vocabulary is None or "softmax/b" not in source.tensors:
        return
    lines, shape = len(source.vocabulary.lines), source.tensors["softmax/b"].shape
    if shape != (lines + 1,):
        raise CheckpointError(
            f"{source.vocabulary.file}: has {lines} lines, but the softmax of {source.file} has {shape[0]} classes, "
            f"expected {lines + 1}: padding counts as one. Give the vocabulary that the model was trained with, or "
            "leave the softmax out (--without-softmax)"
        )


def _note_boundaries(reader: OptionsReader, notes: list[str]) -> None:
    for key, token in (("start_tokens", "<S>"), ("end_tokens", "</S>")):
        found = reader.get(f"dataset_reader.{key}")
        if found != [token]:
            notes.append(
                f"dataset_reader.{key} is {found!r}: the model was not trained with {[token]!r}, which the tokenizer "
                "adds, as AllenNLP's embedder does (bos_eos_tokens)"
            )


def tokenizer_of(source: Source, config: ElmoConfig, notes: list[str]) -> ElmoTokenizer:
    """Make the tokenizer from the archive's words; the softmax's class without a word comes last.

    Raises:
        CheckpointError: a vocabulary without boundary symbols, or damaged; the message names the file.
    """
    return make_tokenizer(source, config, unk_token=UNKNOWN if source.vocabulary is not None else "<UNK>")


def archive_config(config: ElmoConfig, layout: str, classes: int) -> dict[str, Any]:
    """Content of `config.json` for a model's archive.

    Args:
        config: Configuration of the model.
        layout: Layout of the softmax, as in `SOFTMAX_LAYOUTS`.
        classes: Number of classes of the softmax.
    """
    recent = config.layer_norm_epsilon == EPSILON_FROM_1_0
    spaces = {"type": "just_spaces"}
    encoder: dict[str, Any] = {
        "type": "cnn-highway",
        "activation": config.character_activation,
        "embedding_dim": config.character_embedding_size,
        "filters": [list(pair) for pair in config.character_filters],
        "num_highway": config.num_highway_layers,
        "projection_dim": config.projection_size,
        "projection_location": config.character_projection_location if config.character_projection else None,
        "do_layer_norm": config.character_layer_norm,
    }
    characters = {
        "type": "character_encoding",
        "embedding": {"num_embeddings": config.num_characters, "embedding_dim": config.character_embedding_size},
        "encoder": encoder,
    }
    model: dict[str, Any] = {
        "type": "language_model",
        "bidirectional": True,
        "text_field_embedder": {"token_embedders": {"tokens": {"type": "empty"}, "token_characters": characters}},
        "contextualizer": {
            "type": TRANSFORMER,
            "input_dim": config.projection_size,
            "hidden_dim": config.feed_forward_size,
            "num_layers": config.num_hidden_layers,
            "dropout": config.transformer_dropout,
            "input_dropout": config.transformer_input_dropout,
        },
        "dropout": config.softmax_dropout,
    }
    if layout != "unsampled":
        # The number of samples must be smaller than the number of classes.
        model |= {"num_samples": min(8192, classes - 1), "sparse_embeddings": layout == "sparse"}
    reader = {
        "type": "simple_language_modeling",
        # The name differs between versions of the program.
        "tokenizer": spaces if recent else {"type": "word", "word_splitter": spaces},
        "token_indexers": {"tokens": {"type": "single_id"}, "token_characters": {"type": "elmo_characters"}},
        "max_sequence_length": 400,
        "start_tokens": ["<S>"],
        "end_tokens": ["</S>"],
    }
    age = {"data_loader": {"batch_size": 32}} if recent else {"iterator": {"type": "basic", "batch_size": 32}}
    return {"dataset_reader": reader, "model": model, **age, "train_data_path": "", "trainer": {"num_epochs": 0}}

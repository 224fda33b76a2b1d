"""Conversion between `options.json` of a bilm-tf or AllenNLP model and `ElmoConfig`."""

from typing import Any

from elmo_hf import ElmoConfig

from ..common.options import DEFAULT_CHARACTERS_PER_WORD, NUM_CHARACTERS, OptionsReader, make_config
from ..common.source import Source

ACCEPTED_CHARACTERS = (261, 262)


def is_word_model(options: dict[str, Any]) -> bool:
    """True if the options describe a language model over words, without characters."""
    return "lstm" in options and "char_cnn" not in options


def needs_vocabulary(source: Source) -> str:
    """The reason why a word model needs its vocabulary; empty for a character model."""
    return (
        "reads words by the line they have in its vocabulary and cannot do without"
        if is_word_model(source.options)
        else ""
    )


def config_from_options(options: dict[str, Any], file: str, notes: list[str], **fields: Any) -> ElmoConfig:
    """Make a configuration from the content of an `options.json`.

    Args:
        options: The parsed file.
        file: Its name, for messages.
        notes: Receives a sentence about each assumed or reinterpreted value.
        fields: Additional or replaced fields of the configuration.

    Raises:
        CheckpointError: a key is missing or its value is invalid; the message names file, key and value.
    """
    reader = OptionsReader(options, file)
    reader.choice("share_embedding_softmax", (True, False), default=False)
    skips = reader.get("lstm.use_skip_connections")
    if skips is None:
        notes.append("lstm.use_skip_connections is missing, which means false to the program that trained the model")
    values: dict[str, Any] = {
        "bidirectional": reader.choice("bidirectional", (True, False), default=True),
        **(_word_fields(reader) if is_word_model(options) else _character_fields(reader)),
        "projection_size": reader.size("lstm.projection_dim"),
        "cell_size": reader.size("lstm.dim"),
        "num_hidden_layers": reader.size("lstm.n_layers", default=1),
        "use_skip_connections": reader.choice("lstm.use_skip_connections", (True, False), default=False),
        "cell_clip": reader.clip("lstm.cell_clip", notes),
        "projection_clip": reader.clip("lstm.proj_clip", notes),
        **fields,
    }
    return make_config(values, file)


def _character_fields(reader: OptionsReader) -> dict[str, Any]:
    reader.choice("char_cnn.n_characters", ACCEPTED_CHARACTERS, default=NUM_CHARACTERS)
    return {
        "num_characters": NUM_CHARACTERS,
        "max_characters_per_word": reader.size(
            "char_cnn.max_characters_per_token", DEFAULT_CHARACTERS_PER_WORD, lowest=3
        ),
        "character_activation": reader.choice("char_cnn.activation", ("relu", "tanh")),
        "character_embedding_size": reader.size("char_cnn.embedding.dim"),
        "character_filters": reader.filters("char_cnn.filters"),
        "num_highway_layers": reader.size("char_cnn.n_highway", default=0, lowest=0),
    }


def _word_fields(reader: OptionsReader) -> dict[str, Any]:
    """Fields of a model with a word embedding as wide as the layers, instead of characters."""
    return {"word_embedding_size": reader.size("lstm.projection_dim"), "character_filters": [], "num_highway_layers": 0}


def options_from_config(config: ElmoConfig) -> dict[str, Any]:
    """The `options.json` of a model, with all keys that bilm-tf, AllenNLP or simple_elmo read."""

    def number(value: float | None) -> float | int | None:
        return int(value) if value is not None and value == int(value) else value

    options: dict[str, Any] = {
        "lstm": {
            "use_skip_connections": config.use_skip_connections,
            "projection_dim": config.projection_size,
            "dim": config.cell_size,
            "n_layers": config.num_hidden_layers,
            "cell_clip": number(config.cell_clip),
            "proj_clip": number(config.projection_clip),
        },
        "bidirectional": config.bidirectional,
    }
    if config.character_filters:
        options["char_cnn"] = {
            "activation": config.character_activation,
            "embedding": {"dim": config.character_embedding_size},
            "filters": [list(pair) for pair in config.character_filters],
            "n_highway": config.num_highway_layers,
            "n_characters": NUM_CHARACTERS,
            "max_characters_per_token": config.max_characters_per_word,
        }
    if config.tie_word_embeddings:
        options["share_embedding_softmax"] = True
    return options

"""`options.json`, the sizes of a bilm-tf or AllenNLP model, to and from `ElmoConfig`."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from elmo_hf import ElmoConfig

from .errors import CheckpointError

# Ids that embedding programs use: 256 bytes, begin and end of a sentence and of a word, padding; and 0 for padded
# words. The training program does without the last and writes 261, `bilm-tf`'s own reader insists on 262.
NUM_CHARACTERS = 262
ACCEPTED_CHARACTERS = (261, 262)
DEFAULT_CHARACTERS_PER_WORD = 50
# bilm-tf's reader knows the names of so many LSTM layers.
BILM_TF_MAX_LAYERS = 8


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: missing, not UTF-8, not JSON (the message has line and column), or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); fetch the file again") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, expected a JSON object")
    return value


class OptionsReader:
    """Typed access to nested options; errors name the file and the key."""

    def __init__(self, values: dict[str, Any], file: str) -> None:
        self.values, self.file = values, file

    def get(self, key: str) -> Any:
        """The value at a dotted key, `None` where it or its parent is missing."""
        value: Any = self.values
        for part in key.split("."):
            if not isinstance(value, dict):
                raise CheckpointError(f"{self.file}: expected an object around {key!r}, found {value!r}")
            value = value.get(part)
            if value is None:
                return None
        return value

    def size(self, key: str, default: int | None = None, lowest: int = 1) -> int:
        value = self.get(key)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            found = "is missing" if value is None else f"is {value!r}"
            raise CheckpointError(f"{self.file}: {key} {found}, expected an integer of at least {lowest}")
        return value

    def clip(self, key: str, notes: list[str]) -> float | None:
        value = self.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise CheckpointError(f"{self.file}: {key} is {value!r}, expected a number of at least 0, or null")
        if value == 0:
            notes.append(
                f"{key} is 0, which switches clipping off in AllenNLP (and would set every value to zero in "
                "TensorFlow): read as no clipping"
            )
            return None
        return float(value)

    def probability(self, key: str, default: float) -> float:
        value = self.get(key)
        if value is None:
            value = default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise CheckpointError(f"{self.file}: {key} is {value!r}, expected a probability below 1")
        return value

    def filters(self, key: str) -> list[list[int]]:
        value = self.get(key)
        good = isinstance(value, list) and len(value) > 0
        for pair in value if good else ():
            good = good and isinstance(pair, list) and len(pair) == 2
            good = good and all(isinstance(number, int) and number > 0 for number in pair)
        if not good:
            raise CheckpointError(f"{self.file}: {key} is {value!r}, expected a list of [width, count]")
        return value

    def choice(self, key: str, accepted: tuple[Any, ...], default: Any = None) -> Any:
        value = self.get(key)
        if value is None:
            value = default
        # `1 == True`: the type counts too.
        if not any(type(value) is type(one) and value == one for one in accepted):
            found = "is missing" if value is None else f"is {value!r}"
            raise CheckpointError(f"{self.file}: {key} {found}, expected one of {', '.join(map(repr, accepted))}")
        return value


def is_word_model(options: dict[str, Any]) -> bool:
    """Whether the options describe a language model over words, without characters."""
    return "lstm" in options and "char_cnn" not in options


def make_config(values: dict[str, Any], file: str) -> ElmoConfig:
    """A configuration of these fields; what it refuses becomes a `CheckpointError` that names the file."""
    try:
        return ElmoConfig.from_dict(values)
    except (StrictDataclassError, ValueError, TypeError) as error:
        # The strict dataclass wraps the message that says what is wrong.
        raise CheckpointError(f"{file}: {error.__cause__ or error}") from error


def config_from_options(options: dict[str, Any], file: str, notes: list[str], **fields: Any) -> ElmoConfig:
    """Make a configuration from the content of an `options.json`.

    Args:
        options: The parsed file.
        file: Its name, for messages.
        notes: Receives a sentence for each value that was assumed or reinterpreted.
        fields: Further fields of the configuration, or replacements.

    Raises:
        CheckpointError: a key is missing or its value is impossible; the message names file, key and value.
    """
    reader = OptionsReader(options, file)
    if options.get("bidirectional") is False:
        raise CheckpointError(
            f"{file}: bidirectional is false: this is a language model of one direction, and ElmoModel needs both"
        )
    reader.choice("share_embedding_softmax", (True, False), default=False)
    skips = reader.get("lstm.use_skip_connections")
    if skips is None:
        notes.append("lstm.use_skip_connections is missing, which means false to the program that trained the model")
    values: dict[str, Any] = {
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
    """A table of words as wide as the layers, in place of characters."""
    return {
        "word_embedding_size": reader.size("lstm.projection_dim"),
        "character_filters": [],
        "num_highway_layers": 0,
    }


def options_from_config(config: ElmoConfig) -> dict[str, Any]:
    """The `options.json` of a model, with every key that bilm-tf, AllenNLP or simple_elmo read."""

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
        "bidirectional": True,
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

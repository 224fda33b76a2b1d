"""Description of a model folder, read from file headers without loading weights."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from elmo_hf.model.configuration_elmo import ElmoConfig
from elmo_hf.model.configuration_encoder_decoder import ENCODERS

from .loading import load_tokenizer

# Descriptions of a folder's files by name, then by suffix.
FILES = {
    "config.json": "configuration of the model",
    "generation_config.json": "settings of generation",
    "model.safetensors": "weights",
    "model.safetensors.index.json": "index of the weight files",
    "tokenizer_config.json": "configuration of the tokenizer",
    "special_tokens_map.json": "special tokens",
    "added_tokens.json": "tokens added to the vocabulary",
    "tokenizer.json": "tokenizer with its vocabulary",
    "vocab.txt": "vocabulary, by id",
    "README.md": "model card",
    "training_args.bin": "the Trainer's arguments, a pickle",
    "trainer_state.json": "the Trainer's state",
    "all_results.json": "metrics of the training run",
    "target_tokenizer": "tokenizer of the decoder",
    ".safetensors": "weights",
    ".png": "picture",
    ".py": "code, for trust_remote_code=True where elmo-hf is missing",
    ".json": "JSON",
    ".txt": "text",
}


@dataclass(frozen=True)
class Description:
    """A model's folder.

    Attributes:
        folder: the folder as given.
        architecture: the class that was saved.
        family: readable name of the kind of ELMo.
        shape: sizes by name.
        parameters: number of parameters by dtype.
        splitting: the tokenizer's rule for raw text, and the rule for lines of files if it differs.
        files: (name, size in bytes, description) of each file.
    """

    folder: str
    architecture: str
    family: str
    shape: dict[str, Any]
    parameters: dict[str, int]
    splitting: str
    files: list[tuple[str, int, str]]


def describe(folder: str) -> Description:
    """Describe a model's folder.

    Raises:
        OSError: the folder or its configuration is missing.
        ValueError: a model of another `model_type`.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise OSError(f"{folder} is not a model folder: it has no config.json")
    stored = json.loads((path / "config.json").read_text(encoding="utf-8"))
    architecture = (stored.get("architectures") or ["ElmoModel"])[0]
    translator = stored.get("model_type") == "encoder-decoder"
    fields = stored.get("encoder", {}) if translator else stored
    kind = fields.get("model_type")
    if kind not in (ENCODERS if translator else (ElmoConfig.model_type,)):
        raise ValueError(f"{folder}: model_type={kind!r}: expected {ElmoConfig.model_type!r}")
    config = ENCODERS[kind].from_dict(fields)
    tokenizer: Any = load_tokenizer(None, folder)
    rule, lines = tokenizer.pre_tokenization, tokenizer.corpus_pre_tokenization
    shape = dict(_shape(config))
    if translator:
        shape["decoder"] = stored.get("decoder", {}).get("model_type")
    return Description(
        folder,
        architecture,
        family(config) + (", with a decoder" if translator else ""),
        shape,
        _parameters(path),
        f"raw text by {rule!r}" + ("" if rule == lines else f", lines of files by {lines!r}"),
        [(each.name + "/" * each.is_dir(), _size(each), _kind(each)) for each in sorted(path.iterdir())],
    )


def family(config: ElmoConfig) -> str:
    """Readable name of the kind of ELMo."""
    if config.encoder_type == "transformer":
        encoder = "Transformer ELMo" if config.causal else "bidirectional Transformer"
    else:
        encoder = "biLSTM" if config.bidirectional else f"{config.direction} LSTM"
    inputs = [
        name
        for name, given in (("characters", config.character_filters), ("words", config.word_embedding_size))
        if given
    ]
    inputs += ["POS tags"] * bool(config.num_pos_tags)
    return f"{encoder} over {' and '.join(inputs)}" if config.elmo_at else "task model without ELMo"


def _shape(config: ElmoConfig) -> Iterator[tuple[str, Any]]:
    yield "vocabulary", config.vocab_size
    if config.elmo_at:
        yield from _shape_of_bilm(config)
    if config.word_vector_size:
        yield "word_vectors", config.word_vector_size
    if config.task_character_size:
        yield "task_character_filters", sum(count for _, count in config.task_character_filters)
    if config.task_lstm_size:
        yield "task_lstm_size", config.task_lstm_size
    if config.id2label and len(config.id2label) < 40 and (config.architectures or [""])[0].endswith("Classification"):
        yield "labels", ", ".join(map(str, config.id2label.values()))


def _shape_of_bilm(config: ElmoConfig) -> Iterator[tuple[str, Any]]:
    yield "layers", config.num_hidden_layers
    yield "projection_size", config.projection_size
    if config.encoder_type == "lstm":
        yield "cell_size", config.cell_size
    else:
        yield "attention_heads", config.num_attention_heads
    yield "vector_size", config.projection_size * (2 if config.bidirectional else 1)
    if config.character_filters:
        yield "character_filters", sum(count for _, count in config.character_filters)
        yield "characters_per_word", config.max_characters_per_word
    if config.weight_precision:
        yield "weight_precision", config.weight_precision
    if config.aligned:
        yield "aligned", True


def _parameters(folder: Path) -> dict[str, int]:
    from safetensors import safe_open

    found: dict[str, int] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - no mapping
                part = weights.get_slice(name)
                found[part.get_dtype()] = found.get(part.get_dtype(), 0) + prod(part.get_shape())
    return found


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in (path.rglob("*") if path.is_dir() else [path]) if each.is_file())


def _kind(path: Path) -> str:
    if path.is_dir():
        return FILES.get(path.name, "folder")
    return FILES.get(path.name) or FILES.get(path.suffix, "?")

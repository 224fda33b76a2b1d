"""From a Transformers folder back to a directory that ELMoForManyLangs reads."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elmo_hf import ElmoConfig, ElmoTokenizer

from ..common.errors import CheckpointError
from ..common.options import read_json
from ..common.output import new_folder
from ..common.rules import Entry, expand
from ..common.saved_model import (
    SOFTMAX_PARAMETERS,
    Parameter,
    Written,
    load_float32,
    read_tokenizer,
)
from ..common.transforms import Array, subtract_forget_bias
from .reader import (
    CHARACTERS,
    CLASSIFIER,
    CONFIG,
    SOFTMAX_FORMS,
    STATE_DICTS,
    TRAINED_LAYERS,
    WORDS,
)
from .rules import (
    CHARACTER_TABLE,
    READERS_FORGET_BIAS,
    UNUSED,
    WORD_MARKS,
    WORD_TABLE,
    architecture_from_config,
    dimensions,
    rules,
)

ARCHITECTURE = "architecture.json"


def has_dictionary(folder: Path) -> bool:
    """Whether the tokenizer of a Transformers folder spells words by a dictionary, as only these models do."""
    path = folder / "tokenizer_config.json"
    return path.is_file() and read_json(path).get("character_units") == "code_points"


def write_directory(
    folder: Path, output: Path, config: ElmoConfig, parameters: Mapping[str, Parameter], notes: list[str]
) -> Written:
    """Write a model of the checked configuration.

    Args:
        folder: Where its tokenizer is.
        output: The directory to make.
        config, parameters: Its sizes and tensors, which fit each other.
        notes: Receives a sentence for everything that the format has no place for.

    Raises:
        CheckpointError: a tokenizer that is not the model's, or that the format cannot hold.
    """
    tokenizer = read_tokenizer(folder)
    assert tokenizer is not None
    has_softmax = _keeps_softmax(config, tokenizer, parameters, notes)
    rows = _rows_of_words(folder, config, tokenizer, parameters, has_softmax)
    characters, words = _dictionaries(folder, config, tokenizer, rows)
    entries = list(expand(rules(config), config, rows, False, has_softmax, dimensions(config, rows)))
    writer = _Writer(config, parameters, notes)
    texts = {name: json.dumps(values, indent=2) + "\n" for name, values in _settings(config).items()}
    for name, lines in ((CHARACTERS, characters), (WORDS, words)):
        if lines is not None:
            texts[name] = "".join(f"{symbol}\t{number}\n" for symbol, number in lines)
    files = {name: writer.state_dict(part, entries) for part, name in STATE_DICTS.items()}
    if has_softmax:
        files[CLASSIFIER] = _classifier(entries, writer)
    with new_folder(output) as partial:
        for name, state in files.items():
            torch.save(state, partial / name)
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8", newline="\n")
    return Written((*files, *texts), len(entries), writer.lost_bits, READERS_FORGET_BIAS)


def _settings(config: ElmoConfig) -> dict[str, dict[str, Any]]:
    return {CONFIG: {"config_path": ARCHITECTURE}, ARCHITECTURE: architecture_from_config(config)}


def check_config(config: ElmoConfig, folder: Path) -> None:
    """Refuse what the format cannot hold."""
    for condition, fault in (
        (config.encoder_type != "lstm", f"encoder_type={config.encoder_type!r}"),
        (not config.use_skip_connections, "use_skip_connections=False"),
        (not config.cell_projection, "cell_projection=False"),
        (config.num_pos_tags > 0, f"num_pos_tags={config.num_pos_tags}"),
        (config.context_word_layer, "context_word_layer=True"),
        (config.character_layer_norm, "character_layer_norm=True"),
        (config.joins_words and config.character_projection, "characters projected before they are joined to words"),
        (not config.joins_words and not config.character_projection and config.character_filters, "no projection"),
        (config.character_projection_location != "after_highway", "a projection before the highways"),
        (config.cell_clip == 0 or config.projection_clip == 0, "a clip of 0, which means none there"),
    ):
        if condition:
            raise CheckpointError(
                f"{folder}: {fault}: no ELMoForManyLangs model is so, and of all original formats only theirs holds a "
                "dictionary of characters"
            )


def _keeps_softmax(
    config: ElmoConfig, tokenizer: ElmoTokenizer, parameters: Mapping[str, Parameter], notes: list[str]
) -> bool:
    """Whether there is a softmax that `classifier.pkl` can hold; notes why not."""
    if not any(name in parameters for name in SOFTMAX_PARAMETERS):
        return False
    missing = [mark for mark in WORD_MARKS if mark not in tokenizer.get_vocab()]
    faults = [
        fault
        for condition, fault in (
            (config.num_hidden_layers != TRAINED_LAYERS, f"the program's reads the second of {TRAINED_LAYERS} layers"),
            (config.tie_word_embeddings, "its weight is the table of words (tie_word_embeddings)"),
            (missing, f"the vocabulary lacks {', '.join(missing)}, which the program looks up"),
        )
        if condition
    ]
    if faults:
        notes.append(f"the softmax was left out: {faults[0]}")
    return not faults


def _classifier(entries: list[Entry], writer: "_Writer") -> "OrderedDict[str, Tensor]":
    """The state dict of `classifier.pkl`, as of the sampled softmax that the architecture file names."""
    weight, bias = (
        torch.from_numpy(writer.array(next(entry for entry in entries if entry.original == name)))
        for name in ("softmax/W", "softmax/b")
    )
    names = SOFTMAX_FORMS["sampled_softmax"]
    # A column for unknown words that the program makes, wants to load, and never reads.
    unread = torch.zeros(weight.shape[1], 1)
    return OrderedDict({"oov_column": unread, names[0]: weight, names[1]: bias[:, None].contiguous()})


def _rows_of_words(
    folder: Path,
    config: ElmoConfig,
    tokenizer: ElmoTokenizer,
    parameters: Mapping[str, Parameter],
    has_softmax: bool,
) -> int | None:
    """Rows of the original's table of words and softmax: ours without padding, and without a mask behind them."""
    if not (config.word_embedding_size or has_softmax):
        return None
    size = len(tokenizer)
    if size != config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {size} words, but the model has {config.vocab_size} rows for them; save "
            "model and tokenizer that belong together"
        )
    tables = [rule.parameters[0] for rule in rules(config) if rule.original in (WORD_TABLE, "softmax/W", "softmax/b")]
    is_used = any(parameters[name].row(size - 1).any() for name in tables if name in parameters)
    return size - 2 if tokenizer.mask_token_id == size - 1 and not is_used else size - 1


def _dictionaries(
    folder: Path, config: ElmoConfig, tokenizer: ElmoTokenizer, rows: int | None
) -> tuple[list[tuple[str, int]] | None, list[tuple[str, int]] | None]:
    """Symbols and ids of both files, in the order of the ids; `None` for a part that the model lacks."""
    symbols = tokenizer.character_vocabulary or {}
    if config.character_filters and max(symbols.values(), default=0) >= config.num_characters:
        raise CheckpointError(
            f"{folder}: the tokenizer's characters have ids up to {max(symbols.values())}, but the table of characters "
            f"has {config.num_characters} rows; save model and tokenizer that belong together"
        )
    characters = sorted(symbols.items(), key=lambda item: item[1]) if config.character_filters else None
    words = None
    if rows is not None:
        by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])[1 : rows + 1]
        words = [(word, number) for word, number in by_id if word != UNUSED.format(id=number - 1)]
    for symbol, _ in (*(characters or ()), *(words or ())):
        if (symbol != symbol.strip() and symbol != "\u3000") or not symbol or "\t" in symbol or "\n" in symbol:
            raise CheckpointError(
                f"{folder}: {symbol!r} cannot stand in a dictionary file, whose lines are stripped of whitespace"
            )
    return tuple(  # type: ignore[return-value]
        None if lines is None else [(symbol, number - 1) for symbol, number in lines] for lines in (characters, words)
    )


class _Writer:
    """Turns parameters into the state dicts of the original."""

    def __init__(self, config: ElmoConfig, parameters: Mapping[str, Parameter], notes: list[str]) -> None:
        self.config, self.parameters, self.notes = config, parameters, notes
        self.lost_bits = 0

    def state_dict(self, part: str, entries: list[Entry]) -> "OrderedDict[str, Tensor]":
        """The tensors of one file, by the names in it."""
        return OrderedDict(
            (entry.original.removeprefix(f"{part}."), torch.from_numpy(self.array(entry)))
            for entry in entries
            if entry.original.startswith(f"{part}.")
        )

    def array(self, entry: Entry) -> Array:
        """The array of one entry, float32."""
        arrays = [load_float32(self.parameters, name, self.notes) for name in entry.parameters]
        if entry.original in (CHARACTER_TABLE, WORD_TABLE, "softmax/W") and arrays[0][0].any():
            self.notes.append(f"the row of padding of {entry.original} is not zero; the original has none: left out")
        if entry.original.endswith("state_linearity.bias") and self.config.forget_bias != READERS_FORGET_BIAS:
            arrays[0], lost = subtract_forget_bias(arrays[0], READERS_FORGET_BIAS - self.config.forget_bias)
            self.lost_bits += lost
        return entry.transform.to_original(arrays, entry.shape[0])

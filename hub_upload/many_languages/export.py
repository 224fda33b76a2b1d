"""Export of a Transformers folder to a directory that ELMoForManyLangs reads."""

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from elmo_hf import ElmoConfig, ElmoTokenizer

from ..common.errors import CheckpointError
from ..common.options import read_json
from ..common.output import new_folder
from ..common.rules import Entry, expand
from ..common.saved_model import DEAD_BIAS, SOFTMAX_PARAMETERS, SavedModel, Written, read_tokenizer
from .reader import CHARACTERS, CLASSIFIER, CONFIG, SOFTMAX_FORMS, STATE_DICTS, TRAINED_LAYERS, WORDS
from .rules import (
    BEGIN_OF_SENTENCE,
    CHARACTER_TABLE,
    END_OF_SENTENCE,
    ORIGINS,
    PADDING,
    READERS_FORGET_BIAS,
    UNKNOWN,
    UNUSED,
    WORD_TABLE,
    architecture_from_config,
    rules,
)

ARCHITECTURE = "architecture.json"
FILES = (CONFIG, ARCHITECTURE, *STATE_DICTS.values(), CLASSIFIER, CHARACTERS, WORDS)
# Words that the program looks up by name, by our tokenizer's names. Its padding is another word, with its own row.
MARKS = {"bos_token": BEGIN_OF_SENTENCE, "eos_token": END_OF_SENTENCE, "unk_token": UNKNOWN}


def has_dictionary(folder: Path, config: ElmoConfig) -> bool:
    """True if the tokenizer of a Transformers folder uses a character dictionary, as only these models do."""
    path = folder / "tokenizer_config.json"
    return path.is_file() and read_json(path).get("character_units") == "code_points"


def is_written(path: Path) -> bool:
    """True if a `config.json` belongs to a directory made by `write`, which may therefore be replaced."""
    return read_json(path).get("config_path") == ARCHITECTURE


def write(model: SavedModel, output: Path, softmax_layout: str) -> Written:
    """Write a model whose configuration was checked; the softmax has only one layout."""
    config, tokenizer = model.config, read_tokenizer(model.folder)
    assert tokenizer is not None
    has_softmax = _keeps_softmax(model)
    listed = None
    if config.word_embedding_size or has_softmax:
        model.check_rows(tokenizer, config.vocab_size, "model")
        listed = model.words_with_marks(tokenizer, MARKS)
    added = listed is not None and PADDING not in listed
    characters, words = _dictionaries(model, tokenizer, listed, added)
    filled = expand(rules(config), config, len(listed or ()), ORIGINS, softmax=has_softmax)
    entries = {entry.original: entry for entry in filled}
    settings = {CONFIG: {"config_path": ARCHITECTURE}, ARCHITECTURE: architecture_from_config(config)}
    texts = {name: json.dumps(values, indent=2) + "\n" for name, values in settings.items()}
    for name, lines in ((CHARACTERS, characters), (WORDS, words)):
        if lines is not None:
            texts[name] = "".join(f"{symbol}\t{number}\n" for symbol, number in lines)
    files = {name: _state_dict(model, part, entries) for part, name in STATE_DICTS.items()}
    if has_softmax:
        files[CLASSIFIER] = _classifier(model, entries)
    if added:
        _add_padding(model, files)
    with new_folder(output) as partial:
        for name, state in files.items():
            torch.save(state, partial / name)
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8", newline="\n")
    return Written((*files, *texts), len(entries), READERS_FORGET_BIAS)


def check_config(folder: Path, config: ElmoConfig, notes: list[str]) -> None:
    """Refuse models that the format cannot represent."""
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
        (
            config.cell_clip == 0 or config.projection_clip == 0,
            f"cell_clip={config.cell_clip} and projection_clip={config.projection_clip}, of which 0 means none there",
        ),
    ):
        if condition:
            raise CheckpointError(
                f"{folder}: {fault}: ELMoForManyLangs, the only original format with a dictionary of characters, has "
                "no such models"
            )


def _keeps_softmax(model: SavedModel) -> bool:
    """True if there is a softmax that `classifier.pkl` can represent; otherwise a note gives the reason."""
    config = model.config
    if not any(name in model.parameters for name in SOFTMAX_PARAMETERS):
        return False
    faults = [
        fault
        for condition, fault in (
            (config.num_hidden_layers != TRAINED_LAYERS, f"the program's reads the second of {TRAINED_LAYERS} layers"),
            (config.tie_word_embeddings, "its weight is the table of words (tie_word_embeddings)"),
        )
        if condition
    ]
    if faults:
        model.notes.append(f"the softmax was left out: {faults[0]}")
    return not faults


def _tensor(model: SavedModel, entry: Entry) -> Tensor:
    note = f"the row of padding of {entry.original} is not zero; the original has none: left out"
    is_table = entry.original in (CHARACTER_TABLE, WORD_TABLE, "softmax/W")
    return torch.from_numpy(model.original(entry, READERS_FORGET_BIAS, note if is_table else ""))


def _state_dict(model: SavedModel, part: str, entries: Mapping[str, Entry]) -> "OrderedDict[str, Tensor]":
    """The tensors of one file, by their names in it."""
    place = f"{part}."
    return OrderedDict(
        (name.removeprefix(place), _tensor(model, entry)) for name, entry in entries.items() if name.startswith(place)
    )


def _classifier(model: SavedModel, entries: Mapping[str, Entry]) -> "OrderedDict[str, Tensor]":
    """The state dict of `classifier.pkl`, for the sampled softmax named in the architecture file."""
    weight, bias = (_tensor(model, entries[name]) for name in ("softmax/W", "softmax/b"))
    names = SOFTMAX_FORMS["sampled_softmax"]
    # A column for unknown words, which the program creates and loads but never uses.
    unread = torch.zeros(weight.shape[1], 1)
    return OrderedDict({"oov_column": unread, names[0]: weight, names[1]: bias[:, None].contiguous()})


def _add_padding(model: SavedModel, files: Mapping[str, "OrderedDict[str, Tensor]"]) -> None:
    """Add a last row for the program's padding, a word and class whose values are never used."""
    weight, bias = SOFTMAX_FORMS["sampled_softmax"]
    name = WORD_TABLE.partition(".")[2]
    for file, key, value in (
        (STATE_DICTS["token_embedder"], name, 0.0),
        (CLASSIFIER, weight, 0.0),
        (CLASSIFIER, bias, DEAD_BIAS),
    ):
        if file in files and key in files[file]:
            state = files[file]
            state[key] = torch.cat([state[key], torch.full_like(state[key][:1], value)])
    model.notes.append(
        f"{PADDING!r}, which the program looks up, got a row of zeros after the words, and in a softmax a bias of "
        f"{DEAD_BIAS:g}, so that it takes no part"
    )


def _dictionaries(
    model: SavedModel, tokenizer: ElmoTokenizer, listed: list[str] | None, added: bool
) -> tuple[list[tuple[str, int]] | None, list[tuple[str, int]] | None]:
    """Symbols and ids of both dictionary files, in the order of ids; `None` for a missing part."""
    folder, config, symbols = model.folder, model.config, tokenizer.character_vocabulary or {}
    if config.character_filters and max(symbols.values(), default=0) >= config.num_characters:
        raise CheckpointError(
            f"{folder}: the tokenizer's characters have ids up to {max(symbols.values())}, but the table of characters "
            f"has {config.num_characters} rows; save model and tokenizer that belong together"
        )
    characters = words = None
    if config.character_filters:
        characters = sorted(((symbol, number - 1) for symbol, number in symbols.items()), key=lambda item: item[1])
    if listed is not None:
        lines = [*listed, PADDING] if added else listed
        words = [(word, number) for number, word in enumerate(lines) if word != UNUSED.format(id=number)]
    for symbol, _ in (*(characters or ()), *(words or ())):
        # The program splits lines like `str.splitlines`.
        ends = len(symbol.splitlines()) > 1 or "\t" in symbol
        if (symbol != symbol.strip() and symbol != "\u3000") or not symbol or ends:
            raise CheckpointError(
                f"{folder}: {symbol!r} cannot be stored in a dictionary file, whose lines are stripped of whitespace "
                "and have a tab before the id"
            )
    return characters, words

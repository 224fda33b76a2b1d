"""Export of a Transformers folder to the files that bilm-tf, AllenNLP and simple_elmo read."""

import json
from pathlib import Path

import h5py

from elmo_hf import ElmoConfig

from ..common.errors import CheckpointError
from ..common.options import DEFAULT_CHARACTERS_PER_WORD, NUM_CHARACTERS
from ..common.output import new_folder
from ..common.rules import Entry, expand
from ..common.saved_model import WORD_TABLE, SavedModel, Written, read_tokenizer
from .options import options_from_config
from .rules import ORIGINS, RULES

FILES = OPTIONS, WEIGHTS, SOFTMAX, VOCABULARY = "options.json", "weights.hdf5", "softmax_weights.hdf5", "vocab.txt"
# Words of a tokenizer created without a vocabulary file.
NO_VOCABULARY = ["<S>", "</S>", "<UNK>"]
# Words that the programs look up by name.
MARKS = dict(zip(("bos_token", "eos_token", "unk_token"), NO_VOCABULARY, strict=True))
# Constant that every reader of these files adds to the forget gate.
READERS_FORGET_BIAS = 1.0
# Maximum number of LSTM layers supported by bilm-tf's reader.
MAX_LAYERS = 8
PADDING = "the character row of padded words is not zero; the originals put zeros there. Real words never use it"


def write(model: SavedModel, output: Path, softmax_layout: str) -> Written:
    """Write a model whose configuration was checked; the softmax has only one layout."""
    config, words = model.config, _words(model)
    has_softmax = words is not None and "softmax.bias" in model.parameters
    entries = list(expand(RULES, config, len(words) if words else None, ORIGINS, softmax=has_softmax))
    softmax = [entry for entry in entries if entry.original.startswith("softmax/")]
    with new_folder(output) as fresh:
        _write_hdf5(fresh / WEIGHTS, [entry for entry in entries if entry not in softmax], model)
        files = [OPTIONS, WEIGHTS]
        if has_softmax:
            _write_hdf5(fresh / SOFTMAX, softmax, model)
            files.append(SOFTMAX)
            if not config.word_embedding_size:
                model.notes.append(
                    f"simple_elmo takes model.hdf5, or else the first .hdf5 file it meets: rename {WEIGHTS} for it"
                )
        options = options_from_config(config)
        if words is not None:
            text = "".join(word + "\n" for word in words)
            (fresh / VOCABULARY).write_text(text, encoding="utf-8", newline="\n")
            files.append(VOCABULARY)
            options["n_tokens_vocab"] = len(words)
        (fresh / OPTIONS).write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")
    return Written(tuple(files), len(entries), READERS_FORGET_BIAS)


def check_config(folder: Path, config: ElmoConfig, notes: list[str]) -> None:
    """Refuse models that the formats cannot represent, and note restrictions of single readers."""
    for condition, fault in (
        (
            config.joins_words,
            "joins several parts of a word, of which bilm-tf reads one, and ELMoForManyLangs code points, not bytes, "
            "beside words",
        ),
        (not config.bidirectional, "has the forward direction alone (bidirectional)"),
        (config.context_word_layer, "has a layer over contexts and words (context_word_layer)"),
        (config.character_layer_norm, "normalizes words made of characters (character_layer_norm)"),
        (
            config.character_projection and config.character_projection_location != "after_highway",
            "projects characters before the highways (character_projection_location)",
        ),
        (
            config.word_embedding_size not in (0, config.projection_size),
            f"projects words from word_embedding_size={config.word_embedding_size} to projection_size="
            f"{config.projection_size}",
        ),
    ):
        if condition:
            raise CheckpointError(f"{folder}: the model {fault}: no original program can read it")
    if config.word_embedding_size:
        notes.append(
            "AllenNLP and simple_elmo do not read models with word input: for bilm-tf, with use_character_inputs=False "
            f"and {WEIGHTS} as embedding_weight_file too"
        )
    else:
        _check_characters(config, notes)
    if config.cell_projection and config.cell_size <= config.projection_size:
        notes.append("bilm-tf does not read a projection to more values than the cell has: for AllenNLP only")
    if config.num_hidden_layers > MAX_LAYERS:
        notes.append(f"bilm-tf reads at most {MAX_LAYERS} layers, this model has {config.num_hidden_layers}")
    for name in ("cell_clip", "projection_clip"):
        if getattr(config, name) == 0:
            notes.append(f"{name} is 0: bilm-tf clips to zero as this model does, AllenNLP does not clip then")
    if config.scalar_mix_layer_norm is not None and config.scalar_mix != "top":
        notes.append("the files do not say that layers are normalized before mixing (AllenNLP: do_layer_norm=True)")


def _check_characters(config: ElmoConfig, notes: list[str]) -> None:
    if config.num_characters != NUM_CHARACTERS:
        raise CheckpointError(
            f"num_characters is {config.num_characters}: the original programs make ids for exactly {NUM_CHARACTERS} "
            "characters"
        )
    if config.max_characters_per_word != DEFAULT_CHARACTERS_PER_WORD:
        notes.append(
            f"AllenNLP reads words of {DEFAULT_CHARACTERS_PER_WORD} characters only, this model has "
            f"{config.max_characters_per_word}: for bilm-tf and simple_elmo"
        )
    if not config.use_skip_connections:
        notes.append("AllenNLP refuses models without skip connections: for bilm-tf and simple_elmo")
    if not config.character_projection or not config.cell_projection:
        notes.append("AllenNLP expects all projections, which this model lacks: for bilm-tf and simple_elmo")
    if config.character_projection and config.num_filters == config.projection_size:
        notes.append("bilm-tf does not read a projection between equal sizes (filters, projection): for AllenNLP only")


def _words(model: SavedModel) -> list[str] | None:
    """Lines of the vocabulary file; `None` for a model without one."""
    folder, parameters = model.folder, model.parameters
    reads_words = WORD_TABLE in parameters
    tokenizer = read_tokenizer(folder)
    if tokenizer is None:
        if reads_words:
            raise CheckpointError(
                f"{folder}: no tokenizer in it, and the model reads words by the id they have in its vocabulary; save "
                "the tokenizer there too"
            )
        model.notes.append("no tokenizer in the folder: exported without vocabulary and softmax")
        return None
    for part, name in (("table of words", WORD_TABLE), ("softmax", "softmax.bias")):
        if name in parameters:
            model.check_rows(tokenizer, parameters[name].shape[0], part)
    if tokenizer.tokens_to_add:
        model.notes.append(
            f"words with a character of their own are not part of these files: {tokenizer.tokens_to_add} (AllenNLP: "
            "tokens_to_add of the indexer)"
        )
    words = model.words_with_marks(tokenizer, MARKS)
    if not reads_words and "softmax.bias" not in parameters and words == NO_VOCABULARY:
        return None
    unfit = [word for word in words if word != word.strip() or "\n" in word or "\r" in word]
    if unfit:
        raise CheckpointError(
            f"{folder}: {unfit[0]!r} cannot be stored in a vocabulary file, whose lines are stripped of whitespace"
        )
    if model.is_used(0):
        part = "row" if reads_words else "softmax row"
        model.notes.append(f"the {part} of the padding word is not zero; the originals have no such word: left out")
    return words


def _write_hdf5(path: Path, entries: list[Entry], model: SavedModel) -> None:
    with h5py.File(path, "w") as file:
        for entry in entries:
            values = model.original(entry, READERS_FORGET_BIAS, PADDING if entry.original == "char_embed" else "")
            file.create_dataset(entry.original, shape=entry.shape, dtype="float32", data=values)

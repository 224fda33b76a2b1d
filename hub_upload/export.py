"""From a Transformers folder back to the files that bilm-tf, AllenNLP and simple_elmo read, or ELMoForManyLangs."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Literal

import h5py

from elmo_hf import ElmoConfig

from .common.errors import CheckpointError
from .common.options import (
    BILM_TF_MAX_LAYERS,
    DEFAULT_CHARACTERS_PER_WORD,
    NUM_CHARACTERS,
    options_from_config,
)
from .common.output import check_output, new_folder
from .common.rules import BILM_RULES, Entry, expand
from .common.saved_model import (
    SOFTMAX_PARAMETERS,
    WORD_TABLE,
    Parameter,
    Written,
    bilm_parameters,
    check_parameters,
    load_float32,
    open_parameters,
    read_config,
    read_tokenizer,
)
from .common.transforms import Array, subtract_forget_bias
from .many_languages.export import check_config, has_dictionary, write_directory
from .transformer_lm import export as export_allennlp

OPTIONS, WEIGHTS, SOFTMAX, VOCABULARY = "options.json", "weights.hdf5", "softmax_weights.hdf5", "vocab.txt"
# What the tokenizer holds if it was made without a vocabulary file.
NO_VOCABULARY = ["<S>", "</S>", "<UNK>"]
# The constant that every program that reads these files adds to the forget gate.
READERS_FORGET_BIAS = 1.0


@dataclass(frozen=True)
class ExportReport:
    """What `export` did.

    Attributes:
        folder: The Transformers folder.
        output: The folder made.
        files: Names of the files in it.
        tensors: Number of tensors written.
        reversible: Whether every weight that readers compute with is bit-identical to this model's; false only if
            moving the forget bias out of the biases rounded one.
        notes: Sentences about what the originals cannot hold or will not read.
    """

    folder: Path
    output: Path
    files: tuple[str, ...]
    tensors: int
    reversible: bool
    notes: tuple[str, ...]


def export(
    folder: str | PathLike[str],
    output: str | PathLike[str],
    *,
    softmax_layout: Literal["sparse", "dense", "unsampled"] | None = None,
    force: bool = False,
) -> ExportReport:
    """Write `options.json` and `weights.hdf5`, with `softmax_weights.hdf5` and `vocab.txt` if the model has them.

    A model that reads characters by a dictionary becomes a directory of ELMoForManyLangs instead, and one with a
    Transformer the archive of an AllenNLP language model, `model.tar.gz`.

    Args:
        folder: A Transformers folder of any ELMo model; of a task model the biLM is exported.
        output: The folder to make; written beside and moved into place when it is complete.
        softmax_layout: How the archive of a Transformer holds the softmax: for sparse gradients (`None` means this),
            for dense ones, or not sampled.
        force: Replace a model folder at `output`.

    Raises:
        CheckpointError: not an ELMo folder, damaged, or a model that the original formats cannot hold.
        OSError: the output cannot be written; then nothing is left of it.
    """
    folder, output = Path(folder), Path(output)
    check_output(output, force, folder)
    config = read_config(folder)
    notes: list[str] = []
    write = _write_bilm_tf
    if softmax_layout is not None and config.encoder_type != "transformer":
        raise CheckpointError(
            f"{folder}: only the archive of a Transformer has layouts of the softmax: leave --softmax-layout "
            f"{softmax_layout} out"
        )
    if has_dictionary(folder):
        check_config(config, folder)
        write = write_directory
    elif config.encoder_type == "transformer":
        export_allennlp.check_config(config, folder)
        write = partial(export_allennlp.write_archive, softmax_layout=softmax_layout or "sparse")
    else:
        _check_config(config, notes)
    with ExitStack() as stack:
        parameters = bilm_parameters(open_parameters(folder, stack), config, notes)
        check_parameters(config, parameters, folder)
        _note_mixes(config, parameters, notes)
        written = write(folder, output, config, parameters, notes)
    if written.lost_bits:
        notes.append(
            f"{written.lost_bits} values of the forget biases change in their last bits when readers add "
            f"{written.forget_bias:g} to them again: this export is not bit-identical to the model"
        )
    elif config.forget_bias != written.forget_bias:
        notes.append("the forget bias was moved out of the biases without losing a bit")
    return ExportReport(folder, output, written.files, written.tensors, not written.lost_bits, tuple(notes))


def _write_bilm_tf(
    folder: Path, output: Path, config: ElmoConfig, parameters: Mapping[str, Parameter], notes: list[str]
) -> Written:
    words = _words(folder, parameters, notes)
    has_softmax = words is not None and "softmax.bias" in parameters
    entries = list(expand(BILM_RULES, config, len(words) if words is not None else None, softmax=has_softmax))
    writer = _Writer(config, parameters, notes)
    with new_folder(output) as fresh:
        _write_hdf5(fresh / WEIGHTS, [entry for entry in entries if not _is_softmax(entry)], writer)
        files = [OPTIONS, WEIGHTS]
        if has_softmax:
            _write_hdf5(fresh / SOFTMAX, [entry for entry in entries if _is_softmax(entry)], writer)
            files.append(SOFTMAX)
            if not config.word_embedding_size:
                notes.append(
                    f"simple_elmo takes model.hdf5, or else the first .hdf5 file it meets: rename {WEIGHTS} for it"
                )
        options = options_from_config(config)
        if words is not None:
            text = "".join(word + "\n" for word in words)
            (fresh / VOCABULARY).write_text(text, encoding="utf-8", newline="\n")
            files.append(VOCABULARY)
            options["n_tokens_vocab"] = len(words)
        (fresh / OPTIONS).write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")
    return Written(tuple(files), len(entries), writer.lost_bits, READERS_FORGET_BIAS)


def _check_config(config: ElmoConfig, notes: list[str]) -> None:
    """Refuse what the formats cannot hold; note what one of the readers cannot read."""
    for condition, fault in (
        (
            config.joins_words,
            "joins several parts of a word, of which bilm-tf reads one, and ELMoForManyLangs code "
            "points, not bytes, beside words",
        ),
        (config.context_word_layer, "has a layer over contexts and words (context_word_layer)"),
        (config.character_layer_norm, "normalises words made of characters (character_layer_norm)"),
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
            raise CheckpointError(f"the model {fault}: no original program can read it")
    if config.word_embedding_size:
        notes.append(
            "AllenNLP and simple_elmo do not read models with word input: for bilm-tf, with use_character_inputs=False "
            f"and {WEIGHTS} as embedding_weight_file too"
        )
    else:
        _check_characters(config, notes)
    if config.cell_projection and config.cell_size <= config.projection_size:
        notes.append("bilm-tf does not read a projection to more values than the cell has: for AllenNLP only")
    if config.num_hidden_layers > BILM_TF_MAX_LAYERS:
        notes.append(f"bilm-tf reads at most {BILM_TF_MAX_LAYERS} layers, this model has {config.num_hidden_layers}")
    for name in ("cell_clip", "projection_clip"):
        if getattr(config, name) == 0:
            notes.append(f"{name} is 0: bilm-tf clips to zero as this model does, AllenNLP does not clip then")
    if config.scalar_mix_layer_norm is not None and config.scalar_mix != "top":
        notes.append("the files do not say that layers are normalised before mixing (AllenNLP: do_layer_norm=True)")


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
        notes.append("AllenNLP expects all projections, this model has not: for bilm-tf and simple_elmo")
    if config.character_projection and config.num_filters == config.projection_size:
        notes.append("bilm-tf does not read a projection between equal sizes (filters, projection): for AllenNLP only")


def _words(folder: Path, parameters: Mapping[str, Parameter], notes: list[str]) -> list[str] | None:
    """The lines of the vocabulary file, or `None` for a model without one."""
    reads_words = WORD_TABLE in parameters
    tokenizer = read_tokenizer(folder)
    if tokenizer is None:
        if reads_words:
            raise CheckpointError(
                f"{folder}: no tokenizer in it, and the model reads words by the id they have in its vocabulary; save "
                "the tokenizer there too"
            )
        notes.append("no tokenizer in the folder: exported without vocabulary and softmax")
        return None
    ids = tokenizer.get_vocab()
    size = len(ids)
    for part, name in (("table of words", WORD_TABLE), ("softmax", "softmax.bias")):
        rows = parameters[name].shape[0] if name in parameters else size
        if rows != size:
            raise CheckpointError(
                f"{folder}: the tokenizer has {size} words, but the {part} has {rows} rows; save model and tokenizer "
                "that belong together"
            )
    mask = tokenizer.mask_token_id
    words = sorted(ids, key=ids.__getitem__)[1:]
    if mask == size - 1 and not _is_used(mask, parameters):
        words.pop()
    if not reads_words and "softmax.bias" not in parameters and words == NO_VOCABULARY:
        return None
    unfit = [word for word in words if word != word.strip() or "\n" in word or "\r" in word]
    if unfit:
        raise CheckpointError(
            f"{folder}: {unfit[0]!r} cannot stand in a vocabulary file, whose lines are stripped of whitespace"
        )
    if _is_used(0, parameters):
        part = "row" if reads_words else "softmax row"
        notes.append(f"the {part} of the padding word is not zero; the originals have no such word: left out")
    return words


def _is_used(row: int, parameters: Mapping[str, Parameter]) -> bool:
    """Whether the softmax or the table of words has a non-zero row for this word id: an added mask has none."""
    names = (WORD_TABLE, *SOFTMAX_PARAMETERS)
    return any(bool(parameters[name].row(row).any()) for name in names if name in parameters)


def _note_mixes(config: ElmoConfig, parameters: Mapping[str, Parameter], notes: list[str]) -> None:
    """Say in numbers what the files do not hold."""
    if config.scalar_mix == "fixed":
        # The configuration is their only source: whatever weights of mixes a file has, the model does not load them.
        notes.append(
            f"the fixed mix is not part of these files: raw weights {config.scalar_mix_parameters} (AllenNLP: "
            "scalar_mix_parameters), gamma 1"
        )
        return
    if config.scalar_mix == "top":
        notes.append("the files do not say that only the top layer is used (bilm-tf: use_top_only=True)")
    for k in range(config.num_representations):
        weights, gamma = (parameters.get(f"scalar_mixes.{k}.{part}") for part in ("weights", "gamma"))
        learned = weights if config.scalar_mix == "learned" else None
        # Nine digits give a float32 back exactly.
        raw = [float(f"{value:.9g}") for value in learned.load().float().tolist()] if learned else []
        scale = float(gamma.load().float()) if gamma else 1.0
        if scale != 1.0 or len(set(raw)) > 1:
            notes.append(
                f"mix {k} is not part of these files: raw weights {raw} (AllenNLP: scalar_mix_parameters), "
                f"gamma {scale:.9g}"
            )


class _Writer:
    """Turns parameters into the arrays of the original layout, one at a time."""

    def __init__(self, config: ElmoConfig, parameters: Mapping[str, Parameter], notes: list[str]) -> None:
        self.config, self.parameters, self.notes = config, parameters, notes
        self.lost_bits = 0

    def array(self, entry: Entry) -> Array:
        """The dataset of one entry, float32, of exactly the shape that readers expect."""
        arrays = [load_float32(self.parameters, name, self.notes) for name in entry.parameters]
        if entry.original == "char_embed" and arrays[0][0].any():
            self.notes.append(
                "the character row of padded words is not zero; the originals put zeros there. Real words never use it"
            )
        if entry.original.endswith("LSTMCell/B") and self.config.forget_bias != READERS_FORGET_BIAS:
            arrays[0], lost = subtract_forget_bias(arrays[0], READERS_FORGET_BIAS - self.config.forget_bias)
            self.lost_bits += lost
        return entry.transform.to_original(arrays, entry.shape[0])


def _is_softmax(entry: Entry) -> bool:
    return entry.original.startswith("softmax/")


def _write_hdf5(path: Path, entries: list[Entry], writer: _Writer) -> None:
    with h5py.File(path, "w") as file:
        for entry in entries:
            file.create_dataset(entry.original, shape=entry.shape, dtype="float32", data=writer.array(entry))

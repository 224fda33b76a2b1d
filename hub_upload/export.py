"""From a Transformers folder back to the files that bilm-tf, AllenNLP and simple_elmo read."""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer

from .errors import CheckpointError
from .names import BILM_RULES, Entry, expand, listing
from .options import (
    BILM_TF_MAX_LAYERS,
    DEFAULT_CHARACTERS_PER_WORD,
    NUM_CHARACTERS,
    make_config,
    options_from_config,
    read_json,
)
from .output import check_output, new_folder
from .transforms import Array, subtract_forget_bias

OPTIONS, WEIGHTS, SOFTMAX, VOCABULARY = "options.json", "weights.hdf5", "softmax_weights.hdf5", "vocab.txt"
SOFTMAX_PARAMETERS = ("softmax.weight", "softmax.bias")
WORD_TABLE = "embeddings.word_embeddings.weight"
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
        tensors: Number of HDF5 datasets written.
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


@dataclass(frozen=True)
class _Parameter:
    """A tensor of a safetensors file: shape known, values or single rows read when asked for."""

    shape: tuple[int, ...]
    load: Callable[[], Tensor]
    row: Callable[[int], Tensor]


def export(folder: str | PathLike[str], output: str | PathLike[str], *, force: bool = False) -> ExportReport:
    """Write `options.json` and `weights.hdf5`, with `softmax_weights.hdf5` and `vocab.txt` if the model has them.

    Args:
        folder: A Transformers folder of any ELMo model; of a task model the biLM is exported.
        output: The folder to make; written beside and moved into place when it is complete.
        force: Replace a model folder at `output`.

    Raises:
        CheckpointError: not an ELMo folder, damaged, or a model that the original formats cannot hold.
        OSError: the output cannot be written; then nothing is left of it.
    """
    folder, output = Path(folder), Path(output)
    check_output(output, force, folder)
    config = read_config(folder)
    notes: list[str] = []
    _check_config(config, notes)
    with ExitStack() as stack:
        parameters = _bilm_parameters(_open_parameters(folder, stack), config, notes)
        _check_parameters(config, parameters, folder)
        words = _words(folder, parameters, notes)
        has_softmax = words is not None and "softmax.bias" in parameters
        entries = list(expand(BILM_RULES, config, len(words) if words is not None else None, softmax=has_softmax))
        _note_mixes(config, parameters, notes)
        writer = _Writer(config, parameters, notes)
        with new_folder(output) as partial:
            _write_hdf5(partial / WEIGHTS, [entry for entry in entries if not _is_softmax(entry)], writer)
            files = [OPTIONS, WEIGHTS]
            if has_softmax:
                _write_hdf5(partial / SOFTMAX, [entry for entry in entries if _is_softmax(entry)], writer)
                files.append(SOFTMAX)
                if not config.word_embedding_size:
                    notes.append(
                        f"simple_elmo takes model.hdf5, or else the first .hdf5 file it meets: rename {WEIGHTS} for it"
                    )
            options = options_from_config(config)
            if words is not None:
                text = "".join(word + "\n" for word in words)
                (partial / VOCABULARY).write_text(text, encoding="utf-8", newline="\n")
                files.append(VOCABULARY)
                options["n_tokens_vocab"] = len(words)
            (partial / OPTIONS).write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")
        if writer.lost_bits:
            notes.append(
                f"{writer.lost_bits} values of the forget biases change in their last bits when readers add "
                f"{READERS_FORGET_BIAS:g} to them again: this export is not bit-identical to the model"
            )
        elif config.forget_bias != READERS_FORGET_BIAS:
            notes.append("the forget bias was moved out of the biases without losing a bit")
    return ExportReport(folder, output, tuple(files), len(entries), not writer.lost_bits, tuple(notes))


def read_config(folder: Path) -> ElmoConfig:
    """The configuration of a Transformers folder.

    Raises:
        CheckpointError: no such folder, not an ELMo, or damaged.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder")
    values = read_json(folder / "config.json")
    if values.get("model_type") != ElmoConfig.model_type:
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type is {values.get('model_type')!r}, expected "
            f"{ElmoConfig.model_type!r}: not an ELMo that this package made"
        )
    return make_config(values, str(folder / "config.json"))


def _check_config(config: ElmoConfig, notes: list[str]) -> None:
    """Refuse what the formats cannot hold; note what one of the readers cannot read."""
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


def _open_parameters(folder: Path, stack: ExitStack) -> dict[str, _Parameter]:
    """All tensors of a folder's safetensors files, not read yet."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        mapping = read_json(index).get("weight_map")
        names = mapping.values() if isinstance(mapping, dict) else []
        # An index is data from elsewhere: it may name files of this folder only.
        paths = [folder / Path(str(name)).name for name in dict.fromkeys(names)]
    else:
        paths = [folder / "model.safetensors"]
    parameters: dict[str, _Parameter] = {}
    for path in paths:
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; save the model with save_pretrained")
        try:
            file = stack.enter_context(safe_open(path, framework="pt"))
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                parameters[name] = _parameter(file, name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: damaged safetensors file ({error}); fetch or save it again") from error
    return parameters


def _parameter(file: Any, name: str) -> _Parameter:
    view = file.get_slice(name)
    return _Parameter(tuple(view.get_shape()), lambda: file.get_tensor(name), lambda row: view[row : row + 1])


def _bilm_parameters(
    parameters: Mapping[str, _Parameter], config: ElmoConfig, notes: list[str]
) -> dict[str, _Parameter]:
    """Names as in `ElmoModel`; the layers of a task model and an adaptive softmax are left out and noted."""
    parts = ("embeddings.", "encoder.", "scalar_mixes.")
    kept: dict[str, _Parameter] = {}
    left: list[str] = []
    for name, parameter in parameters.items():
        plain = name.removeprefix("elmo.")
        if plain in SOFTMAX_PARAMETERS or plain.startswith(parts):
            kept[plain] = parameter
        else:
            left.append(name)
    if left:
        notes.append(f"left out, as the originals have no place for it: {listing(sorted(left))}")
    if config.softmax_cutoffs is not None and any(name.startswith("softmax.") for name in left):
        notes.append(
            f"the softmax is adaptive (softmax_cutoffs={config.softmax_cutoffs}), without a row a word: exported "
            "without softmax"
        )
    if config.tie_word_embeddings and "softmax.bias" in kept:
        # One table, saved under either name; the original's is the table of words.
        softmax = kept.pop("softmax.weight", None)
        if softmax is not None:
            kept.setdefault(WORD_TABLE, softmax)
    return kept


def _words(folder: Path, parameters: Mapping[str, _Parameter], notes: list[str]) -> list[str] | None:
    """The lines of the vocabulary file, or `None` for a model without one."""
    reads_words = WORD_TABLE in parameters
    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer_config.json").is_file():
        if reads_words:
            raise CheckpointError(
                f"{folder}: no tokenizer in it, and the model reads words by the id they have in its vocabulary; save "
                "the tokenizer there too"
            )
        notes.append("no tokenizer in the folder: exported without vocabulary and softmax")
        return None
    try:
        tokenizer = ElmoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({error}); save it again") from error
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


def _is_used(row: int, parameters: Mapping[str, _Parameter]) -> bool:
    """Whether the softmax or the table of words has a non-zero row for this word id: an added mask has none."""
    names = (WORD_TABLE, *SOFTMAX_PARAMETERS)
    return any(bool(parameters[name].row(row).any()) for name in names if name in parameters)


def _note_mixes(config: ElmoConfig, parameters: Mapping[str, _Parameter], notes: list[str]) -> None:
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


def _check_parameters(config: ElmoConfig, parameters: Mapping[str, _Parameter], folder: Path) -> None:
    """Compare names and shapes with the model that config.json describes, before anything is read."""
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in ElmoModel(config).state_dict().items()}
    if "softmax.weight" in parameters or "softmax.bias" in parameters:
        expected["softmax.bias"] = (config.vocab_size,)
        if not config.tie_word_embeddings:
            expected["softmax.weight"] = (config.vocab_size, config.projection_size)
    # Mixes are not exported, and a model saved for its top layer only has none.
    expected = {name: shape for name, shape in expected.items() if not name.startswith("scalar_mixes.")}
    found = {name: item.shape for name, item in parameters.items() if not name.startswith("scalar_mixes.")}
    missing, unused = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = [
        f"{name} has shape {found[name]}, expected {expected[name]}"
        for name in sorted(found.keys() & expected.keys())
        if found[name] != expected[name]
    ]
    parts = [f"missing: {listing(missing)}"] if missing else []
    parts += [f"not part of the model: {listing(unused)}"] if unused else []
    if parts + wrong:
        raise CheckpointError(
            f"{folder}: {'; '.join([*parts, *wrong[:3]])}; config.json and the weights must be of one model"
        )


class _Writer:
    """Turns parameters into the arrays of the original layout, one at a time."""

    def __init__(self, config: ElmoConfig, parameters: Mapping[str, _Parameter], notes: list[str]) -> None:
        self.config, self.parameters, self.notes = config, parameters, notes
        self.lost_bits = 0

    def array(self, entry: Entry) -> Array:
        """The dataset of one entry, float32, of exactly the shape that readers expect."""
        arrays = [self._load(name) for name in entry.parameters]
        if entry.original == "char_embed" and arrays[0][0].any():
            self.notes.append(
                "the character row of padded words is not zero; the originals put zeros there. Real words never use it"
            )
        if entry.original.endswith("LSTMCell/B") and self.config.forget_bias != READERS_FORGET_BIAS:
            arrays[0], lost = subtract_forget_bias(arrays[0], READERS_FORGET_BIAS - self.config.forget_bias)
            self.lost_bits += lost
        return entry.transform.to_original(arrays, entry.shape[0])

    def _load(self, name: str) -> Array:
        try:
            tensor = self.parameters[name].load()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{name} cannot be read ({error}); fetch or save the model again") from error
        if tensor.dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise CheckpointError(f"{name} is {tensor.dtype}: expected float32, or a half precision that fits into it")
        if tensor.dtype != torch.float32 and not any("precision" in note for note in self.notes):
            self.notes.append(f"weights of lower precision ({tensor.dtype}) were written as float32, exactly")
        values: Array = tensor.float().numpy()
        if not np.isfinite(values).all():
            raise CheckpointError(f"{name} holds values that are not finite")
        return values


def _is_softmax(entry: Entry) -> bool:
    return entry.original.startswith("softmax/")


def _write_hdf5(path: Path, entries: list[Entry], writer: _Writer) -> None:
    with h5py.File(path, "w") as file:
        for entry in entries:
            file.create_dataset(entry.original, shape=entry.shape, dtype="float32", data=writer.array(entry))

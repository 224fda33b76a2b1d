"""A Transformers folder of an ELMo, opened for export: configuration and tensors are checked, and read later."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer

from .errors import CheckpointError, differences, listing
from .options import make_config, read_json
from .rules import Entry
from .transforms import Array, subtract_forget_bias

SOFTMAX_PARAMETERS = ("softmax.weight", "softmax.bias")
# Bias of a class that a program expects but a model lacks, small enough to exclude it.
DEAD_BIAS = -1e9
WORD_TABLE, JOINED_WORD_TABLE = "embeddings.word_embeddings.weight", "embeddings.words.word_embeddings.weight"


@dataclass(frozen=True)
class Parameter:
    """A tensor of a safetensors file with known shape, whose values or single rows are read on request."""

    shape: tuple[int, ...]
    load: Callable[[], Tensor]
    row: Callable[[int], Tensor]


@dataclass(frozen=True)
class Written:
    """Summary of an export.

    Attributes:
        files: Names of the files.
        tensors: Number of tensors in them.
        forget_bias: Constant that readers of these files add to the forget gate.
    """

    files: tuple[str, ...]
    tensors: int
    forget_bias: float


def read_config(folder: Path) -> ElmoConfig:
    """Read the configuration of a Transformers folder.

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
    config = make_config(values, str(folder / "config.json"))
    if config.weight_precision is not None:
        raise CheckpointError(
            f"{folder}: the model is quantized (weight_precision={config.weight_precision!r}) and the originals' files "
            "hold floating-point numbers: use the folder that was quantized"
        )
    return config


def read_tokenizer(folder: Path) -> ElmoTokenizer | None:
    """Read the tokenizer of a Transformers folder; `None` if there is none.

    Raises:
        CheckpointError: it is damaged.
    """
    if not (folder / "tokenizer.json").is_file() and not (folder / "tokenizer_config.json").is_file():
        return None
    try:
        return ElmoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: the tokenizer cannot be read ({error}); save it again") from error


def open_parameters(folder: Path, stack: ExitStack) -> dict[str, Parameter]:
    """Open all tensors of a folder's safetensors files without reading them."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        mapping = read_json(index).get("weight_map")
        names = mapping.values() if isinstance(mapping, dict) else []
        # An index is untrusted: it may refer only to files of this folder.
        paths = [folder / Path(str(name)).name for name in dict.fromkeys(names)]
    else:
        paths = [folder / "model.safetensors"]
    parameters: dict[str, Parameter] = {}
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


def _parameter(file: Any, name: str) -> Parameter:
    view = file.get_slice(name)
    return Parameter(tuple(view.get_shape()), lambda: file.get_tensor(name), lambda row: view[row : row + 1])


def bilm_parameters(parameters: Mapping[str, Parameter], config: ElmoConfig, notes: list[str]) -> dict[str, Parameter]:
    """Parameters by their names in `ElmoModel`. Task layers and an adaptive softmax are left out, with a note."""
    parts = ("embeddings.", "encoder.", "scalar_mixes.")
    kept: dict[str, Parameter] = {}
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
            f"the softmax is adaptive (softmax_cutoffs={config.softmax_cutoffs}), without a row per word: exported "
            "without softmax"
        )
    if config.tie_word_embeddings and "softmax.bias" in kept:
        # A tied weight may be saved under either name; the original uses the word embedding.
        softmax = kept.pop("softmax.weight", None)
        if softmax is not None:
            kept.setdefault(JOINED_WORD_TABLE if config.joins_words else WORD_TABLE, softmax)
    return kept


def check_parameters(config: ElmoConfig, parameters: Mapping[str, Parameter], folder: Path) -> None:
    """Compare names and shapes with the model described by config.json, before reading anything."""
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in ElmoModel(config).state_dict().items()}
    if "softmax.weight" in parameters or "softmax.bias" in parameters:
        expected["softmax.bias"] = (config.vocab_size,)
        if not config.tie_word_embeddings:
            expected["softmax.weight"] = (config.vocab_size, config.projection_size)
    # Mixes (which a model saved for its top layer lacks) and alignment maps are not exported.
    not_exported = ("scalar_mixes.", "alignment.")
    expected = {name: shape for name, shape in expected.items() if not name.startswith(not_exported)}
    found = {name: item.shape for name, item in parameters.items() if not name.startswith("scalar_mixes.")}
    faults = [differences(expected, found, "not part of the model")]
    faults += [
        f"{name} has shape {found[name]}, expected {expected[name]}"
        for name in sorted(found.keys() & expected.keys())
        if found[name] != expected[name]
    ]
    if told := [fault for fault in faults[:4] if fault]:
        raise CheckpointError(f"{folder}: {'; '.join(told)}; config.json and the weights must be of one model")


@dataclass
class SavedModel:
    """A Transformers folder whose tensors match its configuration.

    Attributes:
        folder: The folder.
        config: Its configuration.
        parameters: Tensors of the biLM and its softmax, not read yet.
        notes: Receives a sentence about everything that a format cannot represent.
        lost_bits: Number of bias values so far that are not restored bit for bit.
    """

    folder: Path
    config: ElmoConfig
    parameters: Mapping[str, Parameter]
    notes: list[str]
    lost_bits: int = 0

    def load(self, name: str) -> Array:
        """Read the values of a parameter. Lower precisions are widened, which is exact and noted once.

        Raises:
            CheckpointError: unreadable values, of another dtype, or not finite.
        """
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

    def original(self, entry: Entry, forget_bias: float, padding: str = "") -> Array:
        """The original array of one entry, float32, of exactly the shape that readers expect.

        Args:
            entry: A row of the format's table.
            forget_bias: Constant that readers add to the forget gate; it is subtracted from the bias.
            padding: Note to add if the row of padding is not zero, if any.
        """
        arrays = [self.load(name) for name in entry.parameters]
        if padding and arrays[0][0].any():
            self.notes.append(padding)
        if entry.parameters[0].endswith("input_proj.bias") and self.config.forget_bias != forget_bias:
            arrays[0], lost = subtract_forget_bias(arrays[0], forget_bias - self.config.forget_bias)
            self.lost_bits += lost
        return entry.transform.to_original(arrays, entry.shape[0])

    def is_used(self, word_id: int) -> bool:
        """True if the softmax or the word embedding has a non-zero row for a word, unlike for an added mask."""
        names = (WORD_TABLE, JOINED_WORD_TABLE, *SOFTMAX_PARAMETERS)
        return any(bool(self.parameters[name].row(word_id).any()) for name in names if name in self.parameters)

    def check_rows(self, tokenizer: ElmoTokenizer, rows: int, part: str) -> None:
        """Raise `CheckpointError` if a part of the model does not have one row per word of the tokenizer."""
        size = len(tokenizer.get_vocab())
        if rows != size:
            raise CheckpointError(
                f"{self.folder}: the tokenizer has {size} words, but the {part} has {rows} rows; save model and "
                "tokenizer that belong together"
            )

    def listed_words(self, tokenizer: ElmoTokenizer) -> list[str]:
        """Words in the order of their ids, without padding and without an added mask."""
        ids = tokenizer.get_vocab()
        words, last = sorted(ids, key=ids.__getitem__)[1:], len(ids) - 1
        return words[:-1] if tokenizer.mask_token_id == last and not self.is_used(last) else words

    def words_with_marks(self, tokenizer: ElmoTokenizer, names: Mapping[str, str]) -> list[str]:
        """The listed words, with special words under the names that the program looks up.

        Args:
            tokenizer: The model's tokenizer.
            names: The program's name of each special word of the tokenizer.

        Raises:
            CheckpointError: a special word that the tokenizer lacks, or whose name in the program is another word.
        """
        words = self.listed_words(tokenizer)
        for kind, name in names.items():
            token = getattr(tokenizer, kind)
            if token == name:
                continue
            if token is None or token not in words:
                raise CheckpointError(
                    f"{self.folder}: the tokenizer has no {kind}, and the program looks up {name!r}: save the "
                    "tokenizer that the model was trained with"
                )
            if name in words:
                raise CheckpointError(
                    f"{self.folder}: {kind} is {token!r}, which the program calls {name!r}, and that is another word "
                    "of the vocabulary: no file can hold both"
                )
            words[words.index(token)] = name
            self.notes.append(f"the word {token!r} ({kind}) is called {name!r} there")
        return words

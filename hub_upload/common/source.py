"""Places given by the user, and original checkpoints opened there, whose tensors are read on request."""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .archives import MAX_RATIO, SMALL
from .errors import CheckpointError
from .torch_file import read_torch_file
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class Place:
    """A file, folder or prefix that may be a checkpoint.

    Attributes:
        path: The file, folder or prefix.
        options, weights, vocabulary, softmax: Files that are elsewhere or should not be guessed.
        elmo_only: Convert only the ELMo of a task model.
        word_vectors: A table that replaces a model's characters.
        stack: Closes the files that a reader keeps open.
        states: Cache of state dicts, since several formats look into the same file.
    """

    path: Path
    options: Path | None = None
    weights: Path | None = None
    vocabulary: Path | None = None
    softmax: Path | None = None
    elmo_only: bool = False
    word_vectors: Path | None = None
    stack: ExitStack = field(default_factory=ExitStack)
    states: dict[Path, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder itself, or the folder of the file."""
        return self.path if self.path.is_dir() else self.path.parent

    def state_dict(self, path: Path) -> dict[str, Tensor]:
        """The tensors of a file written by `torch.save`; each file is read once."""
        if path not in self.states:
            self.states[path] = read_torch_file(path)
        return self.states[path]

    def refuse(self, file: Path, reason: str, *options: str) -> None:
        """Raise `CheckpointError` if one of these options was given but the format does not use it."""
        for option in options:
            if (path := getattr(self, option)) is not None:
                raise CheckpointError(f"{file}: {reason}; leave --{option.replace('_', '-')} {path} out")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file with known shape, whose values are read on request.

    Attributes:
        file: File name, for messages.
        name: Stored name.
        shape: Stored shape.
        dtype: Name of the stored dtype, such as "float32".
        load: Function that reads the values.
        stored: Number of bytes in the file; `None` if unknown.
    """

    file: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], NDArray[Any]]
    stored: int | None = None

    @classmethod
    def of(cls, file: Path | str, name: str, tensor: Tensor) -> "StoredTensor":
        """Wrap a tensor of a state dict."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        stored = 0 if tensor.layout != torch.strided else tensor.untyped_storage().nbytes()
        return cls(str(file), name, tuple(tensor.shape), dtype, lambda: tensor.detach().contiguous().numpy(), stored)

    def read(self) -> NDArray[np.float32]:
        """Read the values.

        Raises:
            CheckpointError: values that are not float32, unreadable, not finite, or far more than the file contains.
        """
        claimed = 4 * math.prod(self.shape)
        if self.stored is not None and claimed > max(SMALL, MAX_RATIO * self.stored):
            raise CheckpointError(
                f"{self.file}: {self.name!r} claims {claimed:,} bytes, and the file holds {self.stored:,} of it: it is "
                "damaged, or no model's"
            )
        if self.dtype != "float32":
            raise CheckpointError(
                f"{self.file}: {self.name!r} is stored as {self.dtype}; every original program writes float32"
            )
        try:
            values = np.asarray(self.load())
        # For damaged storage, h5py raises OSError, RuntimeError or ValueError, depending on the layer.
        except (OSError, RuntimeError, ValueError, MemoryError, TypeError) as error:
            raise CheckpointError(
                f"{self.file}: {self.name!r} cannot be read ({error}); fetch the file again"
            ) from error
        if values.shape != self.shape or values.dtype != np.float32:
            raise CheckpointError(
                f"{self.file}: {self.name!r} read as {values.dtype} {values.shape}; the file is damaged"
            )
        if not np.isfinite(values).all():
            raise CheckpointError(f"{self.file}: {self.name!r} holds values that are not finite; the file is damaged")
        return values


@dataclass(frozen=True)
class Source:
    """An original checkpoint, open for reading. Formats with more information have subclasses.

    Attributes:
        description: One line for the user about format and files.
        layout: Name of the format in the table of formats.
        file: The weight file, for messages.
        tensors: Tensors by stored name; for AllenNLP without the prefix of the `Elmo` module.
        options: Content of `options.json`, or of the corresponding file.
        options_file: Its name, for messages.
        vocabulary: Vocabulary file, if any.
        layer_norm_epsilon: Chosen by the user for formats that do not contain it; `None` to infer it.
        notes: Sentences about choices, shown to the user.
    """

    description: str
    layout: str
    file: str
    tensors: Mapping[str, StoredTensor]
    options: dict[str, Any]
    options_file: str
    vocabulary: Vocabulary | None = None
    layer_norm_epsilon: float | None = None
    notes: list[str] = field(default_factory=list)

"""What every format reader hands on: named tensors that are not read yet, options, and where they come from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from ..many_languages.reader import Dictionaries

Layout = Literal["bilm-tf", "tensorflow", "allennlp", "allennlp-language-model", "elmoformanylangs"]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file: its shape is known, its values are read when asked for.

    Attributes:
        file: For messages.
        name: As stored.
        shape: As stored.
        dtype: Name of the stored dtype, such as "float32".
        load: Reads the values.
    """

    file: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], NDArray[Any]]

    def read(self) -> NDArray[np.float32]:
        """The values.

        Raises:
            CheckpointError: not float32, unreadable, or not all finite.
        """
        if self.dtype != "float32":
            raise CheckpointError(
                f"{self.file}: {self.name!r} is stored as {self.dtype}; every original program writes float32"
            )
        try:
            values = np.asarray(self.load())
        # h5py raises OSError, RuntimeError or ValueError for damaged storage, depending on the layer that notices.
        except (OSError, RuntimeError, ValueError) as error:
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
class MixOptions:
    """How an AllenNLP `Elmo` was set up beyond its language model.

    Attributes:
        layer_norm: `do_layer_norm`.
        dropout: Dropout on the representations.
        fixed: `scalar_mix_parameters`, or `None` for learned mixes.
    """

    layer_norm: bool = False
    dropout: float = 0.5
    fixed: list[float] | None = None


@dataclass(frozen=True)
class Source:
    """An original checkpoint, open for reading.

    Attributes:
        description: One line for the user: the format and the files.
        layout: Which tables and which plain implementation understand the names.
        file: The file that holds the weights, for messages.
        tensors: By stored name; for AllenNLP below the prefix of the `Elmo` module.
        options: Content of `options.json`; `None` if there is none and sizes must come from the shapes.
        options_file: Its name, for messages.
        vocabulary: Vocabulary file, if any.
        mixes: AllenNLP only.
        dictionaries: ELMoForManyLangs only.
        layer_norm_epsilon: AllenNLP language models only, which do not hold it: the user's, `None` to tell by the age
            of the program that wrote the archive.
        notes: Sentences about choices that were made; shown to the user.
    """

    description: str
    layout: Layout
    file: str
    tensors: Mapping[str, StoredTensor]
    options: dict[str, Any] | None
    options_file: str
    vocabulary: Vocabulary | None = None
    mixes: MixOptions | None = None
    dictionaries: "Dictionaries | None" = None
    layer_norm_epsilon: float | None = None
    notes: list[str] = field(default_factory=list)

"""Reader of tensor files written by `torch.save`: a pickled state dict.

Source: PyTorch `torch/serialization.py`.
"""

import pickle
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from .errors import CheckpointError


def read_torch_file(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict without running code; memory-mapped if the file allows it.

    Raises:
        CheckpointError: the pickle would run code, is damaged, or holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: not a plain file of tensors. Either it is damaged, or it holds a pickle that wants to run code "
            f"and is refused for that ({reason})"
        ) from None
    except (
        RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError, zipfile.BadZipFile
    ) as error:  # fmt: skip
        raise CheckpointError(
            f"{path}: damaged weight file ({type(error).__name__}: {error}); fetch it again"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a state dict, a mapping from names to tensors")
    if sparse := [name for name, value in state.items() if value.layout != torch.strided]:
        raise CheckpointError(f"{path}: {sparse[0]!r} is a {state[sparse[0]].layout} tensor, expected a dense one")
    return state

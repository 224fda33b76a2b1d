"""Reader of bilm-tf's TensorFlow checkpoints (`model.ckpt-N.index`, `.data-*`), without running a graph.

TensorFlow is an optional dependency, imported only here and only when such a checkpoint is read.
"""

import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..common.errors import CheckpointError
from ..common.source import StoredTensor

INDEX = ".index"
# Variables of the training program that do not belong to the model: optimizer accumulators, the global step, and the
# last value shown during training.
IGNORED = re.compile(r".*/Adagrad|global_step|train_perplexity")


def checkpoint_prefixes(folder: Path) -> list[Path]:
    """Prefixes of the checkpoints in a folder, by training step."""

    def step(prefix: Path) -> tuple[int, str]:
        tail = prefix.name.rpartition("-")[2]
        return (int(tail) if tail.isdigit() else -1, prefix.name)

    prefixes = (path.with_name(path.name[: -len(INDEX)]) for path in folder.glob(f"*{INDEX}"))
    return sorted((prefix for prefix in prefixes if any(folder.glob(f"{prefix.name}.data-*"))), key=step)


def is_checkpoint_prefix(path: Path) -> bool:
    """True if `path` is the prefix of a checkpoint's files, as used by TensorFlow's tools."""
    return path.with_name(path.name + INDEX).is_file()


def _load_checkpoint(prefix: Path) -> Any:
    if importlib.util.find_spec("tensorflow") is None:
        raise CheckpointError(
            f"{prefix}: a TensorFlow checkpoint; reading it needs TensorFlow: pip install 'elmo-hf[tensorflow]'"
        )
    # TensorFlow logs the CPU's instruction sets on import; keep it quiet unless the user has set the level.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    try:
        return tensorflow.train.load_checkpoint(str(prefix))
    except (tensorflow.errors.OpError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{prefix}: not a complete TensorFlow checkpoint ({error})") from error


def tensorflow_tensors(prefix: Path) -> dict[str, StoredTensor]:
    """The model's variables by stored name, without those of the optimizer and the training loop.

    Raises:
        CheckpointError: TensorFlow is missing (with the remedy), or the checkpoint is damaged.
    """
    reader = _load_checkpoint(prefix)
    shapes: dict[str, list[int]] = reader.get_variable_to_shape_map()
    dtypes = reader.get_variable_to_dtype_map()
    return {
        name: StoredTensor(str(prefix), name, tuple(shape), dtypes[name].name, _variable(reader, name))
        for name, shape in sorted(shapes.items())
        if not IGNORED.fullmatch(name)
    }


def _variable(reader: Any, name: str) -> Callable[[], Any]:
    def load() -> Any:
        import tensorflow

        try:
            return reader.get_tensor(name)
        # TensorFlow's wrapper turns an incomplete read into an IndexError.
        except (tensorflow.errors.OpError, LookupError, RuntimeError) as error:
            raise OSError(str(error)) from error

    return load

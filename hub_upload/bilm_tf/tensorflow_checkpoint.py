"""bilm-tf's own TensorFlow checkpoints (`model.ckpt-N.index`, `.data-*`), read without running a graph.

TensorFlow is an optional dependency and imported only here, when such a checkpoint is read.
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
# Variables that belong to the training program and not to the model: accumulators of the optimizer, the number of
# training steps, the last value shown while training.
IGNORED = re.compile(r".*/Adagrad|global_step|train_perplexity")


def checkpoint_prefixes(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest training step first."""

    def step(prefix: Path) -> tuple[int, str]:
        tail = prefix.name.rpartition("-")[2]
        return (int(tail) if tail.isdigit() else -1, prefix.name)

    prefixes = (path.with_name(path.name[: -len(INDEX)]) for path in folder.glob(f"*{INDEX}"))
    return sorted((prefix for prefix in prefixes if any(folder.glob(f"{prefix.name}.data-*"))), key=step)


def is_checkpoint_prefix(path: Path) -> bool:
    """True if `path` names a checkpoint without being a file itself, as TensorFlow's tools want it."""
    return path.with_name(path.name + INDEX).is_file()


def _load_checkpoint(prefix: Path) -> Any:
    if importlib.util.find_spec("tensorflow") is None:
        raise CheckpointError(
            f"{prefix}: a TensorFlow checkpoint; reading it needs TensorFlow: pip install 'elmo-hf[tensorflow]'"
        )
    # Quiet, unless the user has said otherwise: TensorFlow reports on this machine's instruction sets when imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow

    try:
        return tensorflow.train.load_checkpoint(str(prefix))
    except (tensorflow.errors.OpError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{prefix}: not a complete TensorFlow checkpoint ({error})") from error


def tensorflow_tensors(prefix: Path) -> dict[str, StoredTensor]:
    """The model's variables, by stored name; those of the optimizer and the training loop are left out.

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
        # TensorFlow's wrapper turns a short read into an IndexError.
        except (tensorflow.errors.OpError, LookupError, RuntimeError) as error:
            raise OSError(str(error)) from error

    return load

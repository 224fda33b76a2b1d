"""Errors of a damaged folder of a model: the file at fault, what was expected, and the remedy."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers.utils import CONFIG_NAME

FILES = (CONFIG_NAME, "generation_config.json", "model.safetensors.index.json")


@contextmanager
def damage_named(name: str | os.PathLike[str]) -> Iterator[None]:
    """Context in which what is wrong with a local folder is an error that names the file."""
    try:
        yield
    except (ImportError, NotImplementedError):
        raise
    except Exception as error:
        folder = Path(name)
        if not folder.is_dir():
            raise
        told = str(error) or type(error).__name__
        is_damage = isinstance(error, json.JSONDecodeError | UnicodeError | RecursionError) or not isinstance(
            error, ValueError | OSError | TypeError | RuntimeError | StrictDataclassError
        )
        if not is_damage and (str(folder) in told or len(error.args) != 1):
            raise
        message = f"{damaged_file(folder) or folder}: {told}. Fetch or save the model again"
        if is_damage:
            raise ValueError(message) from error
        error.args = (message,)
        raise


def damaged_file(folder: Path) -> Path | None:
    """The first file of settings in the folder that holds no JSON object."""
    for path in (folder / name for name in FILES):
        try:
            if path.exists() and not isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
                return path
        except (ValueError, RecursionError, OSError):
            return path
    return None


def check_regular(name: str | os.PathLike[str]) -> None:
    """Refuse, with a `ValueError`, a folder in which a file of settings is a pipe or device: it may never end."""
    for path in (Path(name, file) for file in FILES):
        if path.exists() and not path.is_file():
            raise ValueError(f"{path}: no regular file; expected a JSON object. Fetch or save the model again")

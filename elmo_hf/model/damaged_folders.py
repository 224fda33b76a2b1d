"""Errors of a damaged folder of a model: the file at fault, what was expected, and the remedy."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers.utils import CONFIG_NAME

FILES = (CONFIG_NAME, "generation_config.json", "model.safetensors.index.json")


class DamageError(ValueError):
    """A local folder cannot be read; the message names the file, what was found and the remedy."""


@contextmanager
def damage_named(name: str | os.PathLike[str]) -> Iterator[None]:
    """Context in which what is wrong with a local folder is an error that names the file."""
    folder = Path(name)
    try:
        yield
    except (ImportError, NotImplementedError, DamageError):
        raise
    except Exception as error:
        told, damaged = str(error).rstrip(".") or type(error).__name__, damaged_file(folder)
        has_one_text = len(error.args) == 1
        if not folder.is_dir():
            if isinstance(error, OSError) and has_one_text and str(name) not in told:
                error.args = (f"{name}: {told}",)
            raise
        is_damage = damaged is not None or isinstance(error, UnicodeError | RecursionError)
        is_damage = is_damage or not isinstance(error, ValueError | OSError | RuntimeError | StrictDataclassError)
        if not is_damage and (str(folder) in told or not has_one_text):
            raise
        message = f"{damaged or folder}: {told}. Fetch or save the model again"
        if is_damage:
            raise DamageError(message) from error
        error.args = (message,)
        raise


def damaged_file(folder: Path) -> Path | None:
    """The first file of settings in the folder that holds no JSON object."""
    for path in (folder / name for name in FILES):
        try:
            # A pipe is not read: it may never end.
            if path.exists() and not (path.is_file() and isinstance(json.loads(path.read_text("utf-8")), dict)):
                return path
        except (ValueError, RecursionError, OSError):
            return path
    return None


def check_regular(name: str | os.PathLike[str]) -> None:
    """Refuse a folder in which a file of settings is a pipe or device, which may never end."""
    for path in (Path(name, file) for file in FILES):
        if path.exists() and not path.is_file():
            raise DamageError(f"{path}: no regular file; expected a JSON object. Fetch or save the model again")

"""Operations that most tests skip to save time: figures, fsync, reading of source files."""

import functools
import os
import sys
from pathlib import Path
from typing import Any

PACKAGE = str(Path(__file__).resolve().parent.parent / "elmo_hf") + os.sep
NOT_DRAWN = b"\x89PNG\r\n\x1a\nnot drawn"
drawing: list[Any] = []


def write_no_figure(figure: Any, path: str | os.PathLike[str], **_: Any) -> None:
    """Stand-in for `Figure.savefig` that writes a placeholder."""
    Path(path).write_bytes(NOT_DRAWN)


def take() -> None:
    """Apply the shortcuts for all modules imported by now."""
    os.fsync = lambda descriptor: None  # tests need no durability
    if (figure := sys.modules.get("matplotlib.figure")) and figure.Figure.savefig is not write_no_figure:
        drawing.append(figure.Figure.savefig)
        figure.Figure.savefig = write_no_figure
    utils = sys.modules.get("transformers.dynamic_module_utils")
    if utils is not None and "get_relative_imports" not in remembered:
        # Called for each source file whenever a model is saved, a tenth of the time of all tests.
        remembered["get_relative_imports"] = read = utils.get_relative_imports
        kept = functools.cache(read)
        utils.get_relative_imports = lambda file: list(kept(str(file))) if str(file).startswith(PACKAGE) else read(file)


remembered: dict[str, Any] = {}

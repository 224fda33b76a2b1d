"""What most tests do without, because it takes long: figures are not drawn, files are not forced onto the disk."""

import os
import sys
from pathlib import Path
from typing import Any

NOT_DRAWN = b"\x89PNG\r\n\x1a\nnot drawn"


def write_no_figure(figure: Any, path: str | os.PathLike[str], **_: Any) -> None:
    """Stand in for `Figure.savefig`: a file that is there."""
    Path(path).write_bytes(NOT_DRAWN)


def take() -> None:
    """Take both; the figures' as soon as matplotlib is imported."""
    os.fsync = lambda descriptor: None  # the machine of the tests keeps its power
    if (figure := sys.modules.get("matplotlib.figure")) and figure.Figure.savefig is not write_no_figure:
        drawing.append(figure.Figure.savefig)
        figure.Figure.savefig = write_no_figure


drawing: list[Any] = []

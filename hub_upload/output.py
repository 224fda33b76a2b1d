"""Output folders that are either complete or absent."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import CheckpointError

# What tells a folder made by this package from a user's own folder, which `force` must not delete.
MARKS = ("config.json", "options.json")


def check_output(output: Path, force: bool, *sources: Path) -> None:
    """Refuse, before any work is done, an output folder that must not be written.

    Raises:
        CheckpointError: it is a file, it is not empty (without `force`), it holds something else than a model (with
            `force`), or replacing it would delete a source.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise CheckpointError(f"{output}: exists and is not a folder; choose another output")
    for source in sources:
        if output.resolve() in (source.resolve(), *source.resolve().parents):
            raise CheckpointError(f"{output}: holds the source {source}; choose another output")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not force:
        raise CheckpointError(f"{output}: exists and is not empty; choose another output or add --force to replace it")
    if not any((output / mark).is_file() for mark in MARKS):
        raise CheckpointError(
            f"{output}: not empty and without {' or '.join(MARKS)}, so it is no model; remove it yourself if it is "
            "not needed"
        )


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a hidden sibling of `output` that takes its place when the block ends well and vanishes when it fails.

    Whatever goes wrong (a full disk, an interrupt), `output` is what it was before or complete. `check_output` has
    said that an existing folder may be replaced.
    """
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
    try:
        yield partial
        _open_to_readers(partial)
        _replace(partial, output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _replace(partial: Path, output: Path) -> None:
    if not output.is_dir():
        partial.rename(output)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{output.name}.old-", dir=output.parent)) / "folder"
    output.rename(aside)
    try:
        partial.rename(output)
    except BaseException:
        aside.rename(output)
        aside.parent.rmdir()
        raise
    # The new folder stands; what cannot be removed of the old one is no reason to fail.
    shutil.rmtree(aside.parent, ignore_errors=True)


def _open_to_readers(folder: Path) -> None:
    """Give a folder made privately, and what is in it, the permissions of newly made ones."""
    # Readable only by setting it; the two calls leave it as it was.
    mask = os.umask(0o077)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)

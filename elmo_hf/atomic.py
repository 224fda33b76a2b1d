"""Files and folders that appear whole or not at all: the one way to write outside of a traveling room."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from elmo_hf.tokenizer.complete_files import (
    appearing,
    full_disk_told,
    leftovers,
    path_aside,
    remove_leftovers,
)

__all__ = ["appearing", "appearing_folder", "filling", "put_folder"]


@contextmanager
def appearing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty folder to fill, beside `path`; when the block ends, it becomes `path`, in place of an earlier one.

    After an error, `path` is what it was before; also after a crash, once this is called again: in the moment between
    two renamings the earlier folder is `.NAME.PID.earlier`. What a process that is gone has left beside is removed.

    Raises:
        OSError: it cannot be written or moved, as on a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    restore_earlier(path)
    remove_leftovers(path)
    aside = path_aside(path)
    try:
        with full_disk_told(path):
            aside.mkdir()
            yield aside
            put_folder(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def filling(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """An empty folder to write files to, inside `folder`; when the block ends, they move up, the last by name first.

    Each of them appears whole; an earlier file of the same name is replaced.

    Raises:
        OSError: a file cannot be written or moved, as on a full disk.
    """
    target = Path(folder) / "files"
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    aside = path_aside(target)
    try:
        with full_disk_told(target.parent):
            aside.mkdir()
            yield aside
            flush(aside)
            for file in sorted(aside.iterdir(), reverse=True):
                file.replace(target.parent / file.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def put_folder(aside: Path, path: Path) -> None:
    """Give a complete folder the name `path`, in place of an earlier folder of that name.

    Raises:
        OSError: it cannot be moved; `path` is then what it was before.
    """
    flush(aside)
    earlier = path.with_name(f".{path.name}.{os.getpid()}.earlier")
    if path.exists():
        os.rename(path, earlier)
    try:
        os.rename(aside, path)
    except OSError:
        if earlier.exists():
            os.rename(earlier, path)
        raise
    _flush_names(path.parent)
    shutil.rmtree(earlier, ignore_errors=True)


def restore_earlier(path: Path) -> None:
    """Undo what a process that died in `put_folder` has begun; remove what one that died behind it has left."""
    for earlier in leftovers(path, "earlier"):
        with suppress(OSError):
            shutil.rmtree(earlier) if path.exists() else earlier.rename(path)


def flush(folder: Path) -> None:
    """Force the files of `folder` and their names onto the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        else:
            _flush_names(path)
    _flush_names(folder)


def _flush_names(folder: Path) -> None:
    """Force the names in `folder` onto the disk, where the system can."""
    with suppress(OSError):  # not every system lets a folder be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

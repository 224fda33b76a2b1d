"""Atomic writing of files and folders, which appear complete or not at all; used by all code but remote code."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from elmo_hf.tokenizer.complete_files import (
    appearing,
    full_disk_named,
    leftovers,
    path_aside,
    remove_leftovers,
)

__all__ = ["appearing", "appearing_folder", "filling", "put_folder", "write_text"]


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as UTF-8; the file appears only when it is complete."""
    with appearing(path) as aside:
        aside.write_text(text, encoding="utf-8")


@contextmanager
def appearing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Provide an empty folder next to `path`; at the end of the block it becomes `path`, replacing an earlier folder.

    After an error, `path` is unchanged. After a crash, the next call restores it: for a moment, between two renames,
    the earlier folder is named `.NAME.PID.earlier`. Leftovers of terminated processes are removed.

    Raises:
        OSError: the folder cannot be written or moved, for example because the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    restore_earlier(path)
    remove_leftovers(path)
    aside = path_aside(path)
    try:
        with full_disk_named(path):
            aside.mkdir()
            yield aside
            put_folder(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def filling(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Provide an empty folder inside `folder`; at the end of the block its files move up, in reverse order of name.

    Each file appears complete, replacing an earlier file of the same name.

    Raises:
        OSError: a file cannot be written or moved, for example because the disk is full.
    """
    target = Path(folder) / "files"
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    aside = path_aside(target)
    try:
        with full_disk_named(target.parent):
            aside.mkdir()
            yield aside
            flush(aside)
            for file in sorted(aside.iterdir(), reverse=True):
                file.replace(target.parent / file.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def put_folder(aside: Path, path: Path) -> None:
    """Rename a complete folder to `path`, replacing an earlier folder of that name.

    Raises:
        OSError: it cannot be moved; `path` is then unchanged.
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
    """Restore the earlier folder if a process died within `put_folder`; remove it if the process died later."""
    for earlier in leftovers(path, "earlier"):
        with suppress(OSError):
            shutil.rmtree(earlier) if path.exists() else earlier.rename(path)


def flush(folder: Path) -> None:
    """Flush the files of `folder` and their directory entries to disk (fsync)."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        else:
            _flush_names(path)
    _flush_names(folder)


def _flush_names(folder: Path) -> None:
    """Flush the directory entries of `folder` to disk, if the system supports it."""
    with suppress(OSError):  # some systems cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

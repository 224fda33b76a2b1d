"""Atomic writing of files."""

import errno
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def appearing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Context manager that yields a temporary path in the folder of `path`, and renames it to `path` at the end.

    After an error or a crash at any moment, `path` is unchanged: the new file is synchronized to disk before it is
    renamed. Temporary files of processes that no longer run are removed.

    Raises:
        OSError: writing or renaming failed; for a full disk, the message says so.
    """
    path = Path(path)
    remove_leftovers(path)
    aside = path_aside(path)
    try:
        with full_disk_named(path):
            yield aside
            with aside.open("rb+") as file:
                os.fsync(file.fileno())
            aside.replace(path)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def path_aside(path: Path) -> Path:
    """Temporary path of this process for `path`: `.NAME.PID.writing` in the same folder."""
    return path.with_name(f".{path.name}.{os.getpid()}.writing")


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files for `path` of processes that no longer run."""
    for leftover in leftovers(path, "writing"):
        with suppress(OSError):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def leftovers(path: Path, ending: str) -> Iterator[Path]:
    """Yield the files `.NAME.PID.ENDING` next to `path` whose processes no longer run."""
    for found in path.parent.glob(f".{glob.escape(path.name)}.*.{ending}"):
        process = found.name.removeprefix(f".{path.name}.").removesuffix(f".{ending}")
        if process.isdecimal() and not _is_running(int(process)):
            yield found


def _is_running(process: int) -> bool:
    if os.name != "posix":  # on Windows, os.kill would end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


@contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Context manager that converts any library's error for a full disk to an `OSError` with a clear message.

    Raises:
        OSError: with the error's number; the message names `path`.
    """
    try:
        yield
    except Exception as error:
        full = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG]
        found = error.errno if isinstance(error, OSError) and error.errno in full else None
        if found is None:
            # Libraries written in Rust and C++ raise other types, but with the system's text.
            found = next((number for number in full if os.strerror(number) in str(error)), None)
        if found is None:
            raise
        raise OSError(
            found,
            f"{path} cannot be written: {os.strerror(found)}. An existing file there is unchanged, and no incomplete "
            "file is left. Free disk space or choose another folder, and try again",
        ) from error

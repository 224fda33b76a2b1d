"""Files that are there whole or not at all."""

import errno
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def appearing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, in the folder of `path`; when the block ends, the file written there becomes `path`.

    After an error, or a crash at any moment, `path` is what it was before: the new file reaches the disk before it
    takes its name. What a process that is gone has left half-written beside `path` is removed.

    Raises:
        OSError: the file cannot be written or moved. Of a full disk, the message says so and what is unharmed.
    """
    path = Path(path)
    remove_leftovers(path)
    aside = path_aside(path)
    try:
        with full_disk_told(path):
            yield aside
            with aside.open("rb+") as file:
                os.fsync(file.fileno())
            aside.replace(path)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def path_aside(path: Path) -> Path:
    """Where this process writes what is to become `path`: `.NAME.PID.writing` beside it."""
    return path.with_name(f".{path.name}.{os.getpid()}.writing")


def remove_leftovers(path: Path) -> None:
    """Remove what processes that are gone have left at their `path_aside` of `path`."""
    for leftover in leftovers(path, "writing"):
        with suppress(OSError):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def leftovers(path: Path, ending: str) -> Iterator[Path]:
    """What processes that are gone have left beside `path`, named `.NAME.PID.` and the ending."""
    for found in path.parent.glob(f".{glob.escape(path.name)}.*.{ending}"):
        process = found.name.removeprefix(f".{path.name}.").removesuffix(f".{ending}")
        if process.isdecimal() and not _is_running(int(process)):
            yield found


def _is_running(process: int) -> bool:
    if os.name != "posix":  # elsewhere asking ends it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's
        return True
    return True


@contextmanager
def full_disk_told(path: Path) -> Iterator[None]:
    """Context in which a full disk is told of plainly, however the library that wrote calls it.

    Raises:
        OSError: with the error's number, naming `path` and what is unharmed.
    """
    try:
        yield
    except Exception as error:
        full = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG]
        found = error.errno if isinstance(error, OSError) and error.errno in full else None
        if found is None:
            # Written in Rust and C++, libraries raise types of their own with the system's words.
            found = next((number for number in full if os.strerror(number) in str(error)), None)
        if found is None:
            raise
        raise OSError(
            found,
            f"{path} cannot be written: {os.strerror(found)}. What stood there before is unharmed, and nothing "
            "half-written is left. Make room, or choose another place, and try again",
        ) from error

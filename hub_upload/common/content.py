"""Reading of small untrusted files."""

import stat
from pathlib import Path

from .errors import CheckpointError

# Options and dictionaries take megabytes.
LARGEST_CONTENT = 2**28


def read_content(path: Path) -> bytes:
    """Read the bytes of a small regular file.

    Raises:
        CheckpointError: missing, unreadable, far too large, or a pipe or device, which may never end.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path}: not a regular file; expected one that holds the data itself")
        if status.st_size > LARGEST_CONTENT:
            raise CheckpointError(
                f"{path}: {status.st_size:,} bytes, expected at most {LARGEST_CONTENT:,}; give the model's own file"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); check its name and permissions") from error


def read_text(file: Path, expected: str, encoding: str = "utf-8") -> str:
    """Read the text of a small file, without changing line ends.

    Raises:
        CheckpointError: as in `read_content`, or not UTF-8; the message names the line and the expectation.
    """
    content = read_content(file)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise CheckpointError(
            f"{file}, line {line}: byte {content[error.start]:#04x} is not UTF-8; expected {expected}. Fetch the file "
            "again"
        ) from None

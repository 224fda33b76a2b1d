"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def appearing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to, in the folder of `path`; when the block ends, the file written there becomes `path`.

    After an error, or a crash at any moment, `path` is what it was before: the new file reaches the disk before it
    takes its name.

    Raises:
        OSError: the file cannot be written or moved, as on a full disk.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)

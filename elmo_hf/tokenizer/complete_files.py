"""Files that are there whole or not at all."""

import os
import zlib
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


# Code files of versions before the rooms, without their suffix `_elmo.py`, and the checksum of their first line.
OLD_CODE = (
    "character_dictionary:11ac8c3f characters:b3042053 complete_files:0c9ae99b encodings:df6b5c74 pos_tags:1e7840f1 "
    "pretokenization:63f37b81 vocabulary:30694998"
)


def remove_old_code(folder: Path) -> None:
    """Delete the files of this room's code that an older version wrote, known by name and first line, and no others."""
    for entry in OLD_CODE.split():
        stem, checksum = entry.split(":")
        path = folder / f"{stem}_elmo.py"
        if path.is_file() and zlib.crc32(path.read_bytes().split(b"\n")[0]) == int(checksum, 16):
            path.unlink()

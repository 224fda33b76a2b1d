"""ZIP and tar archives from strangers, unpacked safely: no paths outside, no links, no bombs."""

import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from .errors import CheckpointError

# Weights hardly compress. What unfolds to more than this many times its size, and more than a gigabyte, is no model.
MAX_RATIO = 20
SMALL = 1 << 30


def _safe_parts(name: str, archive: Path) -> tuple[str, ...]:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]) or "\0" in name:
        raise CheckpointError(f"{archive}: refusing the member {name!r}, which would be unpacked outside its folder")
    return path.parts


class _Budget:
    """The bytes that an archive may unfold to; counts what it really does, whatever its headers say."""

    def __init__(self, archive: Path) -> None:
        self.archive, self.limit = archive, max(SMALL, MAX_RATIO * archive.stat().st_size)
        self.left = self.limit

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise CheckpointError(
                f"{self.archive}: unpacks to more than {self.limit} bytes, which no model of its size does; unpack it "
                "yourself if you trust it, and convert the folder"
            )

    def chunks(self, content: IO[bytes]) -> Iterator[bytes]:
        """The content in pieces, each paid for."""
        while chunk := content.read(1 << 20):
            self.spend(len(chunk))
            yield chunk


class _Unpacker:
    """Writes members into a folder within the budget of their archive."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self.folder, self.budget = folder, _Budget(archive)

    def write(self, parts: tuple[str, ...], content: IO[bytes]) -> None:
        target = self.folder.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            for chunk in self.budget.chunks(content):
                file.write(chunk)


def unpack(archive: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack the regular files of a ZIP or (compressed) tar whose path `wanted` accepts, into an empty folder.

    Raises:
        CheckpointError: damaged, encrypted, a name that leaves the folder, two members of one name, or far more
            content than the size of the archive explains.
    """
    unpacker = _Unpacker(archive, folder)
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, unpacker, wanted)
        else:
            _unpack_tar(archive, unpacker, wanted)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, RuntimeError) as error:
        raise CheckpointError(f"{archive}: damaged or encrypted archive ({error}); fetch it again") from error
    except FileExistsError as error:
        raise CheckpointError(f"{archive}: holds two members of the name {error.filename}") from None


def _unpack_zip(archive: Path, unpacker: _Unpacker, wanted: Callable[[str], bool]) -> None:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            parts = _safe_parts(member.filename, archive)
            # The upper half of the attributes is the Unix mode; 0o120000 is a symbolic link.
            is_link = member.external_attr >> 16 & 0o170000 == 0o120000
            if parts and not member.is_dir() and not is_link and wanted("/".join(parts)):
                with file.open(member) as content:
                    unpacker.write(parts, content)


def _unpack_tar(archive: Path, unpacker: _Unpacker, wanted: Callable[[str], bool]) -> None:
    with tarfile.open(archive, "r:*") as file:
        for member in file:
            parts = _safe_parts(member.name, archive)
            content = file.extractfile(member) if member.isreg() and wanted("/".join(parts)) else None
            if content is None:
                # Skipping costs unpacking too.
                unpacker.budget.spend(member.size if member.isreg() else 0)
            else:
                unpacker.write(parts, content)


def is_tar(path: Path) -> bool:
    """True if the file is a tar archive, compressed or not."""
    try:
        return tarfile.is_tarfile(path)
    except (OSError, EOFError, zlib.error):
        return False


def single_root(folder: Path) -> Path:
    """`folder`, or the only folder in it if it holds nothing else: archives are packed both ways."""
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder

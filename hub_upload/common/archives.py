"""Safe unpacking of untrusted ZIP and tar archives: no paths outside of the folder, no links, no bombs."""

import bz2
import errno
import gzip
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from .errors import CheckpointError

# Weights hardly compress. An archive that unpacks to more than this multiple of its size, and more than a gigabyte, is
# not a model.
MAX_RATIO = 20
SMALL = 1 << 30
# A model's archive has tens of members. The directory of a ZIP and the headers of a tar are read into memory.
MAX_MEMBERS, MAX_DIRECTORY, MAX_HEADER = 100_000, 1 << 24, 1 << 24

_DECOMPRESSORS: tuple[tuple[bytes, Callable[..., Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\0", lzma.open),
    (b"]\0\0", lzma.open),
)
# Exceptions of decompressors and archive readers for damaged files.
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    RuntimeError,
    LookupError,
    OverflowError,
)


def _safe_parts(name: str, archive: Path) -> tuple[str, ...]:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]) or "\0" in name:
        raise CheckpointError(f"{archive}: refusing the member {name!r}, which would be unpacked outside its folder")
    return path.parts


class _Unpacker:
    """Writer of members into a folder, within the maximum unpacked size of an archive.

    The actual bytes are counted, not the sizes in headers.
    """

    def __init__(self, archive: Path, folder: Path) -> None:
        self.archive, self.folder = archive, folder
        self.left = self.limit = max(SMALL, MAX_RATIO * archive.stat().st_size)

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise CheckpointError(
                f"{self.archive}: unpacks to more than {self.limit} bytes, which no model of its size does; unpack it "
                "yourself if you trust it, and convert the folder"
            )

    def write(self, parts: tuple[str, ...], content: IO[bytes]) -> None:
        target = self.folder.joinpath(*parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            while chunk := content.read(1 << 20):
                self.spend(len(chunk))
                file.write(chunk)


def unpack(archive: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack the regular files of a ZIP or (compressed) tar whose path `wanted` accepts, into an empty folder.

    Raises:
        CheckpointError: a damaged or encrypted archive, a path outside of the folder, two members of the same name, or
            far more content than the archive's size explains.
    """
    unpacker = _Unpacker(archive, folder)
    try:
        if zipfile.is_zipfile(archive):
            _unpack_zip(archive, unpacker, wanted)
        else:
            _unpack_tar(archive, unpacker, wanted)
    except CheckpointError:
        raise
    except FileExistsError as error:
        raise CheckpointError(f"{archive}: holds two members of the name {error.filename}") from None
    except (*_DAMAGE, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES):
            raise
        raise CheckpointError(f"{archive}: damaged or encrypted archive ({error}); fetch it again") from error


def _unpack_zip(archive: Path, unpacker: _Unpacker, wanted: Callable[[str], bool]) -> None:
    if (size := _directory_size(archive)) > MAX_DIRECTORY:
        raise CheckpointError(
            f"{archive}: its directory has {size:,} bytes, expected at most {MAX_DIRECTORY:,}: not a model archive"
        )
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            parts = _safe_parts(member.filename, archive)
            # The upper half of the attributes is the Unix mode; 0o120000 is a symbolic link.
            is_link = member.external_attr >> 16 & 0o170000 == 0o120000
            if parts and not member.is_dir() and not is_link and wanted("/".join(parts)):
                with file.open(member) as content:
                    unpacker.write(parts, content)


def _directory_size(archive: Path) -> int:
    """Size of a ZIP's directory according to its end record; 0 if there is none."""
    with archive.open("rb") as file:
        file.seek(-min(archive.stat().st_size, (1 << 16) + 98), 2)
        tail = file.read()
    end, end_of_large = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    size = struct.unpack_from("<L", tail, end + 12)[0] if 0 <= end <= len(tail) - 16 else 0
    if 0 <= end_of_large <= len(tail) - 48:
        size = max(size if size < 2**32 - 1 else 0, struct.unpack_from("<Q", tail, end_of_large + 40)[0])
    return size


class _Pieces:
    """A file wrapper that refuses reads of more than `MAX_HEADER` bytes."""

    def __init__(self, archive: Path, file: Any) -> None:
        self.archive, self.file = archive, file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise CheckpointError(
                f"{self.archive}: a member's header of {size:,} bytes, expected at most {MAX_HEADER:,}: not a "
                "model archive"
            )
        return self.file.read(size)


def _open_tar_bytes(archive: Path) -> Any:
    with archive.open("rb") as file:
        begin = file.read(6)
    return next((opener for magic, opener in _DECOMPRESSORS if begin.startswith(magic)), Path.open)(archive, "rb")


def _unpack_tar(archive: Path, unpacker: _Unpacker, wanted: Callable[[str], bool]) -> None:
    with (
        _open_tar_bytes(archive) as unpacked,
        tarfile.open(fileobj=_Pieces(archive, unpacked), mode="r:") as file,  # type: ignore[call-overload]
    ):
        for number, member in enumerate(file):
            if number >= MAX_MEMBERS:
                raise CheckpointError(
                    f"{archive}: more than {MAX_MEMBERS:,} members, which no model has; unpack it yourself if you "
                    "trust it, and convert the folder"
                )
            parts = _safe_parts(member.name, archive)
            content = file.extractfile(member) if member.isreg() and wanted("/".join(parts)) else None
            if content is None:
                # Skipped members are decompressed too.
                unpacker.spend(member.size if member.isreg() else 0)
            else:
                unpacker.write(parts, content)


def is_tar(path: Path) -> bool:
    """True if the file is a tar archive, compressed or not."""
    try:
        return tarfile.is_tarfile(path)
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return False


def single_root(folder: Path) -> Path:
    """The only subfolder of `folder` if it contains nothing else, otherwise `folder`; archives are packed both ways."""
    entries = list(folder.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder

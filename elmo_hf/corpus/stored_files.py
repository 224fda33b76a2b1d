"""Files of disks and, by fsspec, of object stores and servers: which there are, how large, and their bytes."""

import errno
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

# Fetched at a time; stores ask for more by themselves, and every process keeps it for each open file.
BYTES_AHEAD = 2**22


@dataclass(frozen=True)
class StoredFile:
    """A file of the input.

    Attributes:
        url: its path, or its address with a protocol.
        size: bytes.
    """

    url: str
    size: int


def is_address(path: str) -> bool:
    """True for `s3://bucket/text.txt` and the like, False for paths."""
    return "://" in path


def matching_files(sources: list[str]) -> list[StoredFile]:
    """The files that paths, globs and addresses name: those of a glob by name, and none twice.

    Raises:
        FileNotFoundError: nothing matches one of them.
        ValueError: a folder, or a protocol that nobody knows.
        ImportError: the library of a protocol is missing.
        OSError: a store that does not answer.
    """
    from fsspec.implementations.local import LocalFileSystem

    files: dict[str, StoredFile] = {}
    for source in sources:
        store, path = _store(source)
        # A file's own name comes first: it may hold the characters of a glob.
        matches = [path] if _asked(source, store.exists, path) else sorted(_asked(source, store.glob, path))
        found = [(match, _asked(source, store.info, match)) for match in matches]
        plain = [(match, info) for match, info in found if info["type"] == "file"]
        if found and not plain:
            raise ValueError(f"{source} is a folder: expected files; for all of its files write {source}/*")
        if not plain:
            raise FileNotFoundError(f"no file matches {source}: expected a file, a glob, or an address as s3://...")
        for match, info in plain:
            url = match if isinstance(store, LocalFileSystem) else store.unstrip_protocol(match)
            files[url] = StoredFile(url, info["size"] or 0)
    return list(files.values())


def size_of(path: str) -> int:
    """Bytes of a file, given by its path or address.

    Raises:
        OSError: it is not there, or its store does not answer.
        ValueError: its store does not know.
    """
    if not is_address(path):
        return os.path.getsize(path)
    store, name = _store(path)
    size = _asked(path, store.info, name)["size"]
    if size is None:
        raise ValueError(f"{path}: the server does not tell the file's size, and so no part of it can be found again")
    return size


def open_stored(path: str) -> BinaryIO:
    """The bytes of a file, given by its path or address, from any place on.

    Raises:
        OSError: it cannot be opened; also when it is read, and a store does not answer.
    """
    if not is_address(path):
        return open(path, "rb")
    return cast(BinaryIO, io.BufferedReader(_StoredBytes(path)))


class _StoredBytes(io.RawIOBase):
    """The bytes of a file in a store. Libraries raise errors of all kinds; these become one that names the file."""

    def __init__(self, url: str) -> None:
        self._url = url
        store, name = _store(url)
        self._file = _asked(url, store.open, name, "rb", block_size=BYTES_AHEAD)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = _asked(self._url, self._file.read, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return _asked(self._url, self._file.seek, offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _store(url: str) -> tuple[Any, str]:
    """The file system of fsspec that a path or address belongs to, and its name there."""
    import fsspec

    return fsspec.core.url_to_fs(url)


def _asked(url: str, ask: Callable[..., Any], *given: Any, **options: Any) -> Any:
    try:
        return ask(*given, **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "no such file", url) from error
    except Exception as error:
        raise OSError(errno.EIO, f"cannot be read ({type(error).__name__}: {error})", url) from error

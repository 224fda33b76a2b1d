"""Files on disks and, by fsspec, in object stores and on servers: their names, sizes and bytes."""

import errno
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

# Bytes fetched at a time; kept in memory for each open file of every process. The defaults of stores are larger.
BYTES_AHEAD = 2**22


@dataclass(frozen=True)
class StoredFile:
    """A file of the input.

    Attributes:
        url: path, or address with a protocol.
        size: size in bytes.
    """

    url: str
    size: int


def is_address(path: str) -> bool:
    """True for addresses such as `s3://bucket/text.txt`, False for paths."""
    return "://" in path


def matching_files(sources: list[str]) -> list[StoredFile]:
    """Files matched by paths, globs and addresses: those of a glob sorted by name, and each once.

    Raises:
        FileNotFoundError: nothing matches one of them.
        ValueError: a folder, or an unknown protocol.
        ImportError: the library of a protocol is missing.
        OSError: a store does not answer.
    """
    from fsspec.implementations.local import LocalFileSystem

    files: dict[str, StoredFile] = {}
    for source in sources:
        store, path = _store(source)
        # An existing file takes precedence, since its name may contain glob characters.
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
    """Size in bytes of a file, given by its path or address.

    Raises:
        OSError: the file does not exist, or its store does not answer.
        ValueError: the server does not know the size.
    """
    if not is_address(path):
        return os.path.getsize(path)
    store, name = _store(path)
    size = _asked(path, store.info, name)["size"]
    if size is None:
        raise ValueError(f"{path}: the server does not report the file's size, which is needed to read it in parts")
    return size


def open_stored(path: str) -> BinaryIO:
    """Open a file, given by its path or address, for reading bytes from any position.

    Raises:
        OSError: the file cannot be opened; also while reading, if a store does not answer.
    """
    if not is_address(path):
        return open(path, "rb")
    return cast(BinaryIO, io.BufferedReader(_StoredBytes(path)))


class _StoredBytes(io.RawIOBase):
    """Raw stream of a file in a store. Errors of the store's library become an `OSError` that names the file."""

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
    """File system of fsspec for a path or address, and the name of the file in it."""
    import fsspec

    return fsspec.core.url_to_fs(url)


def _asked(url: str, ask: Callable[..., Any], *given: Any, **options: Any) -> Any:
    try:
        return ask(*given, **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, "no such file", url) from error
    except Exception as error:
        raise OSError(errno.EIO, f"cannot be read ({type(error).__name__}: {error})", url) from error

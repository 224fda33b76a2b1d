"""Files of disks and object stores, by fsspec: fetched for reading, and put so that they appear whole."""

import json
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


@dataclass
class LocalCopies:
    """Local paths of stored files, with one local copy at a time of remote files."""

    _url: str | None = None
    _folder: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    def path(self, url: str) -> str:
        """Local path of the file, valid until the next call.

        Raises:
            OSError: the file cannot be fetched.
        """
        store, path = fsspec.core.url_to_fs(url)
        if isinstance(store, LocalFileSystem):
            return path
        # The suffixes are kept: they determine the format.
        name = Path(path).name
        if self._url == url and self._folder is not None:
            return str(Path(self._folder.name) / name)
        self.close()
        self._folder = tempfile.TemporaryDirectory(prefix="elmo_hf_")
        target = str(Path(self._folder.name) / name)
        store.get_file(path, target)
        self._url = url
        return target

    def close(self) -> None:
        """Remove the copy."""
        if self._folder is not None:
            self._folder.cleanup()
        self._url, self._folder = None, None


class Folder:
    """A folder of a disk or an object store.

    Args:
        url: its path, or its address with a protocol.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._store, self._path = fsspec.core.url_to_fs(url)

    def names(self) -> set[str]:
        """Names of the files in the folder; empty if it does not exist."""
        self._store.invalidate_cache()
        if not self._store.exists(self._path):
            return set()
        return {Path(entry["name"]).name for entry in self._store.ls(self._path, detail=True)}

    def put(self, path: Path, name: str) -> None:
        """Store a local file under a name atomically, replacing an existing file.

        Raises:
            OSError: the file cannot be written.
        """
        self._store.makedirs(self._path, exist_ok=True)
        # A separate name for every attempt: an abandoned one may still be writing.
        aside = f"{self._path}/.{name}.{uuid.uuid4().hex[:8]}.writing"
        try:
            self._store.put_file(str(path), aside)
            self._store.mv(aside, f"{self._path}/{name}")
        except BaseException:
            if self._store.exists(aside):
                self._store.rm_file(aside)
            raise

    def put_json(self, name: str, value: Any) -> None:
        """Store JSON under a name atomically."""
        with tempfile.TemporaryDirectory(prefix="elmo_hf_") as folder:
            path = Path(folder) / name
            path.write_text(json.dumps(value) + "\n", encoding="utf-8")
            self.put(path, name)

    def json(self, name: str) -> Any:
        """Contents of a JSON file.

        Raises:
            OSError: the file cannot be read.
            ValueError: the file is not valid JSON.
        """
        text = self._store.cat_file(f"{self._path}/{name}")
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(
                f"{self.url}/{name} is damaged ({error}): expected JSON that this command writes. Remove it, or ask to "
                "overwrite the output"
            ) from error

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._store.rm_file(f"{self._path}/{name}")

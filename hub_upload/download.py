"""Resumable downloads of published originals; files appear only when they are complete."""

import hashlib
import shutil
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from huggingface_hub import get_hf_file_metadata
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.file_download import http_get

from .catalog import Published, RemoteFile
from .common.errors import CheckpointError
from .convert import sha256

SUMS = "SHA256SUMS"


def address(item: Published, file: RemoteFile, base_url: str | None) -> str:
    """URL of a file: at the authors' site, or in the folder of the model's name on a mirror."""
    return file.url if base_url is None else f"{base_url.rstrip('/')}/{item.name}/{file.name}"


def fetch(item: Published, file: RemoteFile, folder: Path, base_url: str | None = None) -> Path:
    """Download a file of a published original into `folder`; return files of a `file://` mirror in place.

    An interrupted download is continued if the server's file has not changed.

    Raises:
        CheckpointError: the file cannot be downloaded, is truncated, or its SHA-256 is not the published one.
        OSError: it cannot be written.
    """
    url = address(item, file, base_url)
    if urlsplit(url).scheme == "file":
        path = Path(url2pathname(urlsplit(url).path))
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file; a mirror holds {item.name}/{file.name}")
    else:
        path = folder / file.name
        if not path.is_file():
            _download(url, path)
    expected = file.sha256 or _listed(item, file, folder, base_url)
    if expected is not None and (found := sha256(path)) != expected:
        if path.parent == folder:
            path.unlink()
        raise CheckpointError(
            f"{url}: has SHA-256 {found}, expected {expected}: damaged, or another file; nothing of it is kept"
        )
    return path


def _download(url: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        metadata = get_hf_file_metadata(url, token=False)
        # A changed file at the same URL is a new download.
        mark = hashlib.sha256(f"{metadata.etag} {metadata.size}".encode()).hexdigest()[:12]
        partial = path.with_name(f"{path.name}.{mark}.incomplete")
        for other in path.parent.glob(f"{path.name}.*.incomplete"):
            if other != partial:
                other.unlink()
        if metadata.size is not None and shutil.disk_usage(path.parent).free < metadata.size:
            raise CheckpointError(f"{path.parent}: no room for the {metadata.size:,} bytes of {url}; free some space")
        with partial.open("ab") as file:
            begun = file.tell()
            if metadata.size is None or begun < metadata.size:
                http_get(url, file, resume_size=begun, expected_size=metadata.size, displayed_filename=path.name)
        partial.replace(path)
    except CheckpointError:
        raise
    except OfflineModeIsEnabled as error:
        raise CheckpointError(
            f"{url}: HF_HUB_OFFLINE is set: unset it, or name a mirror with --base-url file://FOLDER"
        ) from error
    except Exception as error:  # HTTP clients raise various exceptions for unreachable servers
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a disk error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{url}: cannot be fetched ({reason}); the same command resumes the download, --base-url names a mirror"
        ) from error


def _listed(item: Published, file: RemoteFile, folder: Path, base_url: str | None) -> str | None:
    """SHA-256 of a file according to `SHA256SUMS` in a `file://` mirror."""
    url = address(item, file, base_url)
    if urlsplit(url).scheme != "file":
        return None
    sums = Path(url2pathname(urlsplit(url).path)).parent / SUMS
    if not sums.is_file():
        return None
    rows = (line.split() for line in sums.read_text(encoding="utf-8").splitlines())
    return next((row[0] for row in rows if len(row) == 2 and row[1].lstrip("*") == file.name), None)

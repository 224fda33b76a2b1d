"""Output folders, which are either complete or absent."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from elmo_hf import ElmoConfig, appearing_folder
from elmo_hf.hub import traveling_code

from .errors import CheckpointError, listing
from .format import Export
from .options import read_json

# Names of the files that `convert` writes. Since folders are replaced as a whole, `force` accepts only folders with
# these files and those of the exports.
CONVERTED = re.compile(
    r"README\.md|config\.json|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|tokenizer\.json|tokenizer_config\.json|character_vocabulary\.json"
)


def check_output(output: Path, force: bool, sources: Iterable[Path], exports: Iterable[Export]) -> None:
    """Refuse, before any work is done, an output folder that must not be written.

    Args:
        output: The folder.
        force: Allow replacing an older model.
        sources: Files and folders that must not be deleted.
        exports: Formats of exported folders, which may be replaced too.

    Raises:
        CheckpointError: it is a file; it is not empty (without `force`); it contains anything but a model written by
            this package (with `force`); or replacing it would delete a source.
    """
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise CheckpointError(f"{output}: exists and is not a folder; choose another output")
    for source in sources:
        if output.resolve() in (source.resolve(), *source.resolve().parents):
            raise CheckpointError(f"{output}: holds the source {source}; choose another output")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not force:
        raise CheckpointError(
            f"{output}: exists and is not empty; choose another output or add --overwrite (force=True) to replace it"
        )
    exports = tuple(exports)
    if not _is_elmo(output, exports):
        raise CheckpointError(
            f"{output}: not empty, and not an ELMo folder by its config.json (model_type {ElmoConfig.model_type!r}) or "
            "options.json (with 'lstm'); choose another output, or remove it yourself if it is not needed"
        )
    known = {name for export in exports for name in export.files} | traveling_code(output)
    others = [
        path.name + "/" * path.is_dir()
        for path in sorted(output.iterdir())
        if path.is_dir() or not (path.name in known or CONVERTED.fullmatch(path.name))
    ]
    if others:
        raise CheckpointError(
            f"{output}: holds {listing(others)}, which elmo-hub does not write and --overwrite would delete; move "
            f"{'it' if len(others) == 1 else 'them'} elsewhere, or choose another output"
        )


def _is_elmo(folder: Path, exports: Iterable[Export]) -> bool:
    """True if a folder contains an ELMo written by `convert` or `export`, judged by the first marker file found."""
    markers = [("config.json", lambda path: read_json(path).get("model_type") == ElmoConfig.model_type)]
    markers += [(export.marker, export.is_marker) for export in exports]
    found = next((name for name, _ in markers if (folder / name).is_file()), None)
    try:
        return any(is_marker(folder / name) for name, is_marker in markers if name == found)
    except CheckpointError:
        return False


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a hidden sibling of `output` that replaces it if the block succeeds and is removed if it fails.

    After any failure (a full disk, an interrupt), `output` is either unchanged or complete. Leftovers of a killed
    process are removed by the next one. `check_output` must have allowed replacing an existing folder.
    """
    with appearing_folder(output.absolute()) as partial:
        yield partial
        _open_to_readers(partial)


def _open_to_readers(folder: Path) -> None:
    """Give a private folder and its content the permissions of newly created files."""
    # The mask can only be read by setting it; the two calls restore it.
    mask = os.umask(0o077)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)

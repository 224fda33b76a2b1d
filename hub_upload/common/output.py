"""Output folders that are either complete or absent."""

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

# The names that `convert` writes. With those of every export they are all that `force` may delete: folders are replaced
# as a whole.
CONVERTED = re.compile(
    r"README\.md|config\.json|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|tokenizer\.json|tokenizer_config\.json|character_vocabulary\.json"
)


def check_output(output: Path, force: bool, sources: Iterable[Path], exports: Iterable[Export]) -> None:
    """Refuse, before any work is done, an output folder that must not be written.

    Args:
        output: The folder.
        force: Whether an older model may be replaced.
        sources: Files and folders that must stay.
        exports: The table of formats that are written, whose folders may be replaced too.

    Raises:
        CheckpointError: it is a file, it is not empty (without `force`), it holds anything else than a model that this
            package wrote (with `force`), or replacing it would delete a source.
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
            f"{output}: not empty, and no ELMo by its config.json (model_type {ElmoConfig.model_type!r}) or "
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
    """True if a folder holds an ELMo as `convert` or `export` leave it; the first marker that there is decides."""
    markers = [("config.json", lambda path: read_json(path).get("model_type") == ElmoConfig.model_type)]
    markers += [(export.marker, export.is_marker) for export in exports]
    found = next((name for name, _ in markers if (folder / name).is_file()), None)
    try:
        return any(is_marker(folder / name) for name, is_marker in markers if name == found)
    except CheckpointError:
        return False


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a hidden sibling of `output` that takes its place when the block ends well and vanishes when it fails.

    Whatever goes wrong (a full disk, an interrupt), `output` is what it was before or complete; what a process that was
    killed has left is removed by the next one. `check_output` has said that an existing folder may be replaced.
    """
    with appearing_folder(output.absolute()) as partial:
        yield partial
        _open_to_readers(partial)


def _open_to_readers(folder: Path) -> None:
    """Give a folder made privately, and what is in it, the permissions of newly made ones."""
    # Readable only by setting it; the two calls leave it as it was.
    mask = os.umask(0o077)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)

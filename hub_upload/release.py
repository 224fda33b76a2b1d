"""Release of published originals by name: download, conversion, verification and model card, as one step."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock

from elmo_hf.hub import CardFacts, SourceFile, write_card

from .catalog import CATALOG, NOT_STATED, Published, find
from .common.errors import CheckpointError
from .common.output import check_output, new_folder
from .convert import convert, sha256, without_folders
from .download import address, fetch
from .formats import EXPORTS
from .verify import VerificationReport, sentence_of, verify


@dataclass(frozen=True)
class ReleaseReport:
    """The outcome of `release`.

    Attributes:
        item: The published original.
        folder: The Transformers folder.
        verification: Comparison with the source.
        notes: Notes of the conversion.
    """

    item: Published
    folder: Path
    verification: VerificationReport
    notes: tuple[str, ...]


def home() -> Path:
    """Cache folder of originals: `elmo_hf` in the folder of the Hub client (`HF_HOME`)."""
    return Path(constants.HF_HOME) / "elmo_hf"


def is_kept(name: str) -> bool:
    """True if a published original is cached, converted and verified."""
    return (home() / name / "config.json").is_file()


def kept(name: str) -> Path:
    """Folder of a published original, which is downloaded, converted and verified if it is not cached.

    Raises:
        CheckpointError: no such original, declined by the user, or as in `release`.
        OSError: it cannot be written.
    """
    item = find(name)
    if not is_kept(item.name):
        with _alone(f"{item.name}.kept"):
            if not is_kept(item.name):  # unless another process has done it meanwhile
                release(item.name)
    return home() / item.name


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Context manager that only one process of this machine enters at a time."""
    folder = home() / ".downloads"
    folder.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(folder / f"{name}.lock"):
        yield


def release(
    name: str,
    output: str | PathLike[str] | None = None,
    *,
    base_url: str | None = None,
    softmax: bool = False,
    yes: bool = False,
    force: bool = False,
    ask: Callable[[str], str] | None = None,
) -> ReleaseReport:
    """Download a published original, convert it, verify the result against the original, and write its card.

    Args:
        name: Name in the catalog.
        output: The folder to create; by default the cache, where it is found as `elmo:NAME`.
        base_url: A mirror, `https://` or `file://`, with files `NAME/FILE`.
        softmax: Also download the softmax and vocabulary of its language model, if published.
        yes: Accept size and license without a prompt.
        force: Replace a model at `output`.
        ask: Prompt function for size and license, for environments without a terminal.

    Raises:
        CheckpointError: no such original, declined, not downloadable, damaged, or verification failed; `output` is then
            unchanged.
        OSError: it cannot be written; likewise.
    """
    item = find(name)
    if softmax and not item.softmax:
        raise CheckpointError(f"{item.name}: no softmax is published: leave --softmax out")
    folder = home() / item.name if output is None else Path(output)
    check_output(folder, force, [], EXPORTS)
    if not yes:
        _ask(item, base_url, softmax, ask)
    downloads = home() / ".downloads" / item.name
    with _alone(item.name):
        return _released(item, folder, downloads, base_url, softmax)


def _released(item: Published, folder: Path, downloads: Path, base_url: str | None, softmax: bool) -> ReleaseReport:
    wanted = (*item.files, *(item.softmax if softmax else ()))
    files = {each.role: fetch(item, each, downloads, base_url) for each in wanted}
    source = files.pop("source", None) or files["weights"]
    options: dict[str, Any] = {role: path for role, path in files.items() if path != source}
    with new_folder(folder) as partial:
        with_vocabulary = "vocabulary" in options or "weights" not in {each.role for each in item.files}
        report = convert(source, partial, **options, without_vocabulary=not with_vocabulary, card=False)
        known = {key: value for key, value in options.items() if key != "softmax"}
        verification = verify(partial, source, **known)
        if not verification.passed:
            raise CheckpointError(
                f"{item.name}: differs from its source by {verification.scaled:.2e} (tolerance "
                f"{verification.tolerance:g}); nothing of it is kept"
            )
        write_card(partial, card_facts(item, folder, [source, *options.values()], verification, report.notes))
    shutil.rmtree(downloads, ignore_errors=True)
    return ReleaseReport(item, folder, verification, report.notes)


def card_facts(
    item: Published, folder: Path, files: list[Path], verification: VerificationReport, notes: tuple[str, ...]
) -> CardFacts:
    """Facts for the card of a published original."""
    license = f"under {item.license}" if item.license else f"(license: {NOT_STATED})"
    return CardFacts(
        name=f"elmo-{item.name}",
        summary=f"{item.what[0].upper()}{item.what[1:]}, published by its authors {license}, for Transformers.",
        place=folder.absolute().name,
        license=item.license or "unknown",
        language=[item.language],
        source=[SourceFile(path.name, path.stat().st_size, sha256(path)) for path in files],
        source_url=item.documented,
        verified=sentence_of(verification),
        notes=[without_folders(note) for note in notes],
        citations=item.citations,
    )


def _ask(item: Published, base_url: str | None, softmax: bool, ask: Callable[[str], str] | None) -> None:
    size = "size not known" if item.megabytes is None else f"about {item.megabytes} MB"
    size += " and the softmax" if softmax else ""
    host = address(item, item.files[-1], base_url).partition("://")[2].partition("/")[0] or "the mirror"
    shown = f"{item.name}: {size} from {host}; license: {item.license or NOT_STATED}"
    if ask is None:
        if not sys.stdin.isatty():
            raise CheckpointError(f"{shown}. There is no terminal to ask on: elmo-hub release {item.name} --yes")
        ask = input
    if ask(f"{shown}. Fetch and convert it? [y/N] ").strip().lower() not in ("y", "yes"):
        raise CheckpointError(f"{item.name}: not fetched")


def table() -> list[tuple[str, str, str, str, str, str]]:
    """The catalog as text: name, size, license, language, cached or not, description."""
    return [
        (
            item.name,
            "?" if item.megabytes is None else f"~{item.megabytes} MB",
            item.license or NOT_STATED,
            item.language,
            "kept" if is_kept(item.name) else "",
            item.what + ("" if item.is_confirmed else " (address not confirmed)"),
        )
        for item in CATALOG.values()
    ]

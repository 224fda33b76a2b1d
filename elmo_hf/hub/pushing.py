"""Pushing a model's folder to the Hub in one commit."""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from elmo_hf.folders import without_progress_bar
from elmo_hf.model import encoder_decoder, modeling_elmo
from elmo_hf.old_code import remove_old_code
from elmo_hf.version import __version__

from .card import check_card, with_name
from .errors import HubError, patiently, told
from .files import AUTO_MAPS, CARD, WEIGHTS, publishable, read_settings, traveling_code


@dataclass(frozen=True)
class PushReport:
    """The outcome of `push`.

    Attributes:
        name: Name of the repository.
        files: Name and size in bytes of each file, including the card.
        card: Text of the card.
        deleted: Files of the repository that the commit deletes.
        url: URL of the commit or pull request; `None` after a dry run.
        commit: Hash of the commit; `None` after a dry run.
    """

    name: str
    files: tuple[tuple[str, int], ...]
    card: str
    deleted: tuple[str, ...] = ()
    url: str | None = None
    commit: str | None = None


def push(
    folder: str | PathLike[str],
    name: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    branch: str | None = None,
    pull_request: bool = False,
    message: str | None = None,
    token: str | None = None,
    dry_run: bool = False,
) -> PushReport:
    """Publish a model's folder: weights, configuration, tokenizer, code, card and metrics, and nothing else.

    Makes one commit on top of the repository's state at the start of the push. The commit also deletes code files of
    older versions and replaced weights. Large files uploaded before an interruption are not sent again.

    Args:
        folder: Model folder with a card that names license and language (`elmo-hub card`).
        name: Name of the repository, `user/name`; created if it does not exist.
        private: Make a new repository private or public; `None` for the account's default.
        revision: Branch to commit to, by default `main`; with `branch`, the start of a new branch.
        branch: Branch to commit to; created if it does not exist.
        pull_request: Open a pull request instead.
        message: Commit message.
        token: Hub token; by default that of `hf auth login` or `HF_TOKEN`.
        dry_run: Send nothing and do not contact the Hub.

    Raises:
        HubError: a fault in folder, card, name, token or network; nothing is committed then.
    """
    folder = Path(folder)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise HubError(f"{name!r}: not a repository name; expected user/name ({error})") from error
    files = publishable(folder)
    card = check_card(folder, with_name(folder, name))
    files[CARD] = card.encode()
    check_weights(folder)
    sizes = tuple((each, _size(content)) for each, content in sorted(files.items()))
    if dry_run:
        return PushReport(name, sizes, card)
    with told(name):
        return _commit(
            HfApi(token=token, library_name="elmo_hf", library_version=__version__),
            PushReport(name, sizes, card),
            files,
            private=private,
            revision=revision,
            branch=branch,
            pull_request=pull_request,
            message=message or f"Upload of {folder.absolute().name} with elmo_hf {__version__}",
        )


def _commit(
    api: HfApi,
    report: PushReport,
    files: dict[str, Path | bytes],
    *,
    private: bool | None,
    revision: str | None,
    branch: str | None,
    pull_request: bool,
    message: str,
) -> PushReport:
    try:
        patiently(ModelCard(report.card).validate)
    except ValueError as error:
        raise HubError(f"{CARD}: the Hub refuses its metadata: {_messages(str(error))}") from error
    name = patiently(lambda: api.create_repo(report.name, private=private, exist_ok=True)).repo_id
    if branch is not None:
        patiently(lambda: api.create_branch(name, branch=branch, revision=revision, exist_ok=True))
    target = branch or revision
    info = patiently(lambda: api.model_info(name, revision=target))
    deleted = _outdated(api, name, str(info.sha), {each.rfilename for each in info.siblings or ()}, files)
    operations: list[Any] = [CommitOperationAdd(each, content) for each, content in files.items()]
    operations += [CommitOperationDelete(each) for each in deleted]
    commit = patiently(
        lambda: api.create_commit(
            name,
            operations,
            commit_message=message,
            revision=target,
            create_pr=pull_request,
            parent_commit=info.sha,
        )
    )
    return PushReport(
        name, report.files, report.card, tuple(deleted), str(commit.pr_url or commit.commit_url), commit.oid
    )


def _outdated(api: HfApi, name: str, head: str, there: set[str], files: Iterable[str]) -> list[str]:
    """Files of a repository that the new files replace: code of other versions, weights in other formats.

    Raises:
        HubError: the repository holds another kind of model.
    """
    with tempfile.TemporaryDirectory(prefix="elmo_hf-") as scratch:
        folder = Path(scratch)
        for each in sorted(there):
            if each == "config.json" or (each.endswith(".py") and "/" not in each):
                patiently(partial(api.hf_hub_download, name, each, revision=head, local_dir=folder))
        if "config.json" in there:
            kind = read_settings(folder / "config.json").get("model_type")
            if kind not in AUTO_MAPS:
                raise HubError(f"{name}: holds a model of another kind, {kind!r}: choose another name")
        code = traveling_code(folder)
        before = {path.name for path in folder.glob("*.py")}
        remove_old_code(folder, "model")
        code |= before - {path.name for path in folder.glob("*.py")}
    weights = {each for each in there if WEIGHTS.fullmatch(each)}
    return sorted((code | weights) - set(files))


def check_weights(folder: Path) -> None:
    """Load the model as its users will.

    Raises:
        HubError: weights that are damaged, missing, superfluous, or of shapes that do not match the configuration.
    """
    config = read_settings(folder / "config.json")
    name = (config.get("architectures") or [None])[0]
    if config["model_type"] == "encoder-decoder":
        name = "ElmoEncoderDecoderModel"
    kind: Any = getattr(encoder_decoder, str(name), None) or getattr(modeling_elmo, str(name), None)
    if kind is None:
        raise HubError(f"{folder / 'config.json'}: architectures names {name!r}, which is not a class of this package")
    try:
        with without_progress_bar():
            _, info = kind.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    except Exception as error:  # readers raise all kinds of exceptions for damaged files
        raise HubError(
            f"{folder}: cannot be loaded ({' '.join(str(error).split())}): weights and config.json must be of one model"
        ) from error
    # A language model's folder has no mixes; they are newly initialized.
    missing = sorted(each for each in info["missing_keys"] if "scalar_mixes." not in each)
    for what, names in (("lacks", missing), ("holds, besides those of the model,", sorted(info["unexpected_keys"]))):
        if names:
            raise HubError(
                f"{folder}: {what} {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: weights and "
                "config.json must be of one model"
            )


def _messages(answer: str) -> str:
    """The Hub's messages about an invalid card."""
    try:
        return "; ".join(str(each["message"]) for each in json.loads(answer)["errors"])
    except (ValueError, LookupError, TypeError):
        return " ".join(answer.split())


def _size(content: Path | bytes) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)

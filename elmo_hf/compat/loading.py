"""Loading models as the old programs name them: original files, their URLs, or a folder of this package."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from elmo_hf.atomic import appearing
from elmo_hf.inference.loading import Name, check_sentences, load_model, load_tokenizer
from elmo_hf.model.modeling_elmo import ElmoForPreTraining, ElmoModel
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer


def read_bilm(
    source: Name, weights: Name | None = None, device: torch.device | str | None = "cpu"
) -> tuple[ElmoModel, ElmoTokenizer]:
    """Load the biLM of an original or of a folder, in evaluation mode without gradients, and its tokenizer.

    Args:
        source: an original's `options.json`, a folder or ZIP in an original's format, a folder of this package, or a
            Hub name.
        weights: the HDF5 weights that belong to `options.json`; otherwise `None`.
        device: device of the model; `None` for the GPU if there is one.

    Raises:
        OSError, ValueError: as in `hub_upload.convert` for an original, and in `from_pretrained` for a folder.
    """
    model, tokenizer = _read(source, weights, ElmoModel, device)
    # The old classes mix layers themselves and have no internal dropout.
    model.requires_grad_(False)
    for name in ("lstm_input_dropout", "representation_dropout"):
        setattr(model.config, name, 0.0)
    model.dropout.p = 0.0
    return model.eval(), tokenizer


def read_language_model(source: Name) -> tuple[ElmoForPreTraining, ElmoTokenizer]:
    """Load the biLM with its softmax and vocabulary; arguments and errors as in `read_bilm`."""
    model, tokenizer = _read(source, None, ElmoForPreTraining, None)
    return model.eval(), tokenizer


def lists_of_words(sentences: Iterable[Sequence[str]]) -> list[list[str]]:
    """The sentences as a list. Raises `TypeError` for a text, whose letters would be taken for words."""
    found = []
    for number, words in enumerate(check_sentences(sentences)):
        if isinstance(words, str):
            raise TypeError(f"sentence {number} is the text {words!r:.60}: expected a list of words")
        found.append(words)
    return found


def _read(
    source: Name, weights: Name | None, kind: type[Any], device: torch.device | str | None
) -> tuple[Any, ElmoTokenizer]:
    if not _is_original(source, weights):
        return load_model(source, kind, device), load_tokenizer(None, source)
    # Imported here because the converter itself depends on this package.
    from hub_upload import convert

    options = None if weights is None else _local(source)
    original = _local(source if weights is None else weights)
    # Memory-mapped weights stay readable after their file is deleted; Windows keeps the file until the process ends.
    with tempfile.TemporaryDirectory(prefix="elmo_hf-", ignore_cleanup_errors=True) as folder:
        output = Path(folder) / "model"
        convert(
            original,
            output,
            options=options,
            # With two files named, the model reads characters; a vocabulary next to them is ignored.
            without_vocabulary=weights is not None,
            without_softmax=kind is ElmoModel,
            elmo_only=True,
            remote_code=False,
            card=False,
        )
        return load_model(output, kind, device), load_tokenizer(None, output)


def _is_original(source: Name, weights: Name | None) -> bool:
    """True if the files have to be converted. A folder of this package may be given both as options and as weights."""
    if weights is not None and os.fspath(weights) != os.fspath(source):
        return True
    path = Path(source)
    if path.is_file() or _is_address(source):
        return True
    # An existing folder that was not saved by this package. Names of nothing that exists are Hub names.
    return path.is_dir() and not ((path / "config.json").is_file() and (path / "tokenizer_config.json").is_file())


def _is_address(source: Name) -> bool:
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def _local(source: Name) -> Path:
    """Path of the file itself, or of a URL's copy in PyTorch's cache folder."""
    if not _is_address(source):
        return Path(source)
    address = os.fspath(source)
    name = address.rpartition("/")[2] or "file"
    path = Path(torch.hub.get_dir()) / "elmo_hf" / hashlib.sha256(address.encode()).hexdigest()[:16] / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with appearing(path) as aside:
            try:
                torch.hub.download_url_to_file(address, str(aside))
            except OSError as error:
                raise OSError(
                    f"{address} cannot be fetched: {error}. Fetch the file by other means, and give its path"
                ) from error
    return path

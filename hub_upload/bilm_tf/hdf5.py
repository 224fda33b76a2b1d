"""bilm-tf's HDF5 weights, as published by AI2, simple_elmo and NLPL and read by AllenNLP.

Source: bilm-tf `training.dump_weights`, `model.dump_token_embeddings`; AllenNLP `modules/elmo.py`.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import h5py

from ..common.errors import CheckpointError, listing
from ..common.source import StoredTensor

SOFTMAX = {"softmax/W", "softmax/b"}
# Prefixes of LSTM layer names: in a model with the forward direction only, and in all models.
ONE_DIRECTION = ("rnn/", "lm/rnn/")
RECURRENT = ("RNN_", "lm/RNN_", *ONE_DIRECTION)

Content = Literal["biLM", "softmax", "word biLM", "token vectors", "other"]


def open_hdf5(path: Path, stack: ExitStack) -> h5py.File:
    """Open a file for reading until `stack` closes.

    Raises:
        CheckpointError: the file is missing, truncated, or not HDF5.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        return stack.enter_context(h5py.File(path, "r"))
    except OSError as error:
        raise CheckpointError(f"{path}: not a complete HDF5 file ({error}); fetch it again") from None


def hdf5_tensors(file: h5py.File, path: Path) -> dict[str, StoredTensor]:
    """All datasets of an open file, by full name.

    Raises:
        CheckpointError: damaged structure, or a dataset whose values are in another file.
    """
    tensors: dict[str, StoredTensor] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        # Such a dataset could copy any local file into the model.
        if item.external or item.is_virtual:
            raise CheckpointError(f"{path}: {name!r} refers to another file, which no original program writes")
        shape = tuple(item.shape or ())
        stored = item.id.get_storage_size()
        tensors[name] = StoredTensor(str(path), name, shape, str(item.dtype), _reader(item), stored)

    try:
        file.visititems(visit)
    except CheckpointError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged HDF5 file ({error}); fetch it again") from error
    return tensors


def _reader(dataset: h5py.Dataset) -> Callable[[], Any]:
    return lambda: dataset[...]


def content_of(names: set[str]) -> Content:
    """The kind of a file, judged by the names in it."""
    recurrent = any(name.startswith(RECURRENT) for name in names)
    if recurrent and {"embedding", "lm/embedding"} & names:
        return "word biLM"
    if recurrent or {"char_embed", "lm/char_embed"} & names:
        return "biLM"
    if names & SOFTMAX:
        return "softmax"
    return "token vectors" if names == {"embedding"} else "other"


def inspect_hdf5(path: Path) -> Content:
    """The kind of the file at `path`; "other" for HDF5 files of other programs.

    Raises:
        CheckpointError: not a readable HDF5 file.
    """
    with ExitStack() as stack:
        return content_of(set(hdf5_tensors(open_hdf5(path, stack), path)))


def refuse_unsupported(content: Content, file: str) -> None:
    """Raise `CheckpointError` for recognized but unsupported files."""
    if content == "token vectors":
        raise CheckpointError(
            f"{file}: word vectors dumped from a language model, not the language model itself; give that as the "
            "source and this file with --word-vectors"
        )
    if content == "softmax":
        raise CheckpointError(
            f"{file}: holds a softmax only; give the language model as the source and this file with --softmax"
        )


def bilm_tensors(weights: Path, softmax: Path | None, stack: ExitStack) -> dict[str, StoredTensor]:
    """The tensors of a biLM file and, if given, of its separate softmax file.

    Raises:
        CheckpointError: one of the files has unexpected content.
    """
    tensors = hdf5_tensors(open_hdf5(weights, stack), weights)
    content = content_of(set(tensors))
    refuse_unsupported(content, str(weights))
    if content not in ("biLM", "word biLM"):
        raise CheckpointError(
            f"{weights}: not an ELMo weight file: no `char_embed` or `embedding` with `RNN_*` in it, but "
            f"{listing(sorted(tensors)) or 'nothing'}"
        )
    if softmax is not None:
        extra = hdf5_tensors(open_hdf5(softmax, stack), softmax)
        # A word model whose softmax shares the embedding stores only the bias.
        if set(extra) != SOFTMAX and not (content == "word biLM" and set(extra) == {"softmax/b"}):
            raise CheckpointError(
                f"{softmax}: expected softmax/W and softmax/b, found {listing(sorted(extra)) or 'nothing'}"
            )
        if set(extra) & set(tensors):
            raise CheckpointError(f"{weights} holds a softmax already; leave --softmax {softmax} out")
        tensors.update(extra)
    return tensors

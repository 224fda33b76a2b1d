"""Recognition of checkpoints by content."""

import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from .allennlp import reader as allennlp
from .bilm_tf import files as bilm_tf
from .bilm_tf.tensorflow_checkpoint import is_checkpoint_prefix
from .common.archives import is_tar, single_root, unpack
from .common.errors import CheckpointError
from .common.options import read_json
from .common.source import Place, Source
from .formats import FORMATS

# Tar is tried first: a tar with a stored ZIP near its end would be taken for a ZIP.
ARCHIVES = ((is_tar, allennlp.wanted_member), (zipfile.is_zipfile, bilm_tf.wanted_member))


@contextmanager
def open_source(
    source: Path,
    *,
    options: Path | None = None,
    weights: Path | None = None,
    vocabulary: Path | None = None,
    softmax: Path | None = None,
    elmo_only: bool = False,
    word_vectors: Path | None = None,
) -> Iterator[Source]:
    """Open an original checkpoint for reading; unpacked files are removed at the end of the block.

    Args:
        source: Folder, archive, weight file, or prefix of a TensorFlow checkpoint.
        options, weights, vocabulary, softmax: Files that are elsewhere or should not be guessed.
        elmo_only: Open only the ELMo of a task model.
        word_vectors: A table that replaces a bilm-tf model's characters.

    Raises:
        CheckpointError: missing, damaged, not recognized, or recognized and not supported.
    """
    for given in (options, weights, vocabulary, softmax, word_vectors):
        if given is not None and not given.is_file() and not is_checkpoint_prefix(given):
            raise CheckpointError(f"{given}: no such file")
    # The result of an AllenNLP training run.
    archive = source / "model.tar.gz"
    if archive.is_file() and weights is None and allennlp.weights_of_folder(source) is None:
        source = archive
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="elmo-hub-") as scratch:
        folder = Path(scratch, "archive")
        try:
            yield _open(Place(source, options, weights, vocabulary, softmax, elmo_only, word_vectors, stack), folder)
        except CheckpointError as error:
            # Name the archive, not the temporary folder.
            raise CheckpointError(str(error).replace(str(folder), str(source))) from error


def _open(place: Place, unpacked: Path) -> Source:
    path = place.path
    if path.is_dir():
        _refuse_converted(path)
    for room in FORMATS.values():
        if (source := room.open(place)) is not None:
            if not room.takes_word_vectors:
                place.refuse(
                    path, "only models of bilm-tf read a table of words in place of characters", "word_vectors"
                )
            return source
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    for is_archive, wanted in ARCHIVES:
        if is_archive(path):
            unpacked.mkdir()
            unpack(path, unpacked, wanted)
            return _open(replace(place, path=single_root(unpacked)), unpacked)
    raise CheckpointError(
        f"{path}: not recognized: neither HDF5 weights, a TensorFlow checkpoint, a ZIP, nor an AllenNLP archive "
        "(model.tar.gz); if it is one of them, it is damaged: fetch it again"
    )


def _refuse_converted(folder: Path) -> None:
    """Raise `CheckpointError` for a Transformers folder."""
    config = folder / "config.json"
    if config.is_file():
        try:
            model_type = read_json(config).get("model_type")
        except CheckpointError:
            return  # Jsonnet or something else: left to the readers.
        if model_type is not None:
            raise CheckpointError(
                f"{folder}: a Transformers model already (model_type {model_type!r}); expected an original checkpoint"
            )

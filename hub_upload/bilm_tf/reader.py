"""Reader of bilm-tf models: dumped weights or a TensorFlow checkpoint, with their options."""

import h5py

from ..common.errors import CheckpointError
from ..common.options import read_json
from ..common.source import Place, Source
from ..common.vocabulary import Vocabulary
from .files import ModelFiles, files_of_folder, files_of_weights
from .hdf5 import bilm_tensors, content_of, refuse_unsupported
from .options import is_word_model
from .tensorflow_checkpoint import INDEX, is_checkpoint_prefix, tensorflow_tensors
from .word_vectors import with_word_vectors


def open_place(place: Place) -> Source | None:
    """Open a folder, an HDF5 file, or the prefix or index of a checkpoint; `None` for another file.

    Raises:
        CheckpointError: a folder without a model, or damaged or contradictory files.
    """
    path = place.path
    given = ModelFiles(place.weights, place.options, place.vocabulary, place.softmax)
    if path.is_dir():
        return _open(files_of_folder(path, given), place)
    if path.suffix == INDEX and path.is_file():
        path = path.with_suffix("")
    if is_checkpoint_prefix(path) or h5py.is_hdf5(path) or (path.is_file() and path.suffix in (".hdf5", ".h5")):
        return _open(files_of_weights(path, given), place)
    return None


def _open(files: ModelFiles, place: Place) -> Source:
    # Both were found, or an error was raised.
    assert files.weights is not None
    assert files.options is not None
    if files.is_tensorflow:
        tensors = tensorflow_tensors(files.weights)
        refuse_unsupported(content_of(set(tensors)), str(files.weights))
        place.refuse(files.weights, "a checkpoint brings its own softmax", "softmax")
    else:
        tensors = bilm_tensors(files.weights, files.softmax, place.stack)
    options = read_json(files.options)
    reads_words = content_of(set(tensors)) == "word biLM"
    if is_word_model(options) != reads_words:
        kinds = ("a character CNN", "word input and no character CNN")
        raise CheckpointError(
            f"{files.options}: describes a model with {kinds[not reads_words]}, but {files.weights} holds one with "
            f"{kinds[reads_words]}; give its own options with --options"
        )
    kind = "TensorFlow checkpoint of bilm-tf" if files.is_tensorflow else "bilm-tf weights"
    parts = [files.weights, files.options, files.vocabulary, files.softmax]
    source = Source(
        description=f"{kind}: {', '.join(part.name for part in parts if part is not None)}",
        layout="bilm-tf",
        file=str(files.weights),
        tensors=tensors,
        options=options,
        options_file=str(files.options),
        vocabulary=Vocabulary(files.vocabulary) if files.vocabulary is not None else None,
        notes=list(files.notes),
    )
    return source if place.word_vectors is None else with_word_vectors(source, place.word_vectors, place.stack)

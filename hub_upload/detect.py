"""What is this? Recognise a checkpoint by its content and open it."""

import json
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import h5py

from .allennlp import reader as allennlp_archive
from .bilm_tf import files as nlpl
from .bilm_tf.files import ModelFiles
from .bilm_tf.hdf5 import bilm_tensors, content_of, refuse_unsupported
from .bilm_tf.tensorflow_checkpoint import is_checkpoint_prefix, tensorflow_tensors
from .common.archives import is_tar, single_root, unpack
from .common.errors import CheckpointError
from .common.options import is_word_model, read_json
from .common.source import Source
from .common.torch_file import read_torch_file
from .common.vocabulary import Vocabulary
from .many_languages import reader as elmoformanylangs
from .transformer_lm import reader as allennlp_language_model


@contextmanager
def open_source(
    source: Path,
    *,
    options: Path | None = None,
    weights: Path | None = None,
    vocabulary: Path | None = None,
    softmax: Path | None = None,
) -> Iterator[Source]:
    """Open an original checkpoint for reading; what was unpacked for it vanishes when the block ends.

    Args:
        source: Folder, archive, weight file, or prefix of a TensorFlow checkpoint.
        options, weights, vocabulary, softmax: Files that are elsewhere or not to be guessed.

    Raises:
        CheckpointError: missing, damaged, not recognised, or recognised and not supported.
    """
    for given in (options, weights, vocabulary, softmax):
        if given is not None and not given.is_file() and not is_checkpoint_prefix(given):
            raise CheckpointError(f"{given}: no such file")
    # The result of an AllenNLP training run.
    archive = source / "model.tar.gz"
    if archive.is_file() and weights is None and allennlp_archive.weights_of_folder(source) is None:
        source = archive
    given_files = ModelFiles(weights=weights, options=options, vocabulary=vocabulary, softmax=softmax)
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="elmo-hub-") as scratch:
        try:
            yield _open(source, given_files, stack, Path(scratch))
        except CheckpointError as error:
            # The user knows the archive, not where it was unpacked.
            raise CheckpointError(str(error).replace(str(Path(scratch, "archive")), str(source))) from error


def _open(source: Path, given: ModelFiles, stack: ExitStack, scratch: Path) -> Source:
    if source.is_dir():
        return _open_folder(source, given, stack)
    if is_checkpoint_prefix(source):
        return _open_bilm(nlpl.files_of_weights(source, given), stack)
    if not source.exists():
        raise CheckpointError(f"{source}: no such file or folder")
    if source.suffix == ".index" and is_checkpoint_prefix(source.with_suffix("")):
        return _open_bilm(nlpl.files_of_weights(source.with_suffix(""), given), stack)
    if h5py.is_hdf5(source) or source.suffix in (".hdf5", ".h5"):
        return _open_bilm(nlpl.files_of_weights(source, given), stack)
    if source.suffix == ".pkl" and elmoformanylangs.is_model_folder(source.parent):
        return _open_many_langs(source.parent, given)
    if source.suffix == ".th":
        return _open_allennlp(source.parent, source, given)
    # A tar first: one may hold a stored ZIP near its end, by which it would pass for a ZIP.
    for is_archive, wanted in (
        (is_tar, allennlp_archive.wanted_member),
        (zipfile.is_zipfile, nlpl.wanted_member),
    ):
        if is_archive(source):
            folder = scratch / "archive"
            folder.mkdir()
            unpack(source, folder, wanted)
            return _open_folder(single_root(folder), given, stack)
    raise CheckpointError(
        f"{source}: not recognised: neither HDF5 weights, a TensorFlow checkpoint, a ZIP, nor an AllenNLP archive "
        "(model.tar.gz); if it is one of them, it is damaged: fetch it again"
    )


def _open_folder(folder: Path, given: ModelFiles, stack: ExitStack) -> Source:
    _refuse_other_folders(folder)
    if given.weights is None and elmoformanylangs.is_model_folder(folder):
        return _open_many_langs(folder, given)
    state_dict = allennlp_archive.weights_of_folder(folder) if given.weights is None else None
    if state_dict is not None:
        return _open_allennlp(folder, state_dict, given)
    if given.weights is not None and given.weights.suffix == ".th":
        return _open_allennlp(folder, given.weights, given)
    return _open_bilm(nlpl.files_of_folder(folder, given), stack)


def _refuse_other_folders(folder: Path) -> None:
    """Recognise what is not to be converted, or not yet."""
    config = folder / "config.json"
    if config.is_file():
        try:
            model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
        except (ValueError, AttributeError):
            return  # Jsonnet, or nothing of ours: the readers will say.
        if model_type is not None:
            raise CheckpointError(
                f"{folder}: a Transformers model already (model_type {model_type!r}); expected an original checkpoint"
            )


def _open_allennlp(folder: Path, weights: Path, given: ModelFiles) -> Source:
    state = read_torch_file(weights)
    is_language_model = allennlp_language_model.is_language_model(state)
    if given.softmax is not None:
        has = "brings its own softmax" if is_language_model else "has no softmax"
        raise CheckpointError(f"{weights}: an AllenNLP model {has}; leave --softmax {given.softmax} out")
    if is_language_model:
        return allennlp_language_model.open_language_model(folder, weights, state, given.options, given.vocabulary)
    opened = allennlp_archive.open_allennlp(folder, weights, state, given.options)
    # The archive's own vocabulary is the task's.
    return replace(opened, vocabulary=Vocabulary(given.vocabulary) if given.vocabulary is not None else None)


def _open_many_langs(folder: Path, given: ModelFiles) -> Source:
    for name, path in (("--vocabulary", given.vocabulary), ("--softmax", given.softmax)):
        if path is not None:
            raise CheckpointError(f"{folder}: an ELMoForManyLangs model has its own files; leave {name} {path} out")
    return elmoformanylangs.open_folder(folder, given.options)


def _open_bilm(files: ModelFiles, stack: ExitStack) -> Source:
    # Both are found, or an error was raised.
    assert files.weights is not None
    assert files.options is not None
    if files.is_tensorflow:
        tensors, layout = tensorflow_tensors(files.weights), "tensorflow"
        refuse_unsupported(content_of(set(tensors)), str(files.weights))
        if files.softmax is not None:
            raise CheckpointError(
                f"{files.weights}: a checkpoint brings its own softmax; leave --softmax {files.softmax} out"
            )
    else:
        tensors, layout = bilm_tensors(files.weights, files.softmax, stack), "bilm-tf"
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
    return Source(
        description=f"{kind}: {', '.join(part.name for part in parts if part is not None)}",
        layout="tensorflow" if layout == "tensorflow" else "bilm-tf",
        file=str(files.weights),
        tensors=tensors,
        options=options,
        options_file=str(files.options),
        vocabulary=Vocabulary(files.vocabulary) if files.vocabulary is not None else None,
        notes=list(files.notes),
    )

"""Replacement of a model's character input by a table of word vectors.

bilm-tf dumps such a table from a model (`dump_token_embeddings`) and reads it with `use_character_inputs=False`;
AllenNLP's `create_elmo_embeddings_from_vocab` writes one as text.
"""

from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import h5py

from elmo_hf import read_word_vectors

from ..common.errors import CheckpointError, listing
from ..common.source import Source, StoredTensor
from ..common.vocabulary import Vocabulary
from .hdf5 import RECURRENT, SOFTMAX, content_of, hdf5_tensors, open_hdf5

TABLE = "embedding"
# Name of the unknown word in AllenNLP, and in bilm-tf.
UNKNOWN, ITS_NAME = "@@UNKNOWN@@", "<UNK>"


class _TableVocabulary(Vocabulary):
    """A vocabulary whose unknown word has bilm-tf's name."""

    @cached_property
    def lines(self) -> list[str]:
        return [ITS_NAME if line == UNKNOWN else line for line in super().lines]


def with_word_vectors(source: Source, path: Path, stack: ExitStack) -> Source:
    """Make a model read words by their rows in a table.

    Args:
        source: The model, with the vocabulary whose lines are the table's rows.
        path: The table: HDF5, or words and vectors in GloVe's or word2vec's format, which may contain other words.
        stack: Closes the opened files.

    Raises:
        CheckpointError: no vocabulary, another kind of file, or words without a vector.
    """
    if source.vocabulary is None:
        raise CheckpointError(
            f"{path}: a table without its words: give the vocabulary whose lines are its rows with --vocabulary"
        )
    words = source.vocabulary.words
    table = _dumped(path, stack) if h5py.is_hdf5(path) else _text(path, words, source.vocabulary.file)
    tensors = {name: value for name, value in source.tensors.items() if name.startswith(RECURRENT)}
    softmax = {name: value for name, value in source.tensors.items() if name.removeprefix("lm/") in SOFTMAX}
    notes = list(source.notes)
    if all(value.shape[:1] == (len(words),) for value in softmax.values()):
        tensors |= softmax
    else:
        notes.append(f"the softmax does not have one row for each of the {len(words)} words of the table: left out")
    # Names in a checkpoint have its scope as prefix.
    scope = "lm/" if any(name.startswith("lm/") for name in tensors) else ""
    return replace(
        source,
        description=f"{source.description}, {path.name}",
        tensors={**tensors, scope + TABLE: table},
        options={name: value for name, value in source.options.items() if name != "char_cnn"},
        vocabulary=_TableVocabulary(source.vocabulary.file),
        notes=notes,
    )


def _dumped(path: Path, stack: ExitStack) -> StoredTensor:
    tensors = hdf5_tensors(open_hdf5(path, stack), path)
    if content_of(set(tensors)) != "token vectors":
        raise CheckpointError(
            f"{path}: expected the dataset {TABLE!r} of a dump of token embeddings, found {listing(sorted(tensors))}"
        )
    return tensors[TABLE]


def _text(path: Path, words: list[str], vocabulary: Path) -> StoredTensor:
    try:
        found = read_word_vectors(path, words, lowercase=False, progress=False)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    missing = [word for word, has_vector in zip(words, found.found, strict=True) if not has_vector]
    if missing:
        raise CheckpointError(
            f"{path}: no vectors of {listing(missing)}, which {vocabulary} lists; give the words of the table alone, "
            "with <S>, </S> and <UNK> among them"
        )
    return StoredTensor(str(path), TABLE, found.vectors.shape, "float32", lambda: found.vectors)

"""Embedding of batches of columns: a callable for data libraries with several processes and machines.

It works in `datasets.Dataset.map(batched=True)`, `ray.data.Dataset.map_batches` and Spark's `mapInArrow`.
"""

import os
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np

from elmo_hf.corpus.shards import Record
from elmo_hf.corpus.table_shards import import_pyarrow
from elmo_hf.inference.embedding import Layers, Vectors
from elmo_hf.inference.loading import Name

from .shard_embedding import ShardEmbedder, WorkerOptions
from .writers import arrow_vectors, arrow_words

WORDS, VECTORS = "words", "vectors"


class BatchEmbedder:
    """Callable that adds the words of each sentence and their contextual vectors to a batch of columns.

    Each process loads the model on the first call, once for all equal embedders; a pickle holds only the settings.
    Sentences are read independently, as in [`embed_corpus`], and rows keep their order.

    Args:
        model: folder of a checkpoint, or its name on the Hub, available to every process; by default the shipped model.
        layers: as in [`embed`].
        dtype: dtype of the vectors, `"float32"` or `"float16"`.
        text_column: column of texts, or of lists of words, which are not split.
        pre_tokenization: rule that splits texts into words, `"whitespace"` or `"ptb"`; by default the rule for lines of
            the model's corpus.
        batch_words: words per batch, including padding; by default as in `embed`.
        chunk_words: longer sentences are read in chunks of this many words, with the same result.
        device: device of the model; by default the GPU if the process has one.

    Raises:
        TypeError: the model is not a folder or name: a loaded model cannot be sent to other processes.
        ValueError: an invalid option.
    """

    def __init__(
        self,
        model: Name | None = None,
        *,
        layers: Layers = "mix",
        dtype: Literal["float32", "float16"] = "float32",
        text_column: str = "text",
        pre_tokenization: str | None = None,
        batch_words: int | None = None,
        chunk_words: int = 2048,
        device: str | None = None,
    ) -> None:
        if model is not None and not isinstance(model, str | os.PathLike):
            raise TypeError(
                f"model is of type {type(model).__name__}: expected a checkpoint's folder or name, which each process "
                "loads by itself. Save the model with save_pretrained, and give the folder"
            )
        # Other processes may have other working directories.
        place = None if model is None else os.fspath(model)
        place = os.path.abspath(place) if place is not None and os.path.isdir(place) else place
        self.options = WorkerOptions(place, layers, False, dtype, pre_tokenization, batch_words, chunk_words, device)
        self.text_column = text_column
        self._embedder: ShardEmbedder | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_embedder": None}

    def __call__(self, batch: Any) -> Any:
        """Return the batch, in its own type, with the columns `words` and `vectors`.

        Args:
            batch: a mapping from names to lists or arrays, a `pyarrow.Table` or a `pyarrow.RecordBatch`.

        Returns:
            The batch in its own type. In a dictionary, each element of `vectors` is a NumPy array (words, 2 *
            projection_size), or (layers, words, 2 * projection_size) for all layers. In a table, it is a list of
            fixed-size lists; in a record batch, a list of lists without a fixed size, since Spark rejects fixed ones.

        Raises:
            TypeError: another type of batch.
            ValueError: no such column; a row that is neither text nor words; vectors exceed float16.
            OSError: the model cannot be loaded.
        """
        if isinstance(batch, Mapping):
            return self._with_arrays(batch)
        arrow = import_pyarrow()
        if isinstance(batch, arrow.Table | arrow.RecordBatch):
            return self._with_lists(batch)
        raise TypeError(
            f"batch is of type {type(batch).__name__}: expected columns by name, a pyarrow.Table or a "
            "pyarrow.RecordBatch. With Ray ask for batch_format='numpy' or 'pyarrow'"
        )

    def _with_arrays(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        column = self._column(batch, list(batch))
        words, vectors = self._embedded([each.tolist() if isinstance(each, np.ndarray) else each for each in column])
        if isinstance(column, np.ndarray):  # columns stay arrays; of objects, since sentences differ in length
            return {**batch, WORDS: _objects(words), VECTORS: _objects(vectors)}
        return {**batch, WORDS: words, VECTORS: vectors}

    def _with_lists(self, batch: Any) -> Any:
        column = self._column(batch, batch.schema.names)
        words, arrays = self._embedded(column.to_pylist())
        kind = self._opened().vector_type
        vectors = arrow_vectors(arrays, kind)
        if isinstance(batch, import_pyarrow().RecordBatch):
            vectors = vectors.cast(kind.arrow_type_of_lists)
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        columns |= {WORDS: arrow_words(words), VECTORS: vectors}
        return type(batch).from_arrays(list(columns.values()), names=list(columns))

    def _column(self, batch: Any, names: list[str]) -> Any:
        if self.text_column not in names:
            listed = ", ".join(map(repr, names)) or "none at all"
            raise ValueError(
                f"no column {self.text_column!r}, found {listed}. Name the one that holds text: text_column"
            )
        return batch[self.text_column]

    def _embedded(self, sentences: list[Any]) -> tuple[list[list[str]], list[Vectors]]:
        records = [Record(None, self._checked(*each), partial(self._where, each[0])) for each in enumerate(sentences)]
        words, vectors = [], []
        for entry, parts in self._opened().embedded(records):
            words.append(entry.words)
            vectors.append(np.concatenate(list(parts), axis=-2))
        return words, vectors

    def _checked(self, number: int, value: Any) -> str | list[str]:
        if isinstance(value, list | tuple) and all(isinstance(word, str) for word in value):
            return list(value)
        if not isinstance(value, str):
            raise ValueError(f"{self._where(number)} holds {value!r:.60}: expected a text, or a list of words")
        return str(value)

    def _where(self, number: int) -> str:
        return f"column {self.text_column!r}, row {number} of the batch"

    def _opened(self) -> ShardEmbedder:
        if self._embedder is None:
            self._embedder = _opened(self.options)
        return self._embedder


@lru_cache(maxsize=1)  # data libraries unpickle the same embedder many times in a process
def _opened(options: WorkerOptions) -> ShardEmbedder:
    return options.open("a model that reads words alone, or embed_corpus with pos_column")


def _objects(values: list[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    for number, value in enumerate(values):  # one by one: NumPy would join values of the same shape
        array[number] = value
    return array

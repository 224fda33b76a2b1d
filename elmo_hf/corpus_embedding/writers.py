"""Files of vectors: HDF5 as the original programs write it, Parquet, safetensors.

A writer makes the file of one shard. It receives the list of all sentences first, then the vectors of each in order, as
a whole or in consecutive parts.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from elmo_hf.corpus.shards import Record
from elmo_hf.corpus.table_shards import import_pyarrow
from elmo_hf.corpus.tagged_text import Sentence, TaggedSentence, Tags
from elmo_hf.inference.embedding import Vectors

Format = Literal["hdf5", "parquet", "safetensors"]

# Further datasets in HDF5; the first is AllenNLP's. Texts are JSON, since strings in HDF5 cannot contain NUL.
SENTENCE_INDEX, IDENTIFIERS, TEXTS = "sentence_to_index", "ids", "texts"
RECORD = "elmo_hf"

_ROW_GROUP_BYTES = 2**26
# Offsets and pages of a Parquet file are 32-bit numbers in many readers.
_LARGEST_ROW = 2**30


@dataclass(frozen=True)
class Entry:
    """A sentence of a shard.

    Attributes:
        number: number of the sentence in the whole input, which is also its name.
        record: record of the input.
        words: words of the sentence, without boundaries.
        length: number of its vectors.
        size: number of words as counted by the plan.
        tags: POS tags of the words, if there are any.
    """

    number: int
    record: Record
    words: list[str]
    length: int
    size: int
    tags: Tags | None = None

    @property
    def identifier(self) -> str | None:
        """Name of the sentence in the input; `None` without one."""
        return self.record.identifier

    @property
    def where(self) -> str:
        """File and line, for messages."""
        return self.record.where

    @property
    def text(self) -> str:
        return text_of(self.record.sentence)


def text_of(sentence: Sentence) -> str:
    """Key of a sentence in AllenNLP's index: the stripped text, or words joined by spaces."""
    if isinstance(sentence, str):
        return sentence.strip()
    return " ".join(sentence.words if isinstance(sentence, TaggedSentence) else sentence)


@dataclass(frozen=True)
class VectorType:
    """Type of all vectors: `layers` (`None` for a single one), `width`, `dtype`."""

    layers: int | None
    width: int
    dtype: np.dtype[Any]

    def shape(self, length: int) -> tuple[int, ...]:
        """(words, width), or (layers, words, width)."""
        return (length, self.width) if self.layers is None else (self.layers, length, self.width)

    @property
    def arrow_type(self) -> Any:
        """Arrow type: lists of words, or of layers of words, with `width` numbers each."""
        return self._lists(self.width)

    @property
    def arrow_type_of_lists(self) -> Any:
        """Arrow type like `arrow_type`, with variable-size lists."""
        return self._lists(-1)

    def _lists(self, width: int) -> Any:
        arrow = import_pyarrow()
        words = arrow.list_(arrow.list_(arrow.from_numpy_dtype(self.dtype), width))
        return words if self.layers is None else arrow.list_(words)


class ShardWriter(ABC):
    """Writer of the file of one shard.

    Args:
        path: path of the file.
        entries: all sentences of the shard.
        vectors: type of the vectors.
        record: metadata of the file: numbers of words and sentences.
    """

    _file: Any

    def __init__(self, path: Path, entries: Sequence[Entry], vectors: VectorType, record: dict[str, Any]) -> None:
        self.path, self.entries, self.vectors, self.record = path, entries, vectors, record

    @abstractmethod
    def write(self, entry: Entry, parts: Iterable[Vectors]) -> None:
        """Write the vectors of the next sentence, in consecutive parts."""

    def close(self) -> None:
        """Close the file; from an unfinished one, the sentences written so far can be read."""
        self._file.close()


class Hdf5Writer(ShardWriter):
    """One dataset per sentence, named by its number; texts and identifiers for the joining of the shards."""

    def __init__(self, path: Path, entries: Sequence[Entry], vectors: VectorType, record: dict[str, Any]) -> None:
        super().__init__(path, entries, vectors, record)
        self._file = h5py.File(path, "w")
        text = h5py.string_dtype()
        self._file.create_dataset(TEXTS, data=[json.dumps(entry.text) for entry in entries], dtype=text)
        if entries[0].identifier is not None:
            self._file.create_dataset(IDENTIFIERS, data=[entry.identifier for entry in entries], dtype=text)
        self._file.attrs[RECORD] = json.dumps(record)

    def write(self, entry: Entry, parts: Iterable[Vectors]) -> None:
        dataset = None
        for start, end, part in _placed(parts):
            if end - start == entry.length:
                self._file.create_dataset(str(entry.number), data=part)
                return
            if dataset is None:
                shape = self.vectors.shape(entry.length)
                dataset = self._file.create_dataset(str(entry.number), shape, self.vectors.dtype)
            dataset[..., start:end, :] = part


class SafetensorsWriter(ShardWriter):
    """One tensor per sentence, named by its number, written one by one: the header needs only their lengths."""

    def __init__(self, path: Path, entries: Sequence[Entry], vectors: VectorType, record: dict[str, Any]) -> None:
        super().__init__(path, entries, vectors, record)
        metadata = {name: str(value) for name, value in record.items()}
        if entries[0].identifier is not None:
            metadata[IDENTIFIERS] = json.dumps([entry.identifier for entry in entries])
        header: dict[str, Any] = {"__metadata__": metadata}
        self._offsets: dict[int, int] = {}
        end = 0
        for entry in entries:
            start, shape = end, vectors.shape(entry.length)
            end += int(np.prod(shape)) * vectors.dtype.itemsize
            kind = {"float16": "F16", "float32": "F32", "float64": "F64"}[vectors.dtype.name]
            header[str(entry.number)] = {"dtype": kind, "shape": list(shape), "data_offsets": [start, end]}
            self._offsets[entry.number] = start
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)
        self._start = self._file.tell()

    def write(self, entry: Entry, parts: Iterable[Vectors]) -> None:
        offset = self._start + self._offsets[entry.number]
        row = self.vectors.width * self.vectors.dtype.itemsize
        for start, _, part in _placed(parts):
            layers = part[np.newaxis] if self.vectors.layers is None else part
            for number, layer in enumerate(layers):
                self._file.seek(offset + (number * entry.length + start) * row)
                self._file.write(np.ascontiguousarray(layer).data)


class ParquetWriter(ShardWriter):
    """One row per sentence: number, identifier, words, vectors as nested lists, the innermost of fixed size."""

    def __init__(self, path: Path, entries: Sequence[Entry], vectors: VectorType, record: dict[str, Any]) -> None:
        super().__init__(path, entries, vectors, record)
        arrow = self._arrow = import_pyarrow()
        kind = vectors.arrow_type
        fields = [("index", arrow.int64()), ("words", arrow.list_(arrow.string())), ("vectors", kind)]
        if entries[0].identifier is not None:
            fields.insert(1, ("id", arrow.string()))
        self._schema = arrow.schema(fields).with_metadata({RECORD: json.dumps(record)})
        # Vectors rarely repeat and hardly compress.
        self._file = arrow.parquet.ParquetWriter(path, self._schema, compression="none", use_dictionary=False)
        self._rows: list[tuple[Entry, Vectors]] = []
        self._bytes = 0

    def write(self, entry: Entry, parts: Iterable[Vectors]) -> None:
        size = int(np.prod(self.vectors.shape(entry.length))) * self.vectors.dtype.itemsize
        if size > _LARGEST_ROW:
            raise ValueError(
                f"{entry.where}: the vectors of {entry.length:,} words are {size:,} bytes, too many for one row of "
                f"Parquet ({_LARGEST_ROW:,}). Choose HDF5 or safetensors, fewer layers, or split the document"
            )
        gathered = list(parts)
        self._rows.append((entry, gathered[0] if len(gathered) == 1 else np.concatenate(gathered, axis=-2)))
        self._bytes += size
        if self._bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        arrow = self._arrow
        entries = [entry for entry, _ in self._rows]
        columns = {
            "index": [entry.number for entry in entries],
            "id": [entry.identifier for entry in entries],
            "words": arrow_words([entry.words for entry in entries]),
            "vectors": arrow_vectors([array for _, array in self._rows], self.vectors),
        }
        arrays = [
            columns[name] if name in ("words", "vectors") else arrow.array(columns[name], self._schema.field(name).type)
            for name in self._schema.names
        ]
        self._file.write_table(arrow.Table.from_arrays(arrays, schema=self._schema), row_group_size=len(entries))
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        try:
            self._flush()
        finally:
            super().close()


WRITERS: dict[Format, type[ShardWriter]] = {
    "hdf5": Hdf5Writer,
    "parquet": ParquetWriter,
    "safetensors": SafetensorsWriter,
}


def read_record(path: Path, file_format: Format) -> dict[str, Any]:
    """Metadata in a shard's file.

    Raises:
        ValueError: the file is not a shard.
    """
    try:
        if file_format == "hdf5":
            with h5py.File(path) as file:
                return json.loads(file.attrs[RECORD])
        if file_format == "parquet":
            return json.loads(import_pyarrow().parquet.read_schema(path).metadata[RECORD.encode()])
        with path.open("rb") as header:
            size = int.from_bytes(header.read(8), "little")
            metadata = json.loads(header.read(size))["__metadata__"]
        return {name: int(metadata[name]) for name in ("sentences", "words")}
    except (OSError, KeyError, TypeError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise ValueError(
            f"{path} is damaged or not a shard of vectors ({error}). Remove it and give the same command again"
        ) from error


def join_hdf5(
    shards: Iterable[Path], path: Path, record: dict[str, Any], sentence_index: bool, use_sentence_keys: bool
) -> None:
    """Join the files of shards into one with the layout of the original programs.

    Args:
        shards: paths of the shards, in order.
        path: path of the joined file.
        record: metadata, stored as an attribute of the file.
        sentence_index: write AllenNLP's `sentence_to_index`, a JSON object from text to number (for equal texts the
            last one). Only this index is held in memory.
        use_sentence_keys: name each dataset by its text, like AllenNLP's option; without an index.
    """
    sentence_index = sentence_index and not use_sentence_keys
    numbers: dict[str, str] = {}
    with h5py.File(path, "w") as file:
        file.attrs[RECORD] = json.dumps(record)
        count = 0
        for shard in shards:
            with h5py.File(shard) as part:
                if TEXTS not in part:
                    raise ValueError(f"{shard} is of another version of elmo_hf: ask to overwrite the output")
                texts = part[TEXTS]
                for number in range(count, count + len(texts)):
                    key = json.loads(texts.asstr()[number - count]) if use_sentence_keys else str(number)
                    part.copy(part[str(number)], file, name=key)
                if sentence_index:
                    for number, text in enumerate(texts.asstr()[...], start=count):
                        numbers[json.loads(text)] = str(number)
                if IDENTIFIERS in part:
                    _append(file, IDENTIFIERS, part[IDENTIFIERS].asstr()[...])
                count += len(texts)
        if sentence_index:
            file.create_dataset(SENTENCE_INDEX, data=[json.dumps(numbers)], dtype=h5py.string_dtype())


def _append(file: h5py.File, name: str, values: NDArray[Any]) -> None:
    if name not in file:
        file.create_dataset(name, (0,), maxshape=(None,), dtype=h5py.string_dtype(), chunks=(1024,))
    dataset = file[name]
    start = len(dataset)
    dataset.resize((start + len(values),))
    dataset[start:] = values


def _placed(parts: Iterable[Vectors]) -> Iterator[tuple[int, int, Vectors]]:
    start = 0
    for part in parts:
        end = start + part.shape[-2]
        yield start, end, part
        start = end


def arrow_vectors(arrays: Sequence[Vectors], vectors: VectorType) -> Any:
    """Arrow column of the array of each sentence, of type `vectors.arrow_type`."""
    arrow = import_pyarrow()
    flat = np.concatenate([np.empty(0, vectors.dtype), *(array.reshape(-1) for array in arrays)])
    lists = arrow.FixedSizeListArray.from_arrays(arrow.array(flat), vectors.width)
    lengths = np.repeat([array.shape[-2] for array in arrays], vectors.layers or 1)
    lists = arrow.ListArray.from_arrays(_offsets(lengths), lists)
    if vectors.layers is None:
        return lists
    return arrow.ListArray.from_arrays(_offsets(np.full(len(arrays), vectors.layers)), lists)


def arrow_words(sentences: Iterable[Sequence[str]]) -> Any:
    """Arrow column of the words of each sentence."""
    arrow = import_pyarrow()
    return arrow.array([list(map(_storable, words)) for words in sentences], arrow.list_(arrow.string()))


def _offsets(lengths: NDArray[np.integer] | Sequence[int]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)


def _storable(word: str) -> str:
    """Replace lone surrogates (from JSON such as \\ud800), which UTF-8 cannot encode."""
    return word.encode("utf-8", "replace").decode()

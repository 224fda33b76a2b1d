"""Part of a shard kept by an interruption: its unfinished file, and the number of complete sentences in it."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from elmo_hf.atomic import write_text
from elmo_hf.corpus.table_shards import import_pyarrow
from elmo_hf.inference.embedding import Vectors

from .writers import Entry, Format, VectorType


@dataclass(frozen=True)
class ShardPart:
    """The part of one shard.

    Attributes:
        path, file_format: path and format of the unfinished file; the count is in a file next to it, written last.
    """

    path: Path
    file_format: Format

    @property
    def _count(self) -> Path:
        return self.path.with_name(f"{self.path.name}.json")

    def keep(self, unfinished: Path, sentences: int) -> None:
        """Keep the first sentences of an unfinished file."""
        self.remove()
        if sentences:
            os.replace(unfinished, self.path)
            write_text(self._count, json.dumps({"sentences": sentences}))

    def read(self, entries: Sequence[Entry], vectors: VectorType) -> Iterator[tuple[Entry, Vectors]]:
        """Yield the kept sentences of `entries` (all of the shard) with their vectors; none if nothing is kept."""
        if not self._count.exists() or not self.path.exists():
            return
        kept = entries[: json.loads(self._count.read_text(encoding="utf-8"))["sentences"]]
        yield from zip(kept, READERS[self.file_format](self.path, kept, vectors), strict=True)

    def remove(self) -> None:
        """Remove both files."""
        self._count.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def _read_hdf5(path: Path, entries: Sequence[Entry], vectors: VectorType) -> Iterator[Vectors]:
    with h5py.File(path) as file:
        for entry in entries:
            yield file[str(entry.number)][...]


def _read_safetensors(path: Path, entries: Sequence[Entry], vectors: VectorType) -> Iterator[Vectors]:
    # Without the library, which raises if the last tensors of a file are missing.
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        for entry in entries:
            start, end = header[str(entry.number)]["data_offsets"]
            file.seek(8 + size + start)
            yield np.frombuffer(file.read(end - start), vectors.dtype).reshape(vectors.shape(entry.length))


def _read_parquet(path: Path, entries: Sequence[Entry], vectors: VectorType) -> Iterator[Vectors]:
    with import_pyarrow().parquet.ParquetFile(path) as file:
        rows = (row for batch in file.iter_batches(64, columns=["vectors"]) for row in batch.column(0))
        for entry, row in zip(entries, rows):  # the file may hold more
            values = row.values
            while _is_nested(values):
                values = values.flatten()
            yield values.to_numpy(zero_copy_only=False).reshape(vectors.shape(entry.length))


def _is_nested(values: object) -> bool:
    arrow = import_pyarrow()
    return isinstance(values, arrow.ListArray | arrow.FixedSizeListArray)


READERS = {"hdf5": _read_hdf5, "parquet": _read_parquet, "safetensors": _read_safetensors}

"""Data sets of the `datasets` library as shards: Parquet, Arrow, CSV and JSON files, data sets of the Hub.

Streamed data sets are read as they come, through the library's own shards (usually files) and its own resumable
state; those that lie on the disk are cut into ranges of records.
"""

import itertools
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .shards import BlockReader, Position
from .text_shards import BlankLines, column_of, record_sentences

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

RECORDS_AT_A_TIME = 1000
RECORDS_PER_SHARD = 100_000


@dataclass(frozen=True)
class DatasetSource:
    """A data set: either an object of the `datasets` library, or how to load one.

    Args:
        name: for messages and, with the shards' numbers, the identity of the corpus.
        arguments: of `datasets.load_dataset`; `None` with a `given` data set.
        given: a data set that is loaded already.
        column: the column that holds the text.
        blank_lines: `"skip"` or `"keep"` them.
        pos_column, pos_separator: where parts of speech are, as in [`TextOptions`].
    """

    name: str
    column: str
    blank_lines: BlankLines
    arguments: dict[str, Any] | None = None
    given: "Dataset | IterableDataset | None" = field(default=None, repr=False)
    pos_column: str | None = None
    pos_separator: str | None = None

    @cached_property
    def dataset(self) -> "Dataset | IterableDataset":
        """The data set, loaded when it is first needed, in every process anew.

        Raises:
            ValueError: it cannot be found or loaded.
            ImportError: the `datasets` library is missing.
        """
        if self.given is not None:
            return self.given
        datasets = import_datasets()
        try:
            return datasets.load_dataset(**(self.arguments or {}))
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise ValueError(f"data set {self.name} cannot be loaded: {error}") from error

    @cached_property
    def tag_names(self) -> list[str] | None:
        """The names of tags that are numbers of a `ClassLabel`."""
        features = self.dataset.features
        of_words = None if features is None or self.pos_column is None else features.get(self.pos_column)
        return getattr(getattr(of_words, "feature", None), "names", None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("dataset", "tag_names")}

    def shards(self) -> "list[DatasetShard]":
        """The shards of the data set.

        Raises:
            ValueError: it is no data set, has no record, or lacks the column.
        """
        datasets = import_datasets()
        dataset = self.dataset
        if isinstance(dataset, dict):
            raise ValueError(f"{self.name} has the splits {', '.join(dataset)}: give one of them")
        names = dataset.column_names
        for column, what in ((self.column, "text"), (self.pos_column, "parts of speech")):
            if names is not None and column is not None and column not in names:
                raise ValueError(
                    f"data set {self.name} has no column {column!r} but {', '.join(map(repr, names))}: name the one "
                    f"that holds the {what}"
                )
        if isinstance(dataset, datasets.IterableDataset):
            count, records = max(1, dataset.num_shards), -1
        elif isinstance(dataset, datasets.Dataset):
            records = len(dataset)
            if records == 0:
                raise ValueError(f"data set {self.name} is empty: expected records with text")
            count = -(-records // RECORDS_PER_SHARD)
        else:
            raise ValueError(f"{type(dataset).__name__}: expected a datasets.Dataset or datasets.IterableDataset")
        return [DatasetShard(self, number, count, records) for number in range(count)]


@dataclass(frozen=True)
class DatasetShard:
    """One of `count` parts of a data set; `records` of the whole where they can be counted, else -1."""

    source: DatasetSource
    number: int
    count: int
    records: int

    @property
    def name(self) -> str:
        return f"{self.source.name}, shard {self.number + 1} of {self.count}"

    @property
    def may_be_empty(self) -> bool:
        return False

    @property
    def identity(self) -> list[Any]:
        given = getattr(self.source.given, "_fingerprint", None)
        source = self.source
        identity = [source.name, given, source.column, source.blank_lines, self.count, self.records]
        if source.pos_column is not None or source.pos_separator is not None:
            identity += [source.pos_column, source.pos_separator]
        return identity

    def open(self, position: Position = None) -> "IterableDatasetReader | DatasetReader":
        if self.records < 0:
            return IterableDatasetReader(self, position)
        return DatasetReader(self, position)


class _RecordReader(BlockReader):
    """What both kinds of data set share: records to sentences."""

    def __init__(self, shard: DatasetShard, position: Position) -> None:
        super().__init__(position)
        self.shard = shard

    def sentences(self, records: dict[str, list[Any]]) -> list[str]:
        """The sentences of a batch of records, given by column."""
        source = self.shard.source
        columns = [column for column in (source.column, source.pos_column) if column is not None]

        def where() -> str:
            return self.shard.name

        values = [column_of(records, column, where) for column in columns]
        parts = (
            record_sentences(dict(zip(columns, value, strict=True)), source.column, source, where, source.tag_names)
            for value in zip(*values, strict=True)
            if value[0] is not None
        )
        lines = list(itertools.chain.from_iterable(parts))
        if source.blank_lines == "keep":
            return lines
        return [line for line in lines if line and not line.isspace()]

    def close(self) -> None:
        pass


class IterableDatasetReader(_RecordReader):
    """Reads a streamed data set; a place is the library's state."""

    def __init__(self, shard: DatasetShard, position: Position) -> None:
        super().__init__(shard, position)
        self._dataset = shard.source.dataset.shard(num_shards=shard.count, index=shard.number)
        self._batches: Any = None

    def seek(self, place: dict[str, Any]) -> None:
        self._dataset.load_state_dict(place)
        self._batches = None

    def next_block(self) -> tuple[dict[str, Any], list[str]] | None:
        place = self._dataset.state_dict()
        if self._batches is None:
            self._batches = self._dataset.iter(batch_size=RECORDS_AT_A_TIME)
        records = next(self._batches, None)
        return None if records is None else (place, self.sentences(records))

    def close(self) -> None:
        self._batches = None


class DatasetReader(_RecordReader):
    """Reads a data set on the disk; a place is the number of a record."""

    def __init__(self, shard: DatasetShard, position: Position) -> None:
        super().__init__(shard, position)
        self._next = shard.records * shard.number // shard.count
        self._end = shard.records * (shard.number + 1) // shard.count

    def seek(self, place: int) -> None:
        self._next = place

    def next_block(self) -> tuple[int, list[str]] | None:
        place = self._next
        if place >= self._end:
            return None
        self._next = min(place + RECORDS_AT_A_TIME, self._end)
        return place, self.sentences(self.shard.source.dataset[place : self._next])


def import_datasets() -> Any:
    """The `datasets` library.

    Raises:
        ImportError: it is not installed; plain text and JSON lines do not need it.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "reading Parquet files and data sets of the Hub needs the datasets library: pip install 'elmo-hf[train]'. "
            "Text files and JSON lines do not"
        ) from error
    return datasets

"""Data sets of the `datasets` library as shards: from the Hub, or given as objects.

Streamed data sets are read in the library's own shards (usually files), with its own resumable state. Data sets on the
disk are split into ranges of records.
"""

from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from .records import check_columns
from .rules import ReadingRules
from .shards import Block, BlockReader, Position, RecordSentences

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

RECORDS_AT_A_TIME = 1000
RECORDS_PER_SHARD = 100_000


@dataclass(frozen=True)
class DatasetSource:
    """A data set: either an object of the `datasets` library, or the arguments to load one.

    Args:
        name: used in messages and, with the shards' numbers, in the identity of the corpus.
        rules: rules by which records become sentences.
        arguments: arguments of `datasets.load_dataset`; `None` with a `given` data set.
        given: a loaded data set.
    """

    name: str
    rules: ReadingRules
    arguments: dict[str, Any] | None = None
    given: "Dataset | IterableDataset | None" = field(default=None, repr=False)

    @cached_property
    def dataset(self) -> "Dataset | IterableDataset":
        """The data set, loaded on first use in every process.

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
        """Names of the tags if they are numbers of a `ClassLabel`."""
        features = self.dataset.features
        column = self.rules.pos_column
        of_words = None if features is None or column is None else features.get(column)
        return getattr(getattr(of_words, "feature", None), "names", None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("dataset", "tag_names")}

    def shards(self) -> "list[DatasetShard]":
        """The shards of the data set.

        Raises:
            ValueError: not a data set, or one without records or without the column.
        """
        datasets = import_datasets()
        dataset = self.dataset
        if isinstance(dataset, dict):
            raise ValueError(f"{self.name}: splits {', '.join(dataset)}, expected the name of one of them")
        names = dataset.column_names
        if names is not None:
            check_columns(self.rules, names, lambda: self.name)
        if isinstance(dataset, datasets.IterableDataset):
            count, records = max(1, dataset.num_shards), -1
        elif isinstance(dataset, datasets.Dataset):
            records = len(dataset)
            if records == 0:
                raise ValueError(f"{self.name}: no records, expected records with text")
            count = -(-records // RECORDS_PER_SHARD)
        else:
            raise ValueError(f"{type(dataset).__name__}: expected a datasets.Dataset or datasets.IterableDataset")
        return [DatasetShard(self, number, count, records) for number in range(count)]


@dataclass(frozen=True)
class DatasetShard:
    """One of `count` parts of a data set. `records` is the size of the whole data set, or -1 if it is unknown."""

    source: DatasetSource
    number: int
    count: int
    records: int

    may_be_empty = False

    @property
    def name(self) -> str:
        return f"{self.source.name}, shard {self.number + 1} of {self.count}"

    @property
    def is_sequential(self) -> bool:
        return self.records < 0

    @property
    def identity(self) -> list[Any]:
        given = getattr(self.source.given, "_fingerprint", None)
        rules = self.source.rules
        identity = [self.source.name, given, rules.text_column, rules.blank_lines, self.count, self.records]
        return [*identity, rules.pos_column, rules.pos_separator] if rules.is_tagged else identity

    def open(self, position: Position = None) -> "IterableDatasetReader | DatasetReader":
        if self.records < 0:
            return IterableDatasetReader(self, position)
        return DatasetReader(self, position)

    def where(self, place: Any, number: int) -> str:
        # A streamed data set does not know the number of its records.
        return self.name if self.records < 0 else f"{self.source.name}, record {place + number + 1}"


class _RecordReader(BlockReader):
    """Conversion of records to sentences, shared by both kinds of data set."""

    def __init__(self, shard: DatasetShard, position: Position) -> None:
        super().__init__(position)
        self.shard = shard
        self._records = RecordSentences(shard, shard.source.rules)

    @abstractmethod
    def next_records(self) -> tuple[Any, dict[str, list[Any]]] | None:
        """The next records by column, and their place; `None` at the end."""

    def next_block(self) -> Block | None:
        found = self.next_records()
        if found is None:
            self._records.tell()
            return None
        place, columns = found
        check_columns(self.shard.source.rules, list(columns), lambda: self.shard.name)
        names = self.shard.source.rules.columns
        rows = (dict(zip(names, values, strict=True)) for values in zip(*map(columns.get, names), strict=True))
        return self._records.block(place, enumerate(rows), self.shard.source.tag_names)


class IterableDatasetReader(_RecordReader):
    """Reader of a streamed data set; a place is the library's state."""

    def __init__(self, shard: DatasetShard, position: Position) -> None:
        super().__init__(shard, position)
        self._dataset = shard.source.dataset.shard(num_shards=shard.count, index=shard.number)
        self._batches: Any = None

    def seek(self, place: dict[str, Any]) -> None:
        self._dataset.load_state_dict(place)
        self._batches = None

    def next_records(self) -> tuple[Any, dict[str, list[Any]]] | None:
        place = self._dataset.state_dict()
        if self._batches is None:
            self._batches = self._dataset.iter(batch_size=RECORDS_AT_A_TIME)
        records = next(self._batches, None)
        return None if records is None else (place, records)

    def close(self) -> None:
        self._batches = None


class DatasetReader(_RecordReader):
    """Reader of a data set on the disk; a place is the number of a record."""

    def __init__(self, shard: DatasetShard, position: Position) -> None:
        super().__init__(shard, position)
        self._next = shard.records * shard.number // shard.count
        self._end = shard.records * (shard.number + 1) // shard.count

    def seek(self, place: int) -> None:
        self._next = place

    def next_records(self) -> tuple[Any, dict[str, list[Any]]] | None:
        place = self._next
        if place >= self._end:
            return None
        self._next = min(place + RECORDS_AT_A_TIME, self._end)
        return place, self.shard.source.dataset[place : self._next]


def import_datasets() -> Any:
    """The `datasets` library.

    Raises:
        ImportError: it is not installed. Plain text and JSON lines do not need it.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "data sets of the Hub need the datasets library: pip install 'elmo-hf[train]'. Files do not"
        ) from error
    return datasets

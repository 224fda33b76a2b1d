"""Tables as shards: Parquet, Arrow, CSV and TSV files, and JSON files that hold one list of records.

A place is the number of a row. Parquet can seek to it; in other files, all rows before it are skipped.
"""

import codecs
import csv
import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from .dataset_shards import DatasetSource
from .lines import LineBlocks, check_file, damage_named, open_binary, where_in_lines
from .records import check_columns, parse_json
from .rules import ReadingRules
from .shards import Block, BlockReader, Position, RecordSentences
from .stored_files import is_address, open_stored, size_of

Kind = Literal["parquet", "arrow", "csv", "tsv", "json"]
Rows = Generator[dict[str, Any], None, None]

ROWS_AT_A_TIME = 1000
# A JSON list is held in memory as a whole. A file that unpacks to more than both limits is refused as a bomb.
LARGEST_LIST, LARGEST_RATIO = 2**30, 50
_LARGEST_CELL = 2**31 - 1


@dataclass(frozen=True)
class TableShard:
    """A file of rows with named columns."""

    path: str
    kind: Kind
    size: int
    rules: ReadingRules

    may_be_empty = False

    @property
    def name(self) -> str:
        return self.path

    @property
    def is_sequential(self) -> bool:
        return self.kind != "parquet"

    @property
    def identity(self) -> list[Any]:
        rules = self.rules
        if rules.numbered:
            return [os.path.basename(self.path), self.size, rules.text_column, rules.id_column]
        # Compatible with positions saved by older versions, which read through the `datasets` library.
        identity = [self.path, None, rules.text_column, rules.blank_lines, 1, -1]
        return [*identity, rules.pos_column, rules.pos_separator] if rules.is_tagged else identity

    def open(self, position: Position = None) -> BlockReader:
        if position is not None and isinstance(position[0], dict):  # saved by an older version
            arguments = {"path": self.kind, "data_files": self.path, "split": "train", "streaming": True}
            return DatasetSource(self.path, self.rules, arguments).shards()[0].open(position)
        return TableReader(self, position)

    def where(self, place: int, number: int) -> str:
        return f"{self.path}, row {place + number + 1}"


def table_shard(path: str, kind: Kind, rules: ReadingRules) -> TableShard:
    """The shard of one file.

    Raises:
        ValueError: the file is empty, not a regular file, damaged, without rows, or lacks a column.
        OSError: it cannot be opened.
        ImportError: pyarrow is needed and missing.
    """
    check_file(path)
    shard = TableShard(path, kind, size_of(path), rules)
    with closing(_ROWS[kind](shard, 0)) as rows:
        if next(rows, None) is None:
            raise ValueError(f"{path} has no rows: expected sentences. Leave it out, or fetch it again")
    return shard


class TableReader(BlockReader):
    """Reader of a [`TableShard`]."""

    def __init__(self, shard: TableShard, position: Position) -> None:
        super().__init__(position)
        self._shard, self._place = shard, 0
        self._records = RecordSentences(shard, shard.rules)
        self._tag_names = _tag_names(shard)
        self._rows: Rows | None = None

    def seek(self, place: int) -> None:
        self.close()
        self._place = place

    def next_block(self) -> Block | None:
        if self._rows is None:
            self._rows = _ROWS[self._shard.kind](self._shard, self._place)
        place, rows = self._place, list(islice(self._rows, ROWS_AT_A_TIME))
        if not rows:
            self._records.tell()
            return None
        self._place += len(rows)
        return self._records.block(place, enumerate(rows), self._tag_names)

    def close(self) -> None:
        if self._rows is not None:
            self._rows.close()
            self._rows = None


# ---- rows of each kind of file, from a given one on


def _parquet_rows(shard: TableShard, start: int) -> Rows:
    parquet = import_pyarrow().parquet
    with _damaged(shard), _opened(shard) as source, parquet.ParquetFile(source) as file:
        check_columns(shard.rules, file.schema_arrow.names, lambda: shard.path)
        groups = list(range(file.metadata.num_row_groups))
        while groups and start >= (rows := file.metadata.row_group(groups[0]).num_rows):
            start -= rows
            del groups[0]
        for batch in file.iter_batches(ROWS_AT_A_TIME, groups, columns=shard.rules.columns):
            yield from batch.slice(start).to_pylist()
            start = max(0, start - len(batch))


def _arrow_rows(shard: TableShard, start: int) -> Rows:
    with _damaged(shard), _opened(shard) as source:
        schema, batches = _arrow_batches(source)
        check_columns(shard.rules, schema.names, lambda: shard.path)
        for batch in batches:
            yield from batch.select(shard.rules.columns).slice(start).to_pylist()
            start = max(0, start - len(batch))


def _arrow_batches(source: Any) -> tuple[Any, Iterator[Any]]:
    """Schema and batches of Arrow's streaming format, used by `datasets`, or of its file format, Feather."""
    arrow = import_pyarrow()
    try:
        stream = arrow.ipc.open_stream(source)
        return stream.schema, iter(stream)
    except arrow.ArrowInvalid:
        file = arrow.ipc.open_file(source)
        return file.schema, map(file.get_batch, range(file.num_record_batches))


def _csv_rows(shard: TableShard, start: int) -> Rows:
    dialect: dict[str, Any] = {"strict": True}
    cells_expected = "cells with commas, quotes or line breaks in quotes, and quotes in them doubled"
    if shard.kind == "tsv":
        dialect = {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        cells_expected = "tabs between cells and none in them"
    allow_large_cells()
    lines = LineBlocks(shard.path, shard.rules)
    rows = csv.reader(_each_line(lines), **dialect)
    try:
        header = next(rows, [])
        check_columns(shard.rules, header, lambda: f"{shard.path}, line 1")
        for cells in rows:
            if not cells:  # a blank line
                if len(header) > 1:
                    continue
                cells = [""]
            if len(cells) != len(header):
                raise ValueError(
                    f"{shard.path}, line {rows.line_num}: {len(cells)} cells, and the first line has {len(header)}: "
                    f"expected the same in every line, {cells_expected}"
                )
            if start:
                start -= 1
            else:
                yield dict(zip(header, cells, strict=True))
        lines.tell()
    except csv.Error as error:
        raise ValueError(f"{shard.path}, line {rows.line_num}: {error}: expected {cells_expected}") from error
    finally:
        lines.close()


def allow_large_cells() -> None:
    """Allow CSV cells longer than the default of 128 KiB. Python has only a process-wide setting."""
    if csv.field_size_limit() < _LARGEST_CELL:
        csv.field_size_limit(_LARGEST_CELL)


def largest_json(size: int) -> int:
    """Largest unpacked size, in bytes, allowed for a JSON file of a given size, which is held in memory as a whole."""
    return max(LARGEST_LIST, LARGEST_RATIO * size)


def _each_line(blocks: LineBlocks) -> Iterator[str]:
    while (lines := blocks.next()) is not None:
        yield from (f"{line}\n" for line in lines.lines)


def _json_rows(shard: TableShard, start: int) -> Rows:
    path, rules = shard.path, shard.rules
    limit = largest_json(shard.size)
    with open_binary(path) as file, damage_named(path):
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(
            f"{path}: unpacks to more than {limit:,} bytes: expected a list of records that fits into memory. Write "
            "one record per line (.jsonl)"
        )
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode(
            rules.encoding, "replace" if rules.undecodable == "replace" else "strict"
        )
    except UnicodeDecodeError as error:
        where = where_in_lines(path, error.start, 0)
        raise ValueError(
            f"{where}: byte {data[error.start]:#04x} is not {rules.encoding}{rules.remedy_of_encoding}"
        ) from error
    records = parse_json(text, lambda: path, "a list of records, or one record per line (.jsonl)")
    yield from records[start:]


_ROWS: dict[Kind, Callable[[TableShard, int], Rows]] = {
    "parquet": _parquet_rows,
    "arrow": _arrow_rows,
    "csv": _csv_rows,
    "tsv": _csv_rows,
    "json": _json_rows,
}


def _opened(shard: TableShard) -> Any:
    """Open a Parquet or Arrow file for pyarrow; the result is also a context manager."""
    arrow = import_pyarrow()
    if is_address(shard.path):
        return arrow.PythonFile(open_stored(shard.path), mode="r")
    return arrow.memory_map(shard.path) if shard.kind == "arrow" else arrow.OSFile(shard.path)


@contextmanager
def _damaged(shard: TableShard) -> Iterator[None]:
    """Context manager that adds the file's name to pyarrow's errors."""
    arrow = import_pyarrow()
    try:
        yield
    except (arrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise ValueError(
            f"{shard.path} is damaged or not a {shard.kind.capitalize()} file ({error}): fetch it again"
        ) from error


def _tag_names(shard: TableShard) -> Sequence[str] | None:
    """Names of POS tags stored as numbers, from the metadata that the `datasets` library writes into tables."""
    column = shard.rules.pos_column
    if column is None or shard.kind not in ("parquet", "arrow"):
        return None
    parquet = import_pyarrow().parquet
    with _damaged(shard), _opened(shard) as source:
        schema = parquet.read_schema(source) if shard.kind == "parquet" else _arrow_batches(source)[0]
    try:
        feature = json.loads(schema.metadata[b"huggingface"])["info"]["features"][column]
        return (feature[0] if isinstance(feature, list) else feature["feature"])["names"]
    except (KeyError, TypeError, ValueError):
        return None


def import_pyarrow() -> Any:
    """The pyarrow library, with its Parquet part.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "Parquet and Arrow files need pyarrow: pip install 'elmo-hf[train]', or pip install pyarrow. Text, JSON, "
            "CSV, CoNLL-U, HDF5 and safetensors do not"
        ) from error
    return pyarrow

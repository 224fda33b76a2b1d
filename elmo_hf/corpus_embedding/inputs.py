"""The sentences of text, JSON-lines and Parquet files, one by one, from any place on.

A line of text or a record is one sentence, also one without words, so that a sentence's number is its line's: the
names that bilm-tf gives to vectors. Lists of words stay as they are, whatever the words hold.
"""

import glob
import json
import os
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from elmo_hf.corpus.sentences import check_pos_options, no_column_in_text, open_corpus
from elmo_hf.corpus.tagged_text import TaggedSentence, sentence_of_record, sentence_of_tokens
from elmo_hf.corpus.text_shards import COMPRESSIONS, TextShard

# JSON: [number of the file, records before it in that file, where the file's reader goes on]
Place = list[Any]

_ROWS_AT_A_TIME = 256
_JSON = (".jsonl", ".ndjson", ".json")
_OTHER_FORMATS = {".csv": "CSV", ".tsv": "TSV", ".arrow": "Arrow", ".feather": "Feather"}


class Record(NamedTuple):
    """A sentence of the input.

    Attributes:
        identifier: from the column of identifiers, as text; `None` without one.
        sentence: a text, a list of words, or words with parts of speech beside them.
        path, line: the file, and the line or row in it from 1.
    """

    identifier: str | None
    sentence: str | list[str] | TaggedSentence
    path: str
    line: int

    @property
    def where(self) -> str:
        return f"{self.path}, {'row' if _suffix(self.path) == '.parquet' else 'line'} {self.line}"


@dataclass(frozen=True)
class Columns:
    """Which columns of records are read, and where parts of speech are.

    Attributes:
        text: text, or lists of words.
        identifier: names of the sentences, texts or integers.
        pos_tags: parts of speech beside the words, lists of them or texts.
        pos_separator: in place of that column, what stands between each word and its part of speech in the text.
    """

    text: str = "text"
    identifier: str | None = None
    pos_tags: str | None = None
    pos_separator: str | None = None

    @property
    def is_tagged(self) -> bool:
        return self.pos_tags is not None or self.pos_separator is not None


class RecordReader(Protocol):
    """Reads the records of one file."""

    @property
    def place(self) -> Any:
        """JSON: where the next record is."""

    def take(self) -> Record | None:
        """The next record; `None` at the end."""

    def close(self) -> None:
        """Release the file."""


class InputFile(Protocol):
    """One file of the input."""

    @property
    def is_compressed(self) -> bool:
        """Whether a place is found only by reading all before it."""

    @property
    def identity(self) -> list[Any]:
        """JSON that changes when the file does, as far as can be told without reading it."""

    def open(self, place: Any = None, line: int = 0) -> RecordReader:
        """A reader from `place` on, which `line` records come before."""


@dataclass(frozen=True)
class Input:
    """Files of sentences, read as one stream.

    Make one with [`open_input`].
    """

    files: tuple[InputFile, ...]

    def read(self, start: Place | None = None) -> Generator[tuple[Place, Record], None, None]:
        """All records from a place on, each with its own place."""
        first, line, place = start or (0, 0, None)
        for number in range(first, len(self.files)):
            reader = self.files[number].open(place, line)
            try:
                here = [number, line, reader.place]
                while (record := reader.take()) is not None:
                    yield here, record
                    here = [number, record.line, reader.place]
            finally:
                reader.close()
            line, place = 0, None

    @property
    def identity(self) -> list[Any]:
        return [file.identity for file in self.files]


def open_input(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    columns: Columns,
    encoding: str = "utf-8",
    undecodable: Literal["refuse", "replace"] = "refuse",
) -> Input:
    """The sentences in files.

    Args:
        sources: paths or globs of text, JSON lines (`.jsonl`, `.ndjson`, `.json`), both also as `.gz`, `.bz2` or `.xz`,
            and Parquet; in the order of the sources, those of a glob by name.
        columns: of JSON lines and Parquet; of text, the separator.
        encoding: of text and JSON lines.
        undecodable: of lines whose bytes are not valid: `"refuse"` them, or `"replace"` the bytes by U+FFFD.

    Raises:
        FileNotFoundError: nothing matches a path or glob.
        ValueError: an empty file, a folder, a file of another kind, a missing column; both ways to give parts of
            speech at once.
        ImportError: Parquet files, and pyarrow is missing.
    """
    listed = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    for path in listed:
        source = os.fspath(path)
        if not os.path.exists(source) and not glob.glob(source, recursive=True):
            raise FileNotFoundError(f"no file matches {source}: expected a file or a glob such as text/*.txt.gz")
    if undecodable not in ("refuse", "replace"):
        raise ValueError(f"undecodable={undecodable!r}: expected 'refuse' or 'replace'")
    check_pos_options(columns.pos_tags, columns.pos_separator)
    # As one shard each, of lines: which files there are, and that they are not empty.
    corpus = open_corpus(
        listed, file_format="text", encoding=encoding, undecodable=undecodable, blank_lines="keep", shard_bytes=2**62
    )
    return Input(tuple(_input_file(shard, columns) for shard in corpus.shards if isinstance(shard, TextShard)))


def _suffix(path: str) -> str:
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _is_compressed(path: str) -> bool:
    return Path(path).suffix.lower() in COMPRESSIONS


def _input_file(lines: TextShard, columns: Columns) -> InputFile:
    suffix = _suffix(lines.path)
    if suffix == ".parquet":
        return ParquetRows(lines.path, columns)
    if suffix in _OTHER_FORMATS:
        raise ValueError(
            f"{lines.path}: {_OTHER_FORMATS[suffix]} files are not read here. Expected text, a sentence a line, JSON "
            "lines or Parquet: convert it"
        )
    if suffix in _JSON:
        return JsonLines(lines, columns)
    if columns.identifier is not None:
        raise ValueError(
            f"{lines.path}: id_column={columns.identifier!r}, but text has no columns. Expected .jsonl or .parquet, or "
            "leave id_column out: sentences have their line numbers from 0"
        )
    if columns.pos_tags is not None:
        raise no_column_in_text(columns.pos_tags, lines.path)
    return TextLines(lines, columns.pos_separator)


@dataclass(frozen=True)
class TextLines:
    """Text, a sentence a line; with a separator, each word with its part of speech behind it."""

    shard: TextShard
    pos_separator: str | None = None

    @property
    def is_compressed(self) -> bool:
        return _is_compressed(self.shard.path)

    @property
    def identity(self) -> list[Any]:
        return self.shard.identity

    def open(self, place: Any = None, line: int = 0) -> "_LineReader":
        return _LineReader(self.shard, place, line, self.pos_separator)


class _LineReader:
    def __init__(self, shard: TextShard, place: Any, line: int, pos_separator: str | None = None) -> None:
        self.path, self.line = shard.path, line
        self._separator = pos_separator
        self._reader = shard.open(place)

    @property
    def place(self) -> Any:
        return self._reader.position

    def take(self) -> Record | None:
        while lines := self._reader.take(1):
            self.line += 1
            if (record := self.record(lines[0])) is not None:
                return record
        return None

    def record(self, line: str) -> Record | None:
        """What a line holds; `None` if it is no record."""
        sentence: str | TaggedSentence = line
        if self._separator is not None:
            sentence = sentence_of_tokens(line.split(), self._separator, lambda: f"{self.path}, line {self.line}")
        return Record(None, sentence, self.path, self.line)

    def close(self) -> None:
        self._reader.close()


@dataclass(frozen=True)
class JsonLines:
    """A JSON object a line; blank lines are no records."""

    shard: TextShard
    columns: Columns

    @property
    def is_compressed(self) -> bool:
        return _is_compressed(self.shard.path)

    @property
    def identity(self) -> list[Any]:
        return self.shard.identity

    def open(self, place: Any = None, line: int = 0) -> "_JsonReader":
        return _JsonReader(self.shard, place, line, self.columns)


class _JsonReader(_LineReader):
    def __init__(self, shard: TextShard, place: Any, line: int, columns: Columns) -> None:
        super().__init__(shard, place, line)
        self._columns = columns

    def record(self, line: str) -> Record | None:
        if not line or line.isspace():
            return None
        where = f"{self.path}, line {self.line}"
        try:
            fields = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{where} is not JSON ({error}): expected one JSON object a line") from error
        if not isinstance(fields, dict):
            raise ValueError(f"{where} holds a JSON {type(fields).__name__}: expected one JSON object a line")
        _check_columns(self._columns, list(fields), where)
        return _record(fields, self._columns, self.path, self.line, where)


@dataclass(frozen=True)
class ParquetRows:
    """Rows of a Parquet file; a place is the number of a row."""

    path: str
    columns: Columns

    def __post_init__(self) -> None:
        file = self.file()
        try:
            _check_columns(self.columns, file.schema_arrow.names, self.path)
            if file.metadata.num_rows == 0:
                raise ValueError(f"{self.path} has no rows: expected sentences. Leave it out, or fetch it again")
        finally:
            file.close()

    def file(self) -> Any:
        """The file, opened."""
        parquet = import_pyarrow().parquet
        try:
            return parquet.ParquetFile(self.path)
        except ValueError as error:  # pyarrow's own errors are of this type
            raise ValueError(f"{self.path} cannot be read as Parquet ({error}): fetch it again") from error

    @property
    def is_compressed(self) -> bool:
        return False  # each row group for itself

    @property
    def identity(self) -> list[Any]:
        names = [self.columns.text, self.columns.identifier]
        return [os.path.basename(self.path), os.path.getsize(self.path), *names]

    def open(self, place: Any = None, line: int = 0) -> "_RowReader":
        return _RowReader(self, line if place is None else place)


class _RowReader:
    def __init__(self, rows: ParquetRows, place: int) -> None:
        self.place = place
        self._rows = rows
        self._file = rows.file()
        counts = [
            self._file.metadata.row_group(number).num_rows for number in range(self._file.metadata.num_row_groups)
        ]
        group = 0
        while group < len(counts) and place >= counts[group]:
            place -= counts[group]
            group += 1
        self._skip = place
        columns = rows.columns
        names = [name for name in (columns.text, columns.identifier, columns.pos_tags) if name is not None]
        groups = list(range(group, len(counts)))
        self._batches = self._file.iter_batches(_ROWS_AT_A_TIME, groups, columns=list(dict.fromkeys(names)))
        self._pending: list[dict[str, Any]] = []

    def take(self) -> Record | None:
        while not self._pending:
            try:
                batch = next(self._batches, None)
            except (ValueError, OSError) as error:
                raise ValueError(
                    f"{self._rows.path}, after row {self.place}: damaged ({error}). Fetch the file again"
                ) from error
            if batch is None:
                return None
            rows = batch.to_pylist()
            self._pending = rows[self._skip :][::-1]
            self._skip = max(0, self._skip - len(rows))
        self.place += 1
        where = f"{self._rows.path}, row {self.place}"
        return _record(self._pending.pop(), self._rows.columns, self._rows.path, self.place, where)

    def close(self) -> None:
        self._file.close()


def _check_columns(columns: Columns, found: list[str], where: str) -> None:
    options = ("text_column", columns.text), ("id_column", columns.identifier), ("pos_column", columns.pos_tags)
    for option, name in options:
        if name is not None and name not in found:
            raise ValueError(
                f"{where}: no column {name!r} but {', '.join(map(repr, found)) or 'none at all'}. Name the right one: "
                f"{option}"
            )


def _record(fields: dict[str, Any], columns: Columns, path: str, line: int, where: str) -> Record:
    sentence = value = fields[columns.text]
    if columns.pos_tags is not None:
        names = columns.text, columns.pos_tags
        sentence = sentence_of_record(value, fields[columns.pos_tags], names, lambda: where)
    elif not isinstance(value, str):
        if not isinstance(value, list):
            raise ValueError(f"{where}: column {columns.text!r} holds {value!r:.60}: expected text, or a list of words")
        for word in value:
            if not isinstance(word, str):
                raise ValueError(
                    f"{where}: column {columns.text!r} holds {word!r:.60} among its words: expected texts only"
                )
    if columns.pos_separator is not None:
        tokens = value.split() if isinstance(value, str) else value
        sentence = sentence_of_tokens(tokens, columns.pos_separator, lambda: where)
    identifier = None
    if columns.identifier is not None:
        identifier = fields[columns.identifier]
        if not isinstance(identifier, str | int) or isinstance(identifier, bool):
            raise ValueError(
                f"{where}: column {columns.identifier!r} holds {identifier!r:.60}: expected a text or an integer that "
                "names the sentence"
            )
        identifier = str(identifier)
    return Record(identifier, sentence, path, line)


def import_pyarrow() -> Any:
    """The pyarrow library, with its Parquet part.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "Parquet files need pyarrow: pip install 'elmo-hf[train]', or pip install pyarrow. Text, JSON lines, HDF5 "
            "and safetensors do not"
        ) from error
    return pyarrow

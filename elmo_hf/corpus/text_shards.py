"""Text and JSON-lines files, plain or compressed, as shards.

Lines are found in the bytes, block by block, and decoded together; only a block with undecodable bytes is taken apart
line by line. Large plain files are cut into spans of bytes that are read independently, at the line breaks nearest to
the cuts: so one big file shuffles, and is counted by many processes, like many small ones.
"""

import bz2
import codecs
import gzip
import io
import itertools
import json
import lzma
import os
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, cast

from .shards import BlockReader, Position
from .tagged_text import tagged_line, tagged_record

BLOCK_BYTES = 2**20

_OPENERS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".lzma": lzma.open,
}
COMPRESSIONS = tuple(_OPENERS)
_UNREADABLE = {".zst", ".zip", ".tar", ".tgz", ".7z", ".lz4", ".rar", ".br"}

Undecodable = Literal["refuse", "skip", "replace"]
BlankLines = Literal["skip", "keep"]


@dataclass(frozen=True)
class TextOptions:
    """How the lines of a file become sentences.

    Args:
        encoding: of the text; one in which a line break is the byte 10.
        undecodable: what to do with a line whose bytes are not valid: `"refuse"` it with an error, `"skip"` the line,
            `"replace"` the bytes by U+FFFD. The last two warn of a file's first such line.
        blank_lines: `"skip"` them, or `"keep"` them as empty sentences, as bilm-tf does.
        json_column: take each line as a JSON object and read this column of it: a string, which may have several
            lines, or a list of words.
        max_line_bytes: refuse longer lines, which are no sentences; a bound of memory, and not looked at within blocks
            of 1 MiB.
        pos_column: a column of parts of speech, one for each word of `json_column`; sentences are then tagged.
        pos_separator: what stands between each word of a line and its part of speech; sentences are then tagged.

    Raises:
        ValueError: an unknown encoding or policy.
    """

    encoding: str = "utf-8"
    undecodable: Undecodable = "refuse"
    blank_lines: BlankLines = "skip"
    json_column: str | None = None
    max_line_bytes: int = 2**26
    pos_column: str | None = None
    pos_separator: str | None = None

    def __post_init__(self) -> None:
        try:
            line_break = "\n".encode(self.encoding)
        except LookupError:
            raise ValueError(
                f"encoding {self.encoding!r} is unknown: expected one of Python's, such as utf-8"
            ) from None
        if line_break != b"\n":
            raise ValueError(
                f"encoding {self.encoding!r} writes a line break as {line_break!r}: expected an encoding that extends "
                "ASCII. Convert the files to UTF-8 first, for instance with iconv"
            )
        if self.undecodable not in ("refuse", "skip", "replace"):
            raise ValueError(f"undecodable={self.undecodable!r}: expected 'refuse', 'skip' or 'replace'")
        if self.blank_lines not in ("skip", "keep"):
            raise ValueError(f"blank_lines={self.blank_lines!r}: expected 'skip' or 'keep'")
        if self.max_line_bytes < 1:
            raise ValueError(f"max_line_bytes={self.max_line_bytes}: expected at least 1")


@dataclass(frozen=True)
class TextShard:
    """A file, or the lines of a plain file that begin at the bytes `start` ... `end` - 1."""

    path: str
    size: int
    options: TextOptions
    start: int = 0
    end: int | None = None

    @property
    def name(self) -> str:
        return self.path if self.end is None else f"{self.path} (bytes {self.start}-{self.end})"

    @property
    def may_be_empty(self) -> bool:
        return self.end is not None

    @property
    def identity(self) -> list[Any]:
        # Not the folder: a corpus may move.
        options = self.options
        rules = [options.encoding, options.undecodable, options.blank_lines, options.json_column]
        if options.pos_column is not None or options.pos_separator is not None:
            rules += [options.pos_column, options.pos_separator]
        return [os.path.basename(self.path), self.size, self.start, self.end, rules]

    def open(self, position: Position = None) -> "TextReader":
        return TextReader(self, position)


def text_shards(path: str, options: TextOptions, shard_bytes: int) -> list[TextShard]:
    """The shards of one file.

    Args:
        path: the file; `.gz`, `.bz2`, `.xz` and `.lzma` are decompressed on reading.
        options: how lines become sentences.
        shard_bytes: cut plain files into spans of about this size.

    Raises:
        ValueError: the file is empty, or compressed in a way that cannot be read.
        OSError: the file cannot be opened.
    """
    suffix = Path(path).suffix.lower()
    if suffix in _UNREADABLE:
        raise ValueError(
            f"{path}: {suffix} files cannot be read. Unpack it, or compress the text with gzip, bzip2 or xz"
        )
    # One byte now rather than an error after days of training.
    with open_binary(path) as file, _damage_named(path):
        if not file.read(1):
            raise ValueError(f"{path} is empty: expected text. Leave it out, or fetch it again")
    size = os.path.getsize(path)
    if suffix in _OPENERS or size <= shard_bytes:
        return [TextShard(path, size, options)]
    cuts = [*range(0, size, shard_bytes), size]
    return [TextShard(path, size, options, start, end) for start, end in itertools.pairwise(cuts)]


def open_binary(path: str) -> BinaryIO:
    """The decompressed bytes of a file."""
    return cast(BinaryIO, _OPENERS.get(Path(path).suffix.lower(), open)(path, "rb"))


class _damage_named:
    """Context in which errors of a decompressor name the file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)) or (
            isinstance(error, OSError) and error.errno is None
        ):
            raise ValueError(
                f"{self.path} is damaged or cut short ({error}): fetch it again, or leave it out"
            ) from error


class TextReader(BlockReader):
    """Reads a [`TextShard`]; a place is an offset in the decompressed bytes.

    Resuming seeks to the block. Compressed files are decompressed up to there, without looking at the text.
    """

    def __init__(self, shard: TextShard, position: Position) -> None:
        super().__init__(position)
        self._shard = shard
        self._file = open_binary(shard.path)
        self._offset = 0  # of the next block
        self._ahead = b""  # bytes after `_offset` that have been read
        self._ended = False
        self._warned = False
        if position is None and shard.start:
            self._align()

    def seek(self, place: int) -> None:
        with _damage_named(self._shard.path):
            self._file.seek(place)
        self._offset, self._ahead, self._ended = place, b"", False

    def close(self) -> None:
        self._file.close()

    def next_block(self) -> tuple[int, list[str]] | None:
        place, data = self._offset, self._next_lines()
        if not data:
            return None
        return place, list(self._sentences(place, data))

    def _align(self) -> None:
        """Go to the first line that begins at `start` or later."""
        self.seek(self._shard.start - 1)
        while not (cut := self._ahead.find(b"\n") + 1):
            self._offset += len(self._ahead)
            self._ahead = b""
            self._read_ahead(BLOCK_BYTES)
            if not self._ahead:
                return
        self._offset += cut
        self._ahead = self._ahead[cut:]

    def _read_ahead(self, count: int) -> bool:
        """Have `count` bytes ahead; False where the file ends before."""
        if len(self._ahead) < count:
            with _damage_named(self._shard.path):
                self._ahead += self._file.read(count - len(self._ahead))
        return len(self._ahead) >= count

    def _next_lines(self) -> bytes:
        """The whole lines of the next block; a function of its offset alone, so that places mean the same later."""
        if self._ended or (self._shard.end is not None and self._offset >= self._shard.end):
            return b""
        longest = self._shard.options.max_line_bytes
        # Where lines must not begin any more: the line break before it ends the span.
        last = None if self._shard.end is None else self._shard.end - 1 - self._offset
        size = BLOCK_BYTES
        while True:
            enough = self._read_ahead(size)
            if last is not None and last < size:
                cut = self._ahead.find(b"\n", last, size) + 1
            else:
                cut = self._ahead.rfind(b"\n", 0, size) + 1
            if cut:
                break
            if not enough:  # the last line lacks its line break
                cut = len(self._ahead)
                self._ended = True
                break
            if size > longest:
                raise ValueError(
                    f"{self._where(self._offset)}: a line of more than {longest} bytes. Expected one sentence a line; "
                    "split the text into lines, or raise max_line_bytes"
                )
            size = min(2 * size, longest + 1)
        data, self._ahead = self._ahead[:cut], self._ahead[cut:]
        self._offset += cut
        return data

    def _sentences(self, place: int, data: bytes) -> Iterator[str]:
        options = self._shard.options
        if place == 0 and data.startswith(codecs.BOM_UTF8):
            data = data[len(codecs.BOM_UTF8) :]
            place = len(codecs.BOM_UTF8)
        try:
            text = data.decode(options.encoding)
        except UnicodeDecodeError:
            text = "".join(f"{line}\n" for line in self._line_by_line(place, data))
        if not text:
            return iter(())
        if options.json_column is not None:
            lines: Iterator[str] = self._from_json(place, text, options.json_column)
        else:
            lines = iter(text.replace("\r\n", "\n").removesuffix("\n").split("\n"))
            if options.pos_separator is not None:
                lines = (
                    tagged_line(line, options.pos_separator, partial(self._where, place, number))
                    for number, line in enumerate(lines)
                )
        if options.blank_lines == "keep":
            return lines
        return (line for line in lines if line and not line.isspace())

    def _line_by_line(self, place: int, data: bytes) -> Iterator[str]:
        options = self._shard.options
        for line in data.removesuffix(b"\n").split(b"\n"):
            try:
                yield line.decode(options.encoding)
            except UnicodeDecodeError as error:
                bad = line[error.start : error.end]
                where = f"{self._where(place)}, byte {error.start + 1} of the line: {bad!r} is not {options.encoding}"
                if options.undecodable == "refuse":
                    raise ValueError(
                        f"{where}. Expected text in {options.encoding}; name its true encoding, or choose "
                        "undecodable='skip' or 'replace'"
                    ) from error
                if not self._warned:
                    self._warned = True
                    done = "left the line out" if options.undecodable == "skip" else "put U+FFFD in its place"
                    warnings.warn(f"{where}; {done}, and do so silently from here on in this shard", stacklevel=2)
                if options.undecodable == "replace":
                    yield line.decode(options.encoding, "replace")
            place += len(line) + 1

    def _from_json(self, place: int, text: str, column: str) -> Iterator[str]:
        for number, line in enumerate(io.StringIO(text)):
            if not line.isspace():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    message = f"{self._where(place, number)} is not JSON ({error}): expected one JSON object a line"
                    raise ValueError(message) from error
                where = partial(self._where, place, number)
                yield from record_sentences(record, column, self._shard.options, where)

    def _where(self, offset: int, lines: int = 0) -> str:
        """The file and the line that begins at `offset`, or `lines` after it; counted only now that it is needed."""
        number = lines + 1
        with open_binary(self._shard.path) as file:
            while offset > 0 and (data := file.read(min(offset, BLOCK_BYTES))):
                number += data.count(b"\n")
                offset -= len(data)
        return f"{self._shard.path}, line {number}"


class TagOptions(Protocol):
    """Where parts of speech are found: of both fields at most one is not `None`."""

    @property
    def pos_column(self) -> str | None: ...
    @property
    def pos_separator(self) -> str | None: ...


def record_sentences(
    record: Any,
    column: str,
    options: TagOptions,
    where: Callable[[], str],
    tag_names: Sequence[str] | None = None,
) -> list[str]:
    """The sentences of a record: `column_sentences`, or with tags those of `tagged_text`.

    Args:
        record, column, where: as there.
        options: where the tags are.
        tag_names: of tags that are numbers.

    Raises:
        ValueError: as there; tags that do not fit the words.
    """
    if options.pos_column is not None:
        columns = (column, options.pos_column)
        words, tags = (column_of(record, name, where) for name in columns)
        return [tagged_record(words, tags, columns, where, tag_names)]
    sentences = column_sentences(record, column, where)
    if options.pos_separator is not None:
        return [tagged_line(sentence, options.pos_separator, where) for sentence in sentences]
    return sentences


def column_of(record: Any, column: str, where: Callable[[], str]) -> Any:
    """The value of one column of a record, which should be a mapping.

    Raises:
        ValueError: it is none, or has no such column.
    """
    if not isinstance(record, dict) or column not in record:
        found = f"the columns {', '.join(map(repr, record))}" if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"{where()}: no column {column!r}, found {found}. Name the column that holds the text")
    return record[column]


def column_sentences(record: Any, column: str, where: Callable[[], str]) -> list[str]:
    """The sentences in one column of a record: a text's lines, or a list of words as one sentence, spaces between them.

    Args:
        record: the record, which should be a mapping.
        column: its column.
        where: called for the record's place in it, for messages.

    Raises:
        ValueError: no such column, or its value is neither text nor words; a word that is none when it is read again
            from between spaces.
    """
    value = column_of(record, column, where)
    if isinstance(value, str):
        return value.replace("\r\n", "\n").removesuffix("\n").split("\n")
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        sentence = " ".join(value)
        if sentence.split() != value:
            wrong = next(word for word in value if word.split() != [word])
            raise ValueError(
                f"{where()}: column {column!r} holds the word {wrong!r}: expected characters without whitespace, at "
                "which a text is split into words again. Leave it out, or put another character in place of the space"
            )
        return [sentence]
    raise ValueError(
        f"{where()}: column {column!r} holds {value!r:.60}: expected text, or a list of words as one sentence"
    )

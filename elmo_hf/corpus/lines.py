"""Lines of files, plain or compressed, from any offset on, split as by `split_lines` but on bytes.

Lines are found in blocks of bytes, and a block is decoded as a whole; only a block with undecodable bytes is decoded
line by line. A block depends on its offset alone, so a saved place stays valid.
"""

import bz2
import codecs
import gzip
import lzma
import os
import stat
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from elmo_hf.tokenizer.lines import split_lines

from .rules import ReadingRules
from .stored_files import is_address, open_stored

BLOCK_BYTES = 2**20

_OPENERS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".lzma": lzma.open,
}
COMPRESSIONS = tuple(_OPENERS)
_UNREADABLE = {".zst", ".zip", ".tar", ".tgz", ".7z", ".lz4", ".rar", ".br"}


def is_compressed(path: str) -> bool:
    """True if the file is compressed, so that seeking means unpacking everything before."""
    return Path(path).suffix.lower() in _OPENERS


def open_binary(path: str) -> BinaryIO:
    """The decompressed bytes of a file, given by its path or address.

    Raises:
        OSError: it cannot be opened.
    """
    opener, file = _OPENERS.get(Path(path).suffix.lower()), open_stored(path)
    return file if opener is None else cast(BinaryIO, opener(file, "rb"))


def check_file(path: str) -> None:
    """Refuse an unreadable file early, rather than after days of training.

    Raises:
        ValueError: the file is empty, not a regular file, or compressed in an unsupported way.
        OSError: it cannot be opened.
    """
    if not is_address(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(
            f"{path} is not a regular file: expected one that can be read several times. Write its output to a file "
            "first"
        )
    suffix = Path(path).suffix.lower()
    if suffix in _UNREADABLE:
        raise ValueError(
            f"{path}: {suffix} files cannot be read. Unpack it, or compress the text with gzip, bzip2 or xz"
        )
    with open_binary(path) as file, damage_named(path):
        if not file.read(1):
            raise ValueError(f"{path} is empty: expected text. Leave it out, or fetch it again")


@contextmanager
def damage_named(path: str) -> Iterator[None]:
    """Context manager that adds the file's name to a decompressor's errors."""
    try:
        yield
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{path} is damaged or truncated ({error}): fetch it again, or leave it out") from error


class Lines(NamedTuple):
    """Consecutive lines of a file.

    Attributes:
        place: offset of the first line in the decompressed bytes.
        lines: their text, without line ends.
        numbers: number of each line, counted from `place`.
    """

    place: int
    lines: list[str]
    numbers: Sequence[int]


class LineBlocks:
    """Reader of a file's lines, block by block; of a plain file, lines that begin at bytes `start` to `end` - 1.

    Args:
        path: the file.
        rules: encoding, treatment of undecodable lines, and maximum line length.
        start, end: range of bytes as above; `end` is `None` for the file's end.
        blank_lines_between: end blocks only before a line that follows a blank one, so that no paragraph is split.
    """

    def __init__(
        self, path: str, rules: ReadingRules, start: int = 0, end: int | None = None, blank_lines_between: bool = False
    ) -> None:
        self._path, self._rules, self._start, self._end = path, rules, start, end
        self._last_cut = _last_paragraph_end if blank_lines_between else _last_line_end
        self._file = open_binary(path)
        self._offset = 0  # offset of the next block
        self._ahead = b""  # bytes after `_offset` that have been read
        self._left_out = 0
        self._replaced = False

    def seek(self, place: int) -> None:
        """Make the block at `place` the next one."""
        with damage_named(self._path):
            self._file.seek(place)
        self._offset, self._ahead = place, b""

    def close(self) -> None:
        self._file.close()

    def tell(self) -> None:
        """Warn of the number of skipped lines, if there were more than the first, which had its own warning."""
        if self._left_out > 1:
            _warn(f"{self._path}: left out {self._left_out:,} lines that are not {self._rules.encoding}")
        self._left_out = 0

    def next(self) -> Lines | None:
        """The next block, possibly without lines; `None` at the end.

        Raises:
            ValueError: damage, a line that is too long, or invalid bytes; the message names the line.
        """
        if self._start and self._offset == 0 and not self._ahead:
            self._align()
        place, data = self._offset, self._next_bytes()
        return self._decoded(place, data) if data else None

    def _align(self) -> None:
        """Move to the first line that begins at `start` or later."""
        self.seek(self._start - 1)
        enough = True
        while not (cut := _first_line_end(self._ahead, 0, not enough)):
            # A carriage return at the end may be half of CR LF.
            passed = len(self._ahead) - (enough and self._ahead.endswith(b"\r"))
            self._offset += passed
            self._ahead = self._ahead[passed:]
            if not enough:
                return
            enough = self._read_ahead(BLOCK_BYTES)
        self._offset += cut
        self._ahead = self._ahead[cut:]

    def _read_ahead(self, count: int) -> bool:
        """Buffer `count` bytes; False if the file ends before."""
        if len(self._ahead) < count:
            with damage_named(self._path):
                self._ahead += self._file.read(count - len(self._ahead))
        return len(self._ahead) >= count

    def _next_bytes(self) -> bytes:
        """The whole lines of the next block."""
        if self._end is not None and self._offset >= self._end:
            return b""
        # The first byte at which no line of this span may begin, less one: the span ends at the line end there.
        last = None if self._end is None else self._end - 1 - self._offset
        size = BLOCK_BYTES
        while True:
            enough = self._read_ahead(size)
            if last is not None and last < size:
                cut = _first_line_end(self._ahead[:size], last, not enough)
            else:
                cut = self._last_cut(self._ahead[:size])
            if cut:
                break
            if not enough:  # the last line has no line end
                cut = len(self._ahead)
                break
            if size > self._rules.max_line_bytes:
                advice = ", or raise max_line_bytes" if "max_line_bytes" in self._rules.offered else ""
                raise ValueError(
                    f"{where_in_lines(self._path, self._offset, 0)}: a line of more than "
                    f"{self._rules.max_line_bytes} bytes. Expected one sentence per line; split the text into lines"
                    f"{advice}"
                )
            size = min(2 * size, self._rules.max_line_bytes + 1)
        data, self._ahead = self._ahead[:cut], self._ahead[cut:]
        self._offset += cut
        return data

    def _decoded(self, place: int, data: bytes) -> Lines:
        if place == 0 and data.startswith(codecs.BOM_UTF8):
            data = data[len(codecs.BOM_UTF8) :]
        try:
            lines = split_lines(data.decode(self._rules.encoding))
            return Lines(place, lines, range(len(lines)))
        except UnicodeDecodeError:
            pairs = list(self._line_by_line(place, data))
        return Lines(place, [line for _, line in pairs], [number for number, _ in pairs])

    def _line_by_line(self, place: int, data: bytes) -> Iterator[tuple[int, str]]:
        encoding, policy = self._rules.encoding, self._rules.undecodable
        for number, line in enumerate(
            data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n").split(b"\n")
        ):
            try:
                yield number, line.decode(encoding)
            except UnicodeDecodeError as error:
                bad = line[error.start : error.end]
                where = (
                    f"{where_in_lines(self._path, place, number)}, byte {error.start + 1} of the line: {bad!r} is not "
                    f"{encoding}"
                )
                if policy == "refuse":
                    raise ValueError(f"{where}{self._rules.remedy_of_encoding}") from error
                if policy == "skip":
                    if not self._left_out:
                        _warn(f"{where}; left the line out")
                    self._left_out += 1
                    continue
                if not self._replaced:
                    _warn(f"{where}; put U+FFFD in its place, also in lines to come")
                    self._replaced = True
                yield number, line.decode(encoding, "replace")


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=2)


def numbered_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines of a UTF-8 file, plain or compressed, with their numbers from 1.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is empty, damaged, not a regular file or not UTF-8; the message names the file and the line.
    """
    name, number = os.fspath(path), 0
    check_file(name)
    with closing(LineBlocks(name, ReadingRules())) as blocks:
        while (block := blocks.next()) is not None:
            for line in block.lines:
                number += 1
                yield number, line


def where_in_lines(path: str, place: int, number: int) -> str:
    """Readable location, for messages: the file, and the line `number` lines after the one at offset `place`."""
    number += 1
    ended_with_cr = False
    with open_binary(path) as file:
        while place > 0 and (data := file.read(min(place, BLOCK_BYTES))):
            number += data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")
            number -= ended_with_cr and data.startswith(b"\n")
            ended_with_cr = data.endswith(b"\r")
            place -= len(data)
    return f"{path}, line {number}"


def _first_line_end(data: bytes, start: int, is_all: bool) -> int:
    """Offset of the first line that begins after `start`; 0 if the bytes do not contain it."""
    end = data.find(b"\n", start) + 1
    cr = data.find(b"\r", start, end or len(data))
    if cr < 0 or cr + 2 == end:
        return end
    # A carriage return at the end may be half of CR LF.
    return cr + 1 if cr + 1 < len(data) or is_all else 0


def _last_line_end(data: bytes) -> int:
    """Offset of the last line whose beginning the bytes contain; 0 for none."""
    # Text with line feeds is split at them alone, so that places saved by older versions stay valid.
    return data.rfind(b"\n") + 1 or data.rfind(b"\r", 0, len(data) - 1) + 1


def _last_paragraph_end(data: bytes) -> int:
    """Offset of the last line that follows a blank one; 0 for none."""
    return max(
        (found + len(blank) for blank in (b"\n\n", b"\n\r\n", b"\r\r") if (found := data.rfind(blank)) >= 0), default=0
    )

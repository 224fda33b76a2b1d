"""Files of labeled data: lines and JSON records, read completely or refused with location and remedy."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from elmo_hf.atomic import appearing
from elmo_hf.corpus.lines import COMPRESSIONS, numbered_lines
from elmo_hf.corpus.table_shards import largest_json


class CorpusError(ValueError):
    """Data that cannot be read; the message names the location, the expectation and the remedy."""


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    r"""Yield the lines of a UTF-8 file, plain or compressed, with their numbers from 1 and without line ends.

    A line ends at LF, CR LF or a lone CR; Unicode's other line separators are text.

    Raises:
        CorpusError: the file cannot be opened, is empty or damaged, or a line is not UTF-8.
    """
    try:
        yield from numbered_lines(path)
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); check its name and permissions") from error
    except ValueError as error:
        # For text in another encoding, leave out advice about options that tasks do not have.
        place, other_encoding, _ = str(error).partition(". Expected text in")
        advice = "; convert it to UTF-8, for instance with iconv" if other_encoding else ""
        raise CorpusError(place + advice) from error


def suffix_of(path: str | os.PathLike[str]) -> str:
    """The suffix that tells a file's format, without that of a compression."""
    suffixes = [suffix for suffix in Path(path).suffixes if suffix not in COMPRESSIONS]
    return suffixes[-1] if suffixes else ""


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read the value of a JSON file.

    Raises:
        CorpusError: the file cannot be read, or is not JSON.
    """
    lines, left = [], largest_json(os.path.getsize(path)) if os.path.isfile(path) else 0
    for _, line in read_lines(path):
        left -= len(line) + 1
        if left < 0:
            raise CorpusError(
                f"{path}: unpacks to far more than its size: expected a list of records that fits into memory. Write "
                "one record per line (.jsonl)"
            )
        lines.append(line)
    return _parse("\n".join(lines), str(path))


def read_records(path: str | os.PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (location, record) pairs of a JSON file: `.json` holds a list of objects, `.jsonl` one object per line.

    Raises:
        CorpusError: the file is not in this format.
    """
    records: Iterable[tuple[str, Any]]
    if suffix_of(path) == ".jsonl":
        records = ((f"{path}:{n}", _parse(line, f"{path}:{n}")) for n, line in read_lines(path) if line.strip())
    else:
        parsed = read_json(path)
        if not isinstance(parsed, list):
            raise CorpusError(
                f"{path}: holds a JSON {type(parsed).__name__}; expected a list of records, or one record per line "
                "in a file named .jsonl"
            )
        records = ((f"{path}: record {number}", record) for number, record in enumerate(parsed))
    for place, record in records:
        if not isinstance(record, dict):
            raise CorpusError(f"{place}: a {type(record).__name__}; expected an object with a field for each column")
        yield place, record


def is_json(path: str | os.PathLike[str]) -> bool:
    """True for file names that `read_records` accepts."""
    return suffix_of(path) in (".json", ".jsonl")


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorpusError(
            f"{place}: not JSON ({error}); expected a list of records in .json, one record per line in .jsonl"
        ) from error


def named(columns: Iterable[Any]) -> str:
    """The existing columns, for messages."""
    return ", ".join(map(repr, columns)) or "no fields"


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Write text lines, which include their line breaks; the file appears only when it is complete."""
    with appearing(path) as aside, aside.open("w", encoding="utf-8") as file:
        file.writelines(lines)

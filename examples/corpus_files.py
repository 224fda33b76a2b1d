"""Reading the files of a corpus: UTF-8 lines, JSON records, and errors that name the place and the remedy."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class CorpusError(ValueError):
    """A corpus that cannot be read; the message names the place, what was expected and the remedy."""


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, counted from 1. Unicode's own line separators are ordinary characters of a word.

    Raises:
        CorpusError: the file cannot be opened, or a line is not UTF-8.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); check its name and permissions") from error
    with file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise CorpusError(
                    f"{path}:{number}: not UTF-8 (byte {line[error.start]:#04x}); convert it, for instance with iconv"
                ) from error


def read_records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(place, record) of a JSON file: `.json` holds a list of objects, `.jsonl` one object a line.

    Raises:
        CorpusError: the file is not in this form.
    """
    if path.suffix == ".jsonl":
        records = [(f"{path}:{n}", _parse(line, f"{path}:{n}")) for n, line in read_lines(path) if line.strip()]
    else:
        parsed = _parse("\n".join(line for _, line in read_lines(path)), str(path))
        if not isinstance(parsed, list):
            raise CorpusError(
                f"{path}: holds a JSON {type(parsed).__name__}; expected a list of records, or one record a line "
                "in a file named .jsonl"
            )
        records = [(f"{path}: record {number}", record) for number, record in enumerate(parsed)]
    for place, record in records:
        if not isinstance(record, dict):
            raise CorpusError(f"{place}: a {type(record).__name__}; expected an object with a field for each column")
        yield place, record


def _parse(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"{place}: not JSON ({error}); expected a list of records in .json, one record a line in .jsonl"
        ) from error

"""Readers of text pairs for translation or summarization: two text files, TSV, JSON, or a `datasets` name.

Readers refuse incomplete data with an error that names the file, the line and the remedy: one extra line in one of two
files would mispair all sentences after it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from elmo_hf.fields import option

from .files import CorpusError, is_json, named, read_lines, read_records, suffix_of
from .splits import SourceArguments


class Pair(NamedTuple):
    """A source text, its target text, and their location, `file:line`."""

    source: str
    target: str
    place: str


@dataclass(frozen=True)
class PairColumns:
    """Columns of the two texts of a pair.

    In TSV files a column's number from 0, or its name in the first line; in records a field's name, with dots for
    nested fields: `translation.en`. `None` means column 0 or 1, field `source` or `target`.
    """

    source: str | None = None
    target: str | None = None

    def named(self, source: str, target: str) -> list[tuple[str, str]]:
        """(column, option that chooses it) for both texts, given the defaults."""
        return [(self.source or source, "--source_column"), (self.target or target, "--target_column")]


def read_pairs(files: Sequence[str | Path], columns: PairColumns) -> list[Pair]:
    """Read two text files with one text per line, or one file: `.tsv`, `.json` (a list of records), `.jsonl`.

    Whitespace around texts is stripped; other columns are ignored.

    Raises:
        CorpusError: a file is missing, empty, not UTF-8 or not in this format, a text is empty, or two files have
            different numbers of lines.
    """
    paths = [Path(file) for file in files]
    if len(paths) == 2:
        pairs = _read_two_files(*paths)
    elif len(paths) == 1 and suffix_of(paths[0]) == ".tsv":
        pairs = _read_tsv(paths[0], columns)
    elif len(paths) == 1 and is_json(paths[0]):
        pairs = _read_fields(read_records(paths[0]), columns)
    else:
        raise CorpusError(
            f"{' '.join(map(str, paths))}: expected one .tsv, .json or .jsonl file, or two text files, the sources and "
            "their targets"
        )
    found = list(pairs)
    if not found:
        raise CorpusError(f"{' and '.join(map(str, paths))}: no text; expected at least one pair")
    return found


def read_pair_dataset(records: Iterable[dict[str, Any]], name: str, columns: PairColumns) -> list[Pair]:
    """Read one split of a dataset, called `name` in errors; otherwise as [`read_pairs`]."""
    pairs = list(_read_fields(((f"{name}: record {n}", record) for n, record in enumerate(records)), columns))
    if not pairs:
        raise CorpusError(f"{name}: holds no record")
    return pairs


def _read_two_files(source: Path, target: Path) -> Iterator[Pair]:
    rows = zip_longest(read_lines(source), read_lines(target))
    for (number, source_text), (_, target_text) in _paired(rows, source, target):
        for path, text in ((source, source_text), (target, target_text)):
            if not text.strip():
                raise CorpusError(
                    f"{path}:{number}: an empty line; expected a text on every line. Remove the line from {source} and "
                    f"{target}"
                )
        yield Pair(source_text.strip(), target_text.strip(), f"{target}:{number}")


def _paired(rows: Iterator[tuple[Any, Any]], source: Path, target: Path) -> Iterator[tuple[Any, Any]]:
    for first, second in rows:
        if first is None or second is None:
            longer, shorter, number = (target, source, second[0]) if first is None else (source, target, first[0])
            more = sum(1 for _ in rows)
            raise CorpusError(
                f"{longer}:{number}: no counterpart in {shorter}, which has {number - 1:,} lines against "
                f"{number + more:,}; expected the same number, line by line each other's translation"
            )
        yield first, second


def _read_tsv(path: Path, columns: PairColumns) -> Iterator[Pair]:
    lines = read_lines(path)
    wanted = columns.named("0", "1")
    if all(name.isdecimal() for name, _ in wanted):
        positions = [int(name) for name, _ in wanted]
    else:
        _, header = next(lines, (1, ""))
        names = header.split("\t")
        for name, option in wanted:
            if name not in names:
                raise CorpusError(
                    f"{path}:1: no column {name!r} among {named(names)}; choose another with {option}, "
                    "or give both columns as numbers from 0 if the first line holds no names"
                )
        positions = [names.index(name) for name, _ in wanted]
    for number, line in lines:
        cells = line.split("\t")
        place = f"{path}:{number}"
        texts = []
        for position, (_, option) in zip(positions, wanted, strict=True):
            if position >= len(cells):
                raise CorpusError(
                    f"{place}: {len(cells)} columns between tabs, no column {position}; correct the line, or choose "
                    f"another column with {option}"
                )
            texts.append(_checked(cells[position], place, f"column {position}"))
        yield Pair(texts[0], texts[1], place)


def _read_fields(records: Iterable[tuple[str, dict[str, Any]]], columns: PairColumns) -> Iterator[Pair]:
    for place, record in records:
        texts = [
            _checked(_field(record, name, option, place), place, f"field {name!r}")
            for name, option in columns.named("source", "target")
        ]
        yield Pair(texts[0], texts[1], place)


def _field(record: dict[str, Any], name: str, option: str, place: str) -> Any:
    value: Any = record
    # A name with dots may also be that of a single field.
    for part in [name] if name in record else name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise CorpusError(
                f"{place}: no field {name!r} among {named(record)}; choose another with "
                f"{option} (with dots for a field within a field, such as translation.en)"
            )
        value = value[part]
    return value


def _checked(text: Any, place: str, what: str) -> str:
    if not isinstance(text, str):
        raise CorpusError(f"{place}: {what} is {text!r:.200}; expected a text")
    if not text.strip():
        raise CorpusError(f"{place}: {what} is empty; expected a text. Remove the pair")
    return text.strip()


@dataclass
class PairArguments(SourceArguments):
    """Options for data in two text files with one text per line, or in one file: `.tsv`, `.json` (a list), `.jsonl`."""

    train_file: list[str] | None = option(None, "Training data: one file, or two.")  # type: ignore[assignment]
    validation_file: list[str] | None = option(None, "Likewise, for choosing the best model.")  # type: ignore[assignment]
    test_file: list[str] | None = option(None, "Likewise, for the final score and predictions.")  # type: ignore[assignment]
    validation_share: float | None = option(
        None, "Without validation data: hold out this share of the training data, the same for any seed."
    )
    source_column: str | None = option(
        None,
        "TSV: number from 0, or name in the first line (default: 0). JSON and datasets: field, with dots "
        "for nested fields, such as translation.en (default: source).",
    )
    target_column: str | None = option(None, "Likewise (default: 1; target).")
    max_source_words: int | None = option(None, "Truncate longer sources, in every split.")
    max_target_tokens: int = option(128, "The decoder's limit. Longer training targets are truncated, others refused.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("max_source_words", 1), ("max_target_tokens", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name} {value}: expected {least} or more")

    @property
    def columns(self) -> PairColumns:
        return PairColumns(self.source_column, self.target_column)

    def read_file(self, path: Sequence[str], labels: Sequence[str] | None) -> list[Pair]:
        return read_pairs(path, self.columns)

    def read_dataset(self, split: Dataset, name: str, labels: Sequence[str] | None) -> list[Pair]:
        return read_pair_dataset(split, name, self.columns)

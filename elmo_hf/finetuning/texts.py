"""Data for text classification: TSV, CSV, JSON, or a `datasets` name, read as labeled texts and encoded.

Readers refuse incomplete data with an error that names the file, the line and the remedy.
"""

import csv
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from datasets import ClassLabel, Dataset, Features, List, Value
from transformers import PreTrainedTokenizerBase

from elmo_hf.corpus.table_shards import allow_large_cells
from elmo_hf.fields import option

from .files import CorpusError, is_json, named, read_lines, read_records, suffix_of
from .splits import SplitArguments

logger = logging.getLogger(__name__)

Problem = Literal["single_label_classification", "multi_label_classification", "regression"]


class Text(NamedTuple):
    """A text, the second text of a pair or `None`, and its label, labels, or value, depending on the problem."""

    text: str
    pair: str | None
    label: Any


@dataclass(frozen=True)
class TextColumns:
    """Columns of texts and labels, and the kind of labels.

    A column is given by its name in the header line or record, or, in a file without header line, by its number from 0
    (from the end if negative).
    """

    text: str = "sentence"
    label: str = "label"
    pair: str | None = None
    problem: Problem = "single_label_classification"
    label_separator: str = ","
    label_names: Sequence[str] | None = None
    numbers_are_classes: bool = False

    @property
    def options(self) -> dict[str, str]:
        """The option that chooses each column, by column."""
        options = {self.text: "--text_column", self.label: "--label_column"}
        return options if self.pair is None else options | {self.pair: "--text_pair_column"}


def read_texts(path: str | Path, columns: TextColumns, labels: Sequence[str] | None = None) -> list[Text]:
    """Read a file: `.json` and `.jsonl` hold records, `.csv` has commas and quotes, any other file has tabs.

    Args:
        path: the file, UTF-8.
        columns: columns of texts and labels.
        labels: allowed labels; `None` for all. A regression has none.

    Raises:
        CorpusError: the file is missing, empty, not UTF-8 or not in this format, lacks a column, or has an empty text,
            a missing label, or another label.
    """
    rows = read_records(path) if is_json(path) else _read_table(path, columns)
    return _texts(rows, columns, labels, str(path))


def read_text_dataset(
    dataset: Dataset, name: str, columns: TextColumns, labels: Sequence[str] | None = None
) -> list[Text]:
    """Read one split of a dataset, called `name` in errors; otherwise as [`read_texts`].

    Labels may be strings or numbers of a `ClassLabel` feature.
    """
    feature = dataset.features.get(columns.label)
    feature = getattr(feature, "feature", feature)
    if isinstance(feature, ClassLabel):
        columns = replace(columns, label_names=feature.names, numbers_are_classes=True)
    rows = ((f"{name}: record {number}", row) for number, row in enumerate(dataset))
    return _texts(rows, columns, labels, name)


def _texts(
    rows: Iterable[tuple[str, Mapping[str, Any]]], columns: TextColumns, labels: Sequence[str] | None, name: str
) -> list[Text]:
    """Convert (location, row) pairs to texts."""
    found = list(rows)
    if not found:
        raise CorpusError(f"{name}: holds no text; expected at least one labeled text")
    for place, row in found:
        for column, flag in columns.options.items():
            if column not in row:
                raise CorpusError(f"{place}: no {column!r} among {named(row)}; choose another with {flag}")
    if columns.problem == "multi_label_classification":
        found = _without_indicators(found, columns, labels, name)
    return [_text_of_row(row, columns, labels, place) for place, row in found]


def _read_table(path: str | Path, columns: TextColumns) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (location, {column: cell}) for each line; blank lines are skipped."""
    is_csv = suffix_of(path) == ".csv"
    lines = _csv_rows(path) if is_csv else _tab_rows(path)
    has_header = not all(_is_number(name) for name in columns.options)
    header: list[str] = []
    expected: tuple[int, int] | None = None  # number of columns, and the line that set it
    for number, cells in lines:
        place = f"{path}:{number}"
        if expected is None:
            expected = (len(cells), number)
            header = [cell.strip() for cell in cells] if has_header else []
            positions = _positions(header, len(cells), columns, place)
            if has_header:
                continue
        if len(cells) != expected[0]:
            raise CorpusError(
                f"{place}: has {len(cells)} columns and line {expected[1]} has {expected[0]}; expected the same in "
                "every line" + ("; put cells that hold commas in quotes" if is_csv else "")
            )
        yield place, {name: cells[position] for name, position in positions.items()}


def _tab_rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in read_lines(path):
        if line.strip():
            yield number, line.split("\t")


def _csv_rows(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line at which the row ends, cells); quoted cells may contain line breaks."""
    allow_large_cells()
    reader = csv.reader((f"{line}\n" for _, line in read_lines(path)), strict=True, skipinitialspace=True)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise CorpusError(
                f"{path}:{reader.line_num}: not CSV ({error}); quotes inside a cell are doubled"
            ) from None
        if any(cell.strip() for cell in cells):
            yield reader.line_num, cells


def _is_number(name: str) -> bool:
    return name.removeprefix("-").isdecimal()


def _positions(header: list[str], count: int, columns: TextColumns, place: str) -> dict[str, int]:
    """Position of each column; names are looked up in the header line."""
    positions = {}
    for name, flag in columns.options.items():
        if name in header:
            positions[name] = header.index(name)
        elif _is_number(name) and -count <= int(name) < count:
            positions[name] = int(name)
        elif header and not _is_number(name):
            raise CorpusError(
                f"{place}: no column {name!r} in the header line ({', '.join(map(repr, header)):.500}); choose another "
                f"with {flag}, by its number, counted from 0, if the file has no header line"
            )
        else:
            raise CorpusError(
                f"{place}: no column {name} among {count}, separated by tabs, or by commas in .csv; choose another "
                f"with {flag}"
            )
    for name, position in positions.items():
        same = [other for other in positions if positions[other] % count == position % count and other != name]
        if same:
            raise CorpusError(
                f"{place}: columns {name} and {same[0]} are one and the same of {count}; expected text and label "
                f"apart, between tabs, or commas in .csv. Choose others with {columns.options[name]} and "
                f"{columns.options[same[0]]}"
            )
    return positions


def _text_of_row(row: Mapping[str, Any], columns: TextColumns, labels: Sequence[str] | None, place: str) -> Text:
    texts = [row[name] for name in (columns.text, columns.pair) if name is not None]
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise CorpusError(f"{place}: the text is empty ({text!r:.200}); remove it and its label")
    label = READERS[columns.problem](row[columns.label], columns, labels, place)
    return Text(texts[0], texts[1] if len(texts) == 2 else None, label)


def _single_label(value: Any, columns: TextColumns, labels: Sequence[str] | None, place: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = _label_of_number(value, columns.label_names, place)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise CorpusError(f"{place}: no label; remove the text, or choose another column with --label_column")
    if not isinstance(value, str):
        raise CorpusError(
            f"{place}: label {value!r:.200}; expected a string or an integer; see --problem_type for others"
        )
    value = value.strip()
    if labels is not None and value not in labels:
        raise CorpusError(
            f"{place}: label {value!r:.200} is not among {', '.join(labels)}; correct the file, choose another column "
            "with --label_column, or name all labels with --labels"
        )
    return value


def _label_of_number(value: int, names: Sequence[str] | None, place: str) -> str:
    if names is None or (str(value) in names):
        return str(value)
    if not 0 <= value < len(names):
        raise CorpusError(f"{place}: label {value} is not a position among the {len(names)} labels {', '.join(names)}")
    return names[value]


def _without_indicators(
    rows: list[tuple[str, Mapping[str, Any]]], columns: TextColumns, labels: Sequence[str] | None, name: str
) -> list[tuple[str, Mapping[str, Any]]]:
    """Replace indicators, 0 or 1 for each label, by lists of label names.

    Lists count as indicators if all rows have the same number of entries, at least two, and all are 0 or 1; otherwise
    they are class numbers.
    """
    lists = [_list_of_cell(row[columns.label], columns) for _, row in rows]
    count = len(lists[0]) if lists[0] else 0
    is_indicator = all(
        each is not None and len(each) == count and all(str(value) in INDICATORS for value in each) for each in lists
    )
    if columns.numbers_are_classes or count < 2 or not is_indicator:
        return rows
    names = list(columns.label_names or labels or map(str, range(count)))
    if len(names) != count:
        raise CorpusError(
            f"{rows[0][0]}: {count} times 0 or 1 for the labels {', '.join(names)}; expected one for each, in their "
            "order. Name all labels with --labels"
        )
    logger.info("%s: labels are read as 0 or 1 for each of %s", name, " ".join(names))
    return [
        (place, {**row, columns.label: [n for n, v in zip(names, each or [], strict=True) if INDICATORS[str(v)]]})
        for (place, row), each in zip(rows, lists, strict=True)
    ]


INDICATORS = {"0": False, "1": True, "0.0": False, "1.0": True, "False": False, "True": True}


def _list_of_cell(value: Any, columns: TextColumns) -> list[Any] | None:
    """The list in a record, or in a file's cell such as `happy,calm` or `["happy", "calm"]`."""
    if not isinstance(value, str):
        return value if isinstance(value, list) else None
    if value.strip().startswith("[") and value.strip().endswith("]"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return None
    return [part.strip() for part in value.split(columns.label_separator) if part.strip()]


def _several_labels(value: Any, columns: TextColumns, labels: Sequence[str] | None, place: str) -> list[str]:
    """The labels in a list or cell; an empty one means a text without labels."""
    parts = _list_of_cell(value, columns)
    if parts is None:
        raise CorpusError(
            f"{place}: labels {value!r:.60}; expected a list, or a string with {columns.label_separator!r} between "
            "labels (--label_separator)"
        )
    found = [_single_label(part, columns, labels, place) for part in parts]
    if len(set(found)) < len(found):
        raise CorpusError(f"{place}: a label is given twice in {', '.join(found)}; remove one")
    return found


def _value(value: Any, columns: TextColumns, labels: Sequence[str] | None, place: str) -> float:
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise CorpusError(
            f"{place}: value {value!r:.200}; expected a finite number for a regression, or choose another column with "
            "--label_column"
        )
    return number


READERS: dict[Problem, Callable[[Any, TextColumns, Sequence[str] | None, str], Any]] = {
    "single_label_classification": _single_label,
    "multi_label_classification": _several_labels,
    "regression": _value,
}


def label_names(texts: Iterable[Text], problem: Problem) -> list[str]:
    """All labels, sorted numerically or else alphabetically. A regression has one output and no labels."""
    if problem == "regression":
        return ["value"]
    labels = {label for t in texts for label in ([t.label] if problem == "single_label_classification" else t.label)}
    return sorted(labels, key=lambda label: (0, int(label), label) if _is_number(label) else (1, 0, label))


def encode_texts(
    texts: Sequence[Text],
    tokenizer: PreTrainedTokenizerBase,
    label2id: Mapping[str, int],
    problem: Problem,
    max_words: int | None = None,
    report: Callable[[str], None] = logger.warning,
) -> Dataset:
    """Encode texts as model inputs, one example per text, with `labels`: a number, a list of 0.0 and 1.0, or a value.

    Args:
        texts: texts from a reader.
        tokenizer: the tokenizer.
        label2id: number of every label.
        problem: kind of labels.
        max_words: truncate longer texts (in a pair, the longer text first); `None` never truncates.
        report: called with a message if texts were truncated.

    Raises:
        CorpusError: a text without a word.
    """
    # Each text has two boundaries.
    limit = None if max_words is None else max_words + (2 if texts[0].pair is None else 4)
    cut = 0

    def encode_batch(batch: dict[str, list[Any]]) -> dict[str, Any]:
        nonlocal cut
        pairs = None if batch["pair"][0] is None else batch["pair"]
        encoded = tokenizer(batch["text"], pairs, truncation=limit is not None, max_length=limit)
        for index in range(len(batch["text"])):
            words = set(encoded.word_ids(index)) - {None}
            if not words or (pairs and 1 not in encoded.sequence_ids(index)):
                raise CorpusError(f"no word in the text {batch['text'][index]!r}; remove it and its label")
        if limit is not None:
            cut += sum(len(row) == limit for row in encoded["input_ids"])
        return {**encoded, "labels": batch["label"]}

    labels: list[Any]
    if problem == "regression":
        labels, kind = [float(text.label) for text in texts], Value("float32")
    elif problem == "single_label_classification":
        labels, kind = [label2id[text.label] for text in texts], Value("int64")
    else:
        names = sorted(label2id, key=label2id.__getitem__)
        labels, kind = [[float(name in text.label) for name in names] for text in texts], List(Value("float32"))
    dataset = Dataset.from_dict(
        {"text": [t.text for t in texts], "pair": [t.pair for t in texts], "label": labels},
        features=Features({"text": Value("string"), "pair": Value("string"), "label": kind}),
    )
    dataset = dataset.map(encode_batch, batched=True, remove_columns=["text", "pair", "label"], desc="Tokenizing")
    if cut:
        report(f"{cut} of {len(texts)} texts reach --max_words {max_words}; longer ones were truncated")
    return dataset


@dataclass
class TextArguments(SplitArguments):
    """Options for data in columns between tabs (any suffix) or commas (`.csv`), or records (`.json`, `.jsonl`)."""

    text_column: str = option(
        "sentence", "Its name in the header line or record, or its number, from 0, in a file without header."
    )
    label_column: str = option("label", "Likewise.")
    text_pair_column: str | None = option(None, "Likewise, for the second sentence in pair classification.")
    problem_type: Problem = option("single_label_classification", "One label, any number of labels, or a value.")
    label_separator: str = option(",", "Separator of several labels in one column of a file.")
    max_words: int | None = option(None, "Truncate texts to this many words (default: never).")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_words is not None and self.max_words < 1:
            raise ValueError(f"--max_words {self.max_words}: expected 1 or more")
        if self.label_column in (self.text_column, self.text_pair_column) or self.text_column == self.text_pair_column:
            raise ValueError(
                f"--text_column {self.text_column}, --label_column {self.label_column}, --text_pair_column "
                f"{self.text_pair_column}: expected different columns"
            )

    @property
    def columns(self) -> TextColumns:
        names = (self.text_column, self.label_column, self.text_pair_column)
        return TextColumns(*names, self.problem_type, self.label_separator, self.labels)

    def read_file(self, path: str, labels: Sequence[str] | None) -> list[Text]:
        return read_texts(path, self.columns, labels)

    def read_dataset(self, split: Dataset, name: str, labels: Sequence[str] | None) -> list[Text]:
        return read_text_dataset(split, name, self.columns, labels)

    def label_set(self, examples: list[Text]) -> list[str]:
        return label_names(examples, self.problem_type)

    def encode(
        self, splits: Mapping[str, Sequence[Text]], tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]
    ) -> dict[str, Dataset]:
        """Encode each split as model inputs; `labels` are in the order of their numbers."""
        label2id = {label: number for number, label in enumerate(labels)}
        return {
            name: encode_texts(texts, tokenizer, label2id, self.problem_type, self.max_words)
            for name, texts in splits.items()
        }


def words_of_texts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[Text]) -> Iterator[str]:
    """Yield all words of the texts, as split by the tokenizer."""
    for text in texts:
        for part in (text.text, text.pair):
            yield from (word for word, _ in tokenizer.words(part or ""))

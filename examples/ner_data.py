"""Named-entity corpora: CoNLL columns, JSON, or a `datasets` name -> sentences -> model inputs.

Every reader returns whole sentences of words and tags, and refuses what it cannot read completely with an error that
names the file, the line and the remedy: a label that went missing in silence would look like a worse model.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from datasets import ClassLabel, Dataset
from transformers import PreTrainedTokenizerBase

IGNORED_LABEL = -100  # of special tokens and of words that are context only: no loss, no score
PREFIXES = "BIESLU"
TAG = re.compile(rf"O|[{PREFIXES}]-.+")
DOCUMENT_START = "-DOCSTART-"


class CorpusError(ValueError):
    """A corpus that cannot be read; the message names the place, what was expected and the remedy."""


class Sentence(NamedTuple):
    """The words of one sentence and their tags, as many."""

    words: list[str]
    tags: list[str]


@dataclass(frozen=True)
class Columns:
    """Where words and tags stand: 0-based columns of CoNLL files (from the end if negative), names in records.

    Records may hold tags as integers, positions in `tag_names`.
    """

    word: int = 0
    tag: int = -1
    tokens: str = "tokens"
    ner_tags: str = "ner_tags"
    tag_names: Sequence[str] | None = None


def read_file(path: str | Path, columns: Columns, labels: Sequence[str] | None = None) -> list[Sentence]:
    """Read a JSON file (`.json`: a list of records, `.jsonl`: one record a line) or a CoNLL file (any other suffix).

    Args:
        path: the file, UTF-8.
        columns: where words and tags stand.
        labels: the tags that may occur; `None` allows every `O`, `B-TYPE`, `I-TYPE`, ...

    Raises:
        CorpusError: the file is missing, empty, not UTF-8 or not in this form, or holds another tag.
    """
    path = Path(path)
    reader = _read_json if path.suffix in (".json", ".jsonl") else _read_conll
    try:
        sentences = list(reader(path, columns, labels))
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror}); check its name and permissions") from error
    if not sentences:
        raise CorpusError(f"{path}: holds no sentence; expected words and tags, one sentence at least")
    return sentences


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file, counted from 1. Unicode's own line separators are ordinary characters of a word."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise CorpusError(
                    f"{path}:{number}: not UTF-8 (byte {line[error.start]:#04x}); convert it, for instance with iconv"
                ) from error


def _read_conll(path: Path, columns: Columns, labels: Sequence[str] | None) -> Iterator[Sentence]:
    """One word a line, blank lines between sentences; columns stand between tabs, else between runs of spaces."""
    expected: tuple[int, int] | None = None  # number of columns and the line that set it
    sentence = Sentence([], [])
    for number, line in _lines(path):
        place = f"{path}:{number}"
        if not line.strip() or line.startswith(DOCUMENT_START):
            if sentence.words:
                yield sentence
                sentence = Sentence([], [])
            continue
        cells = line.split("\t") if "\t" in line else line.split(" ")
        cells = [cell for cell in map(str.strip, cells) if cell or "\t" in line]
        if expected is None:
            expected = (len(cells), number)
        if len(cells) < 2:
            raise CorpusError(f"{place}: {line!r} has no tag; expected a word and a tag, between a tab or spaces")
        if len(cells) != expected[0]:
            raise CorpusError(
                f"{place}: {line!r} has {len(cells)} columns and line {expected[1]} has {expected[0]}; expected "
                "the same in every line, with tabs between columns if words hold spaces"
            )
        word, tag = (
            _cell(cells, index, place, option)
            for index, option in ((columns.word, "--word_column"), (columns.tag, "--tag_column"))
        )
        _check_word(word, place)
        _check_tag(tag, labels, place)
        sentence.words.append(word)
        sentence.tags.append(tag)
    if sentence.words:
        yield sentence


def _cell(cells: list[str], index: int, place: str, option: str) -> str:
    try:
        return cells[index]
    except IndexError:
        raise CorpusError(f"{place}: no column {index} among {len(cells)}; choose another with {option}") from None


def _read_json(path: Path, columns: Columns, labels: Sequence[str] | None) -> Iterator[Sentence]:
    """Records with a list of words and a list of tags."""
    if path.suffix == ".jsonl":
        records = [(f"{path}:{n}", _parse_json(line, f"{path}:{n}")) for n, line in _lines(path) if line.strip()]
    else:
        parsed = _parse_json("\n".join(line for _, line in _lines(path)), str(path))
        if not isinstance(parsed, list):
            raise CorpusError(
                f"{path}: holds a JSON {type(parsed).__name__}; expected a list of records, or one record a line "
                "in a file named .jsonl"
            )
        records = [(f"{path}: record {number}", record) for number, record in enumerate(parsed)]
    for place, record in records:
        yield _sentence_of_record(record, columns, labels, place)


def _parse_json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise CorpusError(
            f"{place}: not JSON ({error}); expected a list of records in .json, one record a line in .jsonl"
        ) from error


def _sentence_of_record(record: Any, columns: Columns, labels: Sequence[str] | None, place: str) -> Sentence:
    if not isinstance(record, dict):
        raise CorpusError(f"{place}: a {type(record).__name__}; expected an object with {columns.tokens!r} and more")
    for name, option in ((columns.tokens, "--tokens_column"), (columns.ner_tags, "--ner_tags_column")):
        if not isinstance(record.get(name), list):
            raise CorpusError(
                f"{place}: no list {name!r} among {', '.join(map(repr, record)) or 'no fields'}; choose another "
                f"with {option}"
            )
    words, tags = record[columns.tokens], record[columns.ner_tags]
    if not words or len(words) != len(tags):
        raise CorpusError(
            f"{place}: {len(words)} words and {len(tags)} tags; expected one word or more, each with a tag"
        )
    for word in words:
        _check_word(word, place)
    if any(isinstance(tag, int) for tag in tags):
        tags = [_tag_of_index(tag, columns.tag_names, place) for tag in tags]
    for tag in tags:
        _check_tag(tag, labels, place)
    return Sentence(words, tags)


def _tag_of_index(tag: Any, names: Sequence[str] | None, place: str) -> str:
    if names is None:
        raise CorpusError(f"{place}: tag {tag!r} is a number; name the tags, in order, with --labels")
    if not isinstance(tag, int) or not 0 <= tag < len(names):
        raise CorpusError(f"{place}: tag {tag!r} is no position among the {len(names)} tags {', '.join(names)}")
    return names[tag]


def _check_word(word: Any, place: str) -> None:
    if not isinstance(word, str) or not word.strip():
        raise CorpusError(f"{place}: word {word!r} is empty; take it out together with its tag")


def _check_tag(tag: Any, labels: Sequence[str] | None, place: str) -> None:
    if not isinstance(tag, str) or not TAG.fullmatch(tag):
        raise CorpusError(
            f"{place}: tag {tag!r}; expected O or a prefix ({', '.join(PREFIXES)}), a dash and a type, such as B-PER. "
            "If another column holds the tags, choose it with --tag_column"
        )
    if labels is not None and tag not in labels:
        raise CorpusError(
            f"{place}: tag {tag!r} is not among the tags {', '.join(labels)}; correct the file, or name all tags with "
            "--labels"
        )


def read_dataset(dataset: Dataset, name: str, columns: Columns, labels: Sequence[str] | None = None) -> list[Sentence]:
    """Read one split of a dataset; `name` stands for it in errors. Otherwise as [`read_file`].

    Tags may be strings or the numbers of a `ClassLabel` feature.
    """
    feature = getattr(dataset.features.get(columns.ner_tags), "feature", None)
    if isinstance(feature, ClassLabel):
        columns = replace(columns, tag_names=feature.names)
    sentences = [
        _sentence_of_record(record, columns, labels, f"{name}: record {number}")
        for number, record in enumerate(dataset)
    ]
    if not sentences:
        raise CorpusError(f"{name}: holds no sentence")
    return sentences


def label_set(sentences: Iterable[Sentence]) -> list[str]:
    """All tags that a model of these sentences should know, `O` first.

    Closed under the prefixes that occur: a type seen only as `B-` gets its `I-` tag too, which another file may need.
    """
    tags = {tag for sentence in sentences for tag in sentence.tags}
    prefixes = [prefix for prefix in PREFIXES if any(tag.startswith(f"{prefix}-") for tag in tags)]
    types = sorted({tag[2:] for tag in tags if tag != "O"})
    return ["O", *(f"{prefix}-{entity_type}" for entity_type in types for prefix in prefixes)]


class Window(NamedTuple):
    """Part of a sentence: its words, and their tags or `None` where a word is only context."""

    words: list[str]
    tags: list[str | None]


def windows(sentence: Sentence, max_words: int | None, stride: int = 0) -> Iterator[Window]:
    """Cut a sentence into parts of at most `max_words` words, each repeating the last `stride` words of the one before.

    Repeated words carry no tag, so every tag of the sentence is learnt exactly once.
    """
    total = len(sentence.words)
    if max_words is None or total <= max_words:
        yield Window(sentence.words, list(sentence.tags))
        return
    for start in range(0, total - stride, max_words - stride):
        end = min(start + max_words, total)
        context = stride if start else 0
        yield Window(sentence.words[start:end], [*[None] * context, *sentence.tags[start + context : end]])


def encode(
    sentences: Sequence[Sentence],
    tokenizer: PreTrainedTokenizerBase,
    label2id: dict[str, int],
    max_words: int | None = None,
    stride: int = 0,
    report: Callable[[str], None] = print,
) -> Dataset:
    """Model inputs with `labels`, one example a sentence (or window of one).

    Args:
        sentences: what a reader returned.
        tokenizer: keeps the words whole; its first token of a word carries the label.
        label2id: id of every tag.
        max_words: cut longer sentences into windows of this many words; `None` never cuts.
        stride: words that a window repeats of the one before, as context.
        report: is told how many sentences were cut.

    Raises:
        CorpusError: a word yields no token, so that its tag would be lost.
    """
    parts = [window for sentence in sentences for window in windows(sentence, max_words, stride)]
    if len(parts) > len(sentences):
        cut = sum(len(sentence.words) > (max_words or 0) for sentence in sentences)
        report(
            f"{cut} of {len(sentences)} sentences are longer than {max_words} words and were cut into "
            f"{len(parts) - len(sentences) + cut} windows with {stride} words of overlap; every label is kept once"
        )

    def encode_batch(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = tokenizer(batch["words"], is_split_into_words=True, truncation=False)
        labels = []
        for index, (words, tags) in enumerate(zip(batch["words"], batch["tags"], strict=True)):
            row: list[int] = []
            previous: int | None = None
            for word in encoded.word_ids(index):
                tag = None if word is None or word == previous else tags[word]
                row.append(IGNORED_LABEL if tag is None else label2id[tag])
                previous = word
            missing = set(range(len(words))) - set(encoded.word_ids(index))
            if missing:
                raise CorpusError(
                    f"the tokenizer makes no token of the word {words[min(missing)]!r} in {' '.join(words)!r}; take it "
                    "out together with its tag"
                )
            labels.append(row)
        return {**encoded, "labels": labels}

    dataset = Dataset.from_dict({"words": [p.words for p in parts], "tags": [p.tags for p in parts]})
    return dataset.map(encode_batch, batched=True, remove_columns=["words", "tags"], desc="Tokenizing")

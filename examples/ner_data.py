"""Corpora of tagged words: CoNLL columns, JSON, or a `datasets` name -> sentences -> model inputs.

Every reader returns whole sentences of words and tags, and refuses what it cannot read completely with an error that
names the file, the line and the remedy: a label that went missing in silence would look like a worse model.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from datasets import ClassLabel, Dataset
from transformers import PreTrainedTokenizerBase

from corpus_files import CorpusError, read_lines, read_records

IGNORED_LABEL = -100  # of special tokens and of words that are context only: no loss, no score
PREFIXES = "BIESLU"
TAG = re.compile(rf"O|[{PREFIXES}]-.+")
DOCUMENT_START = "-DOCSTART-"
SCHEMES: dict[Literal["BIO", "BIOES"], set[str]] = {"BIO": {"B", "I"}, "BIOES": {"B", "I", "E", "S"}}


class Sentence(NamedTuple):
    """The words of one sentence and their tags, as many."""

    words: list[str]
    tags: list[str]


@dataclass(frozen=True)
class Columns:
    """Where words and tags stand: 0-based columns of CoNLL files (from the end if negative), names in records.

    Records may hold tags as integers, positions in `tag_names`. Tags are those of named entities (`O`, `B-TYPE`,
    `I-TYPE`, ...) unless `any_tag`.
    """

    word: int = 0
    tag: int = -1
    tokens: str = "tokens"
    ner_tags: str = "ner_tags"
    tag_names: Sequence[str] | None = None
    any_tag: bool = False


def read_file(path: str | Path, columns: Columns, labels: Sequence[str] | None = None) -> list[Sentence]:
    """Read a JSON file (`.json`: a list of records, `.jsonl`: one record a line) or a CoNLL file (any other suffix).

    Args:
        path: the file, UTF-8.
        columns: where words and tags stand.
        labels: the tags that may occur; `None` allows every tag of the kind that `columns` names.

    Raises:
        CorpusError: the file is missing, empty, not UTF-8 or not in this form, or holds another tag.
    """
    path = Path(path)
    reader = _read_json if path.suffix in (".json", ".jsonl") else _read_conll
    sentences = list(reader(path, columns, labels))
    if not sentences:
        raise CorpusError(f"{path}: holds no sentence; expected words and tags, one sentence at least")
    return sentences


def _read_conll(path: Path, columns: Columns, labels: Sequence[str] | None) -> Iterator[Sentence]:
    """One word a line, blank lines between sentences; columns stand between tabs, else between runs of spaces."""
    expected: tuple[int, int] | None = None  # number of columns and the line that set it
    sentence = Sentence([], [])
    for number, line in read_lines(path):
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
        _check_tag(tag, columns, labels, place)
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
    for place, record in read_records(path):
        yield _sentence_of_record(record, columns, labels, place)


def _sentence_of_record(record: dict[str, Any], columns: Columns, labels: Sequence[str] | None, place: str) -> Sentence:
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
        _check_tag(tag, columns, labels, place)
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


def _check_tag(tag: Any, columns: Columns, labels: Sequence[str] | None, place: str) -> None:
    if not isinstance(tag, str) or not tag.strip():
        raise CorpusError(f"{place}: tag {tag!r} is empty; expected a tag for every word")
    if not columns.any_tag and not TAG.fullmatch(tag):
        raise CorpusError(
            f"{place}: tag {tag!r}; expected O or a prefix ({', '.join(PREFIXES)}), a dash and a type, such as B-PER. "
            "If another column holds the tags, choose it with --tag_column; if tags stand for words and not for "
            "entities, such as parts of speech, give --task pos"
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


def label_set(sentences: Iterable[Sentence], any_tag: bool = False) -> list[str]:
    """All tags that a model of these sentences should know: `O` first, or any tags in alphabetical order.

    Tags of entities are closed under the prefixes that occur: a type seen only as `B-` gets its `I-` tag too, which
    another file may need.
    """
    tags = {tag for sentence in sentences for tag in sentence.tags}
    if any_tag:
        return sorted(tags)
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


def tag_scheme(sequences: Iterable[Sequence[str | None]], labels: Iterable[str]) -> Literal["BIO", "BIOES"] | None:
    """The scheme in which all these sequences are well formed and to which all labels belong, if there is one.

    Tags of IOB1, where an `I-` may begin an entity, have none: a model must not be forbidden what its training data
    holds.
    """
    prefixes, sequences = {label[0] for label in labels if label != "O"}, list(sequences)
    for scheme, all_prefixes in SCHEMES.items():
        if "B" in prefixes <= all_prefixes and all(is_well_formed(tags, scheme) for tags in sequences):
            return scheme
    return None


def is_well_formed(tags: Sequence[str | None], scheme: Literal["BIO", "BIOES"]) -> bool:
    """Whether a sequence of tags can stand in this scheme; `None` is a word whose tag is not known."""
    for before, tag in zip(["O", *tags], [*tags, "O"], strict=True):
        if before is None or tag is None:
            continue
        continues = tag[0] in "IE" and before[0] in "BI" and before[2:] == tag[2:]
        if (tag[0] in "IE" or (scheme == "BIOES" and before[0] in "BI")) and not continues:
            return False
    return True


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

"""Data for tagging: CoNLL columns, CoNLL-U, JSON, or a `datasets` name, read as sentences and encoded.

Readers return complete sentences of words and tags, and refuse incomplete data with an error that names the file, the
line and the remedy: silently dropped labels would look like a worse model.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from datasets import ClassLabel, Dataset
from transformers import PreTrainedTokenizerBase

from elmo_hf.corpus.conllu import read_conllu
from elmo_hf.fields import option
from elmo_hf.model.configuration_elmo import ElmoConfig
from elmo_hf.model.tag_schemes import ROLES, may_follow, parse_tag

from .files import CorpusError, is_json, named, read_lines, read_records, suffix_of
from .splits import SplitArguments

logger = logging.getLogger(__name__)

IGNORED_LABEL = -100  # for special tokens and context words: no loss, no score
PREFIXES = "BIMESLU"
TAG = re.compile(rf"O|[{PREFIXES}]-.+")
DOCUMENT_START = "-DOCSTART-"

Scheme = Literal["BIO", "BIOES", "BIOUL", "BMES", "IOB1"]


class Sentence(NamedTuple):
    """The words of one sentence and their tags, one per word."""

    words: list[str]
    tags: list[str]


@dataclass(frozen=True)
class TagColumns:
    """Columns of words and tags.

    Attributes:
        word: in CoNLL, a column from 0, from the end if negative (default: the first).
        tag: likewise (default: the last); in CoNLL-U, a column's name or number (default: upos).
        tokens, ner_tags: in records, the fields of words and tags.
        tag_names: names of integer tags in records, by position.
        any_tag: accept any tags, not only those of named entities (`O`, `B-TYPE`, `I-TYPE`, ...).
    """

    word: int = 0
    tag: str | int | None = None
    tokens: str = "tokens"
    ner_tags: str = "ner_tags"
    tag_names: Sequence[str] | None = None
    any_tag: bool = False

    @property
    def tag_number(self) -> int:
        """Index of the tag column in CoNLL files."""
        try:
            return -1 if self.tag is None else int(self.tag)
        except ValueError:
            raise CorpusError(
                f"--tag_column {self.tag}: expected a number, from 0, from the end if negative; only CoNLL-U names its "
                "columns"
            ) from None


def read_tagged(path: str | Path, columns: TagColumns, labels: Sequence[str] | None = None) -> list[Sentence]:
    """Read records (`.json`: a list, `.jsonl`: one per line), CoNLL-U (by name or content) or CoNLL (any other file).

    Args:
        path: the file, UTF-8.
        columns: columns of words and tags.
        labels: allowed tags; `None` for every tag of the kind given by `columns`.

    Raises:
        CorpusError: the file is missing, empty, not UTF-8 or not in this format, or has another tag.
    """
    rows: Rows
    if is_json(path):
        rows = (_sentence_of_record(record, columns, place) for place, record in read_records(path))
    elif is_conllu(path):
        rows = _read_conllu(path, columns)
    else:
        rows = _read_conll(path, columns)
    return _checked(rows, columns, labels, f"{path}: holds no sentence; expected at least one, with tags")


def read_tagged_dataset(
    dataset: Dataset, name: str, columns: TagColumns, labels: Sequence[str] | None = None
) -> list[Sentence]:
    """Read one split of a dataset, called `name` in errors; otherwise as [`read_tagged`].

    Tags may be strings or numbers of a `ClassLabel` feature.
    """
    feature = getattr(dataset.features.get(columns.ner_tags), "feature", None)
    if isinstance(feature, ClassLabel):
        columns = replace(columns, tag_names=feature.names)
    rows = (_sentence_of_record(record, columns, f"{name}: record {n}") for n, record in enumerate(dataset))
    return _checked(rows, columns, labels, f"{name}: holds no sentence")


Rows = Iterator[list[tuple[str, Any, Any]]]  # for each sentence: (location, word, tag) of its words


def _checked(rows: Rows, columns: TagColumns, labels: Sequence[str] | None, if_none: str) -> list[Sentence]:
    sentences = []
    for row in rows:
        for place, word, tag in row:
            if not isinstance(word, str) or not word.strip():
                raise CorpusError(f"{place}: word {word!r:.200} is empty; remove it and its tag")
            _check_tag(tag, columns, labels, place)
        sentences.append(Sentence([word for _, word, _ in row], [tag for _, _, tag in row]))
    if not sentences:
        raise CorpusError(if_none)
    return sentences


def is_conllu(path: str | Path) -> bool:
    """True for `.conllu`, and for other files whose first word has the ten columns of CoNLL-U."""
    if suffix_of(path) == ".conllu":
        return True
    for _, line in read_lines(path):
        cells = line.split("\t")
        if len(cells) == 10 and re.fullmatch(r"1(-[0-9]+)?|0\.1", cells[0]):
            return True
        if line.strip() and not line.startswith("#"):
            return False
    return False


def _read_conllu(path: str | Path, columns: TagColumns) -> Rows:
    """Yield words and tags of CoNLL-U; comments, multiword ranges and empty nodes are skipped."""
    name = "upos" if columns.tag is None else str(columns.tag)
    try:
        for sentence in read_conllu(path):
            place = f"{path}:{sentence.line + 1}"
            tags = sentence.column(name)
            if "_" in tags and sentence.words[tags.index("_")] != "_":
                word = sentence.words[tags.index("_")]
                raise CorpusError(
                    f"{place}: the word {word!r:.200} has no tag in column {name}; choose another with --tag_column"
                )
            yield [(place, *pair) for pair in zip(sentence.words, tags, strict=True)]
    except (ValueError, OSError) as error:
        raise CorpusError(str(error)) from error


def _read_conll(path: str | Path, columns: TagColumns) -> Rows:
    """Yield words and tags of CoNLL: one word per line, blank lines between sentences, columns at tabs or spaces."""
    expected: tuple[int, int] | None = None  # number of columns, and the line that set it
    sentence: list[tuple[str, Any, Any]] = []
    for number, line in read_lines(path):
        place = f"{path}:{number}"
        if not line.strip() or line.startswith(DOCUMENT_START):
            if sentence:
                yield sentence
                sentence = []
            continue
        cells = line.split("\t") if "\t" in line else line.split(" ")
        cells = [cell for cell in map(str.strip, cells) if cell or "\t" in line]
        if expected is None:
            expected = (len(cells), number)
        if len(cells) < 2:
            raise CorpusError(f"{place}: {line!r:.200} has no tag; expected a word and a tag, between a tab or spaces")
        if len(cells) != expected[0]:
            raise CorpusError(
                f"{place}: {line!r:.200} has {len(cells)} columns and line {expected[1]} has {expected[0]}; expected "
                "the same in every line, with tabs between columns if words hold spaces" + _edge_of(line)
            )
        word, tag = (
            _cell(cells, index, place, option)
            for index, option in ((columns.word, "--word_column"), (columns.tag_number, "--tag_column"))
        )
        if _edge_of(line) and not (word and tag):
            raise CorpusError(
                f"{place}: {line!r:.200} has word {word!r:.200} and tag {tag!r:.200}; expected both{_edge_of(line)}"
            )
        sentence.append((place, word, tag))
    if sentence:
        yield sentence


def _edge_of(line: str) -> str:
    """Remedy for a line that begins or ends with a tab, which makes an empty column."""
    edges = [edge for edge, found in (("begins", line.startswith("\t")), ("ends", line.endswith("\t"))) if found]
    if not edges:
        return ""
    return (
        f". The line {' and '.join(edges)} with a tab, which makes an empty column: remove the tab, or choose the "
        "columns with --word_column and --tag_column"
    )


def _cell(cells: list[str], index: int, place: str, option: str) -> str:
    try:
        return cells[index]
    except IndexError:
        raise CorpusError(f"{place}: no column {index} among {len(cells)}; choose another with {option}") from None


def _sentence_of_record(record: dict[str, Any], columns: TagColumns, place: str) -> list[tuple[str, Any, Any]]:
    """The (location, word, tag) triples of a record with a list of words and a list of tags."""
    for name, flag in ((columns.tokens, "--tokens_column"), (columns.ner_tags, "--ner_tags_column")):
        if not isinstance(record.get(name), list):
            raise CorpusError(f"{place}: no list {name!r} among {named(record)}; choose another with {flag}")
    words, tags = record[columns.tokens], record[columns.ner_tags]
    if not words or len(words) != len(tags):
        raise CorpusError(
            f"{place}: {len(words)} words and {len(tags)} tags; expected one word or more, each with a tag"
        )
    if any(isinstance(tag, int) for tag in tags):
        tags = [_tag_of_index(tag, columns.tag_names, place) for tag in tags]
    return [(place, *pair) for pair in zip(words, tags, strict=True)]


def _tag_of_index(tag: Any, names: Sequence[str] | None, place: str) -> str:
    if names is None:
        raise CorpusError(f"{place}: tag {tag!r:.200} is a number; name the tags, in order, with --labels")
    if not isinstance(tag, int) or not 0 <= tag < len(names):
        raise CorpusError(f"{place}: tag {tag!r:.200} is not a position among the {len(names)} tags {', '.join(names)}")
    return names[tag]


def _check_tag(tag: Any, columns: TagColumns, labels: Sequence[str] | None, place: str) -> None:
    if not isinstance(tag, str) or not tag.strip():
        raise CorpusError(f"{place}: tag {tag!r:.200} is empty; expected a tag for every word")
    if not columns.any_tag and not TAG.fullmatch(tag):
        raise CorpusError(
            f"{place}: tag {tag!r:.200}; expected O or a prefix ({', '.join(PREFIXES)}), a dash and a type, such as "
            "B-PER. If another column holds the tags, choose it with --tag_column; if tags stand for words and not for "
            "entities, such as POS tags, give --task pos"
        )
    if labels is not None and tag not in labels:
        raise CorpusError(
            f"{place}: tag {tag!r:.200} is not among the tags {', '.join(labels)}; correct the file, or name all tags "
            "with --labels"
        )


def tag_set(sentences: Iterable[Sentence], any_tag: bool = False) -> list[str]:
    """All tags that a model of these sentences needs: entity tags with `O` first, or any tags in alphabetical order.

    Entity tags are completed with all prefixes that occur: a type seen only as `B-` also gets its `I-` tag, which
    another file may contain.
    """
    tags = {tag for sentence in sentences for tag in sentence.tags}
    if any_tag:
        return sorted(tags)
    prefixes = [prefix for prefix in PREFIXES if any(tag.startswith(f"{prefix}-") for tag in tags)]
    types = sorted({tag[2:] for tag in tags if tag != "O"})
    return ["O", *(f"{prefix}-{entity_type}" for entity_type in types for prefix in prefixes)]


class Window(NamedTuple):
    """Part of a sentence: its words, and their tags, `None` for context words."""

    words: list[str]
    tags: list[str | None]


def windows(sentence: Sentence, max_words: int | None, stride: int = 0) -> Iterator[Window]:
    """Split a sentence into windows of at most `max_words` words, with `stride` words of overlap.

    Repeated words have no tag, so every tag of the sentence is learned exactly once.
    """
    total = len(sentence.words)
    if max_words is None or total <= max_words:
        yield Window(sentence.words, list(sentence.tags))
        return
    for start in range(0, total - stride, max_words - stride):
        end = min(start + max_words, total)
        context = stride if start else 0
        yield Window(sentence.words[start:end], [*[None] * context, *sentence.tags[start + context : end]])


def tag_scheme(sequences: Iterable[Sequence[str | None]], labels: Iterable[str]) -> Scheme | None:
    """The first scheme in which all sequences are well formed and all labels exist, or `None`.

    Constraints of a scheme that the training data violate would be wrong.
    """
    prefixes, sequences = {label[0] for label in labels if label != "O"}, list(sequences)
    for scheme in get_args(Scheme):
        fits = ("I" if scheme == "IOB1" else "B") in prefixes <= set(ROLES[scheme])
        if fits and all(is_well_formed(tags, scheme) for tags in sequences):
            return scheme
    return None


def is_well_formed(tags: Sequence[str | None], scheme: Scheme) -> bool:
    """True if a sequence of tags is valid in a scheme; `None` stands for an unknown tag."""
    return all(
        before is None or after is None or may_follow(parse_tag(before, scheme), parse_tag(after, scheme), scheme)
        for before, after in zip(["O", *tags], [*tags, "O"], strict=True)
    )


def encode_tagged(
    sentences: Sequence[Sentence],
    tokenizer: PreTrainedTokenizerBase,
    label2id: Mapping[str, int],
    max_words: int | None = None,
    stride: int = 0,
    report: Callable[[str], None] = logger.warning,
) -> Dataset:
    """Encode sentences as model inputs with `labels`, one example per sentence (or window).

    Args:
        sentences: sentences from a reader.
        tokenizer: the tokenizer; a word's first token carries the label.
        label2id: id of every tag.
        max_words: split longer sentences into windows of this many words; `None` never splits.
        stride: words of overlap between windows, as context.
        report: called with a message if sentences were split.

    Raises:
        CorpusError: a word gives no token, so its tag would be lost.
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


@dataclass
class TagArguments(SplitArguments):
    """Options for data in CoNLL columns (any suffix), CoNLL-U (`.conllu`) or records (`.json`, `.jsonl`)."""

    task: Literal["ner", "pos"] = option("ner", "ner: entity tags, scored by F1. pos: any tags, scored by accuracy.")
    word_column: int = option(0, "CoNLL column of the words, from 0.")
    tag_column: str | None = option(
        None,
        "CoNLL column of the tags, from the end if negative (default: the last); in CoNLL-U, its name or "
        "number (default: upos).",
    )
    tokens_column: str = option("tokens", "Field of the words in JSON and datasets.")
    ner_tags_column: str = option("ner_tags", "Field of the tags in JSON and datasets.")
    scheme: str | None = option(None, "Score entities strictly in this scheme, IOB2 or BIOES (default: conlleval).")
    max_words: int | None = option(None, "Split longer training sentences into windows. Evaluation reads whole ones.")
    stride: int = option(0, "Words of overlap between windows, as context.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_words is not None and not 0 <= self.stride < self.max_words:
            raise ValueError(f"--stride {self.stride}: expected 0 or more and less than --max_words {self.max_words}")

    @property
    def columns(self) -> TagColumns:
        names = (self.word_column, self.tag_column, self.tokens_column, self.ner_tags_column)
        return TagColumns(*names, self.labels, any_tag=self.task == "pos")

    def read_file(self, path: str, labels: Sequence[str] | None) -> list[Sentence]:
        return read_tagged(path, self.columns, labels)

    def read_dataset(self, split: Dataset, name: str, labels: Sequence[str] | None) -> list[Sentence]:
        return read_tagged_dataset(split, name, self.columns, labels)

    def label_set(self, examples: list[Sentence]) -> list[str]:
        return tag_set(examples, any_tag=self.task == "pos")

    def scheme_of(self, sentences: Sequence[Sentence], labels: Sequence[str]) -> Scheme | None:
        """The tag scheme of training sentences, after splitting into windows."""
        if self.task != "ner":
            return None
        parts = (window for sentence in sentences for window in windows(sentence, self.max_words, self.stride))
        scheme = tag_scheme((part.tags for part in parts), labels)
        logger.info("The tags' scheme: %s", scheme or "none that is known")
        return scheme

    def check_sequences(self, config: ElmoConfig, splits: Mapping[str, Sequence[Sentence]]) -> None:
        """Check that no sentence violates the tag scheme of the CRF.

        Raises:
            CorpusError: one does; the message shows the first.
        """
        if config.tag_scheme is None or not config.use_crf or config.crf_constraints != "always":
            return
        for name, sentences in splits.items():
            for words, tags in sentences:
                if not is_well_formed(tags, config.tag_scheme):
                    tagged = " ".join(map("/".join, zip(words, tags, strict=True)))
                    raise CorpusError(
                        f"{name} data: {tagged!r} is not a sequence of {config.tag_scheme}, which the CRF expects; "
                        "correct the tags, or turn the constraints off with --config_overrides '{\"tag_scheme\": null}'"
                    )

    def encode(
        self, splits: Mapping[str, Sequence[Sentence]], tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]
    ) -> dict[str, Dataset]:
        """Encode each split as model inputs; `labels` are in the order of their numbers."""
        label2id = {label: number for number, label in enumerate(labels)}
        return {
            name: encode_tagged(
                sentences, tokenizer, label2id, self.max_words if name == "train" else None, self.stride
            )
            for name, sentences in splits.items()
        }


def words_of_tagged(tokenizer: PreTrainedTokenizerBase, sentences: Iterable[Sentence]) -> Iterator[str]:
    """Yield all words of the sentences."""
    return (word for sentence in sentences for word in sentence.words)

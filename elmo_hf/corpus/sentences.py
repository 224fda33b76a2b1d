"""Corpora: sentences in files or data sets, read lazily. Every command reads text through a [`Corpus`]."""

import glob
import hashlib
import json
import os
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from elmo_hf.checks import at_least_one

from .dataset_shards import DatasetSource
from .lines import COMPRESSIONS, check_file, damage_named, open_binary
from .rules import BlankLines, ReadingRules, Undecodable
from .shards import MemoryShard, Record, Shard, records_of
from .stored_files import is_address, matching_files
from .table_shards import table_shard
from .tagged_text import Sentence, TaggedSentence
from .text_shards import text_shards

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

Format = Literal["text", "json", "parquet", "arrow", "csv", "tsv", "conllu"]
# JSON: the number of a shard, and a position in it.
Place = list[Any]

SHARD_BYTES = 2**26
_FORMATS: dict[str, Format] = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".csv": "csv",
    ".tsv": "tsv",
    ".conllu": "conllu",
}
# Names allowed by the Hub, owner/name or name, with an optional configuration after a colon.
_DATASET_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class Corpus:
    """Sentences in shards, read lazily.

    Create one with `open_corpus`, `from_dataset` or `from_sentences`. Iteration yields every sentence once, in the
    order of the shards: a text, a list of words, or a [`TaggedSentence`] for words with POS tags.

    Attributes:
        name: name for messages.
        shards: the parts; their number and order are part of the corpus's identity.
        is_tagged: True if words have POS tags.
    """

    name: str
    shards: tuple[Shard, ...]
    is_tagged: bool = False

    def __post_init__(self) -> None:
        if not self.shards:
            raise ValueError(f"{self.name}: no files, expected at least one")

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the files' names, sizes and reading rules. Saved positions are valid for one fingerprint only."""
        identity = json.dumps([shard.identity for shard in self.shards], ensure_ascii=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    def __iter__(self) -> Iterator[Sentence]:
        for shard in self.shards:
            with closing(shard.open()) as reader:
                for block in reader.blocks():
                    yield from block.sentences

    def records(self, start: Place | None = None) -> Generator[tuple[Place, Record], None, None]:
        """Yield all sentences from a place on, with their places, names and origins; needs numbered rules."""
        first, position = start or (0, None)
        for number in range(first, len(self.shards)):
            for here, record in records_of(self.shards[number], position):
                yield [number, here], record
            position = None

    @classmethod
    def from_sentences(cls, sentences: Iterable[Sentence], name: str = "the given sentences") -> "Corpus":
        """Create a corpus of sentences in memory: texts or lists of words, or all of them [`TaggedSentence`]s.

        Raises:
            TypeError: a sentence of another type.
            ValueError: no sentence, or only some with POS tags.
        """
        given = list(sentences)
        for number, each in enumerate(given):
            is_words = isinstance(each, list) and all(isinstance(word, str) for word in each)
            if not (is_words or isinstance(each, str | TaggedSentence)):
                raise TypeError(
                    f"{name}: sentence {number} is {each!r:.60} of type {type(each).__name__}: expected a text, a list "
                    "of words, or a TaggedSentence"
                )
        tagged = sum(isinstance(each, TaggedSentence) for each in given)
        if not given:
            raise ValueError(f"{name}: no sentence, expected at least one")
        if tagged not in (0, len(given)):
            raise ValueError(f"{name}: {tagged} of {len(given)} sentences have POS tags: expected all or none")
        return cls(name, (MemoryShard(name, tuple(given)),), bool(tagged))

    @classmethod
    def from_dataset(
        cls,
        dataset: "Dataset | IterableDataset",
        text_column: str = "text",
        *,
        blank_lines: BlankLines = "skip",
        pos_column: str | None = None,
        name: str = "the given data set",
    ) -> "Corpus":
        """Create a corpus from an object of the `datasets` library.

        Args:
            dataset: one split.
            text_column: column with text, each line a sentence, or with lists of words, each a sentence.
            blank_lines: `"skip"` them, or `"keep"` them as empty sentences.
            pos_column: column with the POS tag of each word: names, or numbers of a `ClassLabel`.
            name: name for messages.

        Raises:
            ValueError: not a data set, or one without records or without such a column.
        """
        rules = ReadingRules(text_column, pos_column=pos_column, blank_lines=blank_lines)
        return cls(name, tuple(DatasetSource(name, rules, given=dataset).shards()), rules.is_tagged)


def open_corpus(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    file_format: Format | None = None,
    text_column: str = "text",
    split: str = "train",
    streaming: bool = True,
    revision: str | None = None,
    encoding: str = "utf-8",
    undecodable: Undecodable = "refuse",
    blank_lines: BlankLines = "skip",
    pos_column: str | None = None,
    pos_separator: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    max_line_bytes: int = 2**26,
    id_column: str | None = None,
    numbered: bool = False,
) -> Corpus:
    """Open the corpus in files, or in one data set.

    Args:
        sources: paths, globs (`**` for subfolders) or addresses for fsspec (`s3://bucket/*.parquet`) of text, CoNLL-U,
            JSON lines, JSON, CSV or TSV, each also as `.gz`, `.bz2` or `.xz`, Parquet or Arrow; or the name of one data
            set, `owner/name` or `owner/name:configuration`, if no file of that name exists. Files are read in the order
            of the sources, those of a glob sorted by name, and each once.
        file_format: format of all files; by default judged by each file's name, else text.
        text_column: for all formats but text, the column with text, each line a sentence, or with a list of words as
            one sentence. In CoNLL-U the words' form by default.
        split: split of a data set.
        streaming: stream a data set; otherwise it is first downloaded to the disk. Files are always streamed.
        revision: revision of a data set.
        encoding: encoding of text, CoNLL-U, JSON, CSV and TSV.
        undecodable: treatment of lines with invalid bytes: `"refuse"`, `"skip"` or `"replace"` (see [`ReadingRules`]).
        blank_lines: `"skip"` them, or `"keep"` them as empty sentences, as bilm-tf does.
        pos_column: for all formats but text, the column with the POS tag of each word of `text_column`, `None` for a
            word without one. Both columns hold lists, or text split at whitespace. In CoNLL-U `upos`, `xpos` or another
            column, by name or number.
        pos_separator: separator between each word and its POS tag in the text itself, as `_` in `the_DET cat_NOUN`; the
            last one in a word counts.
        shard_bytes: split larger plain text files into several shards.
        max_line_bytes: refuse longer lines.
        id_column: for all formats but text, the column that names the sentences; in CoNLL-U the name of a comment,
            `sent_id`.
        numbered: make each line or record of files exactly one sentence, even an empty one (see [`ReadingRules`]).

    Warns:
        UserWarning: for skipped lines or records, with their number and the location of the first.

    Raises:
        FileNotFoundError: nothing matches a path or glob.
        ValueError: an empty file, a folder or device, an unknown format, a data set that cannot be loaded, a missing
            column, a column of a text file.
        ImportError: the `datasets` library, pyarrow or the library of a protocol is needed and missing.
    """
    listed = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    patterns = [os.fspath(source) for source in listed]
    if not patterns:
        raise ValueError("sources is empty: expected files, globs, or the name of a data set")
    at_least_one(shard_bytes=shard_bytes)
    rules = ReadingRules(
        text_column,
        id_column,
        pos_column,
        pos_separator,
        encoding,
        undecodable,
        blank_lines,
        max_line_bytes,
        numbered,
        ("encoding", "undecodable", *(() if numbered else ("max_line_bytes",))),
    )
    name = patterns[0] if len(patterns) == 1 else f"{patterns[0]} and {len(patterns) - 1} more"
    if len(patterns) == 1 and not numbered and _names_a_dataset(patterns[0]):
        path, _, configuration = patterns[0].partition(":")
        arguments: dict[str, Any] = {
            "path": path,
            "name": configuration or None,
            "split": split,
            "streaming": streaming,
            "revision": revision,
        }
        source = DatasetSource(f"{patterns[0]}, split {split}", rules, arguments)
        return Corpus(name, tuple(source.shards()), rules.is_tagged)
    shards: list[Shard] = []
    for file in _matching_files(patterns, numbered):
        kind = file_format or _format_of(file)
        if kind == "text" or kind == "conllu" or (kind == "json" and not _is_json_list(file)):
            # Numbered sentences are counted through the whole file, so it is not split.
            shards += text_shards(file, kind, rules, 2**62 if numbered else shard_bytes)
        else:
            shards.append(table_shard(file, kind, rules))
    return Corpus(name, tuple(shards), rules.is_tagged)


def _names_a_dataset(source: str) -> bool:
    if os.path.exists(source) or glob.glob(source, recursive=True):
        return False
    # A known file suffix means a missing file: "text.txt" must not be looked up on the Hub.
    return bool(_DATASET_NAME.fullmatch(source)) and Path(source).suffix.lower() not in (
        *_FORMATS,
        *COMPRESSIONS,
        ".txt",
        ".tok",
    )


def _matching_files(patterns: list[str], numbered: bool) -> list[str]:
    files: dict[str, None] = {}
    for pattern in patterns:
        if is_address(pattern):
            files.update(dict.fromkeys(file.url for file in matching_files([pattern])))
            continue
        # An existing file takes precedence, since its name may contain glob characters.
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        plain = [match for match in matches if not os.path.isdir(match)]
        if matches and not plain:
            raise ValueError(f"{pattern} is a folder: expected files; for all of its files write {pattern}/*")
        if not plain:
            others = "" if numbered else ", or the name of one data set alone"
            raise FileNotFoundError(
                f"no file matches {pattern}: expected a file or a glob such as text/*.txt.gz{others}"
            )
        files.update(dict.fromkeys(plain))
    return list(files)


def _format_of(file: str) -> Format:
    suffixes = [suffix.lower() for suffix in Path(file).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return _FORMATS.get(suffixes[-1], "text") if suffixes else "text"


def _is_json_list(file: str) -> bool:
    """True if a JSON file is one list of records rather than one record per line."""
    check_file(file)
    with open_binary(file) as opened, damage_named(file):
        return opened.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")

"""A corpus for language models: sentences in files or data sets, read lazily, however many there are."""

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .dataset_shards import DatasetSource
from .shards import MemoryShard, Shard
from .tagged_text import TaggedSentence, tagged_sentence, tagged_text
from .text_shards import COMPRESSIONS, BlankLines, TextOptions, Undecodable, open_binary, text_shards

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

Format = Literal["text", "json", "parquet", "arrow", "csv"]

SHARD_BYTES = 2**26
_SENTENCES_AT_A_TIME = 1024
_FORMATS: dict[str, Format] = {
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
}
# owner/name or name, and a configuration after a colon: what the Hub allows.
_DATASET_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(:[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class Corpus:
    """Sentences in shards, which are read one at a time and lazily.

    Make one with `open_corpus`, `from_dataset` or `from_sentences`. Iterating gives every sentence once, in the order
    of the shards: a text, or a [`TaggedSentence`] where words have parts of speech beside them.

    Attributes:
        name: for messages.
        shards: the parts; their number and order belong to the corpus's identity.
        is_tagged: whether words have parts of speech; sentences of the shards are then those of `tagged_text`.
    """

    name: str
    shards: tuple[Shard, ...]
    is_tagged: bool = False

    def __post_init__(self) -> None:
        if not self.shards:
            raise ValueError(f"{self.name} has no files: expected at least one")

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the files' names, sizes and reading rules: a position in one corpus is none in another."""
        identity = json.dumps([shard.identity for shard in self.shards], ensure_ascii=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    def __iter__(self) -> Iterator[str | TaggedSentence]:
        for shard in self.shards:
            reader = shard.open()
            try:
                while sentences := reader.take(_SENTENCES_AT_A_TIME):
                    yield from map(tagged_sentence, sentences) if self.is_tagged else sentences
            finally:
                reader.close()

    @classmethod
    def from_sentences(
        cls, sentences: Iterable[str] | Iterable[TaggedSentence], name: str = "the given sentences"
    ) -> "Corpus":
        """A corpus of sentences in memory, all of them with parts of speech or none.

        Raises:
            TypeError: what is neither of them.
            ValueError: there are none, or of both kinds.
        """
        given = list(sentences)
        for number, each in enumerate(given):
            if not isinstance(each, str | TaggedSentence):
                raise TypeError(
                    f"{name}: sentence {number} is {each!r:.60} of type {type(each).__name__}: expected a text, such "
                    "as its words with spaces between them, or a TaggedSentence"
                )
        tagged = [each for each in given if isinstance(each, TaggedSentence)]
        texts = [each for each in given if isinstance(each, str)]
        if not given:
            raise ValueError(f"{name} holds no sentence: expected at least one")
        if tagged and texts:
            raise ValueError(
                f"{name}: {len(tagged)} of {len(given)} sentences have parts of speech: expected all or none"
            )
        return cls(name, (MemoryShard(name, tuple(map(tagged_text, tagged)) or tuple(texts)),), bool(tagged))

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
        """A corpus in an object of the `datasets` library.

        Args:
            dataset: one split.
            text_column: holds text, each line a sentence, or lists of words, each a sentence.
            blank_lines: `"skip"` them, or `"keep"` them as empty sentences.
            pos_column: holds the part of speech of each word: names, or numbers of a `ClassLabel`.
            name: for messages.

        Raises:
            ValueError: no data set, no record or no such column.
        """
        source = DatasetSource(name, text_column, blank_lines, given=dataset, pos_column=pos_column)
        return cls(name, tuple(source.shards()), pos_column is not None)


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
) -> Corpus:
    """The corpus in files, or in one data set.

    Args:
        sources: paths or globs (`**` for folders below) of text files, JSON lines, JSON, Parquet, Arrow or CSV, each
            also as `.gz`, `.bz2` or `.xz` where it is text or JSON lines; or the name of one data set,
            `owner/name` or `owner/name:configuration`, in which case no file of that name may exist. Files are put in
            the order of the sources, those of a glob by name, and none twice.
        file_format: of all files; by default by each file's name, text if it says nothing.
        text_column: of all formats but text.
        split: of a data set.
        streaming: read a data set as it comes; otherwise it is first fetched to the disk. Files always stream.
        revision: of a data set.
        encoding: of text and JSON lines.
        undecodable: lines whose bytes are not valid: `"refuse"`, `"skip"` or `"replace"` (see [`TextOptions`]).
        blank_lines: `"skip"` them, or `"keep"` them as empty sentences, as bilm-tf does.
        pos_column: of all formats but text: holds the part of speech of each word of `text_column`, `None` for a word
            without one. Both columns hold lists, or text split at whitespace.
        pos_separator: what stands between each word and its part of speech in the text itself, as `_` in
            `the_DET cat_NOUN`; the last one in a word counts.
        shard_bytes: larger plain text files are read as several shards.
        max_line_bytes: refuse longer lines.

    Raises:
        FileNotFoundError: nothing matches a path or glob.
        ValueError: an empty file, a folder, an unknown format, a data set that cannot be loaded, a missing column, a
            column of parts of speech of a text file.
        ImportError: the `datasets` library is needed and missing.
    """
    listed = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    patterns = [os.fspath(source) for source in listed]
    if not patterns:
        raise ValueError("no corpus is named: expected files, globs, or the name of a data set")
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes={shard_bytes}: expected at least 1")
    check_pos_options(pos_column, pos_separator)
    is_tagged = pos_column is not None or pos_separator is not None
    name = patterns[0] if len(patterns) == 1 else f"{patterns[0]} and {len(patterns) - 1} more"
    if len(patterns) == 1 and _names_a_dataset(patterns[0]):
        path, _, configuration = patterns[0].partition(":")
        arguments: dict[str, Any] = {
            "path": path,
            "name": configuration or None,
            "split": split,
            "streaming": streaming,
            "revision": revision,
        }
        source_name = f"{patterns[0]}, split {split}"
        source = DatasetSource(
            source_name, text_column, blank_lines, arguments, pos_column=pos_column, pos_separator=pos_separator
        )
        return Corpus(name, tuple(source.shards()), is_tagged)
    options = TextOptions(
        encoding, undecodable, blank_lines, max_line_bytes=max_line_bytes, pos_separator=pos_separator
    )
    json_options = replace(options, json_column=text_column, pos_column=pos_column)
    shards: list[Shard] = []
    for file in _matching_files(patterns):
        of_file = file_format or _format_of(file)
        if of_file == "text":
            if pos_column is not None:
                raise no_column_in_text(pos_column, file)
            shards += text_shards(file, options, shard_bytes)
        elif of_file == "json" and not _is_json_list(file):
            shards += text_shards(file, json_options, shard_bytes)
        else:
            arguments = {"path": of_file, "data_files": file, "split": "train", "streaming": True}
            shards += DatasetSource(
                file, text_column, blank_lines, arguments, pos_column=pos_column, pos_separator=pos_separator
            ).shards()
    return Corpus(name, tuple(shards), is_tagged)


def check_pos_options(pos_column: str | None, pos_separator: str | None) -> None:
    """Refuse, with a `ValueError`, both ways to give parts of speech at once, and separators that separate nothing."""
    if pos_column is not None and pos_separator is not None:
        raise ValueError(
            f"pos_column={pos_column!r} and pos_separator={pos_separator!r}: expected parts of speech in a column of "
            "their own or behind each word, not both"
        )
    if pos_separator is not None and (not pos_separator or any(map(str.isspace, pos_separator))):
        raise ValueError(f"pos_separator={pos_separator!r}: expected characters that are no whitespace, such as '_'")


def no_column_in_text(pos_column: str, file: str) -> ValueError:
    """The error of a column of parts of speech asked of a text file."""
    return ValueError(
        f"pos_column={pos_column!r}: {file} is plain text, which has no columns. Expected JSON, Parquet or another "
        "format with columns, or pos_separator for words such as the_DET"
    )


def _names_a_dataset(source: str) -> bool:
    if os.path.exists(source) or glob.glob(source, recursive=True):
        return False
    # A suffix that files have means a file that is missing: "text.txt" must not be looked up on the Hub.
    return bool(_DATASET_NAME.fullmatch(source)) and Path(source).suffix.lower() not in (
        *_FORMATS,
        *COMPRESSIONS,
        ".txt",
        ".tsv",
        ".tok",
    )


def _matching_files(patterns: list[str]) -> list[str]:
    files: dict[str, None] = {}
    for pattern in patterns:
        # A file's own name comes first: it may hold the characters of a glob.
        matches = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        plain = [match for match in matches if not os.path.isdir(match)]
        if matches and not plain:
            raise ValueError(f"{pattern} is a folder: expected files; for all of its files write {pattern}/*")
        if not plain:
            raise FileNotFoundError(
                f"no file matches {pattern}. Expected a file or a glob such as text/*.txt.gz, or the name of one data "
                "set alone"
            )
        files.update(dict.fromkeys(plain))
    return list(files)


def _format_of(file: str) -> Format:
    suffixes = [suffix.lower() for suffix in Path(file).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return _FORMATS.get(suffixes[-1], "text") if suffixes else "text"


def _is_json_list(file: str) -> bool:
    """Whether a JSON file is one list of records rather than one record a line."""
    with open_binary(file) as opened:
        return opened.read(256).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")

"""A corpus for language models: sentences in files or data sets, read lazily, however many there are."""

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .dataset_shards import DatasetSource
from .shards import MemoryShard, Shard
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
    of the shards.

    Attributes:
        name: for messages.
        shards: the parts; their number and order belong to the corpus's identity.
    """

    name: str
    shards: tuple[Shard, ...]

    def __post_init__(self) -> None:
        if not self.shards:
            raise ValueError(f"{self.name} has no files: expected at least one")

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the files' names, sizes and reading rules: a position in one corpus is none in another."""
        identity = json.dumps([shard.identity for shard in self.shards], ensure_ascii=True)
        return hashlib.sha256(identity.encode()).hexdigest()[:16]

    def __iter__(self) -> Iterator[str]:
        for shard in self.shards:
            reader = shard.open()
            try:
                while sentences := reader.take(_SENTENCES_AT_A_TIME):
                    yield from sentences
            finally:
                reader.close()

    @classmethod
    def from_sentences(cls, sentences: Iterable[str], name: str = "the given sentences") -> "Corpus":
        """A corpus of sentences in memory.

        Raises:
            ValueError: there are none.
        """
        shard = MemoryShard(name, tuple(sentences))
        if not shard.sentences:
            raise ValueError(f"{name} holds no sentence: expected at least one")
        return cls(name, (shard,))

    @classmethod
    def from_dataset(
        cls,
        dataset: "Dataset | IterableDataset",
        text_column: str = "text",
        *,
        blank_lines: BlankLines = "skip",
        name: str = "the given data set",
    ) -> "Corpus":
        """A corpus in an object of the `datasets` library.

        Args:
            dataset: one split.
            text_column: holds text, each line a sentence, or lists of words, each a sentence.
            blank_lines: `"skip"` them, or `"keep"` them as empty sentences.
            name: for messages.

        Raises:
            ValueError: no data set, no record or no such column.
        """
        source = DatasetSource(name, text_column, blank_lines, given=dataset)
        return cls(name, tuple(source.shards()))


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
        shard_bytes: larger plain text files are read as several shards.
        max_line_bytes: refuse longer lines.

    Raises:
        FileNotFoundError: nothing matches a path or glob.
        ValueError: an empty file, a folder, an unknown format, a data set that cannot be loaded, a missing column.
        ImportError: the `datasets` library is needed and missing.
    """
    listed = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    patterns = [os.fspath(source) for source in listed]
    if not patterns:
        raise ValueError("no corpus is named: expected files, globs, or the name of a data set")
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes={shard_bytes}: expected at least 1")
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
        return Corpus(name, tuple(DatasetSource(source_name, text_column, blank_lines, arguments).shards()))
    options = TextOptions(encoding, undecodable, blank_lines, max_line_bytes=max_line_bytes)
    json_options = TextOptions(encoding, undecodable, blank_lines, text_column, max_line_bytes)
    shards: list[Shard] = []
    for file in _matching_files(patterns):
        of_file = file_format or _format_of(file)
        if of_file == "text":
            shards += text_shards(file, options, shard_bytes)
        elif of_file == "json" and not _is_json_list(file):
            shards += text_shards(file, json_options, shard_bytes)
        else:
            arguments = {"path": of_file, "data_files": file, "split": "train", "streaming": True}
            shards += DatasetSource(file, text_column, blank_lines, arguments).shards()
    return Corpus(name, tuple(shards))


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

"""Word vectors from files: GloVe and word2vec, for the vocabulary of a tokenizer.

The paper's task models read such vectors in addition to ELMo (appendix A). Files are streamed, and only the vectors of
the vocabulary's words are kept.
"""

import gzip
import io
import os
import re
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from elmo_hf.model.pretrained import ElmoPreTrainedModel
from elmo_hf.model.word_embeddings import ElmoWordEmbeddings

Format = Literal["text", "word2vec-binary"]

GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK\x03\x04"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
HEADER = re.compile(rb"\s*(\d+)\s+(\d+)\s*")
# Bytes that do not occur in text, but soon in the numbers of a binary file.
CONTROL_BYTES = re.compile(rb"[\x00-\x08\x0e-\x1f]")
LONGEST_LINE = 2**20
CHUNK = 2**20
ENTRIES_A_REPORT = 1000


@dataclass(frozen=True)
class WordVectors:
    """Vectors of the requested words.

    Attributes:
        path: the file.
        vectors: (words, size), float32, in the order of the requested words; zeros for words without a vector.
        exact: (words,), bool; found as written.
        lowercased: (words,), bool; found in lower case only.
        duplicates: number of repeated entries of a word; the first entry is used.
    """

    path: Path
    vectors: NDArray[np.float32]
    exact: NDArray[np.bool_]
    lowercased: NDArray[np.bool_]
    duplicates: int

    @property
    def found(self) -> NDArray[np.bool_]:
        """Words with a vector, (words,), bool."""
        return self.exact | self.lowercased


@dataclass(frozen=True)
class WordVectorReport:
    """Result of [`start_from_word_vectors`].

    Attributes:
        path: the file.
        table: the table whose rows were set, `"task"` or `"bilm"`.
        words: number of words in the vocabulary, without padding.
        exact, lowercased: number of words with a vector, as written or in lower case only.
        duplicates: number of ignored repeated entries.
        token_coverage: share of the counted tokens whose word has a vector; `None` without counts.
    """

    path: Path
    table: Literal["task", "bilm"]
    words: int
    exact: int
    lowercased: int
    duplicates: int
    token_coverage: float | None = None

    @property
    def missing(self) -> int:
        """Number of words without a vector."""
        return self.words - self.exact - self.lowercased

    @property
    def coverage(self) -> float:
        """Share of the words that have a vector."""
        return (self.exact + self.lowercased) / self.words

    def __str__(self) -> str:
        tokens = "" if self.token_coverage is None else f", {self.token_coverage:.1%} of the tokens"
        return (
            f"{self.path}: vectors of {self.exact + self.lowercased} of {self.words} words ({self.coverage:.1%}"
            f"{tokens}), {self.lowercased} of them in lower case only"
        )


def start_from_word_vectors(
    model: ElmoPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    path: str | os.PathLike[str],
    *,
    table: Literal["task", "bilm"] | None = None,
    lowercase: bool = True,
    counts: Mapping[str, int] | None = None,
    seed: int = 0,
    format: Format | None = None,
    progress: bool | None = None,
) -> WordVectorReport:
    """Set a model's word vectors from a file in a format of [`read_word_vectors`].

    Vectors of words that are not in the file are drawn from a normal distribution with the mean and standard deviation,
    by column, of the vectors found. The row of the padding is zero.

    Args:
        model: a model with its own word vectors (`config.word_vector_size`), or a biLM that reads words by their id
            (`config.word_embedding_size`).
        tokenizer: the model's tokenizer; its ids are the rows.
        path: the file.
        table: `"task"`, the task model's own vectors, or `"bilm"`, the words of the biLM; required if there are both.
        lowercase: use the vector of the lower-cased form for a word that is not in the file.
        counts: frequencies of words in the data, including words outside of the vocabulary, for `token_coverage`.
        seed: seed of the random vectors.
        format, progress: as in [`read_word_vectors`].

    Raises:
        ValueError: a model without a table of words, or with two and no choice; a table smaller than the vocabulary; a
            file without any of the words; and as in [`read_word_vectors`].
    """
    name, words_of_table = _chosen_table(model, table)
    embedding = words_of_table.word_embeddings
    rows, size = embedding.weight.shape
    ids = {word: row for word, row in tokenizer.get_vocab().items() if row != tokenizer.pad_token_id}
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} words and the model vectors of {rows}: call "
            "model.resize_token_embeddings(len(tokenizer)) first"
        )
    words = list(ids)
    try:
        read = read_word_vectors(path, words, size, lowercase=lowercase, format=format, progress=progress)
    except WordVectorSizeError as error:
        field = "word_vector_size" if name == "task" else "word_embedding_size"
        raise WordVectorSizeError(f"{error}. Make the model with {field} of the file's size, or take another") from None
    found = read.found
    if not found.any():
        raise ValueError(
            f"{path}: has a vector of none of the tokenizer's {len(words)} words; expected vectors of the same "
            "language, and words in the case of the tokenizer's or in lower case"
        )
    known = torch.from_numpy(read.vectors[found])
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, size, generator=generator) * known.std(dim=0, correction=0) + known.mean(dim=0)
    places = torch.tensor([ids[word] for word in words])
    values[places[torch.from_numpy(found)]] = known
    if tokenizer.pad_token_id is not None:
        values[tokenizer.pad_token_id] = 0.0
    with torch.no_grad():
        embedding.weight.copy_(values)
    coverage = None
    if counts is not None:
        covered = {word for word, has_vector in zip(words, found, strict=True) if has_vector}
        coverage = sum(count for word, count in counts.items() if word in covered) / max(1, sum(counts.values()))
    return WordVectorReport(
        Path(path), name, len(words), int(read.exact.sum()), int(read.lowercased.sum()), read.duplicates, coverage
    )


def _chosen_table(
    model: ElmoPreTrainedModel, table: Literal["task", "bilm"] | None
) -> tuple[Literal["task", "bilm"], ElmoWordEmbeddings]:
    tables = model.word_tables()
    if table is None:
        if len(tables) == 2:
            raise ValueError(
                'the model has two tables of words: choose table="task", its own word vectors, or table="bilm", the '
                "words of its biLM"
            )
        if not tables:
            raise ValueError(
                "the model has no table of words to set: expected a configuration with word_vector_size (a task's own "
                "word vectors) or word_embedding_size (a biLM that reads words by their id)"
            )
        table = next(iter(tables))
    if table not in tables:
        raise ValueError(f"table={table!r}: the model has {' and '.join(map(repr, tables)) or 'no table of words'}")
    return table, tables[table]


# -- Reading -----------------------------------------------------------------------------------------------------------


class WordVectorSizeError(ValueError):
    """Vectors of an unexpected size."""


class _Header(NamedTuple):
    """The first line of a word2vec file."""

    words: int
    size: int


def read_word_vectors(
    path: str | os.PathLike[str],
    words: Sequence[str],
    size: int | None = None,
    *,
    lowercase: bool = True,
    format: Format | None = None,
    progress: bool | None = None,
) -> WordVectors:
    """Read the vectors of the given words.

    Text has one word and its numbers per line, separated by spaces (GloVe), and optionally a first line with the
    numbers of words and columns (word2vec, fastText). word2vec's binary format has the same first line, then each word,
    a space and its float32 numbers, little-endian. Both may be compressed with gzip.

    Every line must have the same number of values; only those of the given words are parsed.

    Args:
        path: the file.
        words: the words to look up.
        size: required size of a vector; `None` for the file's.
        lowercase: use the vector of the lower-cased form for a word that is not in the file.
        format: `"text"` or `"word2vec-binary"`; `None` to detect it.
        progress: show a progress bar; by default if the output is a terminal.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file is empty, damaged, truncated, not UTF-8 or of another size; its lines differ in length; a
            value is not a finite number. The message names the file, the line (in a binary file the word) and the
            remedy.
    """
    path = Path(path)
    # Keys to look up for each word: the word itself, then its lower-cased form.
    forms = [[_key(form) for form in ([word, word.lower()] if lowercase else [word])] for word in words]
    kept: dict[bytes, NDArray[np.float32] | None] = {key: None for keys in forms for key in keys}
    duplicates, total = 0, path.stat().st_size
    # `disable=None` makes tqdm show a bar only on a terminal.
    disable = None if progress is None else not progress
    with path.open("rb") as raw, tqdm(total=total, desc=path.name, unit="B", unit_scale=True, disable=disable) as bar:
        try:
            columns, entries = _open(raw, path, size, format, kept)
            for number, (key, vector) in enumerate(entries):
                if number % ENTRIES_A_REPORT == 0:
                    bar.update(raw.tell() - bar.n)
                if vector is None:
                    continue
                if kept[key] is None:
                    kept[key] = vector
                else:
                    duplicates += 1
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: damaged gzip file ({error}); fetch or make it again") from error
        bar.update(total - bar.n)
    vectors = np.zeros((len(words), columns), dtype=np.float32)
    exact, lowercased = np.zeros(len(words), dtype=bool), np.zeros(len(words), dtype=bool)
    for index, keys in enumerate(forms):
        for how, key in zip((exact, lowercased), keys, strict=False):
            vector = kept[key]
            if vector is not None:
                vectors[index], how[index] = vector, True
                break
    return WordVectors(path, vectors, exact, lowercased, duplicates)


Entries = Iterator[tuple[bytes, NDArray[np.float32] | None]]


def _key(word: str) -> bytes:
    # A lone surrogate occurs in no UTF-8 file, but encoding it must not fail.
    return word.encode("utf-8", "surrogatepass")


def _open(
    raw: BinaryIO, path: Path, size: int | None, format: Format | None, wanted: Container[bytes]
) -> tuple[int, Entries]:
    """The size of the vectors, and the entries in order: all words, with vectors of the wanted ones."""
    magic = raw.read(len(ZIP_MAGIC))
    raw.seek(0)
    if magic == ZIP_MAGIC:
        raise ValueError(f"{path}: a zip archive; expected a file of word vectors. Unpack it and name a file inside")
    unpacked = gzip.GzipFile(fileobj=raw) if magic.startswith(GZIP_MAGIC) else raw
    stream = io.BufferedReader(unpacked, CHUNK)  # type: ignore[type-var]
    first, *others = stream.readline(LONGEST_LINE).removeprefix(BYTE_ORDER_MARK).splitlines(keepends=True) or [b""]
    if not first.strip():
        raise ValueError(f"{path}, line 1: empty; expected words and their vectors")
    found = HEADER.fullmatch(first)
    header = _Header(int(found[1]), int(found[2])) if found else None
    columns = _columns(first, path) if header is None else header.size
    if size is not None and columns != size:
        raise WordVectorSizeError(f"{path}, line 1: vectors of {columns} numbers; expected {size}")
    if columns < 1:
        raise ValueError(f"{path}, line 1: vectors of no numbers; expected one at least")
    if format is None:
        is_binary = header is not None and CONTROL_BYTES.search(stream.peek())
        format = "word2vec-binary" if is_binary else "text"
    if format == "text":
        lines = _lines(stream, b"".join(others))
        return columns, _text_entries(lines if header else chain([first], lines), path, header, columns, wanted)
    if header is None:
        raise ValueError(
            f"{path}, line 1: {_shown(first)}; expected the number of words and of columns, with which a binary "
            'word2vec file begins. Set format="text" for text'
        )
    return columns, _binary_entries(stream, path, header, wanted)


def _lines(stream: Any, begun: bytes) -> Iterator[bytes]:
    """Yield lines of text, starting with the bytes already read; an overlong line is yielded in part."""
    while data := stream.read(CHUNK):
        # For bytes, `splitlines` splits at LF, CR LF and CR only, like all readers here.
        *lines, begun = (begun + data).splitlines(keepends=True)
        yield from lines
        if len(begun) > LONGEST_LINE:
            yield begun
            begun = b""
    if begun:
        yield from begun.splitlines(keepends=True)


def _columns(line: bytes, path: Path) -> int:
    """Number of values after the word in a text file's first line."""
    fields = line.rstrip().split(b" ")
    count = 0
    while count < len(fields) - 1 and _is_number(fields[-1 - count]):
        count += 1
    if not count:
        raise ValueError(
            f"{path}, line 1: {_shown(line)}; expected a word and its numbers with a space between, or the number of "
            "words and of columns"
        )
    return count


def _text_entries(
    lines: Iterable[bytes], path: Path, header: _Header | None, size: int, wanted: Container[bytes]
) -> Entries:
    """Yield the entries of a text file; `lines` start after the header."""
    words, number = 0, 1 if header else 0
    for line in lines:
        number += 1
        line = line.rstrip(b" \t\r\n")
        if not line:
            continue
        place = f"{path}, line {number}"
        words += 1
        word, *numbers = line.rsplit(b" ", size)
        # Some words in published files contain spaces, but never before a number.
        if len(numbers) != size or (b" " in word and _is_number(word.rsplit(b" ", 1)[1])):
            raise ValueError(
                f"{place}: {_shown(line)} has {line.count(b' ')} numbers; expected {size} as in the lines before. The "
                "file is damaged or was cut off: fetch or make it again"
            )
        if not word.isascii():
            _check_utf8(word, place)
        if word not in wanted:
            yield word, None
            continue
        try:
            with np.errstate(over="ignore"):  # overflow gives infinity, which is refused below
                vector = np.array([float(value) for value in numbers]).astype(np.float32)
        except ValueError:
            wrong = next(value for value in numbers if not _is_number(value))
            raise ValueError(
                f"{place}: {_shown(wrong)} of the word {_shown(word)} is not a number; expected {size} numbers after "
                "each word"
            ) from None
        _check_finite(vector, word, place)
        yield word, vector
    if header is not None and words != header.words:
        raise ValueError(
            f"{path}, line {number}: ends after {words} words; expected {header.words}, as line 1 says. The file was "
            "cut off or put together: fetch or make it again"
        )


def _binary_entries(stream: BinaryIO, path: Path, header: _Header, wanted: Container[bytes]) -> Entries:
    """Yield the entries of a word2vec binary file; `stream` is positioned after the header."""
    width, buffer, position = 4 * header.size, b"", 0
    for number in range(1, header.words + 1):
        place = f"{path}, word {number}"
        while (space := buffer.find(b" ", position)) < 0 or len(buffer) < space + 1 + width:
            more = stream.read(CHUNK)
            if not more:
                raise ValueError(
                    f"{place}: the file ends; expected {header.words} words of {header.size} float32 numbers, as line "
                    "1 says. The file was cut off: fetch it again"
                )
            if space < 0 and len(buffer) - position > LONGEST_LINE:
                raise ValueError(f"{place}: no space within {LONGEST_LINE} bytes; expected a word and a space")
            buffer, position = buffer[position:] + more, 0
        # The original tool writes a line break after each vector.
        word = buffer[position:space].lstrip(b"\n")
        position = space + 1 + width
        if not word.isascii():
            _check_utf8(word, place)
        if word not in wanted:
            yield word, None
            continue
        vector = np.frombuffer(buffer, dtype="<f4", count=header.size, offset=space + 1).astype(np.float32)
        _check_finite(vector, word, place)
        yield word, vector
    if (buffer[position:] + stream.read(1)).strip():
        raise ValueError(
            f"{path}: continues after word {header.words}; expected that many words of {header.size} float32 numbers, "
            "as line 1 says. The file is damaged or in another format: fetch it again"
        )


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_utf8(word: bytes, place: str) -> None:
    try:
        word.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place}: byte {word[error.start]:#04x} of the word {_shown(word)} is not UTF-8; convert the file to UTF-8"
        ) from None


def _check_finite(vector: NDArray[np.float32], word: bytes, place: str) -> None:
    if not np.isfinite(vector).all():
        value = vector[~np.isfinite(vector)][0]
        raise ValueError(
            f"{place}: the vector of the word {_shown(word)} holds {value}; expected finite float32 numbers. Take the "
            "word out, or make the file again"
        )


def _shown(text: bytes) -> str:
    """The beginning of some bytes, for a message."""
    shown = text.decode("utf-8", "replace").rstrip()
    return repr(shown if len(shown) <= 40 else f"{shown[:40]}...")

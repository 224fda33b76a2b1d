"""Vocabulary files of the original programs and the numbering of their words.

A vocabulary file has one word per line, stripped of whitespace, in UTF-8 (bilm-tf `data.Vocabulary`). Its lines are in
the order of the rows of the language model's softmax. Here the padding token has id 0 and the word on line r, counted
from 0, has id r + 1; the mask token is appended unless the file has it.
"""

import gzip
import io
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from .complete_files import appearing
from .lines import split_lines

MAXIMUM_TERM = "!!!MAXTERMID"
"""A line of some published files that is not a word; the originals also skip it."""

_GZIP_MAGIC = b"\x1f\x8b"
# Limits against decompression bombs: a vocabulary does not unpack to over a gigabyte and over this many times its size.
MAXIMUM_RATIO = 20
ANY_RATIO_UP_TO = 2**30


def read_vocabulary(path: str | os.PathLike[str]) -> list[str]:
    """Words of a vocabulary file; errors as in `read_vocabulary_lines` and `words_of_vocabulary_lines`."""
    return words_of_vocabulary_lines(read_vocabulary_lines(path), f"{path}, line")


def words_of_vocabulary_lines(lines: Iterable[str], place: str) -> list[str]:
    """Words of the lines of a vocabulary file, stripped of whitespace and without `MAXIMUM_TERM`.

    A blank line is the empty word, as in the originals, so that ids are aligned with the softmax.

    Raises:
        ValueError: a word listed twice; the message names `place` and the line's number.
    """
    words = (line.strip() for line in lines)
    return _unique(((n, word) for n, word in enumerate(words, 1) if word != MAXIMUM_TERM), place)


def read_vocabulary_lines(path: str | os.PathLike[str]) -> list[str]:
    """Lines of a vocabulary file, unchanged but for line ends; the file may be gzipped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is damaged, not UTF-8, contains a NUL byte, or unpacks to an implausible size; the
            message names the file, the line and the remedy.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{path}: not a regular file; expected UTF-8 text with one word per line")
    data = Path(path).read_bytes()
    if data.startswith(_GZIP_MAGIC):
        limit = max(ANY_RATIO_UP_TO, MAXIMUM_RATIO * len(data))
        try:
            with gzip.open(io.BytesIO(data)) as packed:
                data = packed.read(limit + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file ({error}); download or create it again") from error
        if len(data) > limit:
            raise ValueError(
                f"{path}: unpacks to more than {limit} bytes, which no vocabulary of its size does; unpack it yourself "
                "if you trust it"
            )
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: a NUL byte; expected UTF-8 text with one word per line. The file is binary, damaged "
            "or in another encoding such as UTF-16: convert it to UTF-8"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: byte {data[error.start]:#04x} is not UTF-8; expected UTF-8 text with one word per "
            "line. Convert the file to UTF-8"
        ) from error
    return split_lines(text)


def is_vocabulary_word(word: str) -> bool:
    """True if the word can be written as a line of a vocabulary file."""
    return (
        word == word.strip()
        and word != MAXIMUM_TERM
        and not any(character in word for character in "\0\n\r")
        and _is_utf8(word)
    )


def write_vocabulary(words: Iterable[str], path: str | os.PathLike[str]) -> None:
    """Write a vocabulary file atomically.

    Raises:
        ValueError: a word that cannot be written as a line, for instance with a line break or surrounding whitespace.
    """
    lines = []
    for word in words:
        if not is_vocabulary_word(word):
            raise ValueError(
                f"the word {word!r} cannot be stored in a vocabulary file, whose lines are stripped of whitespace: "
                "save the tokenizer with save_pretrained() instead"
            )
        lines.append(word + "\n")
    with appearing(path) as aside, aside.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


def number_words(words: Sequence[str], pad_token: str, mask_token: str, where: str) -> dict[str, int]:
    """Ids of the words of a vocabulary file: the padding token first, the mask token last unless it is listed.

    Args:
        where: source of the words, for error messages.

    Raises:
        TypeError: not a list of strings.
        ValueError: a word listed twice, or the padding token among them.
    """
    if isinstance(words, str) or not all(isinstance(word, str) for word in words):
        raise TypeError(f"{where}: expected a list of words, all of them str")
    words = _unique(enumerate(words), f"{where}, entry")
    if pad_token in words:
        raise ValueError(
            f"{where}: lists {pad_token!r}, which is the padding token and always has id 0; remove the entry, or "
            "name another padding token with pad_token=..."
        )
    ids = {word: number for number, word in enumerate(words, 1)}
    ids[pad_token] = 0
    ids.setdefault(mask_token, len(ids))
    return ids


def check_numbering(vocabulary: Mapping[str, int], pad_token: str, mask_token: str, where: str) -> dict[str, int]:
    """Check a complete mapping from words to ids, and append the mask token if it is missing.

    Raises:
        ValueError: ids are not 0 ... n - 1, each once, or the padding token does not have id 0.
    """
    ids = dict(vocabulary)
    if sorted(ids.values()) != list(range(len(ids))):
        raise ValueError(f"{where}: expected the ids 0 to {len(ids) - 1}, each of them once")
    if ids.get(pad_token) != 0:
        raise ValueError(
            f"{where}: the padding token {pad_token!r} has id {ids.get(pad_token)}; expected 0. Number the words from "
            "1, or pass a list of words, which is numbered automatically"
        )
    ids.setdefault(mask_token, len(ids))
    return ids


def check_words(ids: Mapping[str, int], special_tokens: Mapping[str, str], where: str) -> None:
    """Raise a `ValueError` if a special token is missing or a word cannot be encoded in UTF-8."""
    missing = [f"{name}={token!r}" for name, token in special_tokens.items() if token not in ids]
    if missing:
        raise ValueError(
            f"{where}: no entry for {', '.join(missing)}; the vocabulary of an ELMo begins with '<S>', '</S>', "
            "'<UNK>'. Add the missing words, or set the special tokens of this vocabulary with bos_token=..., "
            "eos_token=..., unk_token=..."
        )
    for word in ids:
        if "\0" in word or not _is_utf8(word):
            raise ValueError(f"{where}: the word {word!r} holds a NUL or a lone surrogate; remove it")


def _is_utf8(word: str) -> bool:
    try:
        word.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _unique(entries: Iterable[tuple[int, str]], place: str) -> list[str]:
    """Words of numbered entries; raises a `ValueError` naming the first word listed twice."""
    seen: dict[str, int] = {}
    for number, word in entries:
        first = seen.setdefault(word, number)
        if first != number:
            raise ValueError(
                f"{place} {number}: the word {word!r} is listed already at {first}; ids follow the order of the "
                "words, so each may occur only once. Remove one, and its row of the softmax if there is one"
            )
    return list(seen)

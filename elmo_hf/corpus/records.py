"""Conversion of records with columns to sentences."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from elmo_hf.tokenizer.lines import split_lines

from .rules import ReadingRules
from .tagged_text import Sentence, sentence_of_record, sentence_of_tokens

# The options that name a column, with a description of the column for messages.
_OPTIONS = {"text_column": "the text", "id_column": "names of the sentences", "pos_column": "the POS tags"}


def parse_json(text: str, where: Callable[[], str], expected: str) -> Any:
    """The value of a JSON text.

    Args:
        text: the text.
        where: returns the text's location, for messages.
        expected: description of the expected content, for messages.

    Raises:
        ValueError: not JSON, nested too deeply, or with an integer of thousands of digits.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where()} is not JSON ({error}): expected {expected}") from error


def read_object(path: str | os.PathLike[str], expected: str) -> dict[str, Any]:
    """The JSON object that a file holds.

    Args:
        path: the file.
        expected: description of the expected content, and the remedy, for messages.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is not a JSON object; the message names the file.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): expected {expected}") from error
    value = parse_json(text, lambda: str(path), expected)
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds a {type(value).__name__}: expected {expected}")
    return value


def check_columns(rules: ReadingRules, found: Sequence[str], where: Callable[[], str]) -> None:
    """Raise `ValueError` if a column named in the rules is missing."""
    for option, what in _OPTIONS.items():
        name = getattr(rules, option)
        if name is not None and name not in found:
            listed = ", ".join(map(repr, found)) or "none at all"
            raise ValueError(f"{where()}: no column {name!r}, found {listed}. Name the one that holds {what}: {option}")


def sentences_of_record(
    record: Any, rules: ReadingRules, where: Callable[[], str], tag_names: Sequence[str] | None = None
) -> list[Sentence] | None:
    """The sentences of a record: the lines of a text, a list of words, or words with POS tags.

    Args:
        record: the record, which should be a mapping.
        rules: the names of its columns.
        where: returns the record's location, for messages.
        tag_names: names of POS tags that are stored as numbers.

    Returns:
        The sentences, exactly one with numbered rules; `None` for a record whose text is missing.

    Raises:
        ValueError: a missing column, or a value that is neither text nor words; a missing text, with numbered rules;
            POS tags that do not match the words.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{where()} holds a {type(record).__name__}: expected an object with columns")
    check_columns(rules, list(record), where)
    value = record[rules.text_column]
    if value is None and not rules.numbered:
        return None
    if rules.pos_column is not None:
        columns = (rules.text_column, rules.pos_column)
        return [sentence_of_record(value, record[rules.pos_column], columns, where, tag_names)]
    if isinstance(value, str):
        sentences: list[Sentence] = [value] if rules.numbered else [*split_lines(value)]
    elif isinstance(value, list):
        for word in value:
            if not isinstance(word, str):
                raise ValueError(
                    f"{where()}: column {rules.text_column!r} holds {word!r:.60} among its words: expected texts only"
                )
        sentences = [value]
    else:
        raise ValueError(
            f"{where()}: column {rules.text_column!r} holds {value!r:.60}: expected text, or a list of words as one "
            "sentence"
        )
    if rules.pos_separator is None:
        return sentences
    tokens = [each.split() if isinstance(each, str) else each for each in sentences]
    return [sentence_of_tokens(each, rules.pos_separator, where) for each in tokens]  # type: ignore[arg-type]


def identifier_of_record(record: dict[str, Any], column: str, where: Callable[[], str]) -> str:
    """The name of a record's sentence, from an existing column.

    Raises:
        ValueError: neither text nor integer, or a text that cannot be stored in files unchanged.
    """
    value = record[column]
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(
            f"{where()}: column {column!r} holds {value!r:.60}: expected a text or an integer that names the sentence"
        )
    name = str(value)
    if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
        raise ValueError(
            f"{where()}: column {column!r} holds {name!r:.60}: expected a name without NUL and lone surrogates"
        )
    return name

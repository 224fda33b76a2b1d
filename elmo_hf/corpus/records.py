"""Records with columns, of any container, to sentences."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from elmo_hf.tokenizer.lines import split_lines

from .rules import ReadingRules
from .tagged_text import Sentence, sentence_of_record, sentence_of_tokens

# The options that name a column, and which field of the rules each is.
_OPTIONS = {"text_column": "the text", "id_column": "names of the sentences", "pos_column": "the parts of speech"}


def parse_json(text: str, where: Callable[[], str], expected: str) -> Any:
    """The value of a JSON text.

    Args:
        text: the text.
        where: called for its place, for messages.
        expected: what is expected there, for messages.

    Raises:
        ValueError: it is no JSON, nested too deeply, or holds an integer of thousands of digits.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where()} is not JSON ({error}): expected {expected}") from error


def read_object(path: str | os.PathLike[str], expected: str) -> dict[str, Any]:
    """The JSON object that a file holds.

    Args:
        path: the file.
        expected: what is expected there and the remedy, for messages.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is no JSON object; the message names the file.
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
    """Refuse, with a `ValueError`, columns that are not there."""
    for option, what in _OPTIONS.items():
        name = getattr(rules, option)
        if name is not None and name not in found:
            listed = ", ".join(map(repr, found)) or "none at all"
            raise ValueError(f"{where()}: no column {name!r}, found {listed}. Name the one that holds {what}: {option}")


def sentences_of_record(
    record: Any, rules: ReadingRules, where: Callable[[], str], tag_names: Sequence[str] | None = None
) -> list[Sentence] | None:
    """The sentences of a record: a text's lines, a list of words as it is, words with their parts of speech.

    Args:
        record: the record, which should be a mapping.
        rules: its columns.
        where: called for the record's place, for messages.
        tag_names: of parts of speech that are numbers.

    Returns:
        One sentence for numbered rules; `None` for a record whose text is missing.

    Raises:
        ValueError: no such column, or its value is neither text nor words; a missing text, for numbered rules; parts
            of speech that do not fit the words.
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
    """The name of a record's sentence, in a column that is there.

    Raises:
        ValueError: it is no text and no integer, or a text that files cannot hold as it is.
    """
    value = record[column]
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(
            f"{where()}: column {column!r} holds {value!r:.60}: expected a text or an integer that names the sentence"
        )
    name = str(value)
    if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
        raise ValueError(
            f"{where()}: column {column!r} holds {name!r:.60}: expected a name without NUL and half characters"
        )
    return name

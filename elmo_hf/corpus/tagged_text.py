"""Sentences (texts, lists of words, or words with POS tags) and their encoding as single texts.

Shuffle buffers and saved positions store every sentence as one text. Lines of files contain no line breaks, so a line
break marks other sentences. One at the beginning marks JSON: a list of words, or words with tags. One between words
marks the older encoding of tagged words: one word per line, then a tab, then one tag per line. Only this file knows the
encoding.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeAlias

from elmo_hf.tokenizer.pos_tags import PosTags
from elmo_hf.tokenizer.vocabulary import read_vocabulary

Tags = Sequence[str | None]
_MARK = "\n"


@dataclass(frozen=True)
class TaggedSentence:
    """The words of a sentence and their POS tags.

    Attributes:
        words: the words, without boundaries.
        tags: one tag per word; `None` for a word without one.

    Raises:
        TypeError: a word or tag of another type.
        ValueError: different numbers of tags and words.
    """

    words: Sequence[str]
    tags: Tags

    def __post_init__(self) -> None:
        for name, values in (("words", self.words), ("tags", self.tags)):
            if isinstance(values, str) or not isinstance(values, Sequence):
                raise TypeError(f"{name} is {values!r:.60}: expected a list")
            for value in values:
                if not (isinstance(value, str) or (value is None and name == "tags")):
                    raise TypeError(f"{name} holds {value!r} of type {type(value).__name__}: expected str")
        if len(self.words) != len(self.tags):
            raise ValueError(
                f"{len(self.tags)} tags for the {len(self.words)} words {' '.join(self.words[:8])!r}: expected one for "
                "each word"
            )


Sentence: TypeAlias = str | list[str] | TaggedSentence


def text_of(sentence: Sentence) -> str:
    """Encode a sentence as one text."""
    if isinstance(sentence, str):
        # Whitespace before the first word has no meaning, so it can hide the mark.
        return f" {sentence}" if sentence.startswith(_MARK) else sentence
    if isinstance(sentence, TaggedSentence):
        return tagged_text(sentence)
    return _MARK + json.dumps(sentence) if sentence else ""


def is_blank(sentence: Sentence) -> bool:
    """True for a sentence without words, or a text of whitespace only."""
    if isinstance(sentence, str):
        return not sentence or sentence.isspace()
    return not (sentence.words if isinstance(sentence, TaggedSentence) else sentence)


def tagged_text(sentence: TaggedSentence) -> str:
    """Encode a tagged sentence as one text, empty for an empty sentence."""
    if not sentence.words:
        return ""
    words, tags = "\n".join(sentence.words), "\n".join(tag or "" for tag in sentence.tags)
    breaks = len(sentence.words) - 1
    if all(sentence.words) and not any("\t" in each or each.count("\n") != breaks for each in (words, tags)):
        return f"{words}\t{tags}"
    return _MARK + json.dumps([list(sentence.words), list(sentence.tags)])


def tagged_sentence(text: str) -> TaggedSentence:
    """Decode a text made by `tagged_text`."""
    if not text:
        return TaggedSentence((), ())
    if text.startswith(_MARK):
        words, tags = json.loads(text)
        return TaggedSentence(words, [tag or None for tag in tags])
    words, _, tags = text.partition("\t")
    return TaggedSentence(words.split("\n"), [tag or None for tag in tags.split("\n")])


def sentence_of(text: str, is_tagged: bool) -> Sentence:
    """Decode a text made by `text_of`; `is_tagged` tells that the corpus has POS tags."""
    if is_tagged:
        return tagged_sentence(text)
    return json.loads(text) if text.startswith(_MARK) else text


def sentence_of_tokens(tokens: Sequence[str], separator: str, where: Callable[[], str]) -> TaggedSentence:
    """Parse words with a tag after their last `separator`, such as `the_DET`, `cat_NOUN`.

    Args:
        tokens: words with their tags; nothing after the separator for a word without tag.
        separator: separator between word and tag.
        where: returns the line's location, for messages.

    Raises:
        ValueError: a token that is not a word, separator and tag.
    """
    pairs = [token.rpartition(separator) for token in tokens]
    for word, found, tag in pairs:
        if not (word and found):
            token = word + found + tag
            raise ValueError(
                f"{where()}: {token!r} is not a word with a tag after {separator!r}: expected text such as "
                f"the{separator}DET cat{separator}NOUN, or another pos_separator"
            )
    return TaggedSentence([word for word, _, _ in pairs], [tag or None for _, _, tag in pairs])


def sentence_of_record(
    words: Any, tags: Any, columns: tuple[str, str], where: Callable[[], str], names: Sequence[str] | None = None
) -> TaggedSentence:
    """Build a sentence from a record's words and tags.

    Args:
        words, tags: lists of the same length, or texts split at whitespace; a tag may be `None` or empty.
        columns: names of their columns, for messages.
        where: returns the record's location, for messages.
        names: names of tags stored as numbers, from a data set's `ClassLabel`.

    Raises:
        ValueError: neither lists of str nor texts, or of different lengths; numbers without `names`.
    """
    lists = [value.split() if isinstance(value, str) else value for value in (words, tags)]
    for column, value in zip(columns, lists, strict=True):
        if not isinstance(value, list):
            raise ValueError(
                f"{where()}: column {column!r} holds {value!r:.60}: expected a list with one entry for each word"
            )
    if names is not None:
        lists[1] = [names[tag] if isinstance(tag, int) and 0 <= tag < len(names) else tag for tag in lists[1]]
    with _columns_named(columns, where):
        return TaggedSentence(lists[0], [None if tag == "" else tag for tag in lists[1]])


@contextmanager
def _columns_named(columns: tuple[str, str], where: Callable[[], str]) -> Iterator[None]:
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{where()}, columns {columns[0]!r} and {columns[1]!r}: {str(error).removesuffix('.')}"
        ) from None


def pos_tags_of(sentences: Iterable[Sentence]) -> list[str]:
    """The distinct POS tags of tagged sentences, sorted.

    Raises:
        ValueError: there are none.
    """
    found = {tag for each in sentences if isinstance(each, TaggedSentence) for tag in each.tags if tag is not None}
    if not found:
        raise ValueError("the text has no POS tags: expected at least one, in pos_column or after pos_separator")
    return sorted(found)


def read_pos_tag_set(path: str | PathLike[str]) -> list[str]:
    """Read POS tags from a file, one per line, in the order of their ids.

    Raises:
        ValueError: not text, or not a set of tags; the message names the file.
    """
    tags = read_vocabulary(path)
    try:
        return list(PosTags(tags).ids)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None

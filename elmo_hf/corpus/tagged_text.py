"""Sentences, and how each is one text: a text, a list of words, or words with parts of speech beside them.

Shuffled windows and saved positions hold every sentence as one text. No line of a file holds a line break, so a line
break marks what is no line: at the beginning a list of words, or words with tags, as JSON; between words the older form
of words with tags, a line each, then a tab, then their tags, a line each. Only this file knows.
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
    """The words of a sentence and the part of speech of each.

    Attributes:
        words: the words, without boundaries.
        tags: one for each of them; `None` for a word without one.

    Raises:
        TypeError: a word or a tag of another type.
        ValueError: another number of tags than of words.
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
    """The sentence as one text."""
    if isinstance(sentence, str):
        # White space before the first word is no part of a sentence.
        return f" {sentence}" if sentence.startswith(_MARK) else sentence
    if isinstance(sentence, TaggedSentence):
        return tagged_text(sentence)
    return _MARK + json.dumps(sentence) if sentence else ""


def is_blank(sentence: Sentence) -> bool:
    """True for a sentence without words, or a text of nothing but whitespace."""
    if isinstance(sentence, str):
        return not sentence or sentence.isspace()
    return not (sentence.words if isinstance(sentence, TaggedSentence) else sentence)


def tagged_text(sentence: TaggedSentence) -> str:
    """The sentence as one text, empty for one without words."""
    if not sentence.words:
        return ""
    words, tags = "\n".join(sentence.words), "\n".join(tag or "" for tag in sentence.tags)
    breaks = len(sentence.words) - 1
    if all(sentence.words) and not any("\t" in each or each.count("\n") != breaks for each in (words, tags)):
        return f"{words}\t{tags}"
    return _MARK + json.dumps([list(sentence.words), list(sentence.tags)])


def tagged_sentence(text: str) -> TaggedSentence:
    """What `tagged_text` was made of."""
    if not text:
        return TaggedSentence((), ())
    if text.startswith(_MARK):
        words, tags = json.loads(text)
        return TaggedSentence(words, [tag or None for tag in tags])
    words, _, tags = text.partition("\t")
    return TaggedSentence(words.split("\n"), [tag or None for tag in tags.split("\n")])


def sentence_of(text: str, is_tagged: bool) -> Sentence:
    """What `text_of` was given; `is_tagged` for a corpus whose words have parts of speech."""
    if is_tagged:
        return tagged_sentence(text)
    return json.loads(text) if text.startswith(_MARK) else text


def sentence_of_tokens(tokens: Sequence[str], separator: str, where: Callable[[], str]) -> TaggedSentence:
    """The sentence of words that have their tag behind the last `separator` in them, as `the_DET`, `cat_NOUN`.

    Args:
        tokens: words with their tags; nothing behind the separator for a word without tag.
        separator: what stands between word and tag.
        where: called for the line's place, for messages.

    Raises:
        ValueError: something that is no word, separator and tag.
    """
    pairs = [token.rpartition(separator) for token in tokens]
    for word, found, tag in pairs:
        if not (word and found):
            token = word + found + tag
            raise ValueError(
                f"{where()}: {token!r} is no word with a tag behind {separator!r}: expected text such as "
                f"the{separator}DET cat{separator}NOUN, or another pos_separator"
            )
    return TaggedSentence([word for word, _, _ in pairs], [tag or None for _, _, tag in pairs])


def sentence_of_record(
    words: Any, tags: Any, columns: tuple[str, str], where: Callable[[], str], names: Sequence[str] | None = None
) -> TaggedSentence:
    """The sentence of a record's words and tags.

    Args:
        words, tags: lists of the same length, or texts with whitespace between words and between tags; a tag may be
            `None` or empty for none.
        columns: their names, for messages.
        where: called for the record's place, for messages.
        names: of tags that are numbers, as a data set's `ClassLabel` has them.

    Raises:
        ValueError: neither lists of str nor texts, or of unequal length; numbers without `names`.
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
    """The parts of speech of tagged sentences, in the order of their characters.

    Raises:
        ValueError: there is none.
    """
    found = {tag for each in sentences if isinstance(each, TaggedSentence) for tag in each.tags if tag is not None}
    if not found:
        raise ValueError("the text has no part of speech: expected at least one, in pos_column or behind pos_separator")
    return sorted(found)


def read_pos_tag_set(path: str | PathLike[str]) -> list[str]:
    """A file's parts of speech, one a line, in the order of their ids.

    Raises:
        ValueError: no text, or no set of tags; the message names the file.
    """
    tags = read_vocabulary(path)
    try:
        return list(PosTags(tags).ids)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None

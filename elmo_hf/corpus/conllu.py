"""CoNLL-U, the format of Universal Dependencies: sentences whose words have ten columns each.

Not every line is a word: comments begin with `#`; a multiword range (`2-3`) repeats words that also have their own
lines; and an empty node (`4.1`) is not a word of the sentence. See universaldependencies.org/format.html.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import NamedTuple

from .lines import LineBlocks, check_file, where_in_lines
from .rules import ReadingRules

COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
_WORD, _NO_WORD = re.compile(r"[0-9]+"), re.compile(r"[0-9]+-[0-9]+|[0-9]+\.[0-9]+")
_COMMENT = re.compile(r"#\s*([^\s=]+)\s*=\s?(.*)")


class ConlluSentence(NamedTuple):
    """A sentence of a CoNLL-U file.

    Attributes:
        line: number of its first line, counted from where reading began.
        words: the forms of its words.
        rows: the ten cells of each word.
        comments: comments of the form `# name = value`, by name.
    """

    line: int
    words: list[str]
    rows: list[list[str]]
    comments: dict[str, str]

    def column(self, name: str) -> list[str]:
        """The cells of one column, named as in [`COLUMNS`] or numbered from 0.

        Raises:
            ValueError: there is no such column.
        """
        number = column_number(name)
        return [row[number] for row in self.rows]


def column_number(name: str) -> int:
    """The index, from 0, of a column given by name or number.

    Raises:
        ValueError: there is no such column.
    """
    if name.lower() in COLUMNS:
        return COLUMNS.index(name.lower())
    if name.isdecimal() and int(name) < len(COLUMNS):
        return int(name)
    raise ValueError(f"column {name!r} of CoNLL-U: expected one of {', '.join(COLUMNS)}, or its number from 0")


def parse_conllu(lines: Iterable[tuple[int, str]], path: str, place: int = 0) -> Iterator[ConlluSentence]:
    """Parse the sentences in numbered lines.

    Args:
        lines: the lines, numbered from the line at `place`.
        path, place: for messages.

    Raises:
        ValueError: a line that is not CoNLL-U, or a sentence without words.
    """
    sentence: ConlluSentence | None = None
    for number, line in lines:
        where = partial(where_in_lines, path, place, number)
        if not line or line.isspace():
            if sentence is not None:
                yield _checked(sentence, path, place)
            sentence = None
            continue
        if sentence is None:
            sentence = ConlluSentence(number, [], [], {})
        if line.startswith("#"):
            if found := _COMMENT.fullmatch(line):
                sentence.comments[found[1]] = found[2].strip()
            continue
        cells = line.split("\t")
        if len(cells) != len(COLUMNS):
            raise ValueError(
                f"{where()}: {line!r:.60} has {len(cells)} columns between tabs: expected the {len(COLUMNS)} of "
                f"CoNLL-U ({', '.join(COLUMNS)}), a comment that begins with #, or a blank line between sentences"
            )
        if _NO_WORD.fullmatch(cells[0]):
            continue
        if not _WORD.fullmatch(cells[0]) or not cells[1].strip():
            raise ValueError(
                f"{where()}: id {cells[0]!r} and form {cells[1]!r}: expected a number, a range such as 2-3 or 4.1 for "
                "an empty node, and the characters of a word"
            )
        sentence.words.append(cells[1])
        sentence.rows.append(cells)
    if sentence is not None:
        yield _checked(sentence, path, place)


def _checked(sentence: ConlluSentence, path: str, place: int) -> ConlluSentence:
    if not sentence.words and sentence.comments.keys() - {"global.columns"}:
        raise ValueError(
            f"{where_in_lines(path, place, sentence.line)}: comments without words: expected the lines of a sentence "
            "after them"
        )
    return sentence


def read_conllu(path: str | os.PathLike[str], encoding: str = "utf-8") -> Iterator[ConlluSentence]:
    """Yield the sentences of a CoNLL-U file, plain or compressed.

    Multiword ranges, empty nodes and comments are skipped.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is empty, damaged, not in the encoding or not CoNLL-U; the message names the line.
    """
    name = os.fspath(path)
    check_file(name)
    found = 0
    with closing(LineBlocks(name, ReadingRules(encoding=encoding), blank_lines_between=True)) as blocks:
        while (block := blocks.next()) is not None:
            for sentence in parse_conllu(zip(block.numbers, block.lines, strict=True), name, block.place):
                if sentence.words:
                    found += 1
                    yield sentence
    if not found:
        raise ValueError(f"{name} holds no sentence: expected words with ten columns between tabs")

"""Text, JSON-lines and CoNLL-U files, plain or compressed, as shards.

Large plain files of lines are split into byte spans at nearby line ends. The spans are read independently, so one big
file can be shuffled, and counted by several processes, like many small ones.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from .conllu import ConlluSentence, column_number, parse_conllu
from .lines import LineBlocks, Lines, check_file, is_compressed, where_in_lines
from .records import parse_json
from .rules import ReadingRules
from .shards import Block, BlockReader, Position, RecordSentences
from .stored_files import size_of
from .tagged_text import Sentence, TaggedSentence, is_blank, sentence_of_tokens

Kind = Literal["text", "json", "conllu"]


@dataclass(frozen=True)
class TextShard:
    """A file, or the lines of a plain file that begin at bytes `start` to `end` - 1."""

    path: str
    kind: Kind
    size: int
    rules: ReadingRules
    start: int = 0
    end: int | None = None

    @property
    def name(self) -> str:
        return self.path if self.end is None else f"{self.path} (bytes {self.start}-{self.end})"

    @property
    def may_be_empty(self) -> bool:
        return self.end is not None

    @property
    def is_sequential(self) -> bool:
        return is_compressed(self.path)

    @property
    def identity(self) -> list[Any]:
        # Without the folder, because a corpus may be moved.
        rules = self.rules
        column = None if self.kind == "text" else rules.text_column
        listed = [rules.encoding, rules.undecodable, "keep" if rules.keeps_blank_lines else "skip", column]
        if rules.is_tagged:
            listed += [rules.pos_column, rules.pos_separator]
        return [os.path.basename(self.path), self.size, self.start, self.end, listed]

    def open(self, position: Position = None) -> BlockReader:
        return _READERS[self.kind](self, position)

    def where(self, place: int, number: int) -> str:
        return where_in_lines(self.path, place, number)


def text_shards(path: str, kind: Kind, rules: ReadingRules, shard_bytes: int) -> list[TextShard]:
    """The shards of one file.

    Args:
        path: the file; `.gz`, `.bz2`, `.xz` and `.lzma` are decompressed on reading.
        kind: text, JSON lines or CoNLL-U.
        rules: rules by which lines become sentences.
        shard_bytes: split plain files of lines into spans of about this size.

    Raises:
        ValueError: the file is empty, not a regular file, or compressed in an unsupported way; or text or CoNLL-U has
            no such column.
        OSError: the file cannot be opened.
    """
    check_file(path)
    if kind == "text":
        for option in ("id_column", "pos_column"):
            if getattr(rules, option) is not None:
                raise ValueError(
                    f"{option}={getattr(rules, option)!r}: {path} is plain text, which has no columns. Expected JSON, "
                    "Parquet or another format with columns"
                    + (", or pos_separator for words such as the_DET" if option == "pos_column" else "")
                )
    if kind == "conllu":
        if rules.pos_separator is not None:
            raise ValueError(
                f"pos_separator={rules.pos_separator!r}: {path} is CoNLL-U, which has columns of POS tags: name "
                "one with pos_column, upos for instance"
            )
        for column in (rules.text_column, rules.pos_column):
            if column not in (None, ReadingRules.text_column):
                _column_of(path, column)
    size = size_of(path)
    if kind == "conllu" or is_compressed(path) or size <= shard_bytes:
        return [TextShard(path, kind, size, rules)]
    cuts = [*range(0, size, shard_bytes), size]
    return [TextShard(path, kind, size, rules, start, end) for start, end in itertools.pairwise(cuts)]


def _column_of(path: str, name: str) -> int:
    try:
        return column_number(name)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


class _LineReader(BlockReader):
    """Reader of the lines of a [`TextShard`] as sentences; a place is an offset in the decompressed bytes.

    Resuming seeks to the block. Compressed files are decompressed up to it, without parsing.
    """

    def __init__(self, shard: TextShard, position: Position) -> None:
        super().__init__(position)
        self._shard, self._rules = shard, shard.rules
        self._lines = LineBlocks(shard.path, shard.rules, shard.start, shard.end, shard.kind == "conllu")

    def seek(self, place: int) -> None:
        self._lines.seek(place)

    def close(self) -> None:
        self._lines.close()

    def next_block(self) -> Block | None:
        lines = self._lines.next()
        if lines is None:
            self.tell()
            return None
        return self.sentences(lines)

    def tell(self) -> None:
        """Warn of skipped lines; called at the end of the shard."""
        self._lines.tell()

    def sentences(self, lines: Lines) -> Block:
        """Convert lines to sentences."""
        found: list[Sentence] = [*lines.lines]
        if self._rules.pos_separator is not None:
            found = [
                sentence_of_tokens(line.split(), self._rules.pos_separator, self._where(lines.place, number))
                for line, number in zip(lines.lines, lines.numbers, strict=True)
            ]
        if self._rules.keeps_blank_lines:
            return Block(lines.place, found, lines.numbers)
        return Block(lines.place, [sentence for sentence in found if not is_blank(sentence)])

    def _where(self, place: int, number: int) -> Callable[[], str]:
        return partial(self._shard.where, place, number)


class _JsonReader(_LineReader):
    """Reader of JSON objects, one per line; blank lines are skipped."""

    def __init__(self, shard: TextShard, position: Position) -> None:
        super().__init__(shard, position)
        self._records = RecordSentences(shard, shard.rules)

    def tell(self) -> None:
        super().tell()
        self._records.tell()

    def sentences(self, lines: Lines) -> Block:
        return self._records.block(lines.place, self._parsed(lines))

    def _parsed(self, lines: Lines) -> Iterator[tuple[int, Any]]:
        for number, line in zip(lines.numbers, lines.lines, strict=True):
            if line and not line.isspace():
                yield number, parse_json(line, self._where(lines.place, number), "one JSON object a line")


class _ConlluReader(_LineReader):
    """Reader of CoNLL-U sentences: their words, or another column, with POS tags if a column is named."""

    def sentences(self, lines: Lines) -> Block:
        rules, block = self._rules, Block(lines.place)
        numbers: list[int] = []
        tags = None if rules.pos_column is None else column_number(rules.pos_column)
        words = 1 if rules.text_column == ReadingRules.text_column else column_number(rules.text_column)
        for each in parse_conllu(zip(lines.numbers, lines.lines, strict=True), self._shard.path, lines.place):
            if not each.words:
                continue
            found = [row[words] for row in each.rows]
            if tags is None:
                block.sentences.append(found)
            else:
                beside = [None if row[tags] == "_" else row[tags] for row in each.rows]
                block.sentences.append(TaggedSentence(found, beside))
            if rules.id_column is not None:
                block.identifiers.append(self._name(each, lines.place))
            numbers.append(each.line)
        block.numbers = numbers
        return block

    def _name(self, sentence: ConlluSentence, place: int) -> str:
        name = self._rules.id_column
        if name not in sentence.comments:
            raise ValueError(
                f"{self._shard.where(place, sentence.line)}: no comment '# {name} = ...' before the words: expected "
                "the sentence's name there (id_column; sent_id in the treebanks of Universal Dependencies)"
            )
        return sentence.comments[name]


_READERS: dict[Kind, type[_LineReader]] = {"text": _LineReader, "json": _JsonReader, "conllu": _ConlluReader}

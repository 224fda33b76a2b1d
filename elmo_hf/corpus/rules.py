"""Rules by which the content of files becomes sentences: the options shared by all readers."""

from dataclasses import dataclass
from typing import Literal

from elmo_hf.checks import at_least_one

Undecodable = Literal["refuse", "skip", "replace"]
BlankLines = Literal["skip", "keep"]


@dataclass(frozen=True)
class ReadingRules:
    """Options for reading files.

    Args:
        text_column: the column with text or lists of words, for all formats but text.
        id_column: the column that names the sentences.
        pos_column: the column with the words' POS tags; sentences are then tagged.
        pos_separator: instead of `pos_column`, the separator between each word and its POS tag in the text.
        encoding: encoding of text, JSON, CSV and CoNLL-U; it must extend ASCII.
        undecodable: treatment of a line with invalid bytes: `"refuse"` it with an error, `"skip"` the line, or
            `"replace"` the bytes by U+FFFD. The last two warn.
        blank_lines: `"skip"` them, or `"keep"` them as empty sentences, as bilm-tf does.
        max_line_bytes: refuse longer lines. It bounds memory and is not checked within blocks of 1 MiB.
        numbered: make each line or record exactly one sentence, even an empty one, so that its number identifies it. A
            record's text is not split into lines, nothing is left out, and a record without text is refused.
        offered: names of the options that the caller's user can change, for the remedies in messages.

    Raises:
        ValueError: an unknown encoding or policy, or both `pos_column` and `pos_separator`.
    """

    text_column: str = "text"
    id_column: str | None = None
    pos_column: str | None = None
    pos_separator: str | None = None
    encoding: str = "utf-8"
    undecodable: Undecodable = "refuse"
    blank_lines: BlankLines = "skip"
    max_line_bytes: int = 2**26
    numbered: bool = False
    offered: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            line_ends = "\r\n".encode(self.encoding)
        except LookupError:
            raise ValueError(
                f"encoding {self.encoding!r} is unknown: expected one of Python's, such as utf-8"
            ) from None
        if line_ends != b"\r\n":
            raise ValueError(
                f"encoding {self.encoding!r} writes line ends as {line_ends!r}: expected an encoding that extends "
                "ASCII. Convert the files to UTF-8 first, for instance with iconv"
            )
        policies = ("refuse", "replace") if self.numbered else ("refuse", "skip", "replace")
        if self.undecodable not in policies:
            listed = ", ".join(map(repr, policies[:-1]))
            raise ValueError(f"undecodable={self.undecodable!r}: expected {listed} or {policies[-1]!r}")
        if self.blank_lines not in ("skip", "keep"):
            raise ValueError(f"blank_lines={self.blank_lines!r}: expected 'skip' or 'keep'")
        at_least_one(max_line_bytes=self.max_line_bytes)
        if self.pos_column is not None and self.pos_separator is not None:
            raise ValueError(
                f"pos_column={self.pos_column!r} and pos_separator={self.pos_separator!r}: expected POS tags in a "
                "column of their own or after each word, not both"
            )
        if self.pos_separator is not None and (not self.pos_separator or any(map(str.isspace, self.pos_separator))):
            raise ValueError(
                f"pos_separator={self.pos_separator!r}: expected characters other than whitespace, such as '_'"
            )

    @property
    def is_tagged(self) -> bool:
        """True if sentences have POS tags."""
        return self.pos_column is not None or self.pos_separator is not None

    @property
    def keeps_blank_lines(self) -> bool:
        return self.numbered or self.blank_lines == "keep"

    @property
    def remedy_of_encoding(self) -> str:
        """Remedy for bytes that are invalid in the encoding, for messages."""
        if "encoding" not in self.offered:
            return "; convert it, for instance with iconv"
        others = "'replace'" if self.numbered else "'skip' or 'replace'"
        return f". Expected text in {self.encoding}; name its true encoding, or choose undecodable={others}"

    @property
    def columns(self) -> list[str]:
        """Names of the columns that are read."""
        named = (self.text_column, self.id_column, self.pos_column)
        return list(dict.fromkeys(name for name in named if name is not None))

"""Vocabulary files: one word a line in UTF-8, plain or compressed with gzip, whatever their name says.

Source: bilm-tf `bilm/data.py`, `Vocabulary`.
"""

from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path

from ..errors import CheckpointError
from .archives import gunzip

GZIP_MAGIC = b"\x1f\x8b"
# A line of some published files that is no word; the originals skip it.
MAXIMUM_TERM = "!!!MAXTERMID"


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary file, read once, when it is first asked for.

    Attributes:
        file: Where it is.
    """

    file: Path

    @cached_property
    def lines(self) -> list[str]:
        """The lines as they stand there, without line ends.

        Raises:
            CheckpointError: damaged, unfolds to far too much, or not UTF-8; the message names the line.
        """
        content = self.file.read_bytes()
        if content.startswith(GZIP_MAGIC):
            content = gunzip(content, self.file)
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content[: error.start].count(b"\n") + 1
            raise CheckpointError(
                f"{self.file}, line {line}: byte {content[error.start]:#04x} is not UTF-8; expected UTF-8 text with "
                "one word a line. Convert the file to UTF-8"
            ) from None
        # Universal newlines, and not str.splitlines(), which breaks words at U+2028 and the like.
        return [line.removesuffix("\n") for line in StringIO(text, newline=None)]

    @cached_property
    def words(self) -> list[str]:
        """The words in order, stripped of whitespace; a blank line is the empty word, so that rows stay aligned.

        Raises:
            CheckpointError: also if a word is listed twice.
        """
        first: dict[str, int] = {}
        for number, line in enumerate(self.lines, 1):
            word = line.strip()
            if word != MAXIMUM_TERM and first.setdefault(word, number) != number:
                raise CheckpointError(
                    f"{self.file}, line {number}: the word {word!r} is listed already in line {first[word]}; rows of "
                    "weights follow the lines, so each word can stand only once. Give the vocabulary that the model "
                    "was trained with"
                )
        return list(first)

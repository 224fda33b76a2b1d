"""Vocabulary files: one word a line in UTF-8, plain or compressed with gzip, whatever their name says.

Source: bilm-tf `bilm/data.py`, `Vocabulary`.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from elmo_hf import read_vocabulary_lines, words_of_vocabulary_lines

from .errors import CheckpointError


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary file, read once, when it is first asked for, as the tokenizer reads it.

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
        try:
            return read_vocabulary_lines(self.file)
        except ValueError as error:
            raise CheckpointError(str(error)) from None

    @cached_property
    def words(self) -> list[str]:
        """The words in order, stripped of whitespace; a blank line is the empty word, so that rows stay aligned.

        Raises:
            CheckpointError: also if a word is listed twice.
        """
        try:
            return words_of_vocabulary_lines(self.lines, f"{self.file}, line")
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(f"{error}. Give the vocabulary that the model was trained with") from None

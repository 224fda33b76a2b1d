"""Vocabulary files: one word per line in UTF-8, plain or gzipped, whatever their name.

Source: bilm-tf `bilm/data.py`, `Vocabulary`.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from elmo_hf import read_vocabulary_lines, words_of_vocabulary_lines

from .errors import CheckpointError


@dataclass(frozen=True)
class Vocabulary:
    """A vocabulary file, read once on first use, like the tokenizer reads it.

    Attributes:
        file: Its path.
    """

    file: Path

    @cached_property
    def lines(self) -> list[str]:
        """Unchanged lines, without line ends.

        Raises:
            CheckpointError: damaged, unpacks to far too much, or not UTF-8; the message names the line.
        """
        try:
            return read_vocabulary_lines(self.file)
        except ValueError as error:
            raise CheckpointError(str(error)) from None

    @cached_property
    def words(self) -> list[str]:
        """Words in order, stripped of whitespace. A blank line is the empty word, so that rows stay aligned.

        Raises:
            CheckpointError: as in `lines`, or a repeated word.
        """
        try:
            return words_of_vocabulary_lines(self.lines, f"{self.file}, line")
        except CheckpointError:
            raise
        except ValueError as error:
            raise CheckpointError(f"{error}. Give the vocabulary that the model was trained with") from None

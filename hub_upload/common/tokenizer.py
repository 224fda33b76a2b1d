"""The tokenizer of a model that spells words in bytes, or looks them up in a vocabulary file."""

from typing import Any

from elmo_hf import ElmoConfig, ElmoTokenizer

from .errors import CheckpointError
from .source import Source


def make_tokenizer(source: Source, config: ElmoConfig, **tokens: Any) -> ElmoTokenizer:
    """The tokenizer with the words of the source's vocabulary; `tokens` are those that differ from bilm-tf's.

    Raises:
        CheckpointError: a vocabulary that lacks a symbol or is damaged; the message names the file.
    """
    remedy = "" if config.word_embedding_size else ". A character model also works without it: --without-vocabulary"
    try:
        words = source.vocabulary.words if source.vocabulary is not None else None
        return ElmoTokenizer(vocab=words, max_characters_per_word=config.max_characters_per_word, **tokens)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{remedy}") from None
    except ValueError as error:
        # The tokenizer got a list and does not know the file.
        where = source.vocabulary.file if source.vocabulary is not None else source.options_file
        raise CheckpointError(f"{where}: {str(error).removeprefix('vocab: ')}{remedy}") from error

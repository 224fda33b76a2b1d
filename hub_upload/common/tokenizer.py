"""The tokenizer of a model that spells words in bytes, or looks them up in a vocabulary file."""

from typing import Any

from elmo_hf import ElmoConfig, ElmoTokenizer

from .errors import CheckpointError
from .source import Source


def make_tokenizer(source: Source, config: ElmoConfig, notes: list[str] | None = None, **tokens: Any) -> ElmoTokenizer:
    """The tokenizer with the words of the source's vocabulary; `tokens` are those that differ from bilm-tf's.

    A vocabulary without an unknown word, of a model that reads characters and has no softmax, gets one behind its last
    line: no weights belong to the lines, and `notes` say so.

    Raises:
        CheckpointError: a vocabulary that lacks a symbol or is damaged; the message names the file.
    """
    remedy = "" if config.word_embedding_size else ". A character model also works without it: --without-vocabulary"
    try:
        words = source.vocabulary.words if source.vocabulary is not None else None
        unknown = tokens.get("unk_token", "<UNK>")
        has_rows = config.word_embedding_size or any("softmax" in name for name in source.tensors)
        if source.vocabulary is not None and words is not None and unknown not in words and not has_rows:
            words = [*words, unknown]
            if notes is not None:
                notes.append(
                    f"{source.vocabulary.file}: no line for the unknown word, so {unknown} stands behind its last"
                )
        return ElmoTokenizer(vocab=words, max_characters_per_word=config.max_characters_per_word, **tokens)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{remedy}") from None
    except ValueError as error:
        # The tokenizer got a list and does not know the file.
        where = source.vocabulary.file if source.vocabulary is not None else source.options_file
        message = str(error).removeprefix("vocab: ").partition(". Add the missing words, or name")[0]
        raise CheckpointError(f"{where}: {message}{remedy}") from error

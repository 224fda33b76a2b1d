"""Tokenizers of models that read words as bytes or from a vocabulary file."""

from typing import Any

from elmo_hf import ElmoConfig, ElmoTokenizer

from .errors import CheckpointError
from .source import Source


def make_tokenizer(source: Source, config: ElmoConfig, notes: list[str] | None = None, **tokens: Any) -> ElmoTokenizer:
    """Make the tokenizer from the source's vocabulary; `tokens` are special tokens that differ from bilm-tf's.

    If a model reads characters and has no softmax, no weights belong to vocabulary lines. A vocabulary without unknown
    word then gets one at its end, with a note.

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
                    f"{source.vocabulary.file}: no line for the unknown word, so {unknown} was added as the last word"
                )
        return ElmoTokenizer(vocab=words, max_characters_per_word=config.max_characters_per_word, **tokens)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{remedy}") from None
    except ValueError as error:
        # The tokenizer was given a list and does not know the file.
        where = source.vocabulary.file if source.vocabulary is not None else source.options_file
        message = str(error).removeprefix("vocab: ").partition(". Add the missing words")[0]
        raise CheckpointError(f"{where}: {message}{remedy}") from error

"""Conversion of ELMoForManyLangs models in both directions: sizes, names and dictionaries."""

from collections.abc import Mapping
from typing import Any

from elmo_hf import ElmoConfig, ElmoTokenizer

from ..common.errors import CheckpointError
from ..common.options import OptionsReader, make_config
from ..common.plan import Plan, fit
from ..common.rules import SOFTMAX_RULES, Rule, allennlp_characters, allennlp_lstm, copied
from ..common.source import Source
from ..common.transforms import PAD_ROWS
from .reader import BUILT_IN_ARCHITECTURE, LanguageSource

# Symbols that the program looks up by name.
BEGIN_OF_SENTENCE, END_OF_SENTENCE, UNKNOWN, PADDING = "<bos>", "<eos>", "<oov>", "<pad>"
WORD_MARKS = (BEGIN_OF_SENTENCE, END_OF_SENTENCE, UNKNOWN, PADDING)
CHARACTER_MARKS = (BEGIN_OF_SENTENCE, END_OF_SENTENCE, UNKNOWN, PADDING, "<bow>", "<eow>")
# Our word id 0. The original's `<pad>` is a word with its own row.
PADDING_WORD = "<|padding|>"
UNUSED = "<|unused {id}|>"
"""Word for a row that has no line in `word.dic`."""

CHARACTER_TABLE = "token_embedder.char_emb_layer.embedding.weight"
WORD_TABLE = "token_embedder.word_emb_layer.embedding.weight"
# The forget bias is included in the biases.
READERS_FORGET_BIAS = 0.0
# Options of every published architecture that do not affect conversion.
TRAINING_OPTIONS = {name: BUILT_IN_ARCHITECTURE[name] for name in ("classifier", "dropout")}


def rules(config: ElmoConfig) -> tuple[Rule, ...]:
    """Conversion table of a configuration; names begin with the name of their file."""
    joined = config.joins_words
    words, characters = ("embeddings.words.", "embeddings.characters.") if joined else ("embeddings.", "embeddings.")
    return (
        Rule(
            WORD_TABLE,
            "words W",
            f"{words}word_embeddings.weight",
            PAD_ROWS,
            "Id k of word.dic is word id k + 1, after padding; an added mask has a zero row at the end.",
            "word_input",
        ),
        Rule(
            CHARACTER_TABLE,
            "C-1 D",
            f"{characters}character_embeddings.weight",
            PAD_ROWS,
            "Id k of char.dic is character k + 1, because 0 stands for padded words; `<pad>` keeps its row.",
            "character_input",
        ),
        *allennlp_characters(
            "token_embedder.convolutions.{filter}", "token_embedder.highways._layers.{highway}", characters
        ),
        *copied("token_embedder.projection", "embeddings.projection", "P W+F", "Over [word; characters] in both."),
        *allennlp_lstm("encoder.{side}_layer_{layer}"),
        # classifier.pkl, if there is one; `<pad>` is an ordinary class.
        *SOFTMAX_RULES,
    )


# Key of the architecture file for each symbol of a shape.
ORIGINS = {
    "filters": "token_embedder.filters",
    "C-1": "the number of rows of the table of characters",
    "words": "the number of rows of the table of words, or of the softmax where there is none",
    "W": "token_embedder.word_dim",
    "D": "token_embedder.char_dim",
    "P": "encoder.projection_dim",
    "H": "encoder.dim",
}


def make_plan(source: Source, notes: list[str]) -> Plan:
    """Match a source with its options."""
    config = config_of(source, notes)
    return fit(source, config, rows_of_words(source), rules(config), ORIGINS)


def config_of(source: Source, notes: list[str]) -> ElmoConfig:
    """Make the configuration of an open model.

    Raises:
        CheckpointError: a missing or invalid size in the architecture file; the message names file and key.
    """
    reader = OptionsReader(source.options, source.options_file)
    word_size = reader.size("token_embedder.word_dim", default=0, lowest=0)
    character_size = reader.size("token_embedder.char_dim", default=0, lowest=0)
    size = reader.size("encoder.projection_dim")
    if not character_size and word_size in (0, size):
        raise CheckpointError(
            f"{source.options_file}: token_embedder.char_dim is {character_size} and word_dim {word_size}; expected "
            f"one of them at least, and words alone of another width than projection_dim ({size}), to be projected"
        )
    fields: dict[str, Any] = {"character_filters": [], "num_highway_layers": 0}
    if character_size:
        fields = {
            "character_embedding_size": character_size,
            "character_filters": reader.filters("token_embedder.filters"),
            "character_activation": reader.choice("token_embedder.activation", ("relu", "tanh")),
            "num_highway_layers": reader.size("token_embedder.n_highway", default=0, lowest=0),
            # A dictionary may have fewer characters than the table has rows.
            "num_characters": _rows(source, CHARACTER_TABLE) + 1,
            # If joined to words, characters are projected together with them.
            "character_projection": not word_size,
        }
    return make_config(
        {
            **fields,
            "word_embedding_size": word_size,
            "max_characters_per_word": reader.size("token_embedder.max_characters_per_token", default=50, lowest=3),
            "projection_size": size,
            "cell_size": reader.size("encoder.dim"),
            "num_hidden_layers": reader.size("encoder.n_layers"),
            "cell_projection": True,
            "use_skip_connections": True,
            "cell_clip": reader.clip("encoder.cell_clip", notes),
            "projection_clip": reader.clip("encoder.proj_clip", notes),
            "forget_bias": READERS_FORGET_BIAS,
        },
        source.options_file,
    )


def rows_of_words(source: Source) -> int | None:
    """Number of rows of the word embedding, or of the softmax; `None` for a model with neither."""
    return next((_rows(source, name) for name in (WORD_TABLE, "softmax/W") if name in source.tensors), None)


def _rows(source: Source, name: str) -> int:
    if name not in source.tensors or len(source.tensors[name].shape) != 2:
        found = f"of shape {source.tensors[name].shape}" if name in source.tensors else "missing"
        raise CheckpointError(f"{source.file}: {name!r} is {found}; expected a table of (rows, size)")
    return source.tensors[name].shape[0]


def tokenizer_of(source: Source, config: ElmoConfig, notes: list[str]) -> ElmoTokenizer:
    """Make the tokenizer that encodes words like the program, with its dictionaries.

    Raises:
        CheckpointError: a dictionary that is damaged or does not match the model.
    """
    assert isinstance(source, LanguageSource)
    characters, words = source.dictionaries.characters, source.dictionaries.words
    # Even a model without characters truncates words before looking them up.
    symbols: Mapping[str, int] = {mark: number for number, mark in enumerate(CHARACTER_MARKS)}
    if characters is not None:
        characters.check(config.num_characters - 1, CHARACTER_MARKS, "table of characters")
        symbols = characters.ids
        _note_missing(characters.file.name, config.num_characters - 1 - len(symbols), notes)
    vocabulary: list[str] | dict[str, int] = [BEGIN_OF_SENTENCE, END_OF_SENTENCE, UNKNOWN]
    rows = rows_of_words(source)
    if words is not None and rows is not None:
        words.check(rows, WORD_MARKS, "table of words")
        by_id = {number: word for word, number in words.ids.items()}
        vocabulary = {by_id.get(row, UNUSED.format(id=row)): row + 1 for row in range(rows)}
        vocabulary[PADDING_WORD] = 0
        _note_missing(words.file.name, rows - len(by_id), notes)
    try:
        return ElmoTokenizer(
            vocab=vocabulary,
            character_vocabulary={symbol: number + 1 for symbol, number in symbols.items()},
            max_characters_per_word=config.max_characters_per_word,
            # The program takes tokenized words.
            pre_tokenization="whitespace",
            bos_token=BEGIN_OF_SENTENCE,
            eos_token=END_OF_SENTENCE,
            unk_token=UNKNOWN,
            pad_token=PADDING_WORD,
        )
    except ValueError as error:
        raise CheckpointError(f"{source.file}: {error}") from error


def _note_missing(name: str, count: int, notes: list[str]) -> None:
    if count:
        notes.append(
            f"{name} has no symbol for {count} rows of its table (lines of several characters of whitespace all mean "
            "U+3000): the rows are kept, and no text reaches them"
        )


def architecture_from_config(config: ElmoConfig) -> dict[str, Any]:
    """Content of a model's architecture file."""
    embedder = {
        "name": "cnn",
        "word_dim": config.word_embedding_size,
        "char_dim": config.character_embedding_size if config.character_filters else 0,
        "max_characters_per_token": config.max_characters_per_word,
        "activation": config.character_activation,
        "filters": [list(pair) for pair in config.character_filters],
        "n_highway": config.num_highway_layers,
    }
    encoder = {
        "name": "elmo",
        "projection_dim": config.projection_size,
        "cell_clip": config.cell_clip,
        "proj_clip": config.projection_clip,
        "dim": config.cell_size,
        "n_layers": config.num_hidden_layers,
    }
    return {"encoder": encoder, "token_embedder": embedder, **TRAINING_OPTIONS}

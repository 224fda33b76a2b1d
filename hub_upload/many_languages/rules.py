"""What of an ELMoForManyLangs model becomes what: its sizes, its tensors, its tokenizer, and all of it back."""

from collections.abc import Mapping
from typing import Any

from elmo_hf import ElmoConfig, ElmoTokenizer

from ..common.errors import CheckpointError
from ..common.options import OptionsReader, make_config
from ..common.rules import Dimensions, Rule
from ..common.source import Source
from ..common.transforms import COPY, NEGATED_GATE, PAD_ROWS
from .reader import BUILT_IN_ARCHITECTURE

# Symbols that the program looks up by their names.
BEGIN_OF_SENTENCE, END_OF_SENTENCE, UNKNOWN, PADDING = "<bos>", "<eos>", "<oov>", "<pad>"
WORD_MARKS = (BEGIN_OF_SENTENCE, END_OF_SENTENCE, UNKNOWN, PADDING)
CHARACTER_MARKS = (BEGIN_OF_SENTENCE, END_OF_SENTENCE, UNKNOWN, PADDING, "<bow>", "<eow>")
# Word id 0 of ours. Their `<pad>` is a word with a row of its own.
PADDING_WORD = "<|padding|>"
UNUSED = "<|unused {id}|>"
"""The word of a row that no line of `word.dic` has."""

CHARACTER_TABLE = "token_embedder.char_emb_layer.embedding.weight"
WORD_TABLE = "token_embedder.word_emb_layer.embedding.weight"
# The constant of the forget gates is inside their biases.
READERS_FORGET_BIAS = 0.0
# What every published architecture has, and nothing that is converted depends on.
TRAINING_OPTIONS = {name: BUILT_IN_ARCHITECTURE[name] for name in ("classifier", "dropout")}


def rules(config: ElmoConfig) -> tuple[Rule, ...]:
    """The conversion table of a configuration; names begin with that of their file."""
    joined = config.joins_words
    words, characters = ("embeddings.words.", "embeddings.characters.") if joined else ("embeddings.", "embeddings.")
    highway = f"{characters}highways.{{highway}}"
    stack, lstm = "encoder.{side}_layer_{layer}", "encoder.layers.{layer}.{side}_lstm"
    return (
        Rule(
            WORD_TABLE,
            "words W",
            (f"{words}word_embeddings.weight",),
            PAD_ROWS,
            "Id k of word.dic is word id k + 1, behind padding; an added mask has a zero row at the end.",
            "word_input",
        ),
        Rule(
            CHARACTER_TABLE,
            "characters D",
            (f"{characters}character_embeddings.weight",),
            PAD_ROWS,
            "Id k of char.dic is character k + 1, because 0 stands for padded words; `<pad>` keeps its row.",
            "character_input",
        ),
        Rule(
            "token_embedder.convolutions.{filter}.weight",
            "count D width",
            (f"{characters}convolutions.{{filter}}.weight",),
            COPY,
            "The same convolution.",
            "character_input",
        ),
        Rule(
            "token_embedder.convolutions.{filter}.bias",
            "count",
            (f"{characters}convolutions.{{filter}}.bias",),
            COPY,
            "The same vector.",
            "character_input",
        ),
        Rule(
            "token_embedder.highways._layers.{highway}.weight",
            "2F F",
            (f"{highway}.nonlinear.weight", f"{highway}.gate.weight"),
            NEGATED_GATE,
            "AllenNLP's highway: its gate carries the input, ours opens the other branch.",
            "character_input",
        ),
        Rule(
            "token_embedder.highways._layers.{highway}.bias",
            "2F",
            (f"{highway}.nonlinear.bias", f"{highway}.gate.bias"),
            NEGATED_GATE,
            "As its weight.",
            "character_input",
        ),
        Rule(
            "token_embedder.projection.weight",
            "P W+F",
            ("embeddings.projection.weight",),
            COPY,
            "Over [word; characters] in both.",
        ),
        Rule("token_embedder.projection.bias", "P", ("embeddings.projection.bias",), COPY, "The same vector."),
        Rule(f"{stack}.input_linearity.weight", "4H P", (f"{lstm}.input_proj.weight",), COPY, "Gates are i, f, g, o."),
        Rule(f"{stack}.state_linearity.weight", "4H P", (f"{lstm}.hidden_proj.weight",), COPY, "Gates are i, f, g, o."),
        Rule(
            f"{stack}.state_linearity.bias",
            "4H",
            (f"{lstm}.input_proj.bias",),
            COPY,
            "The one bias of the cell, the forget bias of 1 already inside: `config.forget_bias` is 0.",
        ),
        Rule(
            f"{stack}.state_projection.weight", "P H", (f"{lstm}.output_proj.weight",), COPY, "The same linear layer."
        ),
        Rule(
            "softmax/W",
            "words P",
            ("softmax.weight",),
            PAD_ROWS,
            "Of classifier.pkl, if there is one. Id k of word.dic is word id k + 1; `<pad>` is a class as any other.",
            "softmax",
        ),
        Rule("softmax/b", "words", ("softmax.bias",), PAD_ROWS, "As softmax/W.", "softmax"),
    )


def dimensions(config: ElmoConfig, words: int | None) -> Dimensions:
    """Values of the symbols in `rules`, each with the key of the architecture file that it comes from."""
    filters, word_size = config.num_filters, config.word_embedding_size
    rows = {
        "characters": (config.num_characters - 1, "the number of rows of the table of characters"),
        "words": (words or 0, "the number of rows of the table of words, or of the softmax where there is none"),
        "W": (word_size, "token_embedder.word_dim"),
        "D": (config.character_embedding_size, "token_embedder.char_dim"),
        "F": (filters, "the sum of the counts in token_embedder.filters"),
        "2F": (2 * filters, "twice the sum of the counts in token_embedder.filters"),
        "W+F": (word_size + filters, "token_embedder.word_dim and the sum of the counts in token_embedder.filters"),
        "P": (config.projection_size, "encoder.projection_dim"),
        "H": (config.cell_size, "encoder.dim"),
        "4H": (4 * config.cell_size, "four times encoder.dim"),
    }
    return Dimensions(
        {symbol: value for symbol, (value, _) in rows.items()},
        {symbol: origin for symbol, (_, origin) in rows.items()},
        filters="token_embedder.filters",
    )


def config_of(source: Source, notes: list[str]) -> ElmoConfig:
    """The configuration of an open model.

    Raises:
        CheckpointError: the architecture file lacks a size or has an impossible one; the message names file and key.
    """
    reader = OptionsReader(source.options or {}, source.options_file)
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
            # Dictionaries may list fewer characters than the table has rows.
            "num_characters": _rows(source, CHARACTER_TABLE) + 1,
            # Joined to words, characters are projected with them.
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
    """Rows of the table of words, or of the softmax; `None` for a model that has neither."""
    return next((_rows(source, name) for name in (WORD_TABLE, "softmax/W") if name in source.tensors), None)


def _rows(source: Source, name: str) -> int:
    if name not in source.tensors or len(source.tensors[name].shape) != 2:
        found = f"of shape {source.tensors[name].shape}" if name in source.tensors else "missing"
        raise CheckpointError(f"{source.file}: {name!r} is {found}; expected a table of (rows, size)")
    return source.tensors[name].shape[0]


def tokenizer_of(source: Source, config: ElmoConfig, notes: list[str]) -> ElmoTokenizer:
    """The tokenizer that spells and looks up words as the program does, with its dictionaries.

    Raises:
        CheckpointError: a dictionary that is damaged or not the model's.
    """
    assert source.dictionaries is not None
    characters, words = source.dictionaries.characters, source.dictionaries.words
    # A model without characters cuts words before it looks them up all the same.
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
            # The program is given words.
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
    """The architecture file of a model."""
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

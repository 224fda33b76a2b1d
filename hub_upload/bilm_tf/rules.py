"""Conversion table of bilm-tf models: names, sizes and resulting parameters."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from elmo_hf import ElmoConfig

from ..common.errors import CheckpointError
from ..common.plan import Plan, fit, rows_of_softmax
from ..common.rules import SOFTMAX_RULES, Rule
from ..common.source import Source
from ..common.transforms import CONVOLUTION, COPY, LSTM_BIAS, LSTM_KERNEL, PAD_ROWS, TRANSPOSE
from .hdf5 import ONE_DIRECTION
from .options import config_from_options, is_word_model

WORD_TABLE = "embedding"
_CELL = "RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
_LSTM = "encoder.layers.{layer}.{side}_lstm"
_HIGHWAY = "embeddings.highways.{highway}"
_TRANSPOSED = "TensorFlow multiplies x W, PyTorch x W^T."

# Names in an HDF5 dump, as in the files of AI2 and simple_elmo.
RULES = (
    Rule(
        "char_embed",
        "C-1 D",
        "embeddings.character_embeddings.weight",
        PAD_ROWS,
        "When they embed text, programs add 1 to each character id and keep 0 for padded words: row k is id k + 1.",
        "character_input",
    ),
    Rule(
        WORD_TABLE,
        "words P",
        "embeddings.word_embeddings.weight",
        PAD_ROWS,
        "Line r of the vocabulary file is word id r + 1, after padding, as programs that embed text count too; an "
        "added mask has a zero row at the end.",
        "word_input",
    ),
    Rule(
        "CNN/W_cnn_{filter}",
        "1 width D count",
        "embeddings.convolutions.{filter}.weight",
        CONVOLUTION,
        "TensorFlow convolves over (height 1, width, in, out), PyTorch over (out, in, width); both correlate, no flip.",
    ),
    Rule("CNN/b_cnn_{filter}", "count", "embeddings.convolutions.{filter}.bias", COPY, "The same vector."),
    Rule("CNN_high_{highway}/W_transform", "F F", f"{_HIGHWAY}.nonlinear.weight", TRANSPOSE, _TRANSPOSED),
    Rule("CNN_high_{highway}/b_transform", "F", f"{_HIGHWAY}.nonlinear.bias", COPY, "The same vector."),
    Rule(
        "CNN_high_{highway}/W_carry",
        "F F",
        f"{_HIGHWAY}.gate.weight",
        TRANSPOSE,
        "Despite its name it opens the non-linear branch, as our gate does: the sign stays.",
    ),
    Rule("CNN_high_{highway}/b_carry", "F", f"{_HIGHWAY}.gate.bias", COPY, "The sign stays."),
    Rule("CNN_proj/W_proj", "F P", "embeddings.projection.weight", TRANSPOSE, _TRANSPOSED, "character_projection"),
    Rule("CNN_proj/b_proj", "P", "embeddings.projection.bias", COPY, "The same vector.", "character_projection"),
    Rule(
        f"{_CELL}/W_0",
        "2P 4H",
        f"{_LSTM}.input_proj.weight {_LSTM}.hidden_proj.weight",
        LSTM_KERNEL,
        "One kernel for input above recurrent rows, gates i, g, f, o; ours are two, gates i, f, g, o.",
    ),
    Rule(
        f"{_CELL}/B",
        "4H",
        f"{_LSTM}.input_proj.bias",
        LSTM_BIAS,
        "Gates i, g, f, o become i, f, g, o; the forget bias of 1 that TensorFlow adds at run time stays out of it and "
        "is `config.forget_bias`, because adding and subtracting 1 in float32 loses bits.",
    ),
    Rule(f"{_CELL}/W_P_0", "H P", f"{_LSTM}.output_proj.weight", TRANSPOSE, _TRANSPOSED, "cell_projection"),
    *SOFTMAX_RULES,
)


@dataclass(frozen=True)
class Renaming:
    """A pattern for an alternative spelling of a name in `RULES`, and that name."""

    pattern: str
    name: str
    reason: str


RENAMINGS = (
    Renaming(
        r"RNN_([01])/RNN/LSTMCell/(B|W_0|W_P_0)",
        r"RNN_\1/RNN/MultiRNNCell/Cell0/LSTMCell/\2",
        "bilm-tf does not stack a single cell, and its dump then lacks the stack's name; its own reader wants it.",
    ),
    Renaming(
        r"lm/((?:char_embed|CNN.*|softmax/[Wb]|embedding))", r"\1", "A checkpoint's variables live in the scope `lm`."
    ),
    *(
        Renaming(
            pattern,
            f"RNN_0/RNN/MultiRNNCell/{cell}/LSTMCell/{old}",
            "A model of one direction has no number for it; bilm-tf's dump renames half of its names, and no program "
            "reads them.",
        )
        for new, old in (("kernel", "W_0"), ("bias", "B"), ("projection/kernel", "W_P_0"))
        for pattern, cell in (
            (rf"lm/rnn/multi_rnn_cell/cell_(\d+)/lstm_cell/{new}", r"Cell\1"),
            (rf"lm/rnn/lstm_cell/{new}", "Cell0"),
            (rf"rnn/MultiRNNCell/Cell(\d+)/LSTMCell/{new}", r"Cell\1"),
            (rf"rnn/LSTMCell/{new}", "Cell0"),
        )
    ),
    *(
        Renaming(f"lm/RNN_([01])/rnn/{stack}lstm_cell/{new}", rf"RNN_\1/RNN/MultiRNNCell/{cell}/LSTMCell/{old}", reason)
        for new, old in (("kernel", "W_0"), ("bias", "B"), ("projection/kernel", "W_P_0"))
        for stack, cell, reason in (
            (
                r"multi_rnn_cell/cell_(\d+)/",
                r"Cell\2",
                "TensorFlow 1.2 renamed the variables, the dump kept the old names.",
            ),
            ("", "Cell0", "A single layer, which has no stack."),
        )
    ),
)


# Key of `options.json` for each symbol of a shape.
ORIGINS = {
    "filters": "char_cnn.filters",
    "C": "char_cnn.n_characters",
    "C-1": "char_cnn.n_characters, without the id of padded words",
    "D": "char_cnn.embedding.dim",
    "P": "lstm.projection_dim",
    "H": "lstm.dim",
    "layers+1": "lstm.n_layers + 1",
    "words": "the number of lines of the vocabulary file",
}


def rename(names: Iterable[str]) -> dict[str, str]:
    """Map the standard name of each of `names` to the stored name, by `RENAMINGS`.

    Raises:
        CheckpointError: two stored names have the same meaning.
    """
    standard: dict[str, str] = {}
    for stored in names:
        name = stored
        for renaming in RENAMINGS:
            if re.fullmatch(renaming.pattern, stored):
                name = re.sub(renaming.pattern, renaming.name, stored)
                break
        if name in standard:
            raise CheckpointError(
                f"{stored!r} and {standard[name]!r} both mean {name!r}: the file was put together wrongly"
            )
        standard[name] = stored
    return standard


def make_plan(source: Source, notes: list[str]) -> Plan:
    """Match a source with its options."""
    stored = rename(source.tensors)
    config = _configuration(source, stored, notes)
    return fit(source, config, _rows_of_words(source, stored), RULES, ORIGINS, stored)


def _rows_of_words(source: Source, stored: Mapping[str, str]) -> int | None:
    if WORD_TABLE not in stored:
        return rows_of_softmax(source, stored)
    if source.vocabulary is None:
        raise CheckpointError(
            f"{source.file}: reads words by the line they have in its vocabulary, and there is none beside it: "
            "give its file with --vocabulary"
        )
    shape = source.tensors[stored[WORD_TABLE]].shape
    return shape[0] if shape else 0


def _configuration(source: Source, stored: Mapping[str, str], notes: list[str]) -> ElmoConfig:
    # bilm-tf projects only between different sizes; files by AllenNLP's rules always have both projections.
    fields: dict[str, Any] = {
        field: True
        for field, name in (
            ("character_projection", "CNN_proj/W_proj"),
            ("cell_projection", "RNN_0/RNN/MultiRNNCell/Cell0/LSTMCell/W_P_0"),
        )
        if name in stored
    }
    both = not any(name.startswith(ONE_DIRECTION) for name in stored.values())
    if source.options.get("bidirectional", both) is not both:
        raise CheckpointError(
            f"{source.options_file}: bidirectional is {source.options['bidirectional']!r}, but {source.file} holds "
            f"{'both directions' if both else 'the forward direction alone'}; give its own options with --options"
        )
    fields["bidirectional"] = both
    if is_word_model(source.options) and source.options.get("share_embedding_softmax") is True:
        # A dump without softmax has nothing to tie.
        fields.update(tie_word_embeddings="softmax/b" in stored)
    return config_from_options(source.options, source.options_file, notes, **fields)

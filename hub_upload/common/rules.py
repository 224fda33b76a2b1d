"""Which name of an original checkpoint is which parameter: tables, and their one interpreter.

A rule's names hold placeholders that are filled from the configuration:

| placeholder   | runs over                                                        |
|---------------|------------------------------------------------------------------|
| `{filter}`    | the convolutions, 0 ...                                          |
| `{highway}`   | the highway layers, 0 ...                                        |
| `{direction}` | 0 and 1; beside it `{side}` is "forward" and "backward"          |
| `{layer}`     | the LSTM layers, 0 ...                                           |
| `{mix}`       | the scalar mixes, 0 ...                                          |

Shapes are written in symbols whose values and origins `dimensions` knows, so that an error can say which option a
wrong shape contradicts.
"""

import re
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from elmo_hf import ElmoConfig

from .errors import CheckpointError
from .transforms import (
    CONVOLUTION,
    COPY,
    LSTM_BIAS,
    LSTM_KERNEL,
    NEGATED_GATE,
    PAD_ROWS,
    TRANSPOSE,
    Transform,
)

Condition = Literal[
    "always",
    "character_input",
    "word_input",
    "character_projection",
    "cell_projection",
    "softmax",
    "softmax_of_its_own",
    "mixes",
]


@dataclass(frozen=True)
class Rule:
    """One row of a conversion table.

    Attributes:
        original: Name in the original checkpoint, with placeholders.
        shape: Shape there, in symbols divided by spaces.
        parameters: Names in `ElmoModel` (`softmax.*`: `ElmoForPreTraining`), with placeholders.
        transform: How the one becomes the other.
        reason: Why, in a sentence.
        condition: When the row applies.
    """

    original: str
    shape: str
    parameters: tuple[str, ...]
    transform: Transform
    reason: str
    condition: Condition = "always"


_CELL = "RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
_LSTM = "encoder.layers.{layer}.{side}_lstm"

# bilm-tf's HDF5 dump, also AI2's published files and simple_elmo's.
BILM_RULES = (
    Rule(
        "char_embed",
        "characters D",
        ("embeddings.character_embeddings.weight",),
        PAD_ROWS,
        "When they embed text, programs add 1 to each character id and keep 0 for padded words: row k is id k + 1.",
        "character_input",
    ),
    Rule(
        "embedding",
        "words P",
        ("embeddings.word_embeddings.weight",),
        PAD_ROWS,
        "Line r of the vocabulary file is word id r + 1, behind padding, as programs that embed text count too; an "
        "added mask has a zero row at the end.",
        "word_input",
    ),
    Rule(
        "CNN/W_cnn_{filter}",
        "1 width D count",
        ("embeddings.convolutions.{filter}.weight",),
        CONVOLUTION,
        "TensorFlow convolves over (height 1, width, in, out), PyTorch over (out, in, width); both correlate, no flip.",
        "character_input",
    ),
    Rule(
        "CNN/b_cnn_{filter}",
        "count",
        ("embeddings.convolutions.{filter}.bias",),
        COPY,
        "The same vector.",
        "character_input",
    ),
    Rule(
        "CNN_high_{highway}/W_transform",
        "F F",
        ("embeddings.highways.{highway}.nonlinear.weight",),
        TRANSPOSE,
        "TensorFlow multiplies x W, PyTorch x W^T.",
        "character_input",
    ),
    Rule(
        "CNN_high_{highway}/b_transform",
        "F",
        ("embeddings.highways.{highway}.nonlinear.bias",),
        COPY,
        "The same vector.",
        "character_input",
    ),
    Rule(
        "CNN_high_{highway}/W_carry",
        "F F",
        ("embeddings.highways.{highway}.gate.weight",),
        TRANSPOSE,
        "Despite its name it opens the non-linear branch, as our gate does: the sign stays.",
        "character_input",
    ),
    Rule(
        "CNN_high_{highway}/b_carry",
        "F",
        ("embeddings.highways.{highway}.gate.bias",),
        COPY,
        "The sign stays.",
        "character_input",
    ),
    Rule(
        "CNN_proj/W_proj",
        "F P",
        ("embeddings.projection.weight",),
        TRANSPOSE,
        "TensorFlow multiplies x W, PyTorch x W^T.",
        "character_projection",
    ),
    Rule("CNN_proj/b_proj", "P", ("embeddings.projection.bias",), COPY, "The same vector.", "character_projection"),
    Rule(
        f"{_CELL}/W_0",
        "2P 4H",
        (f"{_LSTM}.input_proj.weight", f"{_LSTM}.hidden_proj.weight"),
        LSTM_KERNEL,
        "One kernel for input above recurrent rows, gates i, g, f, o; ours are two, gates i, f, g, o.",
    ),
    Rule(
        f"{_CELL}/B",
        "4H",
        (f"{_LSTM}.input_proj.bias",),
        LSTM_BIAS,
        "Gates i, g, f, o become i, f, g, o; the forget bias of 1 that TensorFlow adds at run time stays out of it and "
        "is `config.forget_bias`, because adding and subtracting 1 in float32 loses bits.",
    ),
    Rule(
        f"{_CELL}/W_P_0",
        "H P",
        (f"{_LSTM}.output_proj.weight",),
        TRANSPOSE,
        "TensorFlow multiplies x W, PyTorch x W^T.",
        "cell_projection",
    ),
    Rule(
        "softmax/W",
        "words P",
        ("softmax.weight",),
        PAD_ROWS,
        "Line r of the vocabulary file is word id r + 1, behind padding; an added mask has a zero row at the end.",
        "softmax_of_its_own",
    ),
    Rule("softmax/b", "words", ("softmax.bias",), PAD_ROWS, "As softmax/W.", "softmax"),
)

_ENCODER = "_elmo_lstm._token_embedder"
_STACK = "_elmo_lstm._elmo_lstm.{side}_layer_{layer}"

# AllenNLP's `Elmo` inside a task model; names below the prefix of the module. The format reader joins the scalars
# `scalar_mix_k.scalar_parameters.j` into one vector.
ALLENNLP_RULES = (
    Rule(
        f"{_ENCODER}._char_embedding_weights",
        "characters+1 D",
        ("embeddings.character_embeddings.weight",),
        COPY,
        "The row of padded words is already there.",
    ),
    Rule(
        f"{_ENCODER}.char_conv_{{filter}}.weight",
        "count D width",
        ("embeddings.convolutions.{filter}.weight",),
        COPY,
        "The same convolution.",
    ),
    Rule(
        f"{_ENCODER}.char_conv_{{filter}}.bias",
        "count",
        ("embeddings.convolutions.{filter}.bias",),
        COPY,
        "The same vector.",
    ),
    Rule(
        f"{_ENCODER}._highways._layers.{{highway}}.weight",
        "2F F",
        ("embeddings.highways.{highway}.nonlinear.weight", "embeddings.highways.{highway}.gate.weight"),
        NEGATED_GATE,
        "AllenNLP's gate carries the input, y = g x + (1 - g) relu(.), ours the other branch: 1 - s(z) = s(-z).",
    ),
    Rule(
        f"{_ENCODER}._highways._layers.{{highway}}.bias",
        "2F",
        ("embeddings.highways.{highway}.nonlinear.bias", "embeddings.highways.{highway}.gate.bias"),
        NEGATED_GATE,
        "As its weight.",
    ),
    Rule(
        f"{_ENCODER}._projection.weight",
        "P F",
        ("embeddings.projection.weight",),
        COPY,
        "The same linear layer.",
        "character_projection",
    ),
    Rule(
        f"{_ENCODER}._projection.bias",
        "P",
        ("embeddings.projection.bias",),
        COPY,
        "The same vector.",
        "character_projection",
    ),
    Rule(
        f"{_STACK}.input_linearity.weight",
        "4H P",
        (f"{_LSTM}.input_proj.weight",),
        COPY,
        "Gates are already i, f, g, o.",
    ),
    Rule(
        f"{_STACK}.state_linearity.weight",
        "4H P",
        (f"{_LSTM}.hidden_proj.weight",),
        COPY,
        "Gates are already i, f, g, o.",
    ),
    Rule(
        f"{_STACK}.state_linearity.bias",
        "4H",
        (f"{_LSTM}.input_proj.bias",),
        COPY,
        "The one bias of the cell, the forget bias of 1 already inside: `config.forget_bias` is 0.",
    ),
    Rule(
        f"{_STACK}.state_projection.weight",
        "P H",
        (f"{_LSTM}.output_proj.weight",),
        COPY,
        "The same linear layer.",
        "cell_projection",
    ),
    Rule(
        "scalar_mix_{mix}.scalar_parameters",
        "layers+1",
        ("scalar_mixes.{mix}.weights",),
        COPY,
        "Raw weights, before the softmax, in both.",
        "mixes",
    ),
    Rule("scalar_mix_{mix}.gamma", "1", ("scalar_mixes.{mix}.gamma",), COPY, "The same scale.", "mixes"),
)


@dataclass(frozen=True)
class Renaming:
    """Another spelling of a name that `BILM_RULES` knows: a pattern for the whole name, and the name."""

    pattern: str
    name: str
    reason: str


BILM_RENAMINGS = (
    Renaming(
        r"RNN_([01])/RNN/LSTMCell/(B|W_0|W_P_0)",
        r"RNN_\1/RNN/MultiRNNCell/Cell0/LSTMCell/\2",
        "bilm-tf does not stack a single cell, and its dump then lacks the stack's name; its own reader wants it.",
    ),
    Renaming(
        r"lm/((?:char_embed|CNN.*|softmax/[Wb]|embedding))", r"\1", "A checkpoint's variables live in the scope `lm`."
    ),
    Renaming(
        r"lm/RNN_([01])/rnn/multi_rnn_cell/cell_(\d+)/lstm_cell/kernel",
        r"RNN_\1/RNN/MultiRNNCell/Cell\2/LSTMCell/W_0",
        "TensorFlow 1.2 renamed the variables, the dump kept the old names.",
    ),
    Renaming(
        r"lm/RNN_([01])/rnn/multi_rnn_cell/cell_(\d+)/lstm_cell/bias",
        r"RNN_\1/RNN/MultiRNNCell/Cell\2/LSTMCell/B",
        "As the kernel.",
    ),
    Renaming(
        r"lm/RNN_([01])/rnn/multi_rnn_cell/cell_(\d+)/lstm_cell/projection/kernel",
        r"RNN_\1/RNN/MultiRNNCell/Cell\2/LSTMCell/W_P_0",
        "As the kernel.",
    ),
    Renaming(
        r"lm/RNN_([01])/rnn/lstm_cell/kernel",
        r"RNN_\1/RNN/MultiRNNCell/Cell0/LSTMCell/W_0",
        "A single layer, which has no stack.",
    ),
    Renaming(
        r"lm/RNN_([01])/rnn/lstm_cell/bias",
        r"RNN_\1/RNN/MultiRNNCell/Cell0/LSTMCell/B",
        "A single layer, which has no stack.",
    ),
    Renaming(
        r"lm/RNN_([01])/rnn/lstm_cell/projection/kernel",
        r"RNN_\1/RNN/MultiRNNCell/Cell0/LSTMCell/W_P_0",
        "A single layer, which has no stack.",
    ),
)


@dataclass(frozen=True)
class Ignored:
    """A name that belongs to the original program and not to the model."""

    pattern: str
    reason: str


BILM_IGNORED = (
    Ignored(r".*/Adagrad", "accumulators of the optimiser"),
    Ignored(r"global_step", "number of training steps"),
    Ignored(r"train_perplexity", "last value shown while training"),
)
ALLENNLP_IGNORED = (
    Ignored(
        r"_elmo_lstm\._word_embedding\.weight",
        "vectors of a cached vocabulary, which the character CNN gives again",
    ),
)


@dataclass(frozen=True)
class Dimensions:
    """Values of the symbols in shapes, each with the option it comes from, and the option that lists the filters."""

    values: dict[str, int]
    origins: dict[str, str]
    filters: str = "char_cnn.filters"

    @classmethod
    def of(cls, config: ElmoConfig, words: int | None) -> "Dimensions":
        """Dimensions of a configuration and `words` lines of vocabulary, if anything has a row for each."""
        characters, filters = config.num_characters - 1, config.num_filters
        rows = {
            "characters": (characters, "char_cnn.n_characters, without the id of padded words"),
            "characters+1": (characters + 1, "char_cnn.n_characters"),
            "D": (config.character_embedding_size, "char_cnn.embedding.dim"),
            "F": (filters, "the sum of the counts in char_cnn.filters"),
            "2F": (2 * filters, "twice the sum of the counts in char_cnn.filters"),
            "P": (config.projection_size, "lstm.projection_dim"),
            "2P": (2 * config.projection_size, "twice lstm.projection_dim"),
            "H": (config.cell_size, "lstm.dim"),
            "4H": (4 * config.cell_size, "four times lstm.dim"),
            "layers+1": (config.num_hidden_layers + 1, "lstm.n_layers + 1"),
            "1": (1, "always"),
            "words": (words or 0, "the number of lines of the vocabulary file"),
        }
        return cls({symbol: row[0] for symbol, row in rows.items()}, {symbol: row[1] for symbol, row in rows.items()})


@dataclass(frozen=True)
class Entry:
    """A rule with its placeholders filled."""

    original: str
    shape: tuple[int, ...]
    origins: tuple[str, ...]
    parameters: tuple[str, ...]
    transform: Transform

    def check_shape(self, found: tuple[int, ...], file: str) -> None:
        """Raise `CheckpointError` if the array of this name has another shape than the options say."""
        if found == self.shape:
            return
        if len(found) != len(self.shape):
            detail = f"it has {len(found)} axes instead of {len(self.shape)}"
        else:
            detail = "; ".join(
                f"axis {axis} is {have}, but {origin} is {want}"
                for axis, (have, want, origin) in enumerate(zip(found, self.shape, self.origins, strict=True))
                if have != want
            )
        raise CheckpointError(
            f"{file}: {self.original!r} has shape {found}, expected {self.shape}: {detail}. "
            "Give the options and the weights of one and the same model"
        )


def _indices(config: ElmoConfig) -> dict[str, list[dict[str, Any]]]:
    """For every placeholder the values it takes."""
    return {
        "filter": [
            {"filter": i, "width": width, "count": count} for i, (width, count) in enumerate(config.character_filters)
        ],
        "highway": [{"highway": k} for k in range(config.num_highway_layers)],
        "direction": [{"direction": 0, "side": "forward"}, {"direction": 1, "side": "backward"}],
        "layer": [{"layer": layer} for layer in range(config.num_hidden_layers)],
        "mix": [{"mix": k} for k in range(config.num_representations)],
    }


def expand(
    rules: Iterable[Rule],
    config: ElmoConfig,
    words: int | None,
    mixes: bool = True,
    softmax: bool = True,
    dimensions: Dimensions | None = None,
) -> Iterator[Entry]:
    """Fill a table for one configuration.

    Args:
        rules: `BILM_RULES` or `ALLENNLP_RULES`.
        config: Sizes and parts of the model.
        words: Rows of the original's softmax and table of words, the lines of its vocabulary; `None` leaves the
            softmax out. A word model needs it.
        mixes: Whether scalar mixes are part of the checkpoint.
        softmax: Whether a softmax is.
        dimensions: Of the symbols in the rules' shapes; those of `options.json` if `None`.
    """
    softmax = softmax and words is not None
    dimensions = dimensions or Dimensions.of(config, words)
    applies = {
        "always": True,
        "character_input": bool(config.character_filters),
        "word_input": config.word_embedding_size > 0,
        "character_projection": bool(config.character_projection),
        "cell_projection": bool(config.cell_projection),
        "softmax": softmax,
        "softmax_of_its_own": softmax and not config.tie_word_embeddings,
        "mixes": mixes,
    }
    indices = _indices(config)
    for rule in rules:
        if not applies[rule.condition]:
            continue
        fields = {name for _, name, _, _ in string.Formatter().parse(rule.original) if name}
        axes = [name for name in indices if name in fields or (name == "direction" and "side" in fields)]
        for choice in product(*(indices[axis] for axis in axes)):
            values: dict[str, Any] = {key: value for part in choice for key, value in part.items()}
            local = {key: (values[key], dimensions.filters) for key in ("width", "count") if key in values}
            symbols = rule.shape.split()
            yield Entry(
                original=rule.original.format(**values),
                shape=tuple(local[s][0] if s in local else dimensions.values[s] for s in symbols),
                origins=tuple(local[s][1] if s in local else dimensions.origins[s] for s in symbols),
                parameters=tuple(name.format(**values) for name in rule.parameters),
                transform=rule.transform,
            )


def rename(names: Iterable[str]) -> dict[str, str]:
    """Map the standard name of each of `names` to the name as stored, by `BILM_RENAMINGS`.

    Raises:
        CheckpointError: two stored names mean the same.
    """
    standard: dict[str, str] = {}
    for stored in names:
        name = stored
        for renaming in BILM_RENAMINGS:
            if re.fullmatch(renaming.pattern, stored):
                name = re.sub(renaming.pattern, renaming.name, stored)
                break
        if name in standard:
            raise CheckpointError(
                f"{stored!r} and {standard[name]!r} both mean {name!r}: the file was put together wrongly"
            )
        standard[name] = stored
    return standard


def ignored(name: str, table: Iterable[Ignored]) -> str | None:
    """The reason to leave out `name`, or `None` if it is to be converted."""
    return next((row.reason for row in table if re.fullmatch(row.pattern, name)), None)


def check_complete(entries: Iterable[Entry], stored: Iterable[str], file: str, hint: str = "") -> None:
    """Nothing missing, nothing unused.

    Raises:
        CheckpointError: the message lists the names on either side.
    """
    expected, present = {entry.original for entry in entries}, set(stored)
    missing, unused = sorted(expected - present), sorted(present - expected)
    if missing or unused:
        parts = [f"missing: {listing(missing)}"] if missing else []
        parts += [f"not part of the model that the options describe: {listing(unused)}"] if unused else []
        raise CheckpointError(f"{file}: {'; '.join(parts)}. The options and the weights must be of one model{hint}")


def listing(names: Iterable[str], limit: int = 8) -> str:
    """The first names and how many more there are."""
    names = list(names)
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"

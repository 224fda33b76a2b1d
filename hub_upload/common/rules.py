"""Conversion tables and their interpreter.

Names in a rule contain placeholders that are filled from the configuration:

| placeholder   | runs over                                                        |
|---------------|------------------------------------------------------------------|
| `{filter}`    | the convolutions, 0 ...                                          |
| `{highway}`   | the highway layers, 0 ...                                        |
| `{direction}` | 0 and 1; together with `{side}`, "forward" and "backward"        |
| `{layer}`     | the layers, 0 ...                                                |
| `{mix}`       | the scalar mixes, 0 ...                                          |

Shapes are written in the symbols defined by `symbols`. Each symbol knows its option, so that an error can name the
option that a wrong shape contradicts.
"""

import string
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

from elmo_hf import ElmoConfig

from .errors import CheckpointError, differences
from .transforms import COPY, NEGATED_GATE, PAD_ROWS, Transform

# Condition of a row: always, or only if the model or the checkpoint has a part.
Condition = Literal[
    "", "character_input", "word_input", "character_projection", "cell_projection", "softmax", "own_softmax", "mixes"
]


@dataclass(frozen=True)
class Rule:
    """One row of a conversion table.

    Attributes:
        original: Name in the original checkpoint, with placeholders.
        shape: Shape there, in symbols separated by spaces.
        parameters: Names in `ElmoModel` (`softmax.*`: `ElmoForPreTraining`), with placeholders, separated by spaces.
        transform: Transform from the original to the parameters.
        reason: Reason for the transform, in one sentence.
        condition: Condition under which the row applies.
    """

    original: str
    shape: str
    parameters: str
    transform: Transform
    reason: str
    condition: Condition = ""


@dataclass(frozen=True)
class Entry:
    """A rule with its placeholders filled in."""

    original: str
    shape: tuple[int, ...]
    origins: tuple[str, ...]
    parameters: tuple[str, ...]
    transform: Transform

    def check_shape(self, found: tuple[int, ...], file: str) -> None:
        """Raise `CheckpointError` if the shape of this array contradicts the options."""
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


def symbols(config: ElmoConfig, words: int | None, origins: Mapping[str, str]) -> dict[str, tuple[int, str]]:
    """Values of the symbols in shapes, and the options that define them.

    Args:
        config: Sizes of the model.
        words: Rows of the softmax and the word embedding.
        origins: Option of each elementary symbol, and of "filters", the list of convolutions.
    """
    projects_first = config.character_projection and config.character_projection_location == "after_cnn"
    sizes = {
        "C": config.num_characters,
        "C-1": config.num_characters - 1,
        "D": config.character_embedding_size,
        "F": config.num_filters,
        "W": config.word_embedding_size,
        "P": config.projection_size,
        "H": config.cell_size,
        "hidden": config.feed_forward_size,
        "positions": config.max_position_embeddings or 0,
        "layers+1": config.num_hidden_layers + 1,
        "words": words or 0,
        "1": 1,
    }
    origins = {**origins, "F": f"the sum of the counts in {origins['filters']}", "1": "always"}
    found = {symbol: (size, origins[symbol]) for symbol, size in sizes.items() if symbol in origins}
    # Width of the highways.
    found["h"] = found["P" if projects_first else "F"]
    for symbol, factor, times in (("h", 2, "twice"), ("P", 2, "twice"), ("H", 4, "four times")):
        if symbol in found:
            size, origin = found[symbol]
            found[f"{factor}{symbol}"] = (factor * size, f"{times} {origin}")
    if "W" in found:
        found["W+F"] = (found["W"][0] + found["F"][0], f"{found['W'][1]} and {found['F'][1]}")
    return found


def _indices(config: ElmoConfig) -> dict[str, list[dict[str, Any]]]:
    """Values of every placeholder."""
    return {
        "filter": [
            {"filter": i, "width": width, "count": count} for i, (width, count) in enumerate(config.character_filters)
        ],
        "highway": [{"highway": k} for k in range(config.num_highway_layers if config.character_filters else 0)],
        "direction": [
            {"direction": number, "side": side}
            for number, side in enumerate(("forward", "backward")[: 1 + config.bidirectional])
        ],
        "layer": [{"layer": layer} for layer in range(config.num_hidden_layers)],
        "mix": [{"mix": k} for k in range(config.num_representations)],
    }


def expand(
    rules: Iterable[Rule],
    config: ElmoConfig,
    words: int | None,
    origins: Mapping[str, str],
    *,
    mixes: bool = True,
    softmax: bool = True,
) -> Iterator[Entry]:
    """Fill a table for one configuration.

    Args:
        rules: The table.
        config: Sizes and parts of the model.
        words, origins: As in `symbols`.
        mixes: True if the checkpoint has scalar mixes.
        softmax: True if it has a softmax.
    """
    applies = {
        "": True,
        "character_input": bool(config.character_filters),
        "word_input": config.word_embedding_size > 0,
        "character_projection": bool(config.character_projection),
        "cell_projection": bool(config.cell_projection),
        "softmax": softmax,
        "own_softmax": softmax and not config.tie_word_embeddings,
        "mixes": mixes,
    }
    indices, found = _indices(config), symbols(config, words, origins)
    for rule in rules:
        if not applies[rule.condition]:
            continue
        fields = {name for _, name, _, _ in string.Formatter().parse(rule.original) if name}
        axes = [name for name in indices if name in fields or (name == "direction" and "side" in fields)]
        for choice in product(*(indices[axis] for axis in axes)):
            values: dict[str, Any] = {key: value for part in choice for key, value in part.items()}
            local = {key: (values[key], origins["filters"]) for key in ("width", "count") if key in values}
            sizes = [local[symbol] if symbol in local else found[symbol] for symbol in rule.shape.split()]
            yield Entry(
                original=rule.original.format(**values),
                shape=tuple(size for size, _ in sizes),
                origins=tuple(origin for _, origin in sizes),
                parameters=tuple(name.format(**values) for name in rule.parameters.split()),
                transform=rule.transform,
            )


def check_complete(entries: Iterable[Entry], stored: Collection[str], file: str) -> None:
    """Check that no tensor is missing and none is unused.

    Raises:
        CheckpointError: the message lists missing and unused names.
    """
    expected = {entry.original for entry in entries}
    if faults := differences(expected, stored, "not part of the model that the options describe"):
        raise CheckpointError(f"{file}: {faults}. The options and the weights must be of one model")


# Rows shared by several programs.

SOFTMAX_RULES = (
    Rule(
        "softmax/W",
        "words P",
        "softmax.weight",
        PAD_ROWS,
        "Line r of the vocabulary is word id r + 1, after padding; a class after the last line has an id too, and an "
        "added mask a zero row at the end.",
        "own_softmax",
    ),
    Rule("softmax/b", "words", "softmax.bias", PAD_ROWS, "As softmax/W.", "softmax"),
)


def copied(original: str, parameter: str, shape: str, reason: str, condition: Condition = "") -> tuple[Rule, Rule]:
    """Rules for a weight and a bias that are copied; the bias has the first axis of the weight's shape."""
    return (
        Rule(f"{original}.weight", shape, f"{parameter}.weight", COPY, reason, condition),
        Rule(f"{original}.bias", shape.split()[0], f"{parameter}.bias", COPY, "As its weight.", condition),
    )


def allennlp_characters(convolution: str, highway: str, embeddings: str = "embeddings.") -> list[Rule]:
    """Rules for convolutions and highways in the layout of PyTorch and AllenNLP."""
    ours = f"{embeddings}highways.{{highway}}"
    reason = "AllenNLP's gate carries the input, y = g x + (1 - g) relu(.), ours the other branch."
    return [
        *copied(convolution, f"{embeddings}convolutions.{{filter}}", "count D width", "The same convolution."),
        *(
            Rule(f"{highway}.{part}", shape, f"{ours}.nonlinear.{part} {ours}.gate.{part}", NEGATED_GATE, reason)
            for part, shape in (("weight", "2h h"), ("bias", "2h"))
        ),
    ]


def allennlp_lstm(cell: str) -> list[Rule]:
    """Rules for AllenNLP's LSTM cell with projection; `cell` is its name, with placeholders for side and layer."""
    lstm, inside = "encoder.layers.{layer}.{side}_lstm", "The only bias of the cell, with the forget bias of 1 in it:"
    table: tuple[tuple[str, str, str, str, Condition], ...] = (
        ("input_linearity.weight", "4H P", "input_proj.weight", "Gates are already i, f, g, o.", ""),
        ("state_linearity.weight", "4H P", "hidden_proj.weight", "Gates are already i, f, g, o.", ""),
        ("state_linearity.bias", "4H", "input_proj.bias", f"{inside} `config.forget_bias` is 0.", ""),
        ("state_projection.weight", "P H", "output_proj.weight", "The same linear layer.", "cell_projection"),
    )
    return [
        Rule(f"{cell}.{theirs}", shape, f"{lstm}.{ours}", COPY, reason, condition)
        for theirs, shape, ours, reason, condition in table
    ]

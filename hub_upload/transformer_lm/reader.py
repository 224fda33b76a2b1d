"""Reader of AllenNLP language models: `model.tar.gz` with `config.json`, `weights.th` and `vocabulary/`.

Models with a Transformer over character-based words are Transformer ELMo. Others are recognized and refused, with their
type.

Source: AllenNLP `models/archival.py`, `data/vocabulary.py`; allennlp-models `lm/models/language_model.py`.
"""

import json
import re
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from ..allennlp.reader import find_weights, read_archive_config
from ..common.content import LARGEST_CONTENT, read_text
from ..common.errors import CheckpointError
from ..common.options import read_json
from ..common.source import Place, Source, StoredTensor
from ..common.vocabulary import Vocabulary

CONFIG, META, WORDS = "config.json", "meta.json", "vocabulary/tokens.txt"
MODEL_TYPES = ("language_model", "bidirectional-language-model")
TRANSFORMER = "bidirectional_language_model_transformer"
# Reasons why that program's other contextualizers are not supported.
OTHER_CONTEXTUALIZERS = {
    "lstm": "from its second layer on each direction reads what the other one has seen, unlike ELMo's",
    "gated-cnn-encoder": "a gated convolutional network, for which there is no encoder here",
}
UNKNOWN = "@@UNKNOWN@@"
# That program counts padding as a word when it creates the softmax, which therefore has one class more than the
# vocabulary has lines. The additional class is the last one, and never a target.
DEAD_CLASS = "@@PADDING@@"
DEAD_BUFFER = "_last_average_loss"
SOFTMAX = "_softmax_loss."
# Names of weight and bias by layout: embeddings for sparse gradients, (classes, P) and (classes, 1); parameters,
# (classes, P) and (classes); or parameters of the unsampled softmax, (P, classes) and (classes).
SOFTMAX_LAYOUTS = {
    "sparse": ("softmax_w.weight", "softmax_b.weight"),
    "dense": ("softmax_w", "softmax_b"),
    "unsampled": ("softmax_w", "softmax_b"),
}


def is_language_model(names: Mapping[str, object]) -> bool:
    """True if a state dict is that of a complete language model."""
    return any(name.startswith(("_contextualizer.", "_softmax_loss.")) for name in names)


def is_archive_of_language_model(path: Path) -> bool:
    """True if a file is an archive that begins with the `config.json` of a language model, like exported archives."""
    try:
        with tarfile.open(path, "r:gz") as archive:
            first = archive.next()
            content = archive.extractfile(first) if first is not None and first.name == CONFIG else None
            config = json.loads(content.read(LARGEST_CONTENT)) if content is not None else None
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, RecursionError):
        return False
    model = config.get("model") if isinstance(config, dict) else None
    return isinstance(model, dict) and model.get("type") in MODEL_TYPES


@dataclass(frozen=True)
class LanguageModelVocabulary(Vocabulary):
    """The vocabulary `tokens.txt`, whose lines are unchanged words, followed by the class that is not a word."""

    @cached_property
    def lines(self) -> list[str]:
        """Lines of the file; line breaks within words are written, and kept, as `@@NEWLINE@@`.

        Raises:
            CheckpointError: not UTF-8.
        """
        lines = re.split(r"\r?\n", read_text(self.file, "UTF-8 text with one word per line"))
        return lines[:-1] if lines[-1] == "" else lines

    @cached_property
    def words(self) -> list[str]:
        """All classes of the softmax in order.

        Raises:
            CheckpointError: a word is listed twice, or `@@UNKNOWN@@` is missing.
        """
        first: dict[str, int] = {}
        for number, word in enumerate([*self.lines, DEAD_CLASS], 1):
            if first.setdefault(word, number) != number:
                raise CheckpointError(
                    f"{self.file}, line {number}: the word {word!r} is listed already in line {first[word]}; rows of "
                    "weights follow the lines, so each word may occur only once"
                    if number <= len(self.lines)
                    else f"{self.file}, line {first[word]}: lists {word!r}, which is padding, not a word"
                )
        if UNKNOWN not in first:
            raise CheckpointError(f"{self.file}: no line {UNKNOWN!r}, which every vocabulary of AllenNLP has")
        return list(first)


def open_place(place: Place) -> Source | None:
    """Open an unpacked archive or a training folder; `None` for other places and for task models.

    Raises:
        CheckpointError: a language model of another kind, or damaged files.
    """
    weights = find_weights(place)
    if weights is None or not is_language_model(place.state_dict(weights)):
        return None
    folder, state = place.folder, place.state_dict(weights)
    place.refuse(weights, "an AllenNLP model brings its own softmax", "softmax")
    path = place.options or folder / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{weights}: an AllenNLP language model, and there is no {CONFIG} next to it, which describes its parts; "
            "give it with --options"
        )
    config = read_archive_config(path)
    _check_kind(config, state, str(path))
    named = {name: tensor for name, tensor in state.items() if name != DEAD_BUFFER and not name.startswith(SOFTMAX)}
    named |= _softmax(state, sampled=config["model"].get("num_samples") is not None)
    words = place.vocabulary or folder / WORDS
    if (folder / META).is_file():
        config = {**config, META: read_json(folder / META)}
    return Source(
        description=f"AllenNLP Transformer language model: {weights.name}, {path.name}",
        layout="allennlp-language-model",
        file=str(weights),
        tensors={name: StoredTensor.of(weights, name, tensor) for name, tensor in named.items()},
        options=config,
        options_file=str(path),
        vocabulary=LanguageModelVocabulary(words) if words.is_file() else None,
    )


def _softmax(state: Mapping[str, Tensor], sampled: bool) -> dict[str, Tensor]:
    """Convert a softmax in one of `SOFTMAX_LAYOUTS` to (classes, P) and (classes), with bilm-tf's names."""
    found = {name.removeprefix(SOFTMAX): tensor for name, tensor in state.items() if name.startswith(SOFTMAX)}
    for layout, (weight, bias) in SOFTMAX_LAYOUTS.items():
        # Options decide between layouts, because a square weight looks the same in both.
        if found.keys() == {weight, bias} and (layout == "sparse" or sampled == (layout == "dense")):
            stored = found[weight], found[bias]
            if [tensor.dim() for tensor in stored] != [2, 2 if layout == "sparse" else 1]:
                break
            matrix = stored[0].T if layout == "unsampled" else stored[0]
            return {"softmax/W": matrix, "softmax/b": stored[1][:, 0] if layout == "sparse" else stored[1]}
    return {SOFTMAX + name: tensor for name, tensor in found.items()}


def _check_kind(config: dict[str, Any], names: Mapping[str, object], file: str) -> None:
    """Refuse language models that are not Transformer ELMo, naming their type."""
    model = config.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind not in MODEL_TYPES:
        raise CheckpointError(
            f"{file}: model.type is {kind!r}, expected {' or '.join(map(repr, MODEL_TYPES))}: the weights are an "
            "AllenNLP language model's"
        )
    contextualizer = model.get("contextualizer")
    kind = contextualizer.get("type") if isinstance(contextualizer, dict) else None
    if kind != TRANSFORMER:
        reason = OTHER_CONTEXTUALIZERS.get(str(kind))
        raise CheckpointError(
            f"{file}: model.contextualizer.type is {kind!r}, expected {TRANSFORMER!r}"
            + (f"; {kind} is not supported: {reason}" if reason else "; other types are not supported")
        )
    if not any(name.startswith("_contextualizer._forward_transformer.") for name in names):
        raise CheckpointError(f"{file}: model.contextualizer.type is {kind!r}, but the weights hold no Transformer")

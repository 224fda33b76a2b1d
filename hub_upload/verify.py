"""Verification that a converted folder gives the same numbers as its original."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import PreTrainedModel

from elmo_hf import (
    ElmoConfig,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoState,
    ElmoTokenizer,
)

from .common.errors import CheckpointError
from .common.plain import Plain
from .common.plan import SOFTMAX, check_words
from .common.saved_model import read_config
from .common.source import Source
from .common.task_check import TaskReport, compare_task
from .detect import open_source
from .formats import FORMATS

TOLERANCE = 1e-5

# Fields that determine the sizes of all tensors, except for the number of words.
SIZES = (
    "num_characters character_embedding_size character_filters num_highway_layers character_projection "
    "word_embedding_size character_projection_location character_layer_norm projection_size encoder_type "
    "num_attention_heads feed_forward_size max_position_embeddings cell_size cell_projection num_hidden_layers "
    "bidirectional"
).split()

# Additional fields of a task model: its layers, words and labels.
TASK_SIZES = (
    "label_names elmo_at word_vector_size task_character_size num_task_characters task_character_filters "
    "task_character_activation pre_encoder_layers classifier_layers task_encoder task_lstm_size task_lstm_layers "
    "integrator_size integrator_layers pooling maxout_sizes maxout_pieces maxout_classifier use_crf tag_scheme "
    "crf_constraints crf_start_end_transitions words_only scalar_mix_layer_norm"
).split()
TASKS: dict[str, type[PreTrainedModel]] = {
    kind.__name__: kind for kind in (ElmoForTokenClassification, ElmoForSequenceClassification)
}

# Short, long and unusual words, but no boundary symbols, whose meaning depends on the tokenizer's options.
SENTENCES = (
    "The quick brown fox jumps over the lazy dog .".split(),
    "Ms. Haag plays Elianti .".split(),
    "I do n't know what you mean by ' glory , ' Alice said .".split(),
    "Größe 東京 Ελλάδα naïve 🙂 1,234.56".split(),
    ["Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenhersteller", "!"],
    ["x"],
    "Pierre Vinken , 61 years old , will join the board as a nonexecutive director Nov. 29 .".split(),
)
# To a model that reads words by their id, most of these are unknown; it also gets sentences of its own words.
OWN_SENTENCES, OWN_WORDS = 4, 12
# Sizes of consecutive batches with carried state, shrinking and growing.
BATCH_SIZES = (3, 2, 4)


@dataclass(frozen=True)
class VerificationReport:
    """The outcome of `verify`.

    Attributes:
        source: Format and files of the original.
        differences: Largest absolute difference per layer, word layer first, with every batch read from zero state.
        carried: The same with state carried over shrinking and growing batches (or just those batches, for a model
            without state).
        magnitudes: Largest absolute value per layer, according to the plain implementation.
        tolerance: Requested tolerance, relative to the magnitudes.
        sentences: Number of compared sentences.
        has_state: True if the model carries state.
        task: Comparison of the scores of a completely converted task model.
    """

    source: str
    differences: tuple[float, ...]
    carried: tuple[float, ...]
    magnitudes: tuple[float, ...]
    tolerance: float
    sentences: int
    has_state: bool = True
    task: TaskReport | None = None

    @property
    def largest(self) -> float:
        """The largest absolute difference."""
        # np.max propagates NaN; max() would not.
        return float(np.max([*self.differences, *self.carried]))

    @property
    def scaled(self) -> float:
        """The largest difference relative to its layer's magnitude, since float32 rounds larger values more."""
        shares = [
            difference / magnitude if magnitude else math.inf
            for differences in (self.differences, self.carried)
            for difference, magnitude in zip(differences, self.magnitudes, strict=True)
            if difference != 0  # avoids 0 / 0 for a layer of zeros
        ]
        return float(np.max([0.0, *shares]))

    @property
    def passed(self) -> bool:
        """True if all differences, including those of task scores, are numbers within their tolerances."""
        layers = math.isfinite(self.scaled) and self.scaled <= self.tolerance
        return layers and (self.task is None or self.task.passed)


def sentence_of(report: VerificationReport) -> str:
    """Sentence about a passed verification, for the model card."""
    task = report.task
    of_task = "" if task is None else f", {task.logits:.1e} of the task's scores (tolerance {task.logits_tolerance:g})"
    return (
        "Compared with the source by a second implementation in NumPy and float64 (`elmo-hub verify`): largest "
        f"absolute difference {report.largest:.1e} of any layer{of_task}, over {report.sentences} sentences; "
        f"{report.scaled:.1e} of the layer's largest value, tolerance {report.tolerance:g}."
    )


def verify(
    folder: str | PathLike[str],
    against: str | PathLike[str],
    *,
    sentences: Sequence[Sequence[str]] | None = None,
    tolerance: float = TOLERANCE,
    options: str | PathLike[str] | None = None,
    weights: str | PathLike[str] | None = None,
    vocabulary: str | PathLike[str] | None = None,
    word_vectors: str | PathLike[str] | None = None,
) -> VerificationReport:
    """Recompute embeddings from an original checkpoint with a plain NumPy implementation, and compare the model's.

    The folder is used like a user would: its own tokenizer, `ElmoModel`, and for a complete task model also its head.

    Args:
        folder: A Transformers folder.
        against: The checkpoint it was converted from, as in `convert`.
        sentences: Lists of words; `None` for built-in ones, plus words of the vocabulary if the model reads words by
            their id.
        tolerance: Maximum difference, relative to the largest absolute value of the layer.
        options, weights, vocabulary, word_vectors: As in `convert`.

    Raises:
        CheckpointError: one side cannot be read, shapes differ, or there is nothing to compare.
    """
    folder = Path(folder)
    batch = [list(words) for words in (SENTENCES if sentences is None else sentences) if words]
    if not batch:
        raise CheckpointError("sentences holds no word: there is nothing to compare")
    if not tolerance >= 0:
        raise CheckpointError(f"tolerance {tolerance}: expected a number of at least 0")
    given = {"options": options, "weights": weights, "vocabulary": vocabulary, "word_vectors": word_vectors}
    paths = {name: Path(path) for name, path in given.items() if path is not None}
    config = read_config(folder)
    head = TASKS.get((config.architectures or [""])[0])
    try:
        tokenizer = ElmoTokenizer.from_pretrained(folder)
        # Compare the original layers, without an alignment to another language.
        whole = (head or ElmoModel).from_pretrained(folder, dtype=torch.float32, aligned=False).eval()
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded ({error})") from error
    with open_source(Path(against), **paths, elmo_only=head is None) as source:
        _check_sizes(folder, config, source)
        # A Transformer's epsilon, which its files lack, is taken from the folder.
        plain = plain_elmo(source, config.layer_norm_epsilon)
        make_task = FORMATS[source.layout].plain_task
        plain_task = None if make_task is None else make_task(source, plain)
        own = list(plain.vectors.lines) or ([] if plain_task is None else plain_task.words)
        if sentences is None and own:
            batch += _own_sentences(own)
        differences, magnitudes = _compare(whole.bilm, tokenizer, plain, [batch], carry=False)
        carried, carried_magnitudes = _compare(whole.bilm, tokenizer, plain, _batches(batch), carry=True)
        task = None
        if plain_task is not None:
            task = compare_task(whole, tokenizer, plain_task, plain, batch, _batches(batch))
    return VerificationReport(
        source.description,
        _numbers(differences),
        _numbers(carried),
        _numbers(np.maximum(magnitudes, carried_magnitudes)),
        tolerance,
        len(batch),
        plain.has_state,
        task,
    )


def _check_sizes(folder: Path, config: ElmoConfig, source: Source) -> None:
    """Refuse, before reading weights, a source that does not match its own options or the folder.

    Whatever sizes an untrusted file claims, no more memory is allocated than for the loaded model.

    Raises:
        CheckpointError: the message names the tensor or the size.
    """
    # The softmax is not needed for a comparison of layers.
    tensors = {name: value for name, value in source.tensors.items() if not name.endswith(SOFTMAX)}
    source = replace(source, tensors=tensors)
    room = FORMATS[source.layout]
    plan = room.make_plan(source, [])
    check_words(plan, source)
    has_task = room.plain_task is not None
    different = [
        f"{name} is {getattr(config, name)} and {getattr(plan.config, name)}"
        for name in (*SIZES, *(TASK_SIZES if has_task else ()))
        if getattr(config, name) != getattr(plan.config, name)
    ]
    if different:
        raise CheckpointError(f"{folder} and {source.file} are not of the same model: {', '.join(different)}")


def plain_elmo(source: Source, layer_norm_epsilon: float = 1e-6) -> Plain:
    """Create the plain implementation of an open source.

    Args:
        source: An open source.
        layer_norm_epsilon: Epsilon of a Transformer.

    Raises:
        CheckpointError: the source lacks something that the implementation needs.
    """

    def read(name: str) -> np.ndarray:
        if name not in source.tensors:
            raise CheckpointError(f"{source.file}: missing {name!r}")
        return source.tensors[name].read().astype(np.float64)

    try:
        plain = FORMATS[source.layout].plain(source, read, layer_norm_epsilon)
        # Uses every matrix once, with a word that is in no vocabulary.
        plain.embed([[""]])
    except CheckpointError:
        raise
    except (LookupError, TypeError, ValueError, StopIteration) as error:
        raise CheckpointError(
            f"{source.file} does not fit {source.options_file} or its vocabulary ({type(error).__name__}: {error}); "
            "convert it to see what is wrong"
        ) from error
    return plain


def _own_sentences(words: list[str]) -> list[list[str]]:
    """Sentences of words spread over a vocabulary, again without boundary symbols."""
    plain = [word for word in words if word not in ("<S>", "</S>")]
    step = max(1, len(plain) // (OWN_SENTENCES * OWN_WORDS))
    chosen = plain[::step][: OWN_SENTENCES * OWN_WORDS]
    return [chosen[start : start + OWN_WORDS] for start in range(0, len(chosen), OWN_WORDS)]


def _batches(sentences: list[list[str]]) -> list[list[list[str]]]:
    """Split sentences into consecutive batches with the sizes of `BATCH_SIZES`, repeated."""
    endless = sentences * (1 + sum(BATCH_SIZES) // len(sentences))
    batches, start = [], 0
    for size in BATCH_SIZES:
        batches.append(endless[start : start + size])
        start += size
    return batches


@torch.no_grad()
def _compare(
    model: ElmoModel, tokenizer: ElmoTokenizer, plain: Plain, batches: list[list[list[str]]], carry: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Largest difference and magnitude of each layer over all batches and all words, including boundaries."""
    largest, magnitudes = np.zeros(plain.depth + 1), np.zeros(plain.depth + 1)
    state: ElmoState | None = None
    plain.state.clear()
    for batch in batches:
        encoding = tokenizer(batch, is_split_into_words=True, padding=True, return_tensors="pt")
        output = model(**encoding, initial_state=state, return_state=True, output_hidden_states=True)
        layers = torch.stack(output.hidden_states).double().numpy()  # [layers, batch, words, 2P]
        for row, expected in enumerate(plain.embed(batch)):
            found = layers[:, row, encoding["attention_mask"][row].bool().numpy()]
            if found.shape != expected.shape:
                raise CheckpointError(
                    f"the tokenizer makes {found.shape[1]} words of {' '.join(batch[row])!r}, expected "
                    f"{expected.shape[1]} with the boundaries"
                )
            # np.maximum propagates NaN; max() would not.
            largest = np.maximum(largest, np.abs(found - expected).max(axis=(1, 2)))
            magnitudes = np.maximum(magnitudes, np.abs(expected).max(axis=(1, 2)))
        if carry:
            state = output.state
        else:
            plain.state.clear()
    return largest, magnitudes


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)

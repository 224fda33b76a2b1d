"""Reader of complete task models in AllenNLP's archives: the `Elmo`, and the parts described in `config.json`."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from elmo_hf import ElmoConfig, ElmoTokenizer

from ..allennlp import rules as elmo_rules
from ..allennlp.reader import ElmoSource, find_weights, open_elmo, read_archive_config
from ..common.errors import CheckpointError
from ..common.options import make_config, read_json
from ..common.plain import Plain
from ..common.plan import Plan
from ..common.source import Place, Source, StoredTensor
from ..common.transforms import Array
from .plain import PlainTask
from .rules import Task, check_constraints, kind_of, read_task


@dataclass(frozen=True, kw_only=True)
class TaskSource(ElmoSource):
    """An open archive of a task model.

    Attributes:
        task: Conversion of the tensors outside of the `Elmo`.
        outside: These tensors, by full name.
        config: Content of `config.json`.
        folder: Folder of the archive's files.
    """

    task: Task
    outside: Mapping[str, StoredTensor]
    config: Mapping[str, Any]
    folder: Path


def open_place(place: Place) -> TaskSource | None:
    """Open an unpacked archive or a training folder; `None` for other places, or if only the ELMo is requested.

    Raises:
        CheckpointError: a model of another kind, or damaged files.
    """
    weights = find_weights(place)
    config_file = place.folder / "config.json"
    if weights is None or place.elmo_only or not config_file.is_file():
        return None
    config = read_archive_config(config_file)
    if kind_of(config) is None:
        return None
    place.refuse(weights, "a task model has its own vocabulary", "vocabulary")
    elmo = open_elmo(place)
    assert elmo is not None
    state = place.state_dict(weights)
    outside = {name: tensor for name, tensor in state.items() if not elmo.holds(name)}
    shapes = {name: tuple(tensor.shape) for name, tensor in outside.items()}
    projection = elmo.tensors.get("_elmo_lstm._elmo_lstm.forward_layer_0.state_projection.weight")
    width = 2 * projection.shape[0] if projection is not None and projection.shape else 0
    task = read_task(config, str(config_file), place.folder, shapes, width)
    if "task_character_size" in task.fields and _saw_padding(place.folder):
        task.notes.append(
            "the character CNN takes its maximum over windows inside the word, as AllenNLP since 1.2.2; this archive "
            "is older: windows over padding counted, and values depended on the longest word of a batch"
        )
    own = {each.name: getattr(elmo, each.name) for each in fields(ElmoSource)}
    return TaskSource(
        **{
            **own,
            "description": f"AllenNLP model {task.kind!r} with an Elmo at {elmo.prefix!r}: {weights.name}",
            "layout": "allennlp-task",
        },
        task=task,
        outside={name: StoredTensor.of(weights, name, tensor) for name, tensor in outside.items()},
        config=config,
        folder=place.folder,
    )


def _saw_padding(folder: Path) -> bool:
    """True for an archive written before AllenNLP 1.2.2, or without a version."""
    meta = folder / "meta.json"
    version = str(read_json(meta).get("version", "")) if meta.is_file() else ""
    numbers = [int(part) for part in re.findall(r"[0-9]{1,9}", version)[:3]]
    return numbers < [1, 2, 2]


def make_plan(source: Source, notes: list[str]) -> Plan:
    """Match a source with its options."""
    assert isinstance(source, TaskSource)
    plan = elmo_rules.make_plan(source, notes)
    notes += source.task.notes
    config = make_config({**plan.config.to_dict(), **source.task.fields}, str(source.folder / "config.json"))
    if config.num_representations != len(config.elmo_at):
        raise CheckpointError(
            f"{source.file}: the Elmo has {config.num_representations} mixes, and config.json uses it at "
            f"{len(config.elmo_at)} places ({', '.join(config.elmo_at)})"
        )
    return replace(plan, config=config)


def make_tokenizer(source: Source, config: ElmoConfig, notes: list[str]) -> ElmoTokenizer:
    """Make the tokenizer, with the task's own words and characters."""
    assert isinstance(source, TaskSource)
    try:
        return ElmoTokenizer(
            max_characters_per_word=config.max_characters_per_word,
            tokens_to_add=source.tokens_to_add,
            **source.task.tokenizer,
        )
    except ValueError as error:
        raise CheckpointError(f"{source.folder / 'vocabulary'}: {error}") from error


def parameters(source: Source) -> dict[str, Array]:
    """All parameters outside of the biLM.

    Raises:
        CheckpointError: a tensor cannot be read, or has an unexpected shape.
    """
    assert isinstance(source, TaskSource)
    found: dict[str, Array] = {}
    for entry in source.task.entries:
        arrays = [source.outside[name].read() for name in entry.originals]
        try:
            found[entry.parameter] = np.ascontiguousarray(entry.make(*arrays))
        except (IndexError, ValueError) as error:
            shapes = ", ".join(f"{name} {array.shape}" for name, array in zip(entry.originals, arrays, strict=True))
            raise CheckpointError(
                f"{source.file}: {shapes} {'do' if len(arrays) > 1 else 'does'} not fit the configuration ({error}); "
                "the configuration and the weights must be of one model"
            ) from error
    return found


def accept(source: Source, model: Any) -> None:
    """Raise `CheckpointError` for a tagger whose stored constraints do not match its scheme."""
    assert isinstance(source, TaskSource)
    mask = source.outside.get("crf._constraint_mask")
    if mask is not None:
        check_constraints(mask.read(), model.crf.forbidden.numpy(), source.file)


def plain_task(source: Source, elmo: Plain) -> PlainTask:
    """The plain task model on top of the plain language model."""
    assert isinstance(source, TaskSource)
    outside, inside = source.outside, source.tensors

    def read(tensors: Mapping[str, StoredTensor], name: str) -> np.ndarray:
        if name not in tensors:
            raise CheckpointError(f"{source.file}: missing {name!r}")
        return tensors[name].read().astype(np.float64)

    return PlainTask(
        lambda name: read(outside, name), lambda name: read(inside, name), source.config, source.folder, elmo
    )

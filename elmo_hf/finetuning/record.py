"""Records of a run's training data and options, saved with each checkpoint to check that a continued run matches."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from elmo_hf.atomic import write_text
from elmo_hf.corpus.records import read_object
from elmo_hf.hub.card import file_name_only

RECORD_NAME = "run_record.json"

# Trainer arguments that must not change when a run is continued: a checkpoint restores them, or the second part would
# silently differ from the first. The number of epochs may change.
TRAINING = """
learning_rate bilm_learning_rate weight_decay optim optim_args adam_beta1 adam_beta2 adam_epsilon lr_scheduler_type
lr_scheduler_kwargs warmup_steps warmup_ratio max_grad_norm per_device_train_batch_size gradient_accumulation_steps
label_smoothing_factor seed data_seed train_sampling_strategy bf16 fp16 metric_for_best_model greater_is_better task
predict_with_generate
""".split()
# Other options that may change: data locations, since the data themselves are compared, and options that do not affect
# the results of training.
FREE = """
train_file validation_file test_file dataset_name dataset_config_name train_share validation_share labels
label_separator cache_layers n_best new_classifier
""".split()


def digest(examples: Sequence[Any]) -> dict[str, Any]:
    """The number of examples, and a SHA-256 of their content, without their locations."""
    found = hashlib.sha256()
    for example in examples:
        values = example._asdict() if hasattr(example, "_asdict") else example
        if isinstance(values, dict):
            values = {name: value for name, value in values.items() if name != "place"}
        found.update(json.dumps(values, sort_keys=True).encode())
    return {"examples": len(examples), "sha256": found.hexdigest()}


def run_record(
    model: Any, splits: Mapping[str, Sequence[Any]], labels: Sequence[str], options: Sequence[Any]
) -> dict[str, Any]:
    """Build the record of a run's training data and options.

    Args:
        model: the model to train.
        splits: the examples; those for training and validation are recorded.
        labels: labels in the order of their numbers, if any.
        options: dataclasses of options, one of them the Trainer's.
    """
    settings: dict[str, Any] = {}
    for each in options:
        for spec in dataclasses.fields(each):
            is_trainers = isinstance(each, TrainingArguments)
            kept = spec.name in TRAINING if is_trainers else spec.name not in FREE and not spec.name.endswith("_column")
            if kept:
                settings[spec.name] = getattr(each, spec.name)
    record = {
        "model": type(model).__name__,
        "labels": list(labels),
        "data": {name: digest(splits[name]) for name in ("train", "validation") if name in splits},
        "settings": settings,
        "origin": _origin(options),
    }
    return json.loads(json.dumps(record, default=str))


def _origin(options: Sequence[Any]) -> dict[str, Any]:
    """Origin of model and data, for the card: Hub names, and file names without folders."""
    names = "model_name_or_path preset dataset_name dataset_config_name train_file validation_file test_file".split()
    found = {name: getattr(each, name, None) for each in options for name in names if getattr(each, name, None)}
    base = found.get("model_name_or_path")
    if base is not None and Path(base).exists():
        found["model_folder"] = base = found.pop("model_name_or_path")
    return {name: file_name_only(value) for name, value in found.items()}


def write_record(record: Mapping[str, Any], folder: Path) -> None:
    """Write a record into a checkpoint's folder."""
    write_text(folder / RECORD_NAME, json.dumps(record, indent=2) + "\n")


def check_continues(record: Mapping[str, Any], checkpoint: Path) -> str | None:
    """Refuse to continue a checkpoint that was trained with other data or options.

    Args:
        record: record of the run to be continued.
        checkpoint: the checkpoint's folder. Those of earlier versions of this package have no record, only model and
            labels.

    Returns:
        A note for the user, if any.

    Raises:
        ValueError: there are differences; the message names them with both values, and the remedies.
    """
    path = checkpoint / RECORD_NAME
    if path.is_file():
        stored, note = _read(path), None
    else:
        stored, note = _of_saved_model(checkpoint), f"{checkpoint} has no {RECORD_NAME}: its data are not known"
    differing = [
        f"{name} {_shown(record[name])} (was {_shown(stored[name])})"
        for name in ("model", "labels")
        if name in stored and stored[name] != record[name]
    ]
    for name in ("train", "validation"):
        ours, theirs = (each.get("data", {}).get(name) for each in (record, stored))
        if "data" in stored and ours != theirs:
            differing.append(f"{name} data of {_shown(ours)} (was {_shown(theirs)})")
    settings = stored.get("settings", {})
    differing += [
        f"{name}={value!r} (was {settings[name]!r})"
        for name, value in record["settings"].items()
        if name in settings and settings[name] != value
    ]
    if differing:
        raise ValueError(
            f"{checkpoint} was written by a run on something else: {'; '.join(differing)}. Give the old data and "
            "values to continue it, or begin a new run with another --output_dir or --resume_from_checkpoint false"
        )
    return note


def _read(path: Path) -> dict[str, Any]:
    found = read_object(path, f"what a run wrote. Remove {path.parent} to continue from an older one")
    data = found.get("data", {})
    if not isinstance(found.get("settings", {}), dict) or not isinstance(data, dict):
        raise ValueError(f"{path} is damaged: expected what a run wrote. Remove {path.parent}")
    return found


def _of_saved_model(checkpoint: Path) -> dict[str, Any]:
    config = _read(checkpoint / "config.json")
    model, names = (config.get("architectures") or [None])[0], config.get("id2label")
    # Earlier versions saved translators as Transformers' own class.
    found = {"model": "ElmoEncoderDecoderModel" if model == "EncoderDecoderModel" else model}
    if isinstance(names, dict):
        found["labels"] = config.get("tag_names") or [names[number] for number in sorted(names, key=int)]
    return {name: value for name, value in found.items() if value}


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value.get('examples')} examples, SHA-256 {value.get('sha256')!s:.12}"
    if isinstance(value, list):
        shown = " ".join(map(str, value[:20]))
        return shown if len(value) <= 20 else f"{shown} ... ({len(value)} in all)"
    return "none" if value is None else str(value)

"""Model cards of fine-tuned models."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from elmo_hf.hub.card import CardFacts, Result, hub_names, json_settings, write_card
from elmo_hf.version import __version__

# Parts of the names of a Trainer's metrics that are not scores.
COUNTS = ("runtime", "samples", "per_second", "epoch", "flos", "memory")


def write_task_card(folder: Path, args: Any, record: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
    """Write the card of the model that a run left in `folder`.

    Args:
        folder: The run's output folder, with the model.
        args: The Trainer's options, `license` and `language` among them.
        record: Record of the run's training data and options, from `run_record`.
        metrics: Metrics, with names that begin with `eval_` and `test_`.
    """
    origin = record.get("origin", {})
    base = origin.get("model_name_or_path")
    data = record.get("data", {})
    training = {
        f"{name} examples": f"{found['examples']:,}" for name, found in data.items() if isinstance(found, Mapping)
    }
    training |= {name.replace("_", " "): str(value) for name, value in origin.items()}
    for name in ("num_train_epochs", "learning_rate", "per_device_train_batch_size", "seed"):
        training[name.replace("_", " ")] = f"{getattr(args, name)}"
    results = []
    for name, value in metrics.items():
        split, _, metric = name.partition("_")
        known = {"eval": "validation", "test": "test"}.get(split)
        if known is not None and isinstance(value, int | float) and not any(each in metric for each in COUNTS):
            source = origin.get("dataset_name") or origin.get(f"{known}_file") or "data"
            results.append(Result(metric, float(value), str(source), known))
    start = f"`{base or origin.get('model_folder') or origin.get('preset') or 'random weights'}`"
    write_card(
        folder,
        CardFacts(
            name=(args.hub_model_id or folder.absolute().name).rpartition("/")[2],
            summary=f"An ELMo task model (`{record['model']}`), fine-tuned with `elmo_hf` from {start}.",
            place=folder.absolute().name,
            license=args.license,
            language=args.language or [],
            base_model=base if base and hub_names([base]) else None,
            datasets=hub_names([origin["dataset_name"]]) if "dataset_name" in origin else [],
            training=training,
            results=results,
            settings=json_settings({k: v for k, v in record["settings"].items() if v not in (None, [], {}, "")}),
            curves="training_curve.png" if os.path.isfile(folder / "training_curve.png") else None,
            versions=f"elmo_hf {__version__}, torch {torch.__version__}, transformers {transformers.__version__}",
        ),
    )

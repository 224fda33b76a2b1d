"""The folder `model/` of a run: weights, tokenizer, card and curves, written at the end or from a checkpoint."""

import dataclasses
import os
import shutil
from pathlib import Path

from elmo_hf.atomic import appearing_folder
from elmo_hf.folders import without_progress_bar
from elmo_hf.model.modeling_elmo import ElmoForPreTraining
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .checkpoint import PROGRESS, newest_in, read_json
from .report import MetricsLog, RunSummary, draw_curves, write_card
from .settings import PretrainingSettings
from .start import load

MODEL, CHECKPOINTS, METRICS = "model", "checkpoints", "metrics.jsonl"
CURVES = "training_curves.png"


def save_model(folder: Path, model: ElmoForPreTraining, tokenizer: ElmoTokenizer) -> None:
    """Save model and tokenizer into `folder`, without Transformers' progress bar, which would break ours."""
    with without_progress_bar():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_model_folder(
    run: Path,
    model: ElmoForPreTraining,
    tokenizer: ElmoTokenizer,
    summary: RunSummary,
    settings: PretrainingSettings,
    *,
    processes: int,
) -> None:
    """Write `model/` of the run in the folder `run` atomically, and the curves next to it."""
    curves = run / CURVES
    draw_curves(MetricsLog(run / METRICS), curves, settings.run_name, settings.loss)
    with appearing_folder(run / MODEL) as folder:
        save_model(folder, model, tokenizer)
        shutil.copy(curves, folder / CURVES)
        write_card(
            folder,
            summary,
            settings,
            processes=processes,
            curves=CURVES,
        )


def save_model_of_run(run: str | os.PathLike[str]) -> RunSummary:
    """Write `model/` of an interrupted run from its newest checkpoint; the run can still be continued.

    Returns:
        Summary of the run so far.

    Raises:
        FileNotFoundError: `run` holds no checkpoint.
        CheckpointError: the checkpoint is damaged.
    """
    folder = Path(run)
    checkpoint = newest_in(folder / CHECKPOINTS)
    if checkpoint is None:
        raise FileNotFoundError(
            f"{folder / CHECKPOINTS} holds no checkpoint: expected the output_dir of `elmo-hf pretrain`, which writes "
            "one every checkpoint_every steps and when it is interrupted"
        )
    stored = read_json(checkpoint / PROGRESS)
    known = {spec.name for spec in dataclasses.fields(PretrainingSettings)}
    settings = PretrainingSettings(**{name: value for name, value in stored["settings"].items() if name in known})
    model, tokenizer = load(checkpoint)
    progress = stored["progress"]
    summary = RunSummary(
        step=progress["step"],
        words=progress["words"],
        seconds=progress["seconds"],
        forward_loss=None,
        backward_loss=None,
        model_folder=folder / MODEL,
        checkpoint=checkpoint,
    )
    write_model_folder(folder, model, tokenizer, summary, settings, processes=stored["processes"])
    return summary

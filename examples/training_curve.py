"""Draw what a Trainer logged: the training and validation loss, and a validation score."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def plot_training_curve(
    log_history: Iterable[dict[str, Any]], path: Path, score: str = "f1", name_of_score: str = "entity F1"
) -> None:
    """Write a PNG; without a single logged loss or score there is nothing to draw and no file.

    Args:
        log_history: `trainer.state.log_history`.
        path: the PNG; it appears only when it is complete.
        score: the metric to draw beside the losses, logged as `eval_{score}`; `"loss"` for none.
        name_of_score: what to call it.
    """
    curves = {
        name: [(row["epoch"], row[name]) for row in log_history if name in row]
        for name in ("loss", "eval_loss", *([] if score == "loss" else [f"eval_{score}"]))
    }
    if not any(curves.values()):
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    losses = figure.add_subplot(xlabel="epoch", ylabel="loss")
    rows = [("loss", losses, "training loss", "tab:blue"), ("eval_loss", losses, "validation loss", "tab:cyan")]
    if score != "loss":
        scores = losses.twinx()
        scores.set(ylabel=name_of_score)
        rows.append((f"eval_{score}", scores, f"validation {name_of_score}", "tab:orange"))
        if all(0 <= value <= 1 for _, value in curves[f"eval_{score}"]):
            scores.set(ylim=(0, 1))
    for name, axes, label, colour in rows:
        if curves[name]:
            axes.plot(*zip(*curves[name], strict=True), marker=".", color=colour, label=label)
    losses.set_ylim(bottom=0)
    losses.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    unfinished = path.with_name(path.name + ".part")
    figure.savefig(unfinished, format="png", dpi=150)
    os.replace(unfinished, path)

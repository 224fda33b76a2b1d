"""Plots of a Trainer's log: training and validation loss, and a validation score."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from elmo_hf.atomic import appearing


def plot_training_curve(
    log_history: Iterable[dict[str, Any]], path: Path, score: str = "f1", name_of_score: str = "entity F1"
) -> None:
    """Write the training curve as a PNG; if no loss or score was logged, no file is written.

    Args:
        log_history: `trainer.state.log_history`.
        path: the PNG; it appears only when it is complete.
        score: the metric to plot with the losses, logged as `eval_{score}`; `"loss"` for none.
        name_of_score: label of the metric.
    """
    curves = {
        name: [(row["epoch"], row[name]) for row in log_history if name in row]
        for name in ("loss", "eval_loss", *([] if score == "loss" else [f"eval_{score}"]))
    }
    if not any(curves.values()):
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    losses = figure.add_subplot(xlabel="epoch", ylabel="loss")
    rows = [("loss", losses, "training loss", "tab:blue"), ("eval_loss", losses, "validation loss", "tab:cyan")]
    if score != "loss":
        scores = losses.twinx()
        scores.set(ylabel=name_of_score)
        rows.append((f"eval_{score}", scores, f"validation {name_of_score}", "tab:orange"))
        if all(0 <= value <= 1 for _, value in curves[f"eval_{score}"]):
            scores.set(ylim=(0, 1))
    for name, axes, label, color in rows:
        if curves[name]:
            axes.plot(*zip(*curves[name], strict=True), marker=".", color=color, label=label)
    losses.set_ylim(bottom=0)
    losses.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    write_figure(figure, path)


def write_figure(figure: Figure, path: Path) -> None:
    """Write a PNG; the file appears only when it is complete."""
    FigureCanvasAgg(figure)
    with appearing(path) as aside:
        figure.savefig(aside, format="png", dpi=150)

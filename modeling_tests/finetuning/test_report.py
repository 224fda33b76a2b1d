"""The figure of a fine-tuning run."""

from pathlib import Path

import pytest

from elmo_hf.finetuning import plot_training_curve

LOG = [
    {"epoch": 1.0, "loss": 2.0},
    {"epoch": 1.0, "eval_loss": 1.5, "eval_f1": 0.25},
    {"epoch": 2.0, "loss": 1.0},
    {"epoch": 2.0, "eval_loss": 0.5, "eval_f1": 0.75},
]


@pytest.mark.slow
@pytest.mark.usefixtures("figures")
def test_losses_and_the_score_that_was_asked_for(tmp_path: Path) -> None:
    drawn = {}
    for score in ("f1", "loss", "accuracy"):
        path = tmp_path / f"{score}.png"
        plot_training_curve(LOG, path, score)
        drawn[score] = path.read_bytes()
        assert drawn[score].startswith(b"\x89PNG\r\n") and len(drawn[score]) > 10_000, score
    assert drawn["f1"] != drawn["loss"]


def test_nothing_to_draw(tmp_path: Path) -> None:
    plot_training_curve([{"epoch": 1.0, "train_runtime": 3.0}], tmp_path / "curve.png")
    assert list(tmp_path.iterdir()) == []

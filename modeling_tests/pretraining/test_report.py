"""The report of a run: log, curves and card."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from elmo_hf import ElmoForPreTraining
from elmo_hf.pretraining import MetricsLog, PretrainingSettings, RunSummary
from elmo_hf.pretraining.report import POINTS, Curve, draw_curves, peak_memory, write_card

from ..tiny import tiny_config

SUMMARY = RunSummary(
    step=1200,
    words=1_536_000,
    seconds=3723.4,
    forward_loss=math.log(90.0),
    backward_loss=math.log(100.0),
    peak_memory=3 * 2**30,
    model_folder=Path("run/model"),
)


def test_peak_memory_of_the_process() -> None:
    """In bytes: a process with PyTorch takes some hundred megabytes."""
    pytest.importorskip("resource")
    found = peak_memory(torch.device("cpu"))
    assert found is not None and 10**8 < found < 10**11


def test_the_closing_line() -> None:
    assert SUMMARY.line() == (
        "1,536,000 words seen | 1:02:03 | 413 words/s | held-out perplexity 94.87 (forward 90.00, backward 100.00)"
    )
    alone = RunSummary(step=1, words=5, seconds=0.0, forward_loss=None, backward_loss=None, model_folder=Path("m"))
    assert alone.line() == "5 words seen | 0:00:00 | 0 words/s | no held-out text"
    left = RunSummary(
        step=7, words=5, seconds=1.0, forward_loss=None, backward_loss=None, checkpoint=Path("run/step-7")
    )
    continues, command = left.line().split("\n")
    assert continues.startswith("left at step 7; the same command continues from run/step-7. ")
    assert command == "  elmo-hf save-model ."


def train(step: int) -> dict:
    losses = {"forward_loss": 5 - step / 1e4, "backward_loss": 5.1 - step / 1e4}
    return {"kind": "train", "step": step, "words": 100 * step, "words_per_second": 1000.0, **losses}


def test_records_survive_kills_and_keep_every_bit(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert list(log.records()) == []
    log.keep(3)
    records = [{**train(step), "forward_loss": math.pi / step} for step in range(1, 6)]
    for record in records:
        log.append(record)
    with log.path.open("a") as file:
        file.write('{"kind": "tra')
    assert list(log.records()) == records
    log.keep(3)
    log.append(records[3])
    assert list(log.records()) == records[:4]


def test_a_curve_is_thinned_evenly_and_bounded() -> None:
    curve = Curve()
    for place in range(10 * POINTS + 1):
        curve.add(place, 2.0 * place)
    assert len(curve.points) < POINTS
    x, y = curve.columns()
    assert y == tuple(2 * value for value in x)
    gaps = {right - left for left, right in itertools.pairwise(x[:-1])}
    assert gaps == {16.0}
    assert Curve().columns() == []


@pytest.mark.slow
@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize("steps", [0, 1, 300])
def test_curves_of_few_and_many_records(tmp_path: Path, steps: int) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in range(1, steps + 1):
        log.append(train(step))
        if step % 100 == 0:
            held_out = {"forward_loss": 5.0, "backward_loss": 800.0}
            log.append({"kind": "held_out", "step": step, "words": 100 * step, **held_out})
    draw_curves(log, tmp_path / "curves.png", "a run", "sampled")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} <= {"curves.png", "metrics.jsonl"}


def test_the_card_is_filled_in_from_the_run(tmp_path: Path) -> None:
    settings = PretrainingSettings(
        train_data=["/home/me/text|x.txt", "somebody/corpus"],
        held_out_data=["/home/me/h.txt"],
        output_dir="run",
        vocabulary="/home/me/v.txt",
        run_name="biLM of x",
        license="mit",
        language=["en"],
    )
    model = ElmoForPreTraining(tiny_config())
    model.save_pretrained(tmp_path)
    write_card(tmp_path, SUMMARY, settings, processes=2, curves="c.png")
    card = (tmp_path / "README.md").read_text()
    data = ModelCard(card).data
    assert (data.license, data.language, data.tags) == ("mit", ["en"], ["elmo", "bilm"])
    assert data.datasets == ["somebody/corpus"]
    first = data.eval_results[0]
    assert (first.metric_type, first.dataset_name) == ("perplexity", "h.txt")
    for part in (
        "\n# biLM of x\n",
        f"| parameters | {sum(each.numel() for each in model.state_dict().values()):,} |",
        "| words seen, in each direction | 1,536,000 |",
        "| time of the steps | 1:02:03 |",
        "| words/s | 413 |",
        "| peak memory of a process | 3.00 GiB |",
        "| h.txt (held-out) | perplexity | 94.87 |",
        "| h.txt (held-out) | perplexity, forward | 90.00 |",
        "| h.txt (held-out) | perplexity, backward | 100.00 |",
        "](c.png)",
        '| `train_data` | `["text\\|x.txt", "somebody/corpus"]` |',
        "| `learning_rate` | `0.004` |",
    ):
        assert part in card
    assert "output_dir" not in card and "/home/me" not in card
    bare = RunSummary(step=1, words=5, seconds=0.0, forward_loss=None, backward_loss=None, model_folder=Path("m"))
    write_card(tmp_path, bare, settings, processes=1, curves=None)
    assert "Evaluation" not in (tmp_path / "README.md").read_text()

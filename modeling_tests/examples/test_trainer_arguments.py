"""Arguments of the Trainer, each in a fine-tuning of a tiny tagger."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers.trainer_pt_utils import LengthGroupedSampler

from elmo_hf import ElmoModel
from elmo_hf.finetuning import TagColumns, read_tagged
from examples import run_ner
from modeling_tests.examples.ner_corpus import generate, write_conll

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "character_embedding_size": 6,
    "character_filters": [[1, 8], [2, 8]],
    "max_characters_per_word": 20,
    "projection_size": 8,
    "cell_size": 12,
    # A step must not depend on how its batch is divided.
    "representation_dropout": 0.0,
    "scalar_mix_l2": 0.01,
}
SIZES = {"train": 64, "validation": 16, "test": 16}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for split, count in SIZES.items():
        write_conll(generate(split, count), folder / f"{split}.conll")
    return folder


def options(corpus: Path, output: Path, *more: str) -> list[str]:
    files = [part for split in SIZES for part in (f"--{split}_file", str(corpus / f"{split}.conll"))]
    model = ["--preset", "small", "--config_overrides", json.dumps(TINY), "--output_dir", str(output)]
    fixed = "--do_train --do_eval --do_predict --disable_tqdm true --use_cpu --learning_rate 2e-2 --num_train_epochs 2"
    return [*model, *files, *fixed.split(), *more]


@pytest.fixture(scope="module")
def plain(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """Two epochs in batches of 8."""
    output = tmp_path_factory.mktemp("plain")
    return output, run_ner.main(options(corpus, output, "--per_device_train_batch_size", "8"))


def assert_same_run(output: Path, plain: tuple[Path, dict[str, float]]) -> None:
    """Compare weights, metrics and predictions, up to the rounding of sums in another order."""
    expected, found = (load_file(folder / "model.safetensors") for folder in (plain[0], output))
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
    metrics = json.loads((output / "all_results.json").read_text())
    for name in ("eval_f1", "test_f1", "test_accuracy"):
        assert metrics[name] == plain[1][name]
    assert metrics["train_loss"] == pytest.approx(plain[1]["train_loss"], rel=1e-4)
    # The mean over batches; two processes weight theirs by the number of words.
    for name in ("eval_loss", "test_loss"):
        assert metrics[name] == pytest.approx(plain[1][name], rel=1e-2)
    assert (output / "predictions.conll").read_text() == (plain[0] / "predictions.conll").read_text()


@pytest.mark.slow
def test_gradient_accumulation_equals_large_batches(
    plain: tuple[Path, dict[str, float]], corpus: Path, tmp_path: Path
) -> None:
    more = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "4"]
    run_ner.main(options(corpus, tmp_path, *more))
    assert_same_run(tmp_path, plain)


@pytest.mark.slow
def test_two_processes_equal_one(plain: tuple[Path, dict[str, float]], corpus: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(ROOT / "examples/run_ner.py"), *options(corpus, tmp_path, "--per_device_train_batch_size", "4")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    # Steps of both processes together, each of half a batch.
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 2 * SIZES["train"] / 8
    assert_same_run(tmp_path, plain)


@pytest.mark.slow
def test_bfloat16(
    plain: tuple[Path, dict[str, float]], corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    types = set()
    forward = ElmoModel.forward

    def record(self: ElmoModel, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            types.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(ElmoModel, "forward", record)
    metrics = run_ner.main(options(corpus, tmp_path, "--bf16", "--per_device_train_batch_size", "8"))
    assert types == {torch.bfloat16}
    assert {tensor.dtype for tensor in load_file(tmp_path / "model.safetensors").values()} == {torch.float32}
    expected, losses = ([row["loss"] for row in history(o) if "loss" in row] for o in (plain[0], tmp_path))
    assert losses == pytest.approx(expected, rel=2e-2) and losses != expected
    assert metrics["test_loss"] == pytest.approx(plain[1]["test_loss"], rel=5e-2)


def history(output: Path) -> list[dict[str, float]]:
    return json.loads((output / "trainer_state.json").read_text())["log_history"]


def test_batches_of_similar_length(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lengths are grouped in training; predictions have the order of the test file."""
    used: list[int] = []
    iterate = LengthGroupedSampler.__iter__

    def record(self: LengthGroupedSampler) -> Iterator[int]:
        indices = list(iterate(self))
        used.extend(self.lengths[index] for index in indices)
        return iter(indices)

    monkeypatch.setattr(LengthGroupedSampler, "__iter__", record)
    more = "--train_sampling_strategy group_by_length --per_device_train_batch_size 8 --num_train_epochs 1"
    metrics = run_ner.main(options(corpus, tmp_path, *more.split()))
    spread = [max(used[start : start + 8]) - min(used[start : start + 8]) for start in range(0, len(used), 8)]
    assert len(used) == SIZES["train"]
    assert sum(spread) / len(spread) < 0.5 * (max(used) - min(used))
    blocks = (tmp_path / "predictions.conll").read_text().strip().split("\n\n")
    rows = [tuple(line.split("\t")) for block in blocks for line in block.split("\n")]
    test = [(word, tag) for s in read_tagged(corpus / "test.conll", TagColumns()) for word, tag in zip(*s, strict=True)]
    assert [row[:2] for row in rows] == test
    assert metrics["test_accuracy"] == sum(gold == predicted for _, gold, predicted in rows) / len(rows)


@pytest.mark.slow
def test_tensorboard(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "curves"))
    metrics = run_ner.main(options(corpus, tmp_path, "--report_to", "tensorboard"))
    events = EventAccumulator(str(tmp_path / "curves")).Reload()
    losses = [row["loss"] for row in history(tmp_path) if "loss" in row]
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)
    assert max(event.value for event in events.Scalars("eval/f1")) == pytest.approx(metrics["eval_f1"])

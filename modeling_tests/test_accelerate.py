"""Several processes train as one does: the stock Trainer under torchrun, over gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import dispatch_model

from elmo_hf import ElmoForCausalLM, ElmoForTokenClassification, ElmoModel
from modeling_tests.tiny import TRANSFORMER, WORD_INPUT, batch_of, tiny_config, with_large_weights

SCRIPT = Path(__file__).parent / "accelerate_run.py"
TASKS = ["names", "sentiment", "answers", "translation"]
SETTINGS = ["names:whole", "names:checkpointing", "names:bf16"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Output folders of one process and of two, each launched once for all runs."""
    folders = {}
    for processes in (1, 2):
        folder = folders[processes] = tmp_path_factory.mktemp(f"processes{processes}")
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent), "ACCELERATE_USE_CPU": "true"}
        names = [*TASKS, *SETTINGS] if processes == 1 else [*TASKS, "names:bf16"]
        process = subprocess.run(
            [*command, str(SCRIPT), str(folder), *names], capture_output=True, text=True, env=environment
        )
        assert process.returncode == 0, process.stderr[-4000:]
    return folders


def assert_close(found: Path, expected: Path, tolerance: float = 1e-5) -> None:
    """The same weights after three steps of plain SGD, and the same predictions for all seven examples."""
    weights = torch.load(expected.with_suffix(".pt"))
    for name, value in torch.load(found.with_suffix(".pt")).items():
        torch.testing.assert_close(
            value, weights[name], rtol=tolerance, atol=tolerance, msg=lambda text, name=name: name + text
        )
    one, other = (np.load(path.with_suffix(".npy")) for path in (found, expected))
    assert one.shape == other.shape and len(one) == 7
    np.testing.assert_allclose(one, other, rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestProcesses:
    @pytest.mark.parametrize("task", TASKS)
    def test_two_processes_equal_one(self, task, runs):
        """With the same total batch; seven evaluation examples do not divide evenly between two processes."""
        assert_close(runs[2] / task, runs[1] / task)
        assert json.loads((runs[1] / f"{task}.json").read_text())["changed"] > 10

    @pytest.mark.parametrize("setting", ["whole", "checkpointing"])
    def test_settings_equal_plain_training(self, setting, runs):
        """Accumulation and activation checkpointing do not change the result."""
        assert_close(runs[1] / f"names:{setting}", runs[1] / "names")

    @pytest.mark.parametrize("processes", [1, 2])
    def test_bf16_is_near(self, processes, runs):
        assert_close(runs[processes] / "names:bf16", runs[1] / "names", 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [{}, TRANSFORMER], ids=["biLSTM", "Transformer"])
@pytest.mark.parametrize("cls", [ElmoModel, ElmoForTokenClassification, ElmoForCausalLM])
def test_device_map_with_offloaded_layers(cls, overrides, tmp_path):
    """Weights that Accelerate offloads and loads when a layer runs give the same numbers."""
    model = with_large_weights(cls(tiny_config(**overrides))).eval()
    batch = batch_of(["a cat sat", "no"])
    expected = model(**batch)[0]
    prefix = "" if cls is ElmoModel else "elmo."
    modules = dict(model.named_children())
    device_map = {name: "cpu" for name in modules if name != "elmo"}
    if prefix:
        device_map |= {f"elmo.{name}": "cpu" for name, _ in model.elmo.named_children()}
    del device_map[f"{prefix}encoder"]
    for name, _ in model.get_submodule(f"{prefix}encoder").named_children():
        device_map[f"{prefix}encoder.{name}"] = "disk" if name == "layers" else "cpu"
    dispatched = dispatch_model(model, device_map, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    assert any(weight.is_meta for weight in dispatched.parameters())
    with torch.no_grad():
        torch.testing.assert_close(dispatched(**batch)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("overrides", [{}, WORD_INPUT, TRANSFORMER], ids=["characters", "words", "Transformer"])
@pytest.mark.parametrize("cls", [ElmoModel, ElmoForTokenClassification, ElmoForCausalLM])
def test_device_map_auto(cls, overrides, tmp_path):
    """Also where the CPU holds less than the model, so that the rest stays on the disk."""
    model = with_large_weights(cls(tiny_config(**overrides))).eval()
    model.save_pretrained(tmp_path)
    batch = batch_of(["a cat sat", "no"])
    room = int(sum(weight.nbytes for weight in model.parameters()) * 0.6)
    for options in ({}, {"max_memory": {"cpu": room}, "offload_folder": tmp_path / "rest"}):
        again = cls.from_pretrained(tmp_path, device_map="auto", **options).eval()
        assert any(weight.is_meta for weight in again.parameters()) == bool(options)
        with torch.no_grad():
            torch.testing.assert_close(again(**batch)[0], model(**batch)[0], rtol=1e-5, atol=1e-5)

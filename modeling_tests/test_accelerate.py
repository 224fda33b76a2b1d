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
from modeling_tests.tiny import TRANSFORMER, batch_of, tiny_config, with_large_weights

SCRIPT = Path(__file__).parent / "accelerate_run.py"
TASKS = ["names", "sentiment", "answers", "translation"]


def run(task: str, processes: int, folder: Path) -> tuple[dict[str, torch.Tensor], np.ndarray]:
    """The weights after three steps, and the predictions for seven examples."""
    folder.mkdir()
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent.parent), "ACCELERATE_USE_CPU": "true"}
    process = subprocess.run(
        [*command, str(SCRIPT), task, str(folder)], capture_output=True, text=True, env=environment
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return torch.load(folder / "weights.pt"), np.load(folder / "predictions.npy")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("task", TASKS)
def test_two_processes_equal_one(task, tmp_path):
    """With the same batch in all: three steps of plain SGD; seven examples are evaluated, which two cannot share."""
    weights, predictions = run(task, 1, tmp_path / "one")
    for name, value in run(task, 2, tmp_path / "two")[0].items():
        torch.testing.assert_close(value, weights[name], rtol=1e-5, atol=1e-6, msg=lambda text, name=name: name + text)
    start = json.loads((tmp_path / "one" / "changed.json").read_text())
    assert start["changed"] > 10 and len(predictions) == 7
    found = np.load(tmp_path / "two" / "predictions.npy")
    assert found.shape == predictions.shape
    np.testing.assert_allclose(found, predictions, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("overrides", [{}, TRANSFORMER], ids=["biLSTM", "Transformer"])
@pytest.mark.parametrize("cls", [ElmoModel, ElmoForTokenClassification, ElmoForCausalLM])
def test_device_map_with_offloaded_layers(cls, overrides, tmp_path):
    """Weights that Accelerate keeps elsewhere and brings when a layer runs: the same numbers."""
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


@pytest.mark.parametrize("cls", [ElmoModel, ElmoForTokenClassification, ElmoForCausalLM])
def test_device_map_auto(cls, tmp_path):
    model = with_large_weights(cls(tiny_config())).eval()
    model.save_pretrained(tmp_path)
    again = cls.from_pretrained(tmp_path, device_map="auto").eval()
    batch = batch_of(["a cat sat", "no"])
    torch.testing.assert_close(again(**batch)[0], model(**batch)[0])

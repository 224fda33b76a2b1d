"""A saved folder works where the package is not installed: its own code travels with it."""

import json
import os
import subprocess
import sys

import pytest
import torch

from elmo_hf import ElmoForPreTraining, ElmoForTokenClassification, ElmoModel, ElmoTokenizer
from elmo_hf.configuration_elmo import AUTO_MAP

from .tiny import WORD_INPUT, tiny_config, with_large_weights

STRANGER = """
import json, sys
sys.modules["elmo_hf"] = None  # as if it were not installed: importing it fails
import torch
from transformers import (AutoConfig, AutoModel, AutoModelForPreTraining, AutoModelForTokenClassification,
                          AutoTokenizer, pipeline)
folder, auto, again = sys.argv[1:]
auto = globals()[auto]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = auto.from_pretrained(folder, trust_remote_code=True).eval()
batch = tokenizer(["Ada met Grace.", "No"], padding=True, return_tensors="pt")
with torch.no_grad():
    values = model(**batch)[0]
# What was loaded from code can be saved with it once more.
model.save_pretrained(again)
tokenizer.save_pretrained(again)
with torch.no_grad():
    second = auto.from_pretrained(again, trust_remote_code=True).eval()(**batch)[0]
print(json.dumps({
    "type": type(model).__name__, "module": type(model).__module__.split(".")[0], "values": values.tolist(),
    "second": second.tolist(), "ids": batch["input_ids"].tolist(),
}))
"""


@pytest.mark.parametrize(
    ("cls", "auto", "overrides"),
    [
        (ElmoModel, "AutoModel", {}),
        (ElmoForPreTraining, "AutoModelForPreTraining", {}),
        (ElmoForTokenClassification, "AutoModelForTokenClassification", {}),
        # Another task than the saved one: every class has its entry.
        (ElmoForTokenClassification, "AutoModel", {}),
        (ElmoForPreTraining, "AutoModelForPreTraining", {**WORD_INPUT, "tie_word_embeddings": True}),
    ],
)
def test_loads_without_the_package(cls, auto, overrides, tmp_path):
    model = with_large_weights(cls(tiny_config(**overrides))).eval()
    tokenizer = ElmoTokenizer(max_characters_per_word=9)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert not any(path.is_dir() for path in (tmp_path / "model").iterdir())
    run = subprocess.run(
        [sys.executable, "-c", STRANGER, str(tmp_path / "model"), auto, str(tmp_path / "again")],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.strip().splitlines()[-1])
    assert result["type"] == AUTO_MAP[auto].split(".")[1]
    assert result["module"] == "transformers_modules"
    batch = tokenizer(["Ada met Grace.", "No"], padding=True, return_tensors="pt")
    assert result["ids"] == batch["input_ids"].tolist()
    expected = (model if auto != "AutoModel" or cls is ElmoModel else model.elmo)(**batch)[0]
    torch.testing.assert_close(torch.tensor(result["values"]), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.tensor(result["second"]), expected, rtol=0, atol=1e-6)


def test_registered_classes_need_no_trust(tmp_path):
    """With the package imported its own classes are used, and no code of the folder runs."""
    from transformers import AutoModel, AutoTokenizer

    ElmoModel(tiny_config()).save_pretrained(tmp_path)
    ElmoTokenizer(max_characters_per_word=9).save_pretrained(tmp_path)
    (tmp_path / "modeling_elmo.py").write_text("raise SystemExit('ran the code of a folder')")
    assert type(AutoModel.from_pretrained(tmp_path)) is ElmoModel
    assert type(AutoTokenizer.from_pretrained(tmp_path)) is ElmoTokenizer


def test_auto_map_names_every_registered_class():
    import importlib

    for auto, reference in AUTO_MAP.items():
        module, name = reference.split(".")
        assert getattr(importlib.import_module(f"elmo_hf.{module}"), name)._auto_class == auto

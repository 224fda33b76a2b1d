"""A saved folder works where the package is not installed: its own code travels with it."""

import json
import os
import subprocess
import sys

import pytest
import torch

from elmo_hf import (
    ElmoForMaskedLM,
    ElmoForMultipleChoice,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
)
from elmo_hf.configuration_elmo import AUTO_MAP

from .tiny import BOTH_INPUTS, TRANSFORMER, WORD_INPUT, tiny_config, with_large_weights

# With all that a tagger can have: a field, an LSTM and word vectors of its own, ELMo at both places.
PAPERS_TAGGER = {
    "use_crf": True,
    "tag_scheme": "BIO",
    "id2label": {0: "O", 1: "B-PER", 2: "I-PER"},
    "label2id": {"O": 0, "B-PER": 1, "I-PER": 2},
    "elmo_at": ["input", "output"],
    "word_vector_size": 3,
    "task_lstm_size": 2,
}

STRANGER = """
import json, sys
sys.modules["elmo_hf"] = None  # as if it were not installed: importing it fails
import torch
import transformers
from transformers import AutoConfig, AutoTokenizer
folder, auto, again = sys.argv[1:]
auto = getattr(transformers, auto)
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = auto.from_pretrained(folder, trust_remote_code=True).eval()
contexts = [["I see.", "Did they meet?"]] if auto is transformers.AutoModelForQuestionAnswering else []
batch = tokenizer(["Ada met Grace.", "No"], *contexts, padding=True, return_tensors="pt")
if auto is transformers.AutoModelForMultipleChoice:
    batch = {name: value.unsqueeze(0) for name, value in batch.items()}
with torch.no_grad():
    values = model(**batch)[0]
# What was loaded from code can be saved with it once more.
model.save_pretrained(again)
tokenizer.save_pretrained(again)
with torch.no_grad():
    second = auto.from_pretrained(again, trust_remote_code=True).eval()(**batch)[0]
print(json.dumps({
    "type": type(model).__name__, "module": type(model).__module__.split(".")[0], "values": values.tolist(),
    "second": second.tolist(), "ids": batch["input_ids"].flatten(0, -2).tolist(),
}))
"""


@pytest.mark.parametrize(
    ("cls", "auto", "overrides"),
    [
        (ElmoModel, "AutoModel", {}),
        (ElmoForPreTraining, "AutoModelForPreTraining", {}),
        (ElmoForMaskedLM, "AutoModelForMaskedLM", {}),
        (ElmoForTokenClassification, "AutoModelForTokenClassification", {}),
        (
            ElmoForSequenceClassification,
            "AutoModelForSequenceClassification",
            {"pooling": ["max", "attention"], "maxout_sizes": [3], "task_lstm_size": 2},
        ),
        (ElmoForMultipleChoice, "AutoModelForMultipleChoice", {}),
        (ElmoForQuestionAnswering, "AutoModelForQuestionAnswering", {"task_lstm_size": 2}),
        (ElmoForTokenClassification, "AutoModelForTokenClassification", PAPERS_TAGGER),
        (ElmoForTokenClassification, "AutoModelForTokenClassification", {"elmo_at": [], "word_vector_size": 3}),
        # Another task than the saved one: every class has its entry.
        (ElmoForTokenClassification, "AutoModel", {}),
        (ElmoForPreTraining, "AutoModelForPreTraining", {**WORD_INPUT, "tie_word_embeddings": True}),
        (ElmoForPreTraining, "AutoModelForPreTraining", {**BOTH_INPUTS, "context_word_layer": True}),
        (ElmoForSequenceClassification, "AutoModelForSequenceClassification", BOTH_INPUTS),
        (ElmoModel, "AutoModel", {**TRANSFORMER, "causal": False, "character_layer_norm": True}),
        (ElmoForPreTraining, "AutoModelForPreTraining", TRANSFORMER),
        (ElmoForTokenClassification, "AutoModelForTokenClassification", {**TRANSFORMER, **WORD_INPUT}),
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
    contexts = [["I see.", "Did they meet?"]] if cls is ElmoForQuestionAnswering else []
    batch = tokenizer(["Ada met Grace.", "No"], *contexts, padding=True, return_tensors="pt")
    assert result["ids"] == batch["input_ids"].tolist()
    if cls is ElmoForMultipleChoice:
        batch = {name: value.unsqueeze(0) for name, value in batch.items()}
    expected = (model if auto != "AutoModel" or cls is ElmoModel else model.elmo)(**batch)[0]
    torch.testing.assert_close(torch.tensor(result["values"]), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.tensor(result["second"]), expected, rtol=0, atol=1e-6)


TAGGED = """
import json, sys
sys.modules["elmo_hf"] = None
from transformers import AutoModelForTokenClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
model = AutoModelForTokenClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
words, tags = json.loads(sys.argv[2])
batch = tokenizer(words, pos_tags=tags, is_split_into_words=True, padding=True, return_tensors="pt")
print(json.dumps(model(**batch)[0].tolist()))
"""


def test_a_dictionary_of_characters_and_a_tag_set_load_without_the_package(tmp_path):
    tokenizer = ElmoTokenizer(
        max_characters_per_word=9,
        character_vocabulary=["<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>", *"中文kitab"],
        pos_tag_set=["NOUN", "VERB"],
    )
    config = tiny_config(**BOTH_INPUTS, num_pos_tags=2, num_characters=tokenizer.num_characters)
    model = with_large_weights(ElmoForTokenClassification(config)).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    words, tags = [["中文", "kitab"], ["字"]], [["NOUN", "VERB"], [None]]
    run = subprocess.run(
        [sys.executable, "-c", TAGGED, str(tmp_path / "model"), json.dumps([words, tags])],
        cwd=tmp_path,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    batch = tokenizer(words, pos_tags=tags, is_split_into_words=True, padding=True, return_tensors="pt")
    found = torch.tensor(json.loads(run.stdout.strip().splitlines()[-1]))
    torch.testing.assert_close(found, model(**batch)[0], rtol=0, atol=1e-6)


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

"""The code on a card works from the Hub without this package, with the pushed modeling code."""

import os

import pytest

from elmo_hf import ElmoForTokenClassification, ElmoModel, ElmoTokenizer
from elmo_hf.hub import CardFacts, push, write_card
from modeling_tests.forking import run_python
from modeling_tests.tiny import tiny_config, with_large_weights

WITHOUT_PACKAGE = """
import re, sys
sys.modules["elmo_hf"] = None  # as if it were not installed: importing it fails
from huggingface_hub import hf_hub_download
from transformers import AutoModel

for name, revision in zip(sys.argv[1::2], sys.argv[2::2]):
    text = open(hf_hub_download(name, "README.md", revision=revision)).read()
    code = re.findall(r"```python\\n(.*?)```", text, re.DOTALL)[1]
    exec(compile(code, name, "exec"), {})
    model = AutoModel.from_pretrained(name, revision=revision, trust_remote_code=True)
    print("LOADED", name, type(model).__module__.split(".")[0])
"""


@pytest.mark.slow
def test_card_code_runs_without_the_package(hub, tmp_path):
    tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "the"], max_characters_per_word=9)
    arguments = []
    for name, kind in (("vectors", ElmoModel), ("tagger", ElmoForTokenClassification)):
        with_large_weights(kind(tiny_config(vocab_size=len(tokenizer)))).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        write_card(tmp_path / name, CardFacts(name=name, summary="A model.", license="mit", language=["en"]))
        report = push(tmp_path / name, f"writer/{name}", private=True)
        arguments += [report.name, str(report.commit)]
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
        "PYTHONPATH": "",
    }
    result = run_python("-c", WITHOUT_PACKAGE, *arguments, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    for name in ("vectors", "tagger"):
        assert f"LOADED writer/{name} transformers_modules" in result.stdout

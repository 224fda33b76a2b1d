"""Every block of `docs/moving` runs: new lines as they stand, old lines over the classes of `elmo_hf.compat`.

Old lines of programs without such classes are parsed only.
"""

import ast
import shutil
import sys
from types import ModuleType

import h5py
import numpy as np
import pytest
import torch

import elmo_hf.compat.allennlp
import elmo_hf.compat.elmoformanylangs
import elmo_hf.compat.simple_elmo
from hub_upload import convert
from modeling_tests.documents import ROOT, blocks, run_commands, run_python
from modeling_tests.hub_upload.checkpoints import options, write_bilm
from modeling_tests.hub_upload.many_languages import write_model

PAGES = ROOT / "docs" / "moving"
SENTENCES = ["First sentence .", "the neural network", "Another ."]
VOCABULARY = ["<S>", "</S>", "<UNK>", *dict.fromkeys(" ".join(SENTENCES).split())]

# What old lines import, and what takes its place.
OLD_MODULES = {
    "allennlp.modules.elmo": elmo_hf.compat.allennlp,
    "allennlp.modules.token_embedders": elmo_hf.compat.allennlp,
    "allennlp.modules.conditional_random_field": elmo_hf.compat.allennlp,
    "allennlp.modules.conditional_random_field.conditional_random_field": elmo_hf.compat.allennlp,
    "allennlp.commands.elmo": elmo_hf.compat.allennlp,
    "simple_elmo": elmo_hf.compat.simple_elmo,
    "elmoformanylangs": elmo_hf.compat.elmoformanylangs,
}
WITH_OLD_LINES = ("allennlp.md", "simple_elmo.md", "elmoformanylangs.md")


def side(diff, mark):
    """The lines of one side of a block, and those of both."""
    lines = diff.splitlines()
    assert all(line[:1] in ("-", "+", " ") for line in lines), "a line of a diff without its mark"
    return "".join(f"{line[1:]}\n" for line in lines if line[:1] in (mark, " "))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with the files that the pages name."""
    monkeypatch.chdir(tmp_path)
    arrays = write_bilm(tmp_path, options(), weights="weights.hdf5")
    (tmp_path / "sentences.txt").write_text("".join(line + "\n" for line in SENTENCES))
    (tmp_path / "vocab.txt").write_text("".join(word + "\n" for word in VOCABULARY))
    write_bilm(tmp_path / "209", options(), arrays=arrays, weights="model.hdf5")
    write_bilm(tmp_path / "language-model", vocabulary=VOCABULARY)
    write_model(tmp_path / "179")
    return tmp_path


@pytest.fixture
def old_modules(monkeypatch):
    """The old programs' names lead to `elmo_hf.compat`."""
    for name in OLD_MODULES:
        parts = name.split(".")
        for count in range(1, len(parts)):
            monkeypatch.setitem(sys.modules, ".".join(parts[:count]), ModuleType(parts[0]))
    for name, module in OLD_MODULES.items():
        monkeypatch.setitem(sys.modules, name, module)


def run_page(page, mark):
    names = {}
    for block in blocks(PAGES / page):
        if block.language == "sh":
            run_commands(block.text)
        else:
            code = block.text if block.language == "python" else side(block.text, mark)
            run_python(block._replace(text=code), page, names)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(path.name for path in PAGES.glob("*.md") if path.name != "README.md"))
def test_new_lines(page, place):
    if any("token_embeddings.hdf5" in block.text for block in blocks(PAGES / page) if block.language == "sh"):
        write_token_embeddings(place)
    torch.manual_seed(0)
    run_page(page, "+")


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_OLD_LINES)
def test_old_lines(page, place, old_modules):
    torch.manual_seed(0)
    run_page(page, "-")


def test_old_lines_are_python():
    for path in PAGES.glob("*.md"):
        for block in blocks(path):
            if block.language == "diff":
                ast.parse(side(block.text, "-"))


def test_the_index_names_every_page():
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in PAGES.glob("*.md")} - {"README.md"}
    assert pages and [name for name in pages if f"({name})" not in index] == []


def write_token_embeddings(place):
    """What `dump_token_embeddings` writes of the vocabulary: each word's vector from its characters."""
    convert(place / "weights.hdf5", place / "words", options=place / "options.json", without_vocabulary=True)
    embedder = elmo_hf.compat.allennlp.Elmo(place / "words", None, 1, vocab_to_cache=["", *VOCABULARY])
    with h5py.File(place / "token_embeddings.hdf5", "w") as file:
        file["embedding"] = np.asarray(embedder._elmo_lstm._word_embedding.weight[1:].detach())
    shutil.rmtree(place / "words")

"""The shipped model: its files, and its use as the default of every function and command."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer, pipeline

import elmo_hf
from elmo_hf import default_model, embed, embed_document, embed_iter, neighbors, score, senses
from elmo_hf.cli import main
from elmo_hf.finetuning import ModelArguments, TranslatorArguments
from elmo_hf.inference import loading

SENTENCE = "The old man sat down on the bank of the river ."


@pytest.fixture(scope="module")
def language_model():
    return AutoModelForPreTraining.from_pretrained(default_model()).eval()


@pytest.fixture(scope="module")
def vectors():
    return embed([SENTENCE])[0]


def test_the_folder_holds_a_small_model_and_no_code():
    folder = Path(default_model())
    assert folder.is_relative_to(Path(elmo_hf.__file__).parent / "data")
    files = {path.name for path in folder.iterdir()}
    assert files == {"README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 16e6
    for name in ("config.json", "tokenizer_config.json"):
        assert "auto_map" not in json.loads((folder / name).read_text())
    card = (folder / "README.md").read_text()
    assert "public domain **in the United States**" in card
    assert "float16, as shipped" in card


def test_weights_are_half_precision_and_load_in_single():
    with safe_open(Path(default_model()) / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118
        assert {"softmax.weight", "softmax.bias"} <= set(file.keys())
    model, tokenizer = AutoModel.from_pretrained(default_model()), AutoTokenizer.from_pretrained(default_model())
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert len(tokenizer) == model.config.vocab_size
    assert model(**tokenizer(SENTENCE, return_tensors="pt")).last_hidden_state.shape[-1] == 2 * 128


def test_wheel_includes_the_model():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    project = tomllib.loads((Path(elmo_hf.__file__).parent.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["elmo_hf"]
    package = Path(elmo_hf.__file__).parent
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    assert set(Path(default_model()).iterdir()) <= packed


@pytest.mark.slow
def test_model_prefers_grammatical_english(language_model):
    sense, nonsense = score([SENTENCE, "river the of man on down bank the sat old The ."], language_model).both
    assert sense * 20 < nonsense
    assert score([SENTENCE]).both[0] == pytest.approx(sense, rel=1e-5)
    fill = pipeline("fill-mask", model=default_model())
    assert "of" in [answer["token_str"] for answer in fill("She was one <mask> them .")]


@pytest.mark.slow
def test_every_function_reads_it_when_none_is_named(vectors):
    named = embed([SENTENCE], default_model())[0]
    assert np.array_equal(vectors, named)
    assert np.array_equal(next(embed_iter([SENTENCE])), named)
    np.testing.assert_allclose(np.concatenate(list(embed_document(SENTENCE.split()))), named, atol=1e-5)
    assert loading.load_tokenizer(None, None).get_vocab() == AutoTokenizer.from_pretrained(default_model()).get_vocab()


def test_every_command_reads_it_when_none_is_named(vectors, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text(SENTENCE + "\n")
    assert main(["embed", str(text), str(tmp_path / "out.hdf5"), "--device", "cpu"]) == 0
    with h5py.File(tmp_path / "out.hdf5") as file:
        np.testing.assert_allclose(file["0"][...], vectors, atol=1e-5)
    lines = []
    # The model may be omitted, wherever the options are.
    for arguments in (
        [str(text), "--device", "cpu"],
        ["--device", "cpu", str(text)],
        [default_model(), "--device", "cpu", str(text)],
        [default_model(), str(text), "--device", "cpu"],
    ):
        capsys.readouterr()
        assert main(["perplexity", *arguments]) == 0
        lines.append(capsys.readouterr().out)
    assert len(set(lines)) == 1 and "12 words (0 unknown)" in lines[0]


def test_two_files_are_both_text(tmp_path, capsys):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(SENTENCE + "\n")
    assert main(["perplexity", str(tmp_path / "a.txt"), str(tmp_path / "b.txt"), "--device", "cpu"]) == 0
    assert "2 sentence ends" in capsys.readouterr().out


def test_fine_tuning_starts_from_it():
    assert ModelArguments().model_name_or_path == TranslatorArguments().model_name_or_path == default_model()
    assert ModelArguments(preset="small").model_name_or_path is None
    assert ModelArguments(without_elmo=True).model_name_or_path is None


def test_a_package_without_its_data(monkeypatch, tmp_path):
    monkeypatch.setattr(loading, "DEFAULT_MODEL", tmp_path / "default")
    with pytest.raises(FileNotFoundError, match="default holds no model"):
        embed([SENTENCE])


@pytest.mark.slow
def test_neighbors_and_senses_use_it_by_default():
    corpus = [sentence.split() for sentence in ("the lamp gave a light .", "he stopped to light his pipe .")]
    asked = ("light", "the light of the lamp .", corpus)
    assert neighbors(*asked, count=2) == neighbors(*asked, default_model(), count=2)
    found, named = senses("light", {"a": corpus}, count=2), senses("light", {"a": corpus}, default_model(), count=2)
    np.testing.assert_array_equal(found.vectors, named.vectors)

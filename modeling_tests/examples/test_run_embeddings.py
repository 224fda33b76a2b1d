"""`examples/run_embeddings.py`: files of every kind against `embed`, and the vectors that bilm-tf itself wrote."""

import gzip
import json
import runpy
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import run_embeddings
from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer, embed
from hub_upload.cli import main as hub

LINES = ["The cat ( a cat ) sat .", "on", "", "the mat", "cat", "on", "a b c d e f g h"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    config = ElmoConfig(character_filters=[[1, 4], [2, 8]], max_characters_per_word=12, projection_size=4, cell_size=6)
    ElmoModel(config).save_pretrained(path)
    ElmoTokenizer(max_characters_per_word=12).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return path


def run(folder: Path, text: Path, output: Path, *more: str) -> tuple[int, int]:
    argv = ["--model_name_or_path", str(folder), "--input_files", str(text), "--output_file", str(output), *more]
    return run_embeddings.main(argv)


def read(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    if path.suffix == ".safetensors":
        return load_file(path)
    with h5py.File(path) as file:
        return {name: file[name][...] for name in file if name != "sentence_to_index"}


@pytest.mark.parametrize("suffix", run_embeddings.WRITERS)
@pytest.mark.parametrize("layers", ["mix", "all"])
def test_every_kind_of_file(folder: Path, text: Path, tmp_path: Path, suffix: str, layers: str) -> None:
    output = tmp_path / f"vectors{suffix}"
    assert run(folder, text, output, "--layers", layers, "--batch_words", "20") == (7, 21)
    expected = embed([line.split() for line in LINES], folder, layers=layers)
    found = read(output)
    assert sorted(found, key=int) == [str(number) for number in range(7)]
    for number, array in enumerate(expected):
        assert found[str(number)].dtype == np.float32
        assert found[str(number)].shape == array.shape
        np.testing.assert_allclose(found[str(number)], array, rtol=0, atol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == [output.name]


def test_index_of_sentences(folder: Path, text: Path, tmp_path: Path) -> None:
    """As AllenNLP's `elmo` command: sentence -> name of its array; of repeated sentences the last."""
    run(folder, text, tmp_path / "with.hdf5")
    with h5py.File(tmp_path / "with.hdf5") as file:
        index = json.loads(file["sentence_to_index"][0])
        assert file["sentence_to_index"].shape == (1,)
    assert index == {line: str(number) for number, line in enumerate(LINES)}
    assert index["on"] == "5"
    run(folder, text, tmp_path / "without.hdf5", "--forget_sentences")
    with h5py.File(tmp_path / "without.hdf5") as file:
        assert "sentence_to_index" not in file and len(file) == 7


def test_other_inputs(folder: Path, text: Path, tmp_path: Path) -> None:
    run(folder, text, tmp_path / "expected.npz")
    expected = read(tmp_path / "expected.npz")
    records = [{"sentence": line.split()} for line in LINES]
    (tmp_path / "text.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    with gzip.open(tmp_path / "text.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(LINES) + "\n")
    for name, more in (("text.jsonl", ["--text_column", "sentence"]), ("text.txt.gz", [])):
        run(folder, tmp_path / name, tmp_path / "found.npz", *more)
        found = read(tmp_path / "found.npz")
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[key], expected[key]) for key in expected), name


def test_raw_text_boundaries_and_half_precision(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "raw.txt").write_text("The cat (a cat) sat.\n")
    more = ["--pre_tokenization", "ptb", "--boundaries", "--half_precision", "--layers", "top"]
    assert run(folder, tmp_path / "raw.txt", tmp_path / "out.npz", *more) == (1, 10)
    expected = embed(["The cat (a cat) sat."], folder, layers="top", boundaries=True)[0]
    found = read(tmp_path / "out.npz")["0"]
    assert found.dtype == np.float16
    assert np.array_equal(found, expected.astype(np.float16))
    run(folder, tmp_path / "raw.txt", tmp_path / "bf16.npz", "--bf16")
    assert np.isfinite(read(tmp_path / "bf16.npz")["0"]).all()


def test_the_vectors_of_bilm_tf(reference: Path, tmp_path: Path) -> None:
    """The first batch of the original's own output starts from zero states, as every sentence does here."""
    originals = reference / "bilm_tf"
    sentences = json.loads((originals / "lm_embeddings_sentences.json").read_text())
    arguments = [str(originals / "lm_weights.hdf5"), "--options", str(originals / "options.json")]
    assert hub(["convert", *arguments, str(tmp_path / "model")]) == 0
    (tmp_path / "text.txt").write_text("".join(of_list[0].strip() + "\n" for of_list in sentences), encoding="utf-8")
    run(tmp_path / "model", tmp_path / "text.txt", tmp_path / "out.hdf5", "--layers", "top")
    found = read(tmp_path / "out.hdf5")
    for number in range(3):
        with h5py.File(originals / f"lm_embeddings_{number}.hdf5") as file:
            forward, backward = file["0"][...]
        np.testing.assert_allclose(found[str(number)], np.concatenate([forward, backward], 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("suffix", [".hdf5", ".npz", ".safetensors"])
def test_a_failed_run_leaves_the_old_file(folder: Path, text: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"vectors{suffix}"
    output.write_bytes(b"mine")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "fine"}\n{"other": "column"}\n')
    with pytest.raises(ValueError, match="bad.jsonl"):
        run(folder, bad, output, "--batch_words", "1")
    assert output.read_bytes() == b"mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.jsonl", output.name]


def test_bad_options(folder: Path, text: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"out.txt: expected a name that ends in .hdf5, .h5, .npz, .safetensors"):
        run(folder, text, tmp_path / "out.txt")
    with pytest.raises(FileNotFoundError, match="no file matches"):
        run(folder, tmp_path / "missing.txt", tmp_path / "out.npz")
    assert not list(tmp_path.iterdir())


def test_command_line_reports_errors_in_one_line(
    folder: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv = ["run_embeddings.py", "--model_name_or_path", str(folder), "--input_files", str(text)]
    monkeypatch.setattr(sys, "argv", [*argv, "--output_file", str(tmp_path / "out.txt")])
    with pytest.raises(SystemExit, match="^error: --output_file .*expected a name that ends in") as stopped:
        runpy.run_path(str(run_embeddings.__file__), run_name="__main__")
    assert "\n" not in str(stopped.value)

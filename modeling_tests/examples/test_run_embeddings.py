"""`examples/run_embeddings.py`: what it writes and reads back, against `embed`."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer, embed
from examples import run_embeddings

LINES = ["The cat ( a cat ) sat .", "on", "", "the mat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    config = ElmoConfig(character_filters=[[1, 4], [2, 8]], max_characters_per_word=12, projection_size=4, cell_size=6)
    ElmoModel(config).save_pretrained(path)
    ElmoTokenizer(max_characters_per_word=12).save_pretrained(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hdf5", "parquet", "safetensors"])
def test_every_output_format(folder: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    argv = ["--model_name_or_path", str(folder), "--input_files", str(tmp_path / "text.txt"), "--layers", "all"]
    summary = run_embeddings.main([*argv, "--output", str(tmp_path / f"out.{kind}")])
    assert (summary.sentences, summary.words) == (4, 11)
    assert "sentence 0: (3, 8, 8)" in capsys.readouterr().out
    for number, array in enumerate(embed([line.split() for line in LINES], folder, layers="all")):
        found = run_embeddings.read_vectors(summary.output, number)
        np.testing.assert_allclose(found.reshape(array.shape), array, rtol=0, atol=1e-6)


def test_command_line_reports_errors_in_one_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["run_embeddings.py", "--model_name_or_path", str(folder), "--input_files", str(tmp_path / "missing.txt")]
    monkeypatch.setattr(sys, "argv", [*argv, "--output", str(tmp_path / "out.hdf5")])
    with pytest.raises(SystemExit, match="^error: .*missing.txt") as stopped:
        runpy.run_path(str(run_embeddings.__file__), run_name="__main__")
    assert "\n" not in str(stopped.value)

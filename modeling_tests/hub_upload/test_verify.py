"""`verify` passes what is right and fails what is wrong, however small."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from elmo_hf import ElmoTokenizer
from hub_upload import CheckpointError, convert, verify

from .checkpoints import options, write_bilm


@pytest.fixture
def converted(tmp_path):
    write_bilm(tmp_path / "source")
    convert(tmp_path / "source", tmp_path / "folder")
    return tmp_path


def change(folder, name, function):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = function(tensors[name])
    save_file(tensors, path, metadata={"format": "pt"})


def test_references_pass(reference, tmp_path):
    convert(reference / "bilm_tf", tmp_path / "folder")
    report = verify(tmp_path / "folder", reference / "bilm_tf")
    assert report.passed
    assert report.largest <= 2e-6  # float32 against float64
    assert len(report.differences) == len(report.carried) == 3


@pytest.mark.parametrize(
    ("name", "function", "first_wrong"),
    [
        ("embeddings.projection.bias", lambda x: x + 1e-3, 0),
        ("embeddings.highways.1.gate.weight", lambda x: -x, 0),
        ("encoder.layers.0.forward_lstm.input_proj.bias", lambda x: x + 0.01, 1),
        ("encoder.layers.1.backward_lstm.hidden_proj.weight", lambda x: x.roll(10, 0), 2),
        ("encoder.layers.1.backward_lstm.output_proj.weight", lambda x: x * torch.nan, 2),
    ],
)
def test_a_wrong_tensor_fails_from_its_layer_on(converted, name, function, first_wrong):
    change(converted / "folder", name, function)
    report = verify(converted / "folder", converted / "source")
    assert not report.passed
    assert all(value <= 5e-6 for value in report.differences[:first_wrong])
    assert not report.differences[first_wrong] <= 1e-4


@pytest.mark.parametrize(
    ("key", "value"),
    [("forget_bias", 0.0), ("use_skip_connections", False), ("cell_clip", None), ("character_activation", "tanh")],
)
def test_a_wrong_configuration_fails(converted, key, value):
    path = converted / "folder" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert not verify(converted / "folder", converted / "source").passed


def test_a_wrong_tokenizer_fails(converted):
    ElmoTokenizer(add_bos_token=False).save_pretrained(converted / "folder")
    with pytest.raises(CheckpointError, match=r"the tokenizer makes \d+ words"):
        verify(converted / "folder", converted / "source")


def test_own_sentences_and_tolerance(converted):
    report = verify(converted / "folder", converted / "source", sentences=[["only", "one"], []])
    assert report.sentences == 1
    assert not verify(converted / "folder", converted / "source", tolerance=0).passed


def test_bad_input(converted):
    folder, source = converted / "folder", converted / "source"
    with pytest.raises(CheckpointError, match="nothing to compare"):
        verify(folder, source, sentences=[[]])
    with pytest.raises(CheckpointError, match="tolerance nan"):
        verify(folder, source, tolerance=float("nan"))
    with pytest.raises(CheckpointError, match="no such folder"):
        verify(converted / "absent", source)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        verify(folder, converted / "absent")
    write_bilm(converted / "other", n_layers=1)
    with pytest.raises(CheckpointError, match="3 layers of width 12, .*other has 2 of width 12"):
        verify(folder, converted / "other")
    (source / "options.json").write_text(json.dumps(options(filters=[[1, 4]])))
    with pytest.raises(CheckpointError, match="does not fit"):
        verify(folder, source)
    (source / "options.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not fit"):
        verify(folder, source)
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        verify(folder, source)

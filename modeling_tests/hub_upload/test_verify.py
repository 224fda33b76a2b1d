"""`verify` passes correct folders and fails on small errors."""

import json

import h5py
import pytest
import torch
from safetensors.torch import load_file, save_file

from elmo_hf import ElmoTokenizer
from hub_upload import CheckpointError, convert, verify
from hub_upload.cli import main

from .checkpoints import FILTERS, VOCABULARY, bilm_arrays, options, word_options, write_bilm


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


@pytest.mark.slow
def test_references_pass(reference, tmp_path):
    convert(reference / "bilm_tf", tmp_path / "folder")
    report = verify(tmp_path / "folder", reference / "bilm_tf")
    assert report.passed
    assert report.largest <= 2e-6  # float32 against float64
    assert len(report.differences) == len(report.carried) == 3


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value"),
    [("forget_bias", 0.0), ("use_skip_connections", False), ("cell_clip", None), ("character_activation", "tanh")],
)
def test_a_wrong_configuration_fails(converted, key, value):
    path = converted / "folder" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    assert not verify(converted / "folder", converted / "source").passed


@pytest.mark.slow
def test_a_wrong_tokenizer_fails(converted):
    ElmoTokenizer(add_bos_token=False).save_pretrained(converted / "folder")
    with pytest.raises(CheckpointError, match=r"tokenizer .*\d+ words"):
        verify(converted / "folder", converted / "source")


@pytest.mark.slow
def test_custom_sentences_and_tolerance(converted):
    report = verify(converted / "folder", converted / "source", sentences=[["only", "one"], []])
    assert report.sentences == 1
    assert not verify(converted / "folder", converted / "source", tolerance=0).passed


@pytest.mark.slow
def test_differences_are_scaled_by_the_magnitude_of_the_layer(tmp_path, capsys):
    """float32 is off by more than 1e-5 where values reach hundreds, and by nothing near it where they are tiny."""
    for name, scale in (("large", 150.0), ("small", 1e-6)):
        values = options()
        arrays = bilm_arrays(values)
        for part in ("W_proj", "b_proj"):
            arrays[f"CNN_proj/{part}"] *= scale
        write_bilm(tmp_path / name, values, arrays)
        convert(tmp_path / name, tmp_path / f"{name}_out")
    report = verify(tmp_path / "large_out", tmp_path / "large")
    assert report.magnitudes[0] > 100 and report.largest > 1e-5 and report.passed and report.scaled < 1e-5
    assert main(["verify", str(tmp_path / "large_out"), "--against", str(tmp_path / "large")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"passed: {report.largest:.2e}, {report.scaled:.2e} of its layer's largest value, tolerance 1e-05" == last
    assert verify(tmp_path / "small_out", tmp_path / "small").passed
    change(tmp_path / "small_out", "embeddings.projection.bias", lambda x: x * 1.01)
    report = verify(tmp_path / "small_out", tmp_path / "small")
    assert report.largest < 1e-5 and report.scaled > 1e-5 and not report.passed
    change(tmp_path / "large_out", "embeddings.projection.bias", lambda x: x + 0.05)
    assert not verify(tmp_path / "large_out", tmp_path / "large").passed


def test_bad_input(converted):
    folder, source = converted / "folder", converted / "source"
    with pytest.raises(CheckpointError, match="^sentences "):
        verify(folder, source, sentences=[[]])
    with pytest.raises(CheckpointError, match="tolerance nan"):
        verify(folder, source, tolerance=float("nan"))
    with pytest.raises(CheckpointError, match="absent: no such folder"):
        verify(converted / "absent", source)
    with pytest.raises(CheckpointError, match="absent: no such file"):
        verify(folder, converted / "absent")
    write_bilm(converted / "other", n_layers=1)
    with pytest.raises(CheckpointError, match="weights.hdf5.*num_hidden_layers.*2.*1"):
        verify(folder, converted / "other")
    (source / "options.json").write_text(json.dumps(options(filters=[[1, 4]])))
    with pytest.raises(CheckpointError, match="the options describe: CNN/W_cnn_1"):
        verify(folder, source)
    (source / "options.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"char_cnn\.\w+.*missing"):
        verify(folder, source)
    (folder / "model.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=f"{folder}: cannot be loaded"):
        verify(folder, source)


def claim_shape(folder, name, *shape):
    """Replace a dataset by one that claims a shape and stores nothing."""
    with h5py.File(folder / "weights.hdf5", "a") as file:
        del file[name]
        file.create_dataset(name, shape, "float32", chunks=tuple(min(size, 1000) for size in shape))


def test_shapes_are_checked_before_anything_is_read(converted):
    """Datasets of petabytes: with the options of a small model, and with options that claim as much."""
    folder, source = converted / "folder", converted / "source"
    claim_shape(source, "CNN_proj/W_proj", 10**9, 10**6)
    with pytest.raises(CheckpointError, match=r"'CNN_proj/W_proj'.*\(1000000000.*1000000\)"):
        verify(folder, source)
    write_bilm(source)
    huge = 10**9
    claim_shape(source, "char_embed", 261, huge)
    for i, (width, count) in enumerate(FILTERS):
        claim_shape(source, f"CNN/W_cnn_{i}", 1, width, huge, count)
    (source / "options.json").write_text(json.dumps(options(embedding={"dim": huge})))
    with pytest.raises(CheckpointError, match="character_embedding_size.*3.*1000000000"):
        verify(folder, source)


def test_rows_of_words_are_checked_before_they_are_read(tmp_path):
    values = word_options()
    write_bilm(tmp_path / "source", values, bilm_arrays(values, 6, softmax=False), vocabulary=VOCABULARY)
    convert(tmp_path / "source", tmp_path / "folder")
    claim_shape(tmp_path / "source", "embedding", 10**15, 6)
    with pytest.raises(CheckpointError, match="6 words.* 1000000000000000 rows"):
        verify(tmp_path / "folder", tmp_path / "source")


@pytest.mark.slow
def test_softmax_is_ignored(tmp_path):
    write_bilm(tmp_path / "source", vocabulary=VOCABULARY)
    convert(tmp_path / "source", tmp_path / "folder", without_vocabulary=True)
    (tmp_path / "source" / "vocab.txt").unlink()
    assert verify(tmp_path / "folder", tmp_path / "source").passed

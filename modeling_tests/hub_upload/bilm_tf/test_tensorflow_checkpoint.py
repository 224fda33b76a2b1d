"""TensorFlow checkpoints are the same model as their dump; TensorFlow stays optional."""

import importlib.util
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file

from hub_upload import CheckpointError, convert, export, verify
from hub_upload.bilm_tf import tensorflow_checkpoint
from hub_upload.bilm_tf.tensorflow_checkpoint import checkpoint_prefixes, is_checkpoint_prefix, tensorflow_tensors

from ..checkpoints import VOCABULARY, bilm_arrays, read_hdf5, word_options, write_bilm

needs_tensorflow = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is missing: pip install 'elmo-hf[tensorflow]'"
)


@needs_tensorflow
def test_checkpoint_equals_its_dump_bit_for_bit(reference, tmp_path):
    folder = reference / "bilm_tf_checkpoint"
    report = convert(folder / "model.ckpt-120", tmp_path / "tf")
    assert report.architecture == "ElmoForPreTraining"
    assert report.vocab_size == 34  # padding, 32 words, mask
    convert(folder / "dumped_weights.hdf5", tmp_path / "dump")
    from_checkpoint = load_file(tmp_path / "tf" / "model.safetensors")
    from_dump = load_file(tmp_path / "dump" / "model.safetensors")
    assert set(from_checkpoint) == {f"elmo.{name}" for name in from_dump} | {"softmax.weight", "softmax.bias"}
    for name, tensor in from_dump.items():
        assert from_checkpoint[f"elmo.{name}"].numpy().tobytes() == tensor.numpy().tobytes()
    assert verify(tmp_path / "tf", folder / "model.ckpt-120", tolerance=2e-6).passed

    # The export has the arrays of the dump, and the softmax that the dump lacks.
    assert export(tmp_path / "tf", tmp_path / "back").reversible
    dumped, exported = read_hdf5(folder / "dumped_weights.hdf5"), read_hdf5(tmp_path / "back" / "weights.hdf5")
    assert dumped.keys() == exported.keys()
    assert all(dumped[name].tobytes() == exported[name].tobytes() for name in dumped)
    softmax, variables = (
        read_hdf5(tmp_path / "back" / "softmax_weights.hdf5"),
        tensorflow_tensors(folder / "model.ckpt-120"),
    )
    for name in ("softmax/W", "softmax/b"):
        assert softmax[name].tobytes() == variables[f"lm/{name}"].read().tobytes()
    assert (tmp_path / "back" / "vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()


@pytest.mark.slow
@needs_tensorflow
@pytest.mark.parametrize("share", [False, True])
def test_word_input_of_one_layer(tmp_path, share):
    """A checkpoint written by TensorFlow, compared with a dump of the same arrays."""
    import tensorflow

    values = {**word_options(n_layers=1), "share_embedding_softmax": share}
    arrays = write_bilm(tmp_path / "dump", values, bilm_arrays(values, words=6), vocabulary=VOCABULARY)
    ends = {"W_0": "kernel", "B": "bias", "W_P_0": "projection/kernel"}
    variables = {"global_step": np.int64(3), "lm/embedding/Adagrad": np.ones((6, 6), np.float32)}
    for name, array in arrays.items():
        end = name.rpartition("/")[2]
        variables[f"lm/{name[:5]}/rnn/lstm_cell/{ends[end]}" if end in ends else f"lm/{name}"] = array
    (tmp_path / "tf").mkdir()
    for name in ("options.json", "vocab.txt"):
        shutil.copyfile(tmp_path / "dump" / name, tmp_path / "tf" / name)
    tensorflow.raw_ops.SaveV2(
        prefix=str(tmp_path / "tf" / "model.ckpt-3"),
        tensor_names=list(variables),
        shape_and_slices=[""] * len(variables),
        tensors=list(map(tensorflow.constant, variables.values())),
    )
    for name in ("dump", "tf"):
        convert(tmp_path / name, tmp_path / f"{name}_out")
    contents = [(tmp_path / f"{name}_out" / "model.safetensors").read_bytes() for name in ("dump", "tf")]
    assert contents[0] == contents[1]
    assert verify(tmp_path / "tf_out", tmp_path / "tf").largest <= 5e-6  # float32 against float64


@needs_tensorflow
def test_optimizer_and_training_variables_are_left_out_by_table(reference):
    names = set(tensorflow_tensors(reference / "bilm_tf_checkpoint" / "model.ckpt-120"))
    assert "lm/char_embed" in names
    assert len(names) == 27
    assert not {"global_step", "train_perplexity"} & names
    assert not any("Adagrad" in name for name in names)


@needs_tensorflow
def test_damaged_checkpoints(reference, tmp_path):
    for name in ("options.json", "vocab.txt", "model.ckpt-120.index", "model.ckpt-120.data-00000-of-00001"):
        shutil.copyfile(reference / "bilm_tf_checkpoint" / name, tmp_path / name)
    data = tmp_path / "model.ckpt-120.data-00000-of-00001"
    content = data.read_bytes()
    data.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match=f"{data.name.partition('.data')[0]}.* cannot be read"):
        convert(tmp_path, tmp_path / "out")
    data.write_bytes(content)
    (tmp_path / "model.ckpt-120.index").write_bytes(b"x" * 300)
    with pytest.raises(CheckpointError, match=r"model\.ckpt-120: .*TensorFlow"):
        convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_tensorflow_the_remedy_is_named(reference, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        tensorflow_checkpoint.importlib.util,
        "find_spec",
        lambda name: None if name == "tensorflow" else find_spec(name),
    )
    with pytest.raises(CheckpointError, match=r"'elmo-hf\[tensorflow\]'"):
        convert(reference / "bilm_tf_checkpoint" / "model.ckpt-120", tmp_path / "out")


def test_checkpoints_are_sorted_by_step(tmp_path):
    for step in (9, 120, 30):
        (tmp_path / f"model.ckpt-{step}.index").touch()
        (tmp_path / f"model.ckpt-{step}.data-00000-of-00001").touch()
    (tmp_path / "model.ckpt-999.index").touch()  # without its data
    assert [path.name for path in checkpoint_prefixes(tmp_path)] == ["model.ckpt-9", "model.ckpt-30", "model.ckpt-120"]
    assert is_checkpoint_prefix(tmp_path / "model.ckpt-30")
    assert not is_checkpoint_prefix(tmp_path / "model.ckpt-3")

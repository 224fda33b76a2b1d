"""Reading HDF5 files: whole, damaged, and of other kinds."""

from contextlib import ExitStack

import h5py
import numpy as np
import pytest

from hub_upload import CheckpointError
from hub_upload.bilm_tf.hdf5 import bilm_tensors, content_of, hdf5_tensors, inspect_hdf5, open_hdf5

from ..checkpoints import bilm_arrays, options, word_options, write_hdf5


@pytest.fixture
def stack():
    with ExitStack() as opened:
        yield opened


def test_tensor_shapes_are_known_before_reading(tmp_path, stack):
    arrays = bilm_arrays(options())
    write_hdf5(tmp_path / "w.hdf5", arrays)
    tensors = bilm_tensors(tmp_path / "w.hdf5", None, stack)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {n: a.shape for n, a in arrays.items()}
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor.read(), arrays[name])


def test_contents_are_detected_by_dataset_names(tmp_path, reference):
    assert inspect_hdf5(reference / "bilm_tf" / "lm_weights.hdf5") == "biLM"
    assert inspect_hdf5(reference / "bilm_tf" / "lm_embeddings_0.hdf5") == "other"
    assert inspect_hdf5(reference / "bilm_tf" / "elmo_token_embeddings.hdf5") == "token vectors"
    assert inspect_hdf5(reference / "bilm_tf_checkpoint" / "dumped_weights.hdf5") == "biLM"
    assert inspect_hdf5(reference / "bilm_tf_checkpoint" / "dumped_one_layer.hdf5") == "word biLM"
    assert content_of({"rnn/MultiRNNCell/Cell0/LSTMCell/kernel", "char_embed"}) == "biLM"
    assert content_of({"softmax/W", "softmax/b"}) == content_of({"softmax/b"}) == "softmax"
    assert content_of({"lm/embedding", "lm/softmax/b", "lm/RNN_0/rnn/lstm_cell/kernel"}) == "word biLM"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["embedding"], r"w\.hdf5: .*--word-vectors"),
        (["softmax/W", "softmax/b"], r"w\.hdf5: .*--softmax"),
        (["dense/kernel"], r"w\.hdf5: .*dense/kernel"),
        ([], r"w\.hdf5: .*nothing"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, stack, names, message):
    write_hdf5(tmp_path / "w.hdf5", {name: np.zeros(1, np.float32) for name in names})
    with pytest.raises(CheckpointError, match=message):
        bilm_tensors(tmp_path / "w.hdf5", None, stack)


def test_missing_truncated_and_foreign_files(tmp_path, stack):
    path = tmp_path / "w.hdf5"
    with pytest.raises(CheckpointError, match=r"w\.hdf5: no such file"):
        open_hdf5(path, stack)
    write_hdf5(path, bilm_arrays(options()))
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(CheckpointError, match="HDF5.*truncated"):
        open_hdf5(path, stack)
    path.write_text("<html>404</html>")
    with pytest.raises(CheckpointError, match=r"w\.hdf5: .*HDF5.*signature"):
        open_hdf5(path, stack)


@pytest.mark.slow
def test_damaged_structure_always_raises_checkpoint_error(tmp_path):
    """With any part overwritten by zeros, the file gives the same values or a CheckpointError."""
    path = tmp_path / "w.hdf5"
    write_hdf5(path, bilm_arrays(options(n_layers=1)))
    content = path.read_bytes()
    refused = 0
    for start in range(0, len(content), max(256, len(content) // 60)):
        damaged = tmp_path / f"{start}.hdf5"
        damaged.write_bytes(content[:start] + bytes(256) + content[start + 256 :])
        try:
            with ExitStack() as opened:
                for tensor in bilm_tensors(damaged, None, opened).values():
                    tensor.read()
        except CheckpointError:
            refused += 1
    assert refused


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((261, 3), np.float64), "float64"),
        (np.full((261, 3), np.nan, np.float32), "finite"),
    ],
)
def test_wrong_values_are_refused(tmp_path, stack, array, message):
    write_hdf5(tmp_path / "w.hdf5", {**bilm_arrays(options()), "char_embed": array})
    tensor = bilm_tensors(tmp_path / "w.hdf5", None, stack)["char_embed"]
    with pytest.raises(CheckpointError, match=f"w.hdf5: 'char_embed' .*{message}"):
        tensor.read()


def test_datasets_in_other_files_are_refused(tmp_path, stack):
    (tmp_path / "secret").write_bytes(bytes(40))
    with h5py.File(tmp_path / "w.hdf5", "w") as file:
        file.create_dataset("char_embed", (10,), "float32", external=[(str(tmp_path / "secret"), 0, 40)])
    with pytest.raises(CheckpointError, match=r"w\.hdf5: 'char_embed'.*another file"):
        hdf5_tensors(open_hdf5(tmp_path / "w.hdf5", stack), tmp_path / "w.hdf5")


def test_softmax_files(tmp_path, stack):
    arrays = bilm_arrays(options(), words=4)
    write_hdf5(tmp_path / "both.hdf5", arrays)
    softmax = {name: arrays.pop(name) for name in ("softmax/W", "softmax/b")}
    write_hdf5(tmp_path / "w.hdf5", arrays)
    write_hdf5(tmp_path / "s.hdf5", softmax)
    assert set(softmax) < set(bilm_tensors(tmp_path / "w.hdf5", tmp_path / "s.hdf5", stack))
    # The bias alone belongs to a word model that shares its table.
    write_hdf5(tmp_path / "b.hdf5", {"softmax/b": softmax["softmax/b"]})
    with pytest.raises(CheckpointError, match="softmax/W.*softmax/b.*softmax/b"):
        bilm_tensors(tmp_path / "w.hdf5", tmp_path / "b.hdf5", stack)
    write_hdf5(tmp_path / "words.hdf5", bilm_arrays(word_options(), words=4, softmax=False))
    assert "softmax/b" in bilm_tensors(tmp_path / "words.hdf5", tmp_path / "b.hdf5", stack)
    with pytest.raises(CheckpointError, match=r"both\.hdf5.*--softmax .*s\.hdf5"):
        bilm_tensors(tmp_path / "both.hdf5", tmp_path / "s.hdf5", stack)
    with pytest.raises(CheckpointError, match=r"both\.hdf5: .*softmax/W and softmax/b.*CNN/W_cnn_0"):
        bilm_tensors(tmp_path / "w.hdf5", tmp_path / "both.hdf5", stack)

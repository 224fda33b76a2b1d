"""Selection of a model's files in a folder."""

import gzip

import numpy as np
import pytest

from hub_upload import CheckpointError
from hub_upload.bilm_tf.files import ModelFiles, files_of_folder, files_of_weights, wanted_member

from ..checkpoints import VOCABULARY, bilm_arrays, word_options, write_bilm, write_hdf5


def names_of(files):
    parts = (files.weights, files.options, files.vocabulary, files.softmax)
    return [part.name if part else None for part in parts]


def test_simple_elmo_folder(tmp_path):
    write_bilm(tmp_path, weights="model.hdf5")
    (tmp_path / "vocab.txt").write_text("x")
    (tmp_path / "vocab.txt.gz").write_bytes(gzip.compress(b"x"))
    assert names_of(files_of_folder(tmp_path, ModelFiles())) == ["model.hdf5", "options.json", "vocab.txt.gz", None]


def test_weight_files_are_detected_by_content(tmp_path):
    write_bilm(tmp_path, weights="z.hdf5", vocabulary=VOCABULARY, separate_softmax=True)
    write_hdf5(tmp_path / "a_embeddings.hdf5", {"0": np.zeros((2, 3, 4), np.float32)})
    files = files_of_folder(tmp_path, ModelFiles())
    assert names_of(files) == ["z.hdf5", "options.json", "vocab.txt", "softmax_weights.hdf5"]


def test_several_models_need_a_choice(tmp_path):
    write_bilm(tmp_path, weights="a.hdf5")
    write_bilm(tmp_path, weights="b.hdf5")
    with pytest.raises(CheckpointError, match=r"a\.hdf5.*b\.hdf5"):
        files_of_folder(tmp_path, ModelFiles())
    write_bilm(tmp_path, weights="model.hdf5")
    assert names_of(files_of_folder(tmp_path, ModelFiles()))[0] == "model.hdf5"


def test_published_names_are_matched_by_prefix(tmp_path):
    write_bilm(tmp_path, weights="x_weights.hdf5", vocabulary=VOCABULARY, separate_softmax=True)
    (tmp_path / "softmax_weights.hdf5").rename(tmp_path / "x_softmax_weights.hdf5")
    (tmp_path / "options.json").rename(tmp_path / "x_options.json")
    (tmp_path / "y_options.json").write_text("{}")
    files = files_of_weights(tmp_path / "x_weights.hdf5", ModelFiles())
    assert names_of(files) == ["x_weights.hdf5", "x_options.json", "vocab.txt", "x_softmax_weights.hdf5"]


def test_missing_files(tmp_path):
    with pytest.raises(CheckpointError, match=f"{tmp_path}: no ELMo"):
        files_of_folder(tmp_path, ModelFiles())
    write_bilm(tmp_path)
    (tmp_path / "options.json").unlink()
    with pytest.raises(CheckpointError, match=r"options\.json .*there is none.*--options"):
        files_of_folder(tmp_path, ModelFiles())
    for name in ("a_options.json", "b_options.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match=r"found a_options\.json, b_options\.json"):
        files_of_folder(tmp_path, ModelFiles())


def test_dump_beside_a_checkpoint_is_noted(reference):
    files = files_of_folder(reference / "bilm_tf_checkpoint", ModelFiles())
    assert files.weights.name == "dumped_weights.hdf5"
    words, checkpoint = files.notes
    assert "also holds dumped_one_layer.hdf5, which reads words" in words
    assert "model.ckpt-120" in checkpoint


def test_a_word_model_alone_in_its_folder(tmp_path):
    write_bilm(tmp_path, word_options(), bilm_arrays(word_options(), words=6), vocabulary=VOCABULARY)
    files = files_of_folder(tmp_path, ModelFiles())
    assert names_of(files) == ["weights.hdf5", "options.json", "vocab.txt", None]
    assert not files.notes


def test_vocabulary_of_another_name_is_reported(tmp_path):
    """An unread vocabulary is reported; licenses and readmes are not vocabularies."""
    write_bilm(tmp_path)
    for name in ("README.txt", "LICENSE.txt", "vocab-2016-09-10.txt"):
        (tmp_path / name).write_text("the\n")
    files = files_of_folder(tmp_path, ModelFiles())
    assert files.vocabulary is None
    assert len(files.notes) == 1 and "it holds vocab-2016-09-10.txt: if that is the vocabulary" in files.notes[0]
    (tmp_path / "vocab.txt").write_text("the\n")
    assert not files_of_folder(tmp_path, ModelFiles()).notes


def test_members_of_a_zip():
    assert all(map(wanted_member, ("model.hdf5", "a/options.json", "vocab.txt.gz", "m.ckpt-1.data-00000-of-00001")))
    assert not any(map(wanted_member, ("README.md", "m.ckpt-1.meta")))

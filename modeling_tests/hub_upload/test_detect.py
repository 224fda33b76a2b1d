"""Sources are recognized by content; refusals name the file."""

import os
import tempfile
import zipfile

import pytest

from hub_upload import CheckpointError
from hub_upload.detect import open_source

from .checkpoints import VOCABULARY, write_bilm, zip_folder
from .many_languages import write_model


def refuse(source, message, **files):
    with pytest.raises(CheckpointError, match=message), open_source(source, **files):
        pass


def test_layouts(reference, tmp_path):
    with open_source(reference / "bilm_tf") as source:
        assert source.layout == "bilm-tf"
        assert source.options["lstm"]["dim"] == 64
        assert source.vocabulary is None
    write_bilm(tmp_path / "m", vocabulary=VOCABULARY)
    with open_source(tmp_path / "m" / "weights.hdf5") as source:
        assert source.vocabulary.file == tmp_path / "m" / "vocab.txt"
        assert source.vocabulary.words == VOCABULARY


def test_unpacked_files_are_removed(tmp_path, monkeypatch):
    write_bilm(tmp_path / "m")
    zip_folder(tmp_path / "m", tmp_path / "m.zip")
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    with open_source(tmp_path / "m.zip") as source:
        assert source.tensors["char_embed"].read().shape == (261, 3)
        assert os.listdir(tmp_path / "scratch")
    assert not os.listdir(tmp_path / "scratch")
    with pytest.raises(RuntimeError, match="later"), open_source(tmp_path / "m.zip"):
        raise RuntimeError("later")
    assert not os.listdir(tmp_path / "scratch")


def test_errors_name_the_archive_and_not_where_it_was_unpacked(tmp_path):
    write_bilm(tmp_path / "m")
    (tmp_path / "m" / "options.json").write_text("{")
    zip_folder(tmp_path / "m", tmp_path / "m.zip")
    refuse(tmp_path / "m.zip", rf"^{tmp_path}/m\.zip/options\.json: not valid JSON")


def test_directories_of_many_languages(tmp_path):
    write_model(tmp_path / "m")
    zip_folder(tmp_path / "m", tmp_path / "m.zip")
    for path in (tmp_path / "m", tmp_path / "m.zip"):
        with open_source(path) as source:
            assert source.layout == "elmoformanylangs"
    (tmp_path / "m" / "char.dic").unlink()
    zip_folder(tmp_path / "m", tmp_path / "incomplete.zip")
    refuse(tmp_path / "incomplete.zip", rf"^{tmp_path}/incomplete\.zip/char\.dic: no such file")


def test_wrong_files(tmp_path):
    refuse(tmp_path / "absent", "no such file or folder")
    (tmp_path / "text").write_text("hello")
    refuse(tmp_path / "text", "not recognized")
    (tmp_path / "empty.hdf5").touch()
    refuse(tmp_path / "empty.hdf5", "not a complete HDF5 file", options=tmp_path / "text")
    refuse(tmp_path, "no such file", options=tmp_path / "absent.json")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "elmo"}')
    refuse(tmp_path / "hf", "a Transformers model already")
    with zipfile.ZipFile(tmp_path / "nothing.zip", "w") as file:
        file.writestr("README.md", "x")
    refuse(tmp_path / "nothing.zip", "no ELMo model in it")

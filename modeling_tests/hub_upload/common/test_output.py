"""Output folders are complete or absent; files of the user are not deleted."""

import os
import subprocess
import sys

import pytest

from elmo_hf import ElmoForPreTraining
from hub_upload import CheckpointError, convert, export
from hub_upload.common import output
from hub_upload.common.output import new_folder
from hub_upload.formats import EXPORTS

from ..checkpoints import VOCABULARY, leftovers, write_bilm


def check_output(folder, force, *sources):
    output.check_output(folder, force, sources, EXPORTS)


def test_a_new_folder_appears_only_at_the_end(tmp_path):
    with new_folder(tmp_path / "a" / "b") as partial:
        (partial / "config.json").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "config.json").read_text() == "x"
    assert not leftovers(tmp_path / "a")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    old = tmp_path / "out"
    old.mkdir()
    (old / "config.json").write_text("old")

    def fail():
        with new_folder(old) as partial:
            (partial / "config.json").write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert (old / "config.json").read_text() == "old"
    assert not leftovers(tmp_path)


def test_an_old_folder_is_replaced_as_a_whole(tmp_path):
    old = tmp_path / "out"
    old.mkdir()
    (old / "stale.bin").write_text("old")
    with new_folder(old) as partial:
        (partial / "config.json").write_text("new")
    assert [path.name for path in old.iterdir()] == ["config.json"]
    assert not leftovers(tmp_path)


def test_a_failing_replacement_restores_the_old_folder(tmp_path, monkeypatch):
    old = tmp_path / "out"
    old.mkdir()
    (old / "config.json").write_text("old")
    rename = os.rename

    def failing(source, target):
        if source.name.endswith(".writing"):
            raise OSError("no")
        return rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="no"), new_folder(old):
        pass
    assert (old / "config.json").read_text() == "old"
    assert not leftovers(tmp_path)


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    """An incomplete folder under its hidden name, and the older folder that it replaced."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for ending in ("writing", "earlier"):
        (tmp_path / f".out.{dead.pid}.{ending}").mkdir()
        (tmp_path / f".out.{dead.pid}.{ending}" / "config.json").write_text(ending)
    with pytest.raises(OSError, match="no"), new_folder(tmp_path / "out"):
        raise OSError("no")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "config.json").read_text() == "earlier"


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        with new_folder(tmp_path / "out") as partial:
            (partial / "secret").touch(mode=0o600)
    finally:
        os.umask(old)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "out" / "secret").stat().st_mode & 0o777 == 0o640


def test_protected_outputs_are_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(CheckpointError, match=f"{file}: .*not a folder"):
        check_output(file, False)
    model = tmp_path / "model"
    model.mkdir()
    check_output(model, False)
    (model / "config.json").write_text('{"model_type": "elmo"}')
    with pytest.raises(CheckpointError, match="--overwrite"):
        check_output(model, False)
    check_output(model, True)
    with pytest.raises(CheckpointError, match=f"{tmp_path}: .*'elmo'.*'lstm'"):
        check_output(tmp_path, True)
    with pytest.raises(CheckpointError, match=f"{model}: .*{model / 'config.json'}"):
        check_output(model, True, model / "config.json")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"model_type": "bert"}'),
        ("config.json", '{"debug": true}'),
        ("config.json", "{"),
        ("config.json", "[]"),
        ("options.json", '{"theme": "dark"}'),
        ("model.safetensors", "x"),
    ],
)
def test_force_does_not_replace_foreign_folders(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError, match=r"ELMo.*config\.json .*options\.json .*remove"):
        check_output(tmp_path, True)


def test_the_configuration_decides_before_the_options(tmp_path):
    (tmp_path / "options.json").write_text('{"lstm": {}}')
    check_output(tmp_path, True)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="config.json"):
        check_output(tmp_path, True)


@pytest.mark.parametrize(
    "name", ["checkpoint-500/", "runs/", "thesis.txt", "training_args.bin", "train_elmo.py", "vocab.txt/", ".git/"]
)
def test_force_keeps_foreign_files(tmp_path, name):
    (tmp_path / "config.json").write_text('{"model_type": "elmo"}')
    (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=f"{name}.*move"):
        check_output(tmp_path, True)
    (tmp_path / "more.txt").touch()
    with pytest.raises(CheckpointError, match=r"holds .*more\.txt.*move"):
        check_output(tmp_path, True)
    assert (tmp_path / name).exists()


def test_force_replaces_all_files_of_this_package(tmp_path):
    write_bilm(tmp_path / "source", vocabulary=VOCABULARY, separate_softmax=True)
    convert(tmp_path / "source", tmp_path / "folder")
    export(tmp_path / "folder", tmp_path / "back")
    for name in ("folder", "back"):
        check_output(tmp_path / name, True)
    model = ElmoForPreTraining.from_pretrained(tmp_path / "folder")
    model.save_pretrained(tmp_path / "folder", max_shard_size="2KB")
    assert (tmp_path / "folder" / "model.safetensors.index.json").is_file()
    check_output(tmp_path / "folder", True)


def test_force_detects_checkpoint_code_by_its_imports(tmp_path):
    """Code files of every version are replaced; other Python files are the user's."""
    (tmp_path / "config.json").write_text('{"model_type": "elmo"}')
    (tmp_path / "modeling_elmo.py").write_text("from .lstm_elmo import (\n    ElmoLstm,\n)\n")
    (tmp_path / "lstm_elmo.py").write_text("from .modeling_elmo import x\n")
    check_output(tmp_path, True)
    (tmp_path / "crf.py").touch()
    with pytest.raises(CheckpointError, match=r"holds crf\.py.*--overwrite"):
        check_output(tmp_path, True)

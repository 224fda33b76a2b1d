"""Output folders are complete or absent, and nothing of the user's is deleted."""

import os

import pytest

from hub_upload import CheckpointError
from hub_upload.output import check_output, new_folder

from .checkpoints import leftovers


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
    rename = type(old).rename

    def failing(self, target):
        if ".partial-" in self.name:
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(type(old), "rename", failing)
    with pytest.raises(OSError, match="no"), new_folder(old):
        pass
    assert (old / "config.json").read_text() == "old"
    assert not leftovers(tmp_path)


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


def test_what_must_not_be_overwritten_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(CheckpointError, match="not a folder"):
        check_output(file, False)
    model = tmp_path / "model"
    model.mkdir()
    check_output(model, False)
    (model / "config.json").touch()
    with pytest.raises(CheckpointError, match="--force"):
        check_output(model, False)
    check_output(model, True)
    with pytest.raises(CheckpointError, match="no model"):
        check_output(tmp_path, True)
    with pytest.raises(CheckpointError, match="holds the source"):
        check_output(model, True, model / "config.json")

"""Folders are written completely or not at all; leftovers of terminated processes are removed."""

import os
from pathlib import Path

import pytest

from elmo_hf.atomic import appearing_folder, filling

GONE = 4194304  # above the largest number of a process


def write(folder: Path, text: str) -> None:
    with appearing_folder(folder) as aside:
        (aside / "inner").mkdir()
        (aside / "inner" / "file").write_text(text)


def test_a_folder_appears_and_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "above" / "model"
    for text in ("old", "new"):
        write(folder, text)
        assert (folder / "inner" / "file").read_text() == text
        assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_an_error_leaves_the_earlier_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    write(folder, "old")
    for error in (RuntimeError("half way"), OSError(28, "No space left on device")):

        def half(error: Exception = error) -> None:
            with appearing_folder(folder) as aside:
                (aside / "file").touch()
                raise error

        expected = "half way" if isinstance(error, RuntimeError) else "model cannot be written: No space left on device"
        with pytest.raises(type(error), match=expected):
            half()
    rename = os.rename

    def fails(source: Path, target: Path) -> None:
        if target == folder and source.name.endswith(".writing"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match="Input/output"):
        write(folder, "new")
    assert (folder / "inner" / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_remains_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    """Killed while writing, between the two renames, and after them."""
    folder = tmp_path / "model"
    (tmp_path / f".model.{GONE}.writing").mkdir()
    (tmp_path / f".model.{GONE}.earlier").mkdir()
    (tmp_path / f".model.{GONE}.earlier" / "old").touch()
    with pytest.raises(RuntimeError), appearing_folder(folder):
        raise RuntimeError
    assert [path.name for path in folder.iterdir()] == ["old"]
    (tmp_path / f".model.{GONE}.earlier").mkdir()
    (tmp_path / f".model.{os.getppid()}.writing").mkdir()  # of a running process
    write(folder, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".model.{os.getppid()}.writing", "model"]
    assert (folder / "inner" / "file").read_text() == "new"


def test_files_of_one_folder(tmp_path: Path) -> None:
    (tmp_path / f".files.{GONE}.writing").mkdir()
    (tmp_path / "a").write_text("old")
    (tmp_path / "other").touch()
    with filling(tmp_path) as aside:
        for name in ("a", "a.data"):
            (aside / name).write_text("new")
        assert (tmp_path / "a").read_text() == "old"

    def half() -> None:
        with filling(tmp_path) as aside:
            (aside / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "new", "a.data": "new", "other": ""}

"""Files are written completely or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from elmo_hf.atomic import appearing


def test_the_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "a.txt"
    with appearing(path) as aside:
        aside.write_text("new")
        assert not path.exists() and aside.parent == tmp_path
    assert path.read_text() == "new" and [each.name for each in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("name", [str, Path])
def test_an_earlier_file_is_replaced(tmp_path, name):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with appearing(name(path)) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_an_error_leaves_the_earlier_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with appearing(path) as aside:
            aside.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_text() == "old" and [each.name for each in tmp_path.iterdir()] == ["a.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), appearing(path):
        pass
    assert path.read_text() == "old"


def test_a_folder_that_is_missing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), appearing(tmp_path / "missing" / "a.txt") as aside:
        aside.write_text("new")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_process_that_is_killed_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    program = (
        "import os, signal, sys\nfrom elmo_hf.atomic import appearing\n"
        "with appearing(sys.argv[1]) as aside:\n"
        "    aside.write_text('ne')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = str(Path(__file__).parents[2])
    process = subprocess.run(
        [sys.executable, "-c", program, str(path)], check=False, env={**os.environ, "PYTHONPATH": root}
    )
    assert process.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    # Only its leftovers are removed when the same file is written next.
    left = [each.name for each in tmp_path.iterdir() if each != path]
    assert len(left) == 1 and left[0].startswith(".a.txt.") and left[0].endswith(".writing")
    others = [f".a.txt.{os.getppid()}.writing", ".b.txt.4194304.writing", ".a.txt.4194304.other", ".a.txt.x.writing"]
    for name in others:
        (tmp_path / name).touch()
    with appearing(path) as aside:
        aside.write_text("new")
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([*others, "a.txt"])
    assert path.read_text() == "new"


class OfALibrary(Exception):
    pass


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OfALibrary("io: No space left on device")])
def test_full_disk_error_names_the_file(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with (
        pytest.raises(OSError, match=r"a\.txt.*No.*device\.") as told,
        appearing(path),
    ):
        raise error
    assert told.value.errno == 28 and told.value.__cause__ is error
    assert path.read_text() == "old" and [each.name for each in tmp_path.iterdir()] == ["a.txt"]

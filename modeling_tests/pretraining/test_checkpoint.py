"""Checkpoints: complete or absent, limited in number, readable without pickled code."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from elmo_hf.pretraining import checkpoint
from elmo_hf.pretraining.checkpoint import (
    CheckpointError,
    Checkpoints,
    random_states,
    read_json,
    read_tensors,
    set_random_states,
    write_json,
    write_text,
)

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    found = Checkpoints(tmp_path / "checkpoints", 2, Accelerator(cpu=True))
    found.prepare()
    return found


def write(checkpoints: Checkpoints, step: int) -> Path:
    def shared(folder: Path) -> None:
        (folder / "shared").write_text(str(step))

    def own(folder: Path) -> None:
        (folder / "own").write_text(str(step))

    return checkpoints.write(step, shared, own)


def test_appears_only_when_complete(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    put_folder, seen = checkpoint.put_folder, []

    def looking(folder: Path, path: Path) -> None:
        seen.append((checkpoints.steps(), sorted(path.name for path in folder.iterdir())))
        put_folder(folder, path)

    monkeypatch.setattr(checkpoint, "put_folder", looking)
    assert checkpoints.newest() is None
    path = write(checkpoints, 7)
    assert seen == [([], ["own", "shared"])]
    assert checkpoints.newest() == path
    assert path.name == "step-00000007"
    assert write(checkpoints, 7) == path  # written already


def test_keeps_the_newest_and_the_best(checkpoints: Checkpoints) -> None:
    for step in (1, 2, 3, 4, 100_000_000):
        write(checkpoints, step)
    checkpoints.prune(best=2)
    assert checkpoints.steps() == [2, 4, 100_000_000]
    assert all(not path.name.startswith(".") for path in checkpoints.folder.iterdir())


@pytest.mark.parametrize("failing", ["shared", "own", "flush"])
def test_a_failure_leaves_the_earlier_one(
    checkpoints: Checkpoints, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(checkpoints, 1)

    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    def fine(folder: Path) -> None:
        (folder / "file").write_text("fine")

    if failing == "flush":
        monkeypatch.setattr("elmo_hf.atomic.flush", full)
    with pytest.raises(CheckpointError, match="step-00000002.*No.*left.*step-00000001"):
        checkpoints.write(2, full if failing == "shared" else fine, full if failing == "own" else fine)
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-00000001"]


def test_removes_leftovers_of_a_killed_run(checkpoints: Checkpoints) -> None:
    for name in (".writing-step-00000001", ".deleted-step-00000001", "..writing-step-00000001-abc"):
        (checkpoints.folder / name).mkdir()
    (checkpoints.folder / "notes").mkdir()
    checkpoints.prepare()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["notes"]
    assert checkpoints.steps() == []


def test_refuses_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=f"{tmp_path / 'file'} cannot be written"):
        Checkpoints(tmp_path / "file", 2, Accelerator(cpu=True)).prepare()


def test_random_states_round_trip(tmp_path: Path) -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    np.random.standard_normal()  # noqa: NPY002 - leaves a second draw behind
    torch.save({"random": random_states()}, tmp_path / "states.pt")

    def draw() -> list[float]:
        return [random.random(), random.gauss(0, 1), np.random.standard_normal(), float(torch.rand(()))]  # noqa: NPY002

    expected = draw()
    set_random_states(read_tensors(tmp_path / "states.pt")["random"])
    assert draw() == expected


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.mkdir, (Path("never"),)


def test_reads_tensors_only(tmp_path: Path) -> None:
    torch.save({"state": Harmful()}, tmp_path / "training.pt")
    with pytest.raises(CheckpointError, match="training.pt cannot be read"):
        read_tensors(tmp_path / "training.pt")
    with pytest.raises(CheckpointError, match="progress.json.*Remove"):
        read_json(tmp_path / "progress.json")


def test_text_files_are_replaced_atomically(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    assert read_json(tmp_path / "a.json") == {"x": 1}
    with pytest.raises(UnicodeEncodeError):
        write_text(tmp_path / "a.json", "\ud800")
    assert read_json(tmp_path / "a.json") == {"x": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]

"""Checkpoints of a run: written under a temporary name and renamed when complete.

`checkpoints/step-00001000/` is a Transformers folder (`config.json`, `model.safetensors`, the tokenizer) with the rest
of the run:

    progress.json        steps, words and seconds so far, the settings and the number of processes
    training.pt          optimizer, schedule, sampler and the position in the text
    process-00000.pt     random states and carried state of each process

All processes write into a folder whose name starts with a dot. It is flushed to the disk and renamed in one step. A run
killed at any moment leaves at most such a dotted folder, which the next run removes.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from elmo_hf.atomic import put_folder, write_text
from elmo_hf.corpus.records import read_object

PREFIX = "step-"
# Progress and settings of the run; see above.
PROGRESS = "progress.json"
WRITING, DELETED = ".writing-", ".deleted-"

Write = Callable[[Path], None]


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; the message names it and the remedy."""


class Checkpoints:
    """The checkpoints of one run, shared by all its processes.

    Args:
        folder: their folder, the same for all processes on all machines.
        keep: newest checkpoints kept by [`prune`].
        accelerator: the processes that write together.
    """

    def __init__(self, folder: Path, keep: int, accelerator: Accelerator) -> None:
        self.folder = folder
        self.keep = keep
        self.accelerator = accelerator

    def prepare(self) -> None:
        """Make the folder, remove unfinished checkpoints of a killed run, and check that all processes see it.

        Raises:
            CheckpointError: the folder cannot be written, or another process sees another folder.
        """

        def make() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in self.folder.iterdir():
                # Our temporary folders, and those of libraries.
                if path.name.startswith(".") and path.is_dir():
                    shutil.rmtree(path)

        self._together(make if self.accelerator.is_main_process else None, f"{self.folder} cannot be written")

        def look() -> None:
            if not self.folder.is_dir():
                raise FileNotFoundError(
                    f"process {self.accelerator.process_index} does not see it: output_dir must be on a file system "
                    "that all machines of the run share"
                )

        self._together(look, f"{self.folder} is not shared by all processes")

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return steps_in(self.folder)

    def newest(self) -> Path | None:
        """The complete checkpoint of the highest step, if there is one."""
        return newest_in(self.folder)

    def write(self, step: int, shared: Write, own: Write) -> Path:
        """Write one checkpoint; called by all processes at the same step.

        Args:
            shared: writes the part common to all processes into the given folder; called in the main process.
            own: writes the process's own part; called in every process.

        Returns:
            The folder of the checkpoint.

        Raises:
            CheckpointError: it could not be written, for instance because the disk is full. Earlier checkpoints are
                kept and the unfinished one is removed.
        """
        path = path_in(self.folder, step)
        if path.is_dir():
            return path
        aside = self.folder / f"{WRITING}{path.name}"
        failure = f"checkpoint {path} cannot be written"
        is_main = self.accelerator.is_main_process
        try:
            self._together(aside.mkdir if is_main else None, failure)

            def write_parts() -> None:
                if is_main:
                    shared(aside)
                own(aside)

            self._together(write_parts, failure)

            def move() -> None:
                put_folder(aside, path)

            self._together(move if is_main else None, failure)
        except CheckpointError:
            if is_main:
                shutil.rmtree(aside, ignore_errors=True)
            raise
        return path

    def prune(self, best: int | None) -> None:
        """Remove all but the newest `keep` checkpoints and that of step `best`."""

        def remove() -> None:
            for step in self.steps()[: -self.keep]:
                if step != best:
                    # Renamed first: a killed removal must not leave half a checkpoint under its final name.
                    path = path_in(self.folder, step)
                    deleted = self.folder / f"{DELETED}{path.name}"
                    os.rename(path, deleted)
                    shutil.rmtree(deleted)

        self._together(
            remove if self.accelerator.is_main_process else None,
            f"earlier checkpoints in {self.folder} cannot be removed",
        )

    def _together(self, action: Callable[[], Any] | None, failure: str) -> None:
        """Run `action` here and wait for all processes; if one fails, all raise, so that none waits forever."""
        message = None
        if action is not None:
            try:
                action()
            except Exception as error:
                message = f"process {self.accelerator.process_index}: {error}"
        found: list[str | None] = [message]
        if self.accelerator.num_processes > 1:
            found = gather_object(found)
        messages = [each for each in found if each is not None]
        if messages:
            newest = self.newest()
            last = f"The last good checkpoint is {newest}" if newest else "There is no checkpoint yet"
            raise CheckpointError(
                f"{failure} ({'; '.join(messages)}). {last}; the same command continues from there once the cause is "
                "removed"
            )


def steps_in(folder: Path) -> list[int]:
    """Steps of the complete checkpoints in a folder of checkpoints, ascending."""
    if not folder.is_dir():
        return []
    return sorted(
        int(path.name.removeprefix(PREFIX))
        for path in folder.iterdir()
        if path.name.startswith(PREFIX) and path.name.removeprefix(PREFIX).isdigit()
    )


def path_in(folder: Path, step: int) -> Path:
    """The checkpoint of `step`, in a folder of checkpoints."""
    return folder / f"{PREFIX}{step:08d}"


def newest_in(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step, if there is one."""
    steps = steps_in(folder)
    return path_in(folder, steps[-1]) if steps else None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_tensors(path: Path) -> dict[str, Any]:
    """Read a `.pt` file of a checkpoint: tensors and plain containers only, onto the CPU.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(unreadable(path, error)) from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of a checkpoint.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        return read_object(path, "what a run wrote")
    except (OSError, ValueError) as error:
        raise CheckpointError(unreadable(path, error)) from error


def unreadable(path: Path, error: Exception) -> str:
    """Error message for a damaged file of a checkpoint."""
    return (
        f"{path} cannot be read ({error}): the checkpoint was damaged after it was written. Remove {path.parent} to "
        "continue from the one before"
    )


def random_states() -> dict[str, Any]:
    """States of all random generators of this process, in types that `weights_only` loading accepts."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - libraries draw from it
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Restore the states returned by [`random_states`]."""
    version, internal, gauss_next = states["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, position, has_gauss, gauss = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])

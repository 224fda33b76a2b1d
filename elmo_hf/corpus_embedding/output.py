"""Output files of a corpus's vectors: shards appear only when complete, and a later command continues them.

Parquet and safetensors: a folder with `embeddings-00000-of-00003.parquet` and so on, and `_embeddings.index.json` when
all shards are complete. HDF5: one file, joined at the end from the shards in the folder `<name>.parts` next to it. The
folder is then removed; until then the disk holds the vectors twice.

While shards are missing, `_unfinished.json` in their folder records the settings and the plan.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py

from elmo_hf.atomic import appearing, write_text
from elmo_hf.corpus.records import read_object

from .plan import Plan, Shard
from .shard_parts import ShardPart
from .writers import RECORD, Format, join_hdf5, read_record

if sys.platform != "win32":
    import fcntl

# Readers of whole folders, such as pandas.read_parquet, skip names that begin with an underscore or a dot.
INDEX, UNFINISHED, LOCK = "_embeddings.index.json", "_unfinished.json", ".lock"
# Former names.
OLD_NAMES = {INDEX: "embeddings.index.json", UNFINISHED: "unfinished.json"}
# Prefix of the file of an interrupted shard.
PART = "_part"
SUFFIXES: dict[str, Format] = {
    ".hdf5": "hdf5",
    ".h5": "hdf5",
    ".parquet": "parquet",
    ".safetensors": "safetensors",
}
_REMEDY = "Give the same settings and input, choose another output, or ask to overwrite it"


class OutputConflictError(ValueError):
    """The output belongs to another command, or to something else; the message tells the difference."""


def format_of_output(output: str | os.PathLike[str], file_format: str | None) -> Format:
    """The given format, or that of the suffix of the output's name.

    Raises:
        ValueError: an unknown format, or no known suffix.
    """
    if file_format is None:
        suffix = Path(output).suffix.lower()
        if suffix not in SUFFIXES:
            raise ValueError(
                f"output {os.fspath(output)}: expected a name that ends in {', '.join(SUFFIXES)}, or format='hdf5', "
                "'parquet' or 'safetensors'"
            )
        return SUFFIXES[suffix]
    for known in SUFFIXES.values():
        if known == file_format:
            return known
    raise ValueError(f"format={file_format!r}: expected 'hdf5', 'parquet' or 'safetensors'")


@dataclass
class Output:
    """The output of one command.

    Attributes:
        target: the output: a file for HDF5, otherwise a folder.
        file_format: format of the shards.
    """

    target: Path
    file_format: Format
    _lock: BinaryIO | None = None

    @property
    def is_one_file(self) -> bool:
        return self.file_format == "hdf5"

    @property
    def folder(self) -> Path:
        """Folder of the shards."""
        return self.target.with_name(f"{self.target.name}.parts") if self.is_one_file else self.target

    def path(self, shard: Shard, plan: Plan) -> Path:
        """File of a shard."""
        return self.folder / f"embeddings-{shard.number:05}-of-{len(plan.shards):05}.{self.file_format}"

    def part(self, shard: Shard, plan: Plan) -> ShardPart:
        """Part of a shard, kept by an interruption."""
        path = self.path(shard, plan)
        return ShardPart(path.with_name(path.name.replace("embeddings", PART, 1)), self.file_format)

    def state_path(self, number: int, plan: Plan) -> Path:
        """File of the carried state after a shard, kept until the output is complete."""
        return self.folder / f"state-{number:05}-of-{len(plan.shards):05}.safetensors"

    # ---- what is there

    def begin(self, settings: dict[str, Any], plan: Plan, overwrite: bool) -> bool:
        """Prepare the output, or check that it can be continued.

        Returns:
            True if the output is complete already.

        Raises:
            OutputConflictError: the output belongs to something else, or another command is writing it.
        """
        for name, old in OLD_NAMES.items():
            if (self.folder / old).is_file() and not (self.folder / name).exists():
                (self.folder / old).rename(self.folder / name)
        complete = self._complete_record()
        if complete is not None and not overwrite:
            self._check(complete, settings, plan)
            return True
        self._check_foreign(overwrite)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        for path in self.folder.glob(".*.writing"):
            path.unlink()
        unfinished = self.folder / UNFINISHED
        if overwrite:
            self._clear()
        elif unfinished.exists():
            self._check(_read_json(unfinished), settings, plan)
            return False
        # The list of shards is for readers of an unfinished output.
        write_text(unfinished, _json({**_record(settings, plan), "shards": plan.to_json()}))
        return False

    def missing(self, plan: Plan) -> list[Shard]:
        """Shards that are not yet written."""
        return [shard for shard in plan.shards if not self.path(shard, plan).exists()]

    def _complete_record(self) -> dict[str, Any] | None:
        """Record of a complete output; `None` if there is none."""
        if not self.is_one_file:
            index = self.target / INDEX
            return _read_json(index) if index.exists() else None
        if not self.target.is_file():
            return None
        try:
            with h5py.File(self.target) as file:
                return json.loads(file.attrs[RECORD])
        except (OSError, KeyError, ValueError, RecursionError):
            return None

    def _check(self, found: dict[str, Any], settings: dict[str, Any], plan: Plan) -> None:
        check_settings(self.target, found.get("settings", {}), settings)
        if found.get("digest") != plan.digest:
            raise OutputConflictError(
                f"{self.target} was begun with other input: the files' names and sizes are the same, but not their "
                f"sentences. {_REMEDY}"
            )

    def _check_foreign(self, overwrite: bool) -> None:
        """Raise if the output has files of another origin."""
        if self.is_one_file and self.target.exists() and not (overwrite and self.target.is_file()):
            kind = "a folder" if self.target.is_dir() else "a file that this command has not written"
            raise OutputConflictError(f"{self.target} exists and is {kind}: choose another output, or overwrite a file")
        if self.folder.exists() and not self.folder.is_dir():
            raise OutputConflictError(f"{self.folder} is a file: expected a folder for the shards, or nothing")
        if not self.folder.is_dir() or (self.folder / UNFINISHED).exists() or (self.folder / INDEX).exists():
            return
        others = [path.name for path in self.folder.iterdir() if path.name != LOCK and path.suffix != ".writing"]
        if others:
            raise foreign(self.folder, others)

    def _clear(self) -> None:
        """Remove only the shards and records of an earlier command."""
        for name in (INDEX, UNFINISHED):
            (self.folder / name).unlink(missing_ok=True)
        for pattern in (f"embeddings-*-of-*.{self.file_format}", f"{PART}-*-of-*.{self.file_format}*"):
            for path in self.folder.glob(pattern):
                path.unlink()
        self._clear_states()

    def _clear_states(self) -> None:
        for path in self.folder.glob("state-*-of-*.safetensors"):
            path.unlink()

    def _take_lock(self) -> None:
        if sys.platform == "win32":  # no locks there
            return
        self._lock = (self.folder / LOCK).open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            self._lock = None
            raise OutputConflictError(
                f"{self.target} is being written by another command: wait for it, or choose another output. For "
                "several processes start one command with torchrun or accelerate launch"
            ) from None
        except OSError:  # a file system without locks
            pass

    def release(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            (self.folder / LOCK).unlink(missing_ok=True)

    # ---- writing

    def finish(self, settings: dict[str, Any], plan: Plan, sentence_index: bool, use_sentence_keys: bool) -> int:
        """Complete the output after the last shard; return the number of words."""
        paths = [self.path(shard, plan) for shard in plan.shards]
        records = [read_record(path, self.file_format) for path in paths]
        words = sum(record["words"] for record in records)
        complete = {**_record(settings, plan), "sentences": plan.sentences, "words": words}
        if self.is_one_file:
            with appearing(self.target) as aside:
                join_hdf5(paths, aside, complete, sentence_index, use_sentence_keys)
            self.release()
            shutil.rmtree(self.folder)
            return words
        shards = [
            {"file": path.name, "first": shard.first, "sentences": shard.sentences, "words": record["words"]}
            for path, shard, record in zip(paths, plan.shards, records, strict=True)
        ]
        write_text(self.target / INDEX, _json({**complete, "shards": shards}))
        self._clear_states()
        (self.folder / UNFINISHED).unlink(missing_ok=True)
        return words

    def words(self) -> int:
        """The number of words of a complete output."""
        record = self._complete_record()
        assert record is not None
        return record["words"]


def check_settings(output: str | Path, theirs: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise `OutputConflictError` if the output was begun with other settings, `theirs`."""
    for name in {**settings, **theirs}:
        old, new = theirs.get(name), settings.get(name)
        if old == new:
            continue
        if name == "input_files":
            raise OutputConflictError(f"{output} was begun with other input: {_first_difference(old, new)}. {_REMEDY}")
        raise OutputConflictError(f"{output} was begun with {name}={old!r}, not {new!r}. {_REMEDY}")


def foreign(folder: str | Path, others: Iterable[str]) -> OutputConflictError:
    """The error for a folder with files that no such command has written."""
    return OutputConflictError(
        f"{folder} holds {min(others)}, but neither {INDEX} nor {UNFINISHED}: it is the folder of something else. "
        "Choose another output, or empty it"
    )


def _record(settings: dict[str, Any], plan: Plan) -> dict[str, Any]:
    return {"settings": settings, "digest": plan.digest}


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return read_object(path, "what this command writes. Choose another output, or empty the folder")
    except ValueError as error:
        raise OutputConflictError(str(error)) from error


def _first_difference(old: Any, new: Any) -> str:
    old, new = (value if isinstance(value, list) else [] for value in (old, new))
    for number, (before, now) in enumerate(zip(old, new, strict=False), start=1):
        if before != now:
            return f"file {number} was {_described(before)} and is {_described(now)}"
    return f"{len(old)} files and not {len(new)}"


def _described(identity: Any) -> str:
    return f"{identity[0]} of {identity[1]:,} bytes"

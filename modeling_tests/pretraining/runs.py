"""Tiny pretraining runs for the tests: a corpus, settings, and runs in processes of their own that can be killed."""

import json
import os
import random
import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from elmo_hf.pretraining import PretrainingSettings, pretrain
from modeling_tests import shortcuts

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "nu", "pe") for b in ("ra", "se", "ti", "vo", "zu", "!")]
SHAPE = {"character_filters": [[1, 4], [2, 4], [3, 8]], "projection_size": 8, "cell_size": 12}


def write_corpus(folder: Path) -> None:
    """`train.txt`, `held_out.txt` and `vocab.txt`: words of decreasing frequency that depend on their neighbors."""
    draw = random.Random(0)
    for name, sentences in (("train.txt", 120), ("held_out.txt", 12)):
        lines = []
        for _ in range(sentences):
            place = draw.randrange(len(WORDS))
            words = []
            for _ in range(draw.randrange(1, 12)):
                place = (place * 7 + draw.randrange(3)) % len(WORDS)
                words.append(WORDS[place])
            lines.append(" ".join(words))
        (folder / name).write_text("\n".join(lines) + "\n")
    (folder / "vocab.txt").write_text("\n".join(["<S>", "</S>", "<UNK>", *WORDS[:-4]]) + "\n")


def settings(corpus: Path, output: Path, **changed: Any) -> PretrainingSettings:
    """Settings of a run that takes a second."""
    values: dict[str, Any] = {
        "train_data": [str(corpus / "train.txt")],
        "held_out_data": [str(corpus / "held_out.txt")],
        "vocabulary": str(corpus / "vocab.txt"),
        "output_dir": str(output),
        "preset": "small",
        "config_overrides": json.dumps(SHAPE),
        "rows": 4,
        "unroll_steps": 6,
        "epochs": 2,
        "max_steps": 14,
        "num_samples": 12,
        "log_every": 1,
        "checkpoint_every": 4,
    }
    return PretrainingSettings(**{**values, **changed})


def losses(output: Path) -> list[tuple[Any, ...]]:
    """The parts of a run's records that do not depend on time."""
    lines = (output / "metrics.jsonl").read_text().splitlines()
    clock = {"words_per_second"}
    return [tuple((name, value) for name, value in json.loads(line).items() if name not in clock) for line in lines]


def start(run_settings: PretrainingSettings, sabotage: str | None = None) -> BaseProcess:
    """A process that runs `pretrain`; `sabotage` names where it kills itself."""
    # One process imports everything once; the runs are forked from it, before it has any thread.
    context = get_context("forkserver")
    context.set_forkserver_preload(["elmo_hf.pretraining", "matplotlib.figure", __name__])
    process = context.Process(target=_run, args=(run_settings, sabotage))
    process.start()
    return process


def _run(run_settings: PretrainingSettings, sabotage: str | None) -> None:
    torch.set_num_threads(1)
    shortcuts.take()
    if sabotage is not None:
        place, count = sabotage.split(":")
        SABOTAGES[place](int(count))
    pretrain(run_settings)


def _die(*args: Any, **kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _on_call(count: int, owner: Any, name: str, instead: Callable[..., Any] = _die) -> None:
    """Replace the call number `count` (from 1) of `owner.name`."""
    original = getattr(owner, name)
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return (instead if calls == count else original)(*args, **kwargs)

    setattr(owner, name, counted)


def _in_data_loader(count: int) -> None:
    from elmo_hf.pretraining.streams import SentenceStreams

    # Half of the batch is complete, and the streams have advanced.
    _on_call(count, SentenceStreams, "_encode")


def _half_a_file(value: Any, path: Path) -> None:
    path.write_bytes(b"PK half of a file")
    _die()


def _while_writing(count: int) -> None:
    from elmo_hf.pretraining import loop

    _on_call(count, loop.torch, "save", _half_a_file)


def _before_moving(count: int) -> None:
    from elmo_hf.pretraining import checkpoint

    _on_call(count, checkpoint.os, "rename")


def _while_deleting(count: int) -> None:
    from elmo_hf.pretraining import checkpoint

    def rename(path: Path, target: Path) -> None:
        os.replace(path, target)
        if target.name.startswith(checkpoint.DELETED):
            (target / "training.pt").unlink()
            _die()

    checkpoint.os.rename = rename


SABOTAGES: dict[str, Callable[[int], None]] = {
    "data_loader": _in_data_loader,
    "writing": _while_writing,
    "moving": _before_moving,
    "deleting": _while_deleting,
}

"""Several processes, on gloo: the output equals that of one, and all raise an error."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

from elmo_hf import embed_corpus
from elmo_hf.corpus_embedding.processes import Processes
from elmo_hf.corpus_embedding.shard_embedding import ShardEmbedder

from .corpora import model_and_tokenizer, read, sentences, write_text

OPTIONS = {"shard_words": 30, "batch_words": 24, "progress": False}


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def _in_process(rank: int, ports: list[int], folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    torch.manual_seed(0)
    both = model_and_tokenizer()
    text, write, written = Path(folder, "text.txt"), ShardEmbedder.write, []

    def noting(embedder, shard, *more):
        written.append(shard.number)
        return write(embedder, shard, *more)

    def failing(embedder, shard, *more):
        if rank == 1:
            raise ValueError("a reason")
        return write(embedder, shard, *more)

    # The second process fails, every process raises, and the same command continues.
    for port, function, kind in zip(ports, (noting, failing, noting), ("hdf5", "parquet", "parquet"), strict=True):
        os.environ["MASTER_PORT"] = str(port)
        ShardEmbedder.write = function
        output = Path(folder, f"two.{kind}")
        if function is failing:
            message = "^a reason$" if rank == 1 else "process 1 of 2 failed: ValueError: a reason"
            with pytest.raises((ValueError, RuntimeError), match=message):
                embed_corpus(text, output, *both, **OPTIONS)
        else:
            summary = embed_corpus(text, output, *both, **OPTIONS)
            assert summary.is_first_process == (rank == 0)
            assert (summary.sentences, summary.words) == (40, sum(map(len, sentences())))
        if kind == "hdf5":
            assert written == list(range(rank, summary.shards, 2)) and summary.shards > 4
    os.environ["MASTER_PORT"] = str(ports[-1])
    # All processes raise the error of the first one.
    with pytest.raises(ValueError, match="layers='mix'.*'top'"):
        embed_corpus(text, output, *both, layers="top", **OPTIONS)


@pytest.mark.slow
def test_two_processes(tmp_path):
    write_text(tmp_path / "text.txt", sentences())
    ports = [free_port() for _ in range(3)]
    torch.multiprocessing.spawn(_in_process, (ports, str(tmp_path)), nprocs=2)
    torch.manual_seed(0)
    both = model_and_tokenizer()
    for kind in ("hdf5", "parquet"):
        embed_corpus(tmp_path / "text.txt", tmp_path / f"one.{kind}", *both, **OPTIONS)
        one, two = read(tmp_path / f"one.{kind}"), read(tmp_path / f"two.{kind}")
        assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    files = list((tmp_path / "one.parquet").iterdir())
    assert len(files) > 1
    for path in files:
        assert path.read_bytes() == (tmp_path / "two.parquet" / path.name).read_bytes()


def test_a_single_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = Processes.from_environment()
    assert (alone.rank, alone.size, alone.is_first) == (0, 1, True)
    assert alone.from_first(lambda: 5) == 5
    alone.check(None)
    with pytest.raises(KeyError):
        alone.check(KeyError("mine"))
    alone.leave()

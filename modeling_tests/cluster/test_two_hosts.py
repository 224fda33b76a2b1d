"""Pretraining on two hosts, with files on a third: after the loss of a host, the run resumes to the same losses."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from modeling_tests.cluster.hosts import INTERFACE, ROOT, Host, files_served, network, wait_until
from modeling_tests.pretraining.runs import losses, settings, write_corpus

for library in ("moto", "s3fs"):  # of the environment of `make hosts`
    pytest.importorskip(library)
# Each launch imports PyTorch in four processes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
STEPS, CHECKPOINT_EVERY = 300, 60


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`parquet/`, the sentences in three files, and `vocab.txt`."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    lines = (folder / "train.txt").read_text().splitlines()
    (folder / "parquet").mkdir()
    for number in range(3):
        path = folder / "parquet" / f"train-{number:05}-of-00003.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": lines[number::3]}), path, row_group_size=16)
    return folder


@pytest.fixture(scope="module")
def hosts(corpus: Path) -> Iterator[tuple[list[Host], dict[str, str]]]:
    """Two hosts, and the environment with the addresses of the files."""
    with network(3) as (server, *hosts), files_served(server, corpus / "parquet") as environment:
        yield hosts, environment


@pytest.fixture(scope="module")
def uninterrupted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The losses of two processes of one host, from its own disk."""
    output = tmp_path_factory.mktemp("uninterrupted")
    config = write_settings(corpus, output, f"{corpus}/parquet/*")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run([*command, script(), str(config)], env=environment_of(), cwd=ROOT, check=True)
    found = losses(output)
    assert len(found) == STEPS
    return found


def script() -> str:
    return str(ROOT / "examples" / "run_pretraining.py")


def environment_of(**given: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}", "OMP_NUM_THREADS": "1", **given}


def write_settings(corpus: Path, output: Path, source: str) -> Path:
    """A run over several epochs and windows, whose checkpoints lie within them."""
    changed = {"max_steps": STEPS, "checkpoint_every": CHECKPOINT_EVERY, "epochs": 100, "shuffle_window": 32}
    values = settings(corpus, output, train_data=[source], held_out_data=None, **changed).to_dict()
    path = output / "settings.json"
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    return path


def by_torchrun(rank: int, main: Host) -> list[str]:
    command = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", f"--node_rank={rank}"]
    return [*command, f"--master_addr={main.address}", "--master_port=29500"]


def by_accelerate(rank: int, main: Host) -> list[str]:
    command = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=2", "--num_processes=2"]
    command += ["--mixed_precision=no", "--dynamo_backend=no", f"--machine_rank={rank}"]
    return [*command, f"--main_process_ip={main.address}", "--main_process_port=29500"]


@pytest.mark.parametrize(
    ("launched", "source", "lose"),
    [(by_torchrun, "s3://corpus/*.parquet", Host.end), (by_accelerate, "owner/corpus", Host.lose)],
    ids=["torchrun, an object store, killed", "accelerate launch, a streamed data set of the Hub, unplugged"],
)
def test_a_lost_host_changes_no_bit_of_the_result(
    launched: Callable[[int, Host], list[str]],
    source: str,
    lose: Callable[[Host], None],
    corpus: Path,
    hosts,
    uninterrupted,
    tmp_path: Path,
) -> None:
    (first, second), served = hosts
    config = write_settings(corpus, tmp_path, source)
    given = environment_of(**served, GLOO_SOCKET_IFNAME=INTERFACE, HF_HOME=str(tmp_path / "hub"))

    def start() -> list[subprocess.Popen]:
        return [
            host.start([sys.executable, *launched(rank, first), script(), str(config)], given)
            for rank, host in enumerate((first, second))
        ]

    records = tmp_path / "metrics.jsonl"
    running = start()
    wait_until(lambda: records.exists() and records.read_text().count("\n") > CHECKPOINT_EVERY + 20, 900)
    lose(second)
    # The other host ends with an error message.
    assert running[0].wait(300) != 0
    assert running[1].wait(60) != 0
    before = losses(tmp_path)
    assert CHECKPOINT_EVERY < len(before) < STEPS and before == uninterrupted[: len(before)]

    second.reconnect()
    assert [process.wait(900) for process in start()] == [0, 0]
    assert losses(tmp_path) == uninterrupted
    assert len(list((tmp_path / "checkpoints").glob(f"step-{STEPS:08}/process-*.pt"))) == 2

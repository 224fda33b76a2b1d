"""`elmo-hf embed --engine ray` on a cluster of two nodes; it needs an environment of its own: `make ray`."""

import gzip
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from elmo_hf import BatchEmbedder, embed
from elmo_hf.cli import main
from modeling_tests.cluster.object_store import object_store
from modeling_tests.corpus_embedding.corpora import model_and_tokenizer, sentences, write_text

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# By default, Ray lowers the priority of its workers.
os.environ.setdefault("RAY_worker_niceness", "0")
datasets, duckdb, pandas = (pytest.importorskip(name) for name in ("datasets", "duckdb", "pandas"))
ray = pytest.importorskip("ray")
# Three processes that import Ray and PyTorch begin in each call.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    for part in model_and_tokenizer():
        part.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One corpus in four files of as many formats."""
    path = tmp_path_factory.mktemp("texts")
    for number, name in enumerate(("a.txt", "b.txt.gz", "c.jsonl", "d.parquet")):
        lines = [" ".join(words) for words in sentences(60, number)]
        if name.endswith("txt"):
            write_text(path / name, sentences(60, number))
        elif name.endswith("gz"):
            (path / name).write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode()))
        elif name.endswith("jsonl"):
            (path / name).write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
        else:
            pyarrow.parquet.write_table(pyarrow.table({"text": lines}), path / name)
    return path


@pytest.fixture(scope="module")
def expected(folder: Path, texts: Path) -> dict[str, np.ndarray]:
    """The vectors of one process, by id."""
    found = {}
    for number, path in enumerate(sorted(texts.iterdir())):
        for index, array in enumerate(embed(sentences(60, number), folder, device="cpu")):
            found[f"{path}:{index}"] = array
    return found


def add_node(cluster, cpus: int) -> None:
    """Start a node. Ray waits 30 seconds for one, which a busy machine may need more than once."""
    for last in (False, False, True):
        try:
            cluster.add_node(num_cpus=cpus, object_store_memory=2**27, include_dashboard=False)
        except Exception as error:
            if last or "timed out" not in str(error):
                raise
        else:
            break
    cluster.wait_for_nodes(120)


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """A bucket of an object store, made before the nodes start: they find it through the environment."""
    with object_store("127.0.0.1") as bucket, pytest.MonkeyPatch.context() as patch:
        for name, value in bucket.environment.items():
            patch.setenv(name, value)
        yield bucket.url


@pytest.fixture(scope="module")
def cluster(store: str) -> Iterator:
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for cpus in (1, 2):
        add_node(cluster, cpus)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def command(cluster, folder: Path) -> Callable[..., int]:
    def run(sources, output: Path | str, *options: str) -> int:
        arguments = ["embed", *map(str, sources), "--output", str(output), "--model", str(folder), "--engine", "ray"]
        arguments += ["--address", cluster.address, "--shard_words", "40", "--workers", "2", "--device", "cpu"]
        return main([*arguments, *options])

    return run


def read(output: Path) -> dict[str, np.ndarray]:
    """Vectors by id, each of which occurs once."""
    found = {}
    for path in output.glob("*.parquet"):
        table = pyarrow.parquet.read_table(path)
        assert table.column_names == ["index", "id", "words", "vectors"]
        add(found, *(table[column].to_pylist() for column in ("id", "words", "vectors")))
    return found


def add(found: dict[str, np.ndarray], *columns) -> dict[str, np.ndarray]:
    """Vectors of rows by name; no name occurs twice."""
    for name, words, vectors in zip(*columns, strict=True):
        assert name not in found and len(words) == len(vectors)
        found[name] = np.array([np.asarray(vector) for vector in vectors], dtype=np.float32).reshape(len(words), 8)
    return found


def check_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], bound: float = 1e-6) -> None:
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=bound)


def check(output: Path, expected: dict[str, np.ndarray]) -> None:
    check_equal(read(output), expected)
    assert not list(output.glob(".*.writing"))
    index = json.loads((output / "_embeddings.index.json").read_text())
    assert sorted(shard["file"] for shard in index["shards"]) == sorted(path.name for path in output.glob("*.parquet"))


def test_equals_a_single_process_and_resumes(command, texts, expected, tmp_path, capsys) -> None:
    output = tmp_path / "out"
    assert command([f"{texts}/*"], output) == 0
    check(output, expected)
    # Remove two shards and the index, as after an interruption.
    (output / "_embeddings.index.json").rename(output / "_unfinished.json")
    shards = sorted(output.glob("*.parquet"))
    times = {path: path.stat().st_mtime_ns for path in shards}
    for path in shards[:2]:
        path.unlink()
    capsys.readouterr()
    assert command([f"file://{texts}/*"], output, "--json") == 0
    assert json.loads(capsys.readouterr().out)["new_shards"] == 2
    assert [path for path in shards if path.stat().st_mtime_ns != times[path]] == shards[:2]
    check(output, expected)
    assert command([f"{texts}/*"], output) == 0
    assert "complete already" in capsys.readouterr().out
    assert command([f"{texts}/*"], output, "--layers", "top") == 1
    assert "layers='mix', not 'top'" in capsys.readouterr().err
    assert command([f"{texts}/a.txt"], output) == 1
    assert "which is not in the input" in capsys.readouterr().err


def test_object_store_input_and_output(command, store, texts, expected, tmp_path, capsys) -> None:
    """From one bucket to another by s3fs; read by pandas, DuckDB and datasets as the documents say."""
    remote = fsspec.filesystem("s3")
    for path in texts.iterdir():
        remote.put_file(str(path), f"{store}/texts/{path.name}")
    output = f"{store}/vectors"
    assert command([f"{store}/texts/*"], output, "--dtype", "float16") == 0
    here = {name.replace(str(texts), f"{store}/texts"): array for name, array in expected.items()}
    names = sorted(path.rsplit("/", 1)[1] for path in remote.ls(f"{store}/vectors", refresh=True, detail=False))
    assert [name for name in names if not name.startswith("embeddings-")] == ["_embeddings.index.json", "_plans"]

    frame = pandas.read_parquet(output)
    assert next(vector for row in frame["vectors"] for vector in row).dtype == np.float16
    check_equal(add({}, frame["id"], frame["words"], frame["vectors"]), here, 2e-3)
    remote.get(f"{store}/vectors/*.parquet", f"{tmp_path}/copy/")
    table = datasets.load_dataset("parquet", data_files=f"{tmp_path}/copy/*.parquet", split="train", streaming=True)
    rows = list(table)
    check_equal(add({}, *([row[name] for row in rows] for name in ("id", "words", "vectors"))), here, 2e-3)
    columns = duckdb.sql(f"select id, words, vectors from '{tmp_path}/copy/*.parquet'").fetchall()
    check_equal(add({}, *zip(*columns, strict=True)), here, 2e-3)

    # Missing shards are computed again.
    gone = next(name for name in names if name.startswith("embeddings-"))
    remote.mv(f"{output}/_embeddings.index.json", f"{output}/_unfinished.json")
    remote.rm(f"{output}/{gone}")
    capsys.readouterr()
    assert command([f"{store}/texts/*"], output, "--dtype", "float16", "--json") == 0
    assert json.loads(capsys.readouterr().out)["new_shards"] == 1
    assert len(pandas.read_parquet(output)) == len(here)


def test_a_corrupt_file_is_named_and_the_others_are_done(command, texts, expected, tmp_path, capsys) -> None:
    corpus = tmp_path / "texts"
    corpus.mkdir()
    for path in texts.iterdir():
        (corpus / path.name).write_bytes(path.read_bytes())
    whole = (corpus / "b.txt.gz").read_bytes()
    (corpus / "b.txt.gz").write_bytes(whole[: len(whole) // 2])
    (corpus / "c.jsonl").write_text('{"text": "the cat"}\n{"text": \n')
    output = tmp_path / "out"
    assert command([f"{corpus}/*"], output) == 1
    told = capsys.readouterr().err
    assert f"{corpus}/b.txt.gz" in told and f"{corpus}/c.jsonl, line 2" in told and f"{corpus}/a.txt" not in told
    here = {name.replace(str(texts), str(corpus)): array for name, array in expected.items()}
    found = read(output)
    assert sorted(found) == sorted(name for name in here if "a.txt" in name or "d.parquet" in name)
    for name in ("b.txt.gz", "c.jsonl"):
        (corpus / name).write_bytes((texts / name).read_bytes())
    assert command([f"{corpus}/*"], output) == 0
    check(output, here)


def after_shards_are_written(output: Path, count: int, act: Callable[[], None]) -> threading.Thread:
    """Start a thread that acts once the output has this number of shards."""

    def watch() -> None:
        end = time.monotonic() + 900
        while len(list(output.glob("*.parquet"))) < count and time.monotonic() < end:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def long_corpus(path: Path, folder: Path) -> dict[str, np.ndarray]:
    drawn = sentences(900)
    write_text(path, drawn)
    return {f"{path}:{number}": array for number, array in enumerate(embed(drawn, folder, device="cpu"))}


def test_a_node_killed_in_the_middle(command, cluster, folder, tmp_path) -> None:
    output, written = tmp_path / "out", []
    here = long_corpus(tmp_path / "text.txt", folder)
    lost = next(node for node in cluster.worker_nodes)

    def kill() -> None:
        cluster.remove_node(lost, allow_graceful=False)
        written.append(len(list(output.glob("*.parquet"))))

    thread = after_shards_are_written(output, 10, kill)
    try:
        assert command([tmp_path / "text.txt"], output) == 0
    finally:
        thread.join()
        add_node(cluster, 2)
    check(output, here)
    assert 10 <= written[0] < len(list(output.glob("*.parquet")))


def workers_of(cluster) -> list[int]:
    """Processes of the actors that embed."""
    raylets = {process.process.pid for node in cluster.list_all_nodes() for process in node.all_processes["raylet"]}
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent in raylets and b"MapWorker" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except (OSError, ValueError):  # gone meanwhile
            continue
    return found


def test_an_actor_out_of_memory(command, cluster, folder, tmp_path) -> None:
    """A worker is killed, as by Ray's memory monitor; its shard is embedded again, once."""
    output, killed = tmp_path / "out", []
    here = long_corpus(tmp_path / "text.txt", folder)

    def kill() -> None:
        working = workers_of(cluster)
        assert len(working) == 2
        for process in working[:1]:
            os.kill(process, signal.SIGKILL)
            killed.append(len(list(output.glob("*.parquet"))))

    thread = after_shards_are_written(output, 10, kill)
    assert command([tmp_path / "text.txt"], output) == 0
    thread.join()
    check(output, here)
    assert len(killed) == 1 and killed[0] < len(list(output.glob("*.parquet")))


@pytest.mark.parametrize("batch_format", ["numpy", "pyarrow"])
def test_callable_in_a_custom_ray_pipeline(cluster, folder, batch_format) -> None:
    drawn = sentences()
    ray.init(address=cluster.address, ignore_reinit_error=True, log_to_driver=False)
    rows = ray.data.from_items([{"id": number, "text": " ".join(words)} for number, words in enumerate(drawn)])
    done = rows.map_batches(
        BatchEmbedder,
        fn_constructor_args=(folder,),
        fn_constructor_kwargs={"device": "cpu"},
        concurrency=(1, 2),
        batch_format=batch_format,
        batch_size=16,
    )
    found = done.take_all()
    assert len(found) == len(drawn)
    for row, array in zip(sorted(found, key=lambda row: row["id"]), embed(drawn, folder, device="cpu"), strict=True):
        vectors = np.array([*map(np.asarray, row["vectors"])], dtype=np.float32).reshape(array.shape)
        np.testing.assert_allclose(vectors, array, rtol=0, atol=1e-6)
    ray.shutdown()

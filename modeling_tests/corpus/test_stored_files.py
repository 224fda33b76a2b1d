"""Files through fsspec: on disk, in a store that has no local paths, and over HTTP."""

import bz2
import gzip
import json
import pickle
import uuid
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from elmo_hf.corpus import lines
from elmo_hf.corpus.sentences import open_corpus
from elmo_hf.corpus.stored_files import matching_files
from modeling_tests.hub_server import Fault, running_hub

TEXTS = [f"sentence {number} of the text" + " and more" * (number % 5) for number in range(1500)]


@pytest.fixture(params=["disk", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a folder with two texts and a subfolder."""
    address = str(tmp_path) if request.param == "disk" else f"memory://{uuid.uuid4().hex}"
    for name in ("b.txt", "a.txt", "deeper/c.txt"):
        with fsspec.open(f"{address}/{name}", "wb", auto_mkdir=True) as file:
            file.write(name.encode())
    return address


def test_lists_files_by_name_and_none_twice(place: str) -> None:
    found = matching_files([f"{place}/b.txt", f"{place}/*.txt"])
    assert [(Path(file.url).name, file.size) for file in found] == [("b.txt", 5), ("a.txt", 5)]
    assert found == matching_files([file.url for file in found])
    with pytest.raises(FileNotFoundError, match=r"none\.\*"):
        matching_files([f"{place}/none.*"])
    with pytest.raises(ValueError, match=r"deeper is a folder.*deeper/\*"):
        matching_files([f"{place}/deeper"])


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """One corpus in files of all formats, by name."""
    folder = tmp_path_factory.mktemp("files")
    table = pyarrow.table({"text": TEXTS})
    pyarrow.parquet.write_table(table, folder / "a.parquet", row_group_size=400)
    pyarrow.feather.write_feather(table, folder / "a.arrow", compression="uncompressed")
    text = "".join(f"{line}\n" for line in TEXTS).encode()
    records = [json.dumps({"text": line}) for line in TEXTS]
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    found |= {"a.txt": text, "a.txt.gz": gzip.compress(text), "a.txt.bz2": bz2.compress(text)}
    return found | {"a.jsonl": "\n".join(records).encode(), "a.json": f"[{','.join(records)}]".encode()}


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["memory", "http"])
def test_corpora_are_streamed_from_remote_storage(contents, protocol, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK_BYTES", 5000)
    with running_hub() as hub:
        address = f"memory://{uuid.uuid4().hex}" if protocol == "memory" else hub.url
        for name, content in contents.items():
            if protocol == "memory":
                fsspec.filesystem("memory").pipe_file(f"{address}/{name}", content)
            hub.web[f"/{name}"] = content
        for name in contents:
            corpus = open_corpus(f"{address}/{name}", shard_bytes=30_000)
            assert list(corpus) == TEXTS
            assert len(corpus.shards) == (-(-len(contents[name]) // 30_000) if name in ("a.txt", "a.jsonl") else 1)
            # Reading can resume at any position, also in another process.
            shard = pickle.loads(pickle.dumps(corpus.shards[-1]))
            reader = shard.open()
            before = len(reader.take(10**9))
            again = shard.open()
            again.take(before - 7)
            resumed = shard.open(json.loads(json.dumps(again.position)))
            assert resumed.take(5) == TEXTS[-7:-2]
            for each in (reader, again, resumed):
                each.close()


def test_remote_read_errors_name_the_file(contents) -> None:
    with running_hub() as hub:
        hub.web |= {"/a.txt": contents["a.txt"], "/b.txt": b"", "/c.parquet": contents["a.parquet"][:-9]}
        with pytest.raises(FileNotFoundError, match=f"{hub.url}/none.txt"):
            open_corpus(f"{hub.url}/none.txt")
        with pytest.raises(ValueError, match=f"{hub.url}/b.txt.*empty"):
            open_corpus(f"{hub.url}/b.txt")
        with pytest.raises(ValueError, match=f"{hub.url}/c.parquet.*damaged"):
            open_corpus(f"{hub.url}/c.parquet")
        corpus = open_corpus(f"{hub.url}/a.txt")
        hub.faults.append(Fault("GET", "/a.txt", status=503))
        with pytest.raises(OSError, match="503") as caught:
            list(corpus)
        assert caught.value.filename == f"{hub.url}/a.txt"
        with pytest.raises(ValueError, match="nonsense"):
            open_corpus("nonsense://a.txt")

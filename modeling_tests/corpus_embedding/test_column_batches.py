"""`BatchEmbedder` on batches of lists, arrays and Arrow, in this process and in worker processes of `datasets`."""

import pickle
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pytest
import torch

from elmo_hf import BatchEmbedder, embed
from elmo_hf.corpus_embedding import shard_embedding

from .corpora import check_equal, model_and_tokenizer, sentences, tagger_and_tokenizer

WORDS = sentences()
TEXTS = [" ".join(words) for words in WORDS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(1)
    for part in model_and_tokenizer():
        part.save_pretrained(path)
    return path


def arrays_of(column, layers: int | None = None, width: int = 8) -> list[np.ndarray]:
    shape = (-1, width) if layers is None else (layers, -1, width)
    found = [np.array(row.as_py()) for row in column]
    return [row.reshape(shape) if row.size else np.zeros((*shape[:-2], 0, width)) for row in found]


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "given"), [("mix", TEXTS), ("all", WORDS), (0, TEXTS)], ids=["mix", "all", "0"])
def test_vectors_are_those_of_embed(folder: Path, layers, given) -> None:
    expected = embed(WORDS, folder, layers=layers, device="cpu")
    embedder = BatchEmbedder(folder, layers=layers, batch_words=30, chunk_words=20, device="cpu")
    numbers = list(range(len(given)))
    found = embedder({"text": given, "id": numbers})
    assert found["words"] == WORDS and found["id"] == numbers and found["vectors"][0].dtype == np.float32
    check_equal(found["vectors"], expected)
    table = pyarrow.table({"text": given, "id": numbers})
    for batch in (table, *table.to_batches()):
        result = embedder(batch)
        assert type(result) is type(batch) and result.schema.names == ["text", "id", "words", "vectors"]
        assert result["words"].to_pylist() == WORDS and result["id"].to_pylist() == numbers
        check_equal(arrays_of(result["vectors"], 3 if layers == "all" else None), expected)
        # Spark refuses lists of fixed size.
        assert ("fixed_size" in str(result.schema)) == (batch is table)


def test_equal_lengths_still_give_object_arrays(folder: Path) -> None:
    embedder = BatchEmbedder(folder, dtype="float16", text_column="line", device="cpu")
    found = embedder({"line": np.array(["the cat", "a mat"], dtype=object)})
    assert found["vectors"].shape == (2,) and found["words"].tolist() == [["the", "cat"], ["a", "mat"]]
    assert found["vectors"][0].dtype == np.float16
    check_equal(list(found["vectors"]), embed(["the cat", "a mat"], folder, device="cpu"), 1e-2)
    ragged = np.array([np.array(["the", "cat"]), np.array(["a"])], dtype=object)
    check_equal(list(embedder({"line": ragged})["vectors"]), embed([["the", "cat"], ["a"]], folder, device="cpu"), 1e-2)


@pytest.mark.parametrize("layers", ["mix", "all"])
def test_a_batch_without_rows_has_the_same_columns(folder: Path, layers) -> None:
    embedder = BatchEmbedder(folder, layers=layers, device="cpu")
    table = pyarrow.table({"text": ["the cat"]})
    assert embedder(table.slice(0, 0)).schema == embedder(table).schema
    assert embedder({"text": []}) == {"text": [], "words": [], "vectors": []}


def test_a_pickle_is_small_and_a_process_loads_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    embedder = BatchEmbedder(folder.name, device="cpu")
    before = embedder({"text": ["the cat"]})["vectors"][0]
    pickled = pickle.dumps(embedder)
    assert len(pickled) < 1000
    monkeypatch.chdir("/")
    opened = []
    monkeypatch.setattr(
        shard_embedding, "open_embedder", lambda *given: opened.append(given) or pytest.fail("loaded again")
    )
    for _ in range(2):
        np.testing.assert_array_equal(pickle.loads(pickled)({"text": ["the cat"]})["vectors"][0], before)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [None, "arrow"])
def test_maps_data_sets(folder: Path, kind) -> None:
    rows = datasets.Dataset.from_dict({"id": [f"s{number}" for number in range(40)], "text": TEXTS})
    embedder = BatchEmbedder(folder, device="cpu")
    # Two processes only once, because they start slowly.
    found = rows.with_format(kind).map(embedder, batched=True, batch_size=7, num_proc=2 if kind else None)
    found = found.with_format("arrow")[:]
    assert found["id"].to_pylist() == rows["id"] and found["words"].to_pylist() == WORDS
    check_equal(arrays_of(found["vectors"]), embed(WORDS, folder, device="cpu"))


def test_serves_as_a_map_over_record_batches(folder: Path) -> None:
    """As with Spark's `mapInArrow`: an iterator of record batches is mapped to another."""
    batches = pyarrow.table({"text": TEXTS}).to_batches(max_chunksize=9)
    found = list(map(BatchEmbedder(folder, device="cpu"), iter(batches)))
    assert [batch.num_rows for batch in found] == [9, 9, 9, 9, 4]
    check_equal(arrays_of(pyarrow.Table.from_batches(found)["vectors"]), embed(WORDS, folder, device="cpu"))


def test_refusals_name_column_row_and_value(folder: Path, tmp_path: Path) -> None:
    embedder = BatchEmbedder(folder, device="cpu")
    with pytest.raises(ValueError, match="'text'.*'line'.*'id'.*text_column"):
        embedder({"line": ["a"], "id": [1]})
    for value in (None, 3, ["a", None]):
        with pytest.raises(ValueError, match="column 'text', row 1"):
            embedder({"text": ["a", value]})
    with pytest.raises(TypeError, match="^batch .* list"):
        embedder(["a"])
    with pytest.raises(TypeError, match="model.*ElmoModel.*save_pretrained"):
        BatchEmbedder(model_and_tokenizer()[0])
    for options in ({"layers": "best"}, {"dtype": "int8"}, {"batch_words": 0}, {"pre_tokenization": "none"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            BatchEmbedder(folder, **options)
    for part in tagger_and_tokenizer():
        part.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_pos_tags=2"):
        BatchEmbedder(tmp_path, device="cpu")({"text": ["the cat"]})

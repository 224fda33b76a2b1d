"""Carried state against the model called with `initial_state`, and against bilm-tf's outputs."""

import json

import h5py
import numpy as np
import pytest
import torch

from elmo_hf import ElmoModel, ElmoTokenizer, embed, embed_iter
from elmo_hf.inference.carried_state import CarriedState
from elmo_hf.inference.documents import read_by_chunks
from elmo_hf.inference.embedding import open_embedder
from hub_upload import convert
from modeling_tests.tiny import TRANSFORMER, tiny_config, with_large_weights

WORDS = "the cat sat on a mat , .".split()
TOKENIZER = ElmoTokenizer(max_characters_per_word=9)


def sentences(count=11, seed=0):
    """Sentences of many lengths, one empty."""
    generator = np.random.default_rng(seed)
    drawn = [generator.choice(WORDS, size=size).tolist() for size in generator.integers(1, 7, count)]
    drawn[4] = []
    return drawn


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return with_large_weights(ElmoModel(tiny_config())).eval()


@torch.no_grad()
def one_row_at_a_time(model, given, rows, warm_up=0):
    """All layers of every sentence, with each row read alone: [layers, words, 2P]."""
    states, found = [None] * rows, []
    order = [(number, number % rows) for number in range(warm_up)] + [(n, n % rows) for n in range(len(given))]
    for number, row in order:
        batch = TOKENIZER([given[number]], is_split_into_words=True, return_tensors="pt")
        output = model(**batch, initial_state=states[row], return_state=True, output_hidden_states=True)
        states[row] = output.state
        found.append(np.stack([layer[0, 1:-1].numpy() for layer in output.hidden_states]))
    return found[warm_up:]


def check(found, expected, bound=1e-6):
    assert len(found) == len(expected)
    for array, same in zip(found, expected, strict=True):
        assert array.shape == same.shape and array.dtype == np.float32
        np.testing.assert_allclose(array, same, rtol=0, atol=bound)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 3, 50])
@pytest.mark.parametrize("warm_up", [0, 4, 100])
def test_every_row_continues(model, rows, warm_up):
    given = sentences()
    expected = one_row_at_a_time(model, given, rows, min(warm_up, len(given)))
    options = {"carry_state": True, "rows": rows, "warm_up": warm_up}
    check(embed(given, model, TOKENIZER, layers="all", **options), expected)
    check(embed(given, model, TOKENIZER, layers=1, **options), [array[1] for array in expected])
    if rows < 50 or warm_up:
        alone = embed(given, model, TOKENIZER, layers="all")
        assert max(np.abs(a - b).max() for a, b in zip(alone, expected, strict=True) if a.size) > 0.01


def test_raw_texts_and_boundaries(model):
    given = sentences()
    expected = embed(given, model, TOKENIZER, boundaries=True, carry_state=True, rows=2)
    assert expected[4].shape == (2, 8)
    found = embed([" ".join(words) for words in given], model, TOKENIZER, boundaries=True, carry_state=True, rows=2)
    check(found, expected, 0)


def test_batch_normalized_mixes_read_each_row_alone():
    model = with_large_weights(ElmoModel(tiny_config(scalar_mix_layer_norm="tokens"))).eval()
    given = sentences()
    together = embed(given, model, TOKENIZER, carry_state=True, rows=3)
    by_rows: list = [None] * len(given)
    for row in range(3):
        by_rows[row::3] = embed(given[row::3], model, TOKENIZER, carry_state=True)
    check(together, by_rows)


def test_a_stream_is_read_a_batch_at_a_time(model):
    taken = []

    def stream():
        for number in range(20):
            taken.append(number)
            yield ["cat"]

    counts = [len(taken) for _ in embed_iter(stream(), model, TOKENIZER, carry_state=True, rows=4, warm_up=2)]
    assert counts == [4 * (number // 4 + 1) for number in range(20)]


@pytest.mark.slow
@pytest.mark.parametrize("chunk_words", [1, 4, 100])
def test_documents_by_chunks_carry_their_state(model, chunk_words):
    """Read and write the state of single rows."""
    given = [WORDS * 2, ["cat"], WORDS, [], ["mat", "sat"]]
    embedder = open_embedder(model, TOKENIZER, "all", False, 100, 1, None, None)
    carried = CarriedState(2)
    found = []
    for number, words in enumerate(given):
        parts = list(read_by_chunks(embedder, words, chunk_words, None, carried, number % 2))
        found.append(np.concatenate(parts, axis=1))
    check(found, one_row_at_a_time(model, given, 2))


def test_ten_batches_of_bilm_tf(reference, tmp_path):
    """Batch i holds sentence i of three lists; state carries over from batch to batch."""
    convert(reference / "bilm_tf", tmp_path / "folder")
    lists = json.loads((reference / "bilm_tf" / "lm_embeddings_sentences.json").read_text())
    expected = []
    for number in range(3):
        with h5py.File(reference / "bilm_tf" / f"lm_embeddings_{number}.hdf5") as file:
            expected.append([file[str(place)][...] for place in range(10)])  # each [directions, words, P]
    given = [lists[number][place].split() for place in range(10) for number in range(3)]
    wanted = [np.concatenate(list(expected[number][place]), axis=-1) for place in range(10) for number in range(3)]
    check(embed(given, tmp_path / "folder", layers="top", carry_state=True, rows=3), wanted, 2e-6)
    alone = embed(given, tmp_path / "folder", layers="top")
    assert max(np.abs(a - b).max() for a, b in zip(alone, wanted, strict=True)) > 0.5


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"rows": 0, "carry_state": True}, "rows=0"),
            ({"warm_up": -1, "carry_state": True}, "warm_up=-1"),
            ({"rows": 2}, "rows=2 without carry_state"),
            ({"warm_up": 2}, "warm_up=2 without carry_state"),
        ],
    )
    def test_options(self, model, options, message):
        with pytest.raises(ValueError, match=message):
            embed_iter(["a"], model, TOKENIZER, **options)

    def test_a_transformer(self):
        with pytest.raises(ValueError, match="carry_state with encoder_type='transformer'"):
            embed(["a"], ElmoModel(tiny_config(**TRANSFORMER)), TOKENIZER, carry_state=True)

"""The word cache: exact vectors, bounded size, cleared after changes of the weights."""

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from elmo_hf import ElmoForTokenClassification, ElmoModel
from elmo_hf.kernels import precision, word_cache
from elmo_hf.kernels.prepared_weights import kept_words
from elmo_hf.kernels.word_cache import WAYS, WordCache, pays_on
from modeling_tests.tiny import BOTH_INPUTS, WORD_INPUT, batch_of, tiny_config, with_large_weights

LENGTH, WIDTH = 6, 5


class Encoder:
    """Stand-in for a word layer: one fixed vector per row, and a record of the requested rows."""

    def __init__(self):
        self.weights = [torch.randn(LENGTH, WIDTH)]
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, rows):
        self.asked += [tuple(row) for row in rows.tolist()]
        return (
            torch.stack([torch.sin(row.float()) @ self.weights[0] for row in rows]) if len(rows) else torch.zeros(0, 5)
        )


def rows_of(numbers):
    """Distinct rows of distinct numbers."""
    return torch.tensor([[number // 262, number % 262, 3, 1, 261, 261] for number in numbers])


def megabytes(words):
    """A size limit with room for this number of words."""
    return words * (4 * LENGTH + 16 + 4 * WIDTH) / 1e6


def check(cache, encoder, numbers):
    """Check the vectors; return the rows that were computed."""
    rows = rows_of(numbers)
    encoder.asked.clear()
    found = cache.vectors(rows, encoder.weights, encoder)
    made = [row[0] * 262 + row[1] for row in encoder.asked]
    torch.testing.assert_close(found, encoder(rows), rtol=0, atol=1e-6)
    return made


def test_words_are_encoded_once():
    cache, encoder = WordCache(megabytes(4000)), Encoder()
    assert check(cache, encoder, range(10)) == list(range(10))
    assert check(cache, encoder, range(10)) == []
    assert check(cache, encoder, [3, 40, 7, 41]) == [40, 41]
    assert check(cache, encoder, [41, 0]) == []
    assert len(cache) == 12
    assert (cache.words_asked, cache.words_found) == (26, 14)


def test_gpu_does_not_use_the_cache(monkeypatch):
    assert pays_on(torch.device("cpu")) and not pays_on(torch.device("cuda"))
    monkeypatch.setattr(word_cache, "pays_on", lambda device: False)
    cache, encoder = WordCache(megabytes(100)), Encoder()
    for _ in range(2):
        assert check(cache, encoder, range(4)) == list(range(4))
    assert len(cache) == 0 and cache.words_asked == 0


def test_size_is_bounded_and_least_recently_used_are_evicted():
    cache, encoder = WordCache(megabytes(WAYS)), Encoder()
    assert check(cache, encoder, range(WAYS)) == list(range(WAYS))
    assert check(cache, encoder, [0, 1]) == []
    assert check(cache, encoder, [100]) == [100]
    # Words 0 and 1 were used last.
    assert check(cache, encoder, [0, 1, 100]) == []
    assert len(cache) == WAYS
    # More words than there are slots.
    assert check(cache, encoder, range(200, 230)) == list(range(200, 230))
    assert len(cache) == WAYS


def test_a_long_stream():
    """Many words in few slots, in batches of every size: exact vectors, bounded size."""
    cache, encoder = WordCache(megabytes(64)), Encoder()
    generator = torch.Generator().manual_seed(0)
    made = asked = 0
    for _ in range(150):
        numbers = (torch.rand(40, generator=generator).pow(4) * 400).long().unique()
        numbers = numbers[torch.randperm(len(numbers), generator=generator)].tolist()
        made += len(check(cache, encoder, numbers))
        asked += len(numbers)
    assert len(cache) <= 64
    assert made < 0.7 * asked
    assert cache._vectors.shape[0] == 64


@pytest.mark.parametrize(
    "hashes", [lambda rows: torch.zeros(len(rows), dtype=torch.int64), lambda rows: rows[:, 1] % 3]
)
def test_words_with_equal_hashes_stay_distinct(hashes, monkeypatch):
    monkeypatch.setattr(word_cache, "row_hashes", hashes)
    cache, encoder = WordCache(megabytes(100)), Encoder()
    for numbers in (range(5), range(20), [1, 19, 2], range(30), [4, 3]):
        check(cache, encoder, list(numbers))


def test_changed_weights():
    cache, encoder = WordCache(megabytes(100)), Encoder()
    check(cache, encoder, range(4))
    encoder.weights[0].mul_(2)
    assert check(cache, encoder, range(4)) == list(range(4))
    encoder.weights[0] = encoder.weights[0].clone()
    assert check(cache, encoder, range(4)) == list(range(4))


@pytest.mark.parametrize("size", [0, -1, float("nan")])
def test_impossible_sizes(size):
    with pytest.raises(ValueError, match=f"max_megabytes={size}"):
        ElmoModel(tiny_config()).cache_word_vectors(size)


BATCHES = [["a cat sat", "the dog"], ["the cat ran off", "a"], ["the", "the the dog"]]


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("overrides", [{}, BOTH_INPUTS, {"num_pos_tags": 3, "pos_tag_embedding_size": 2}])
def test_a_model_with_a_cache(overrides):
    model = with_large_weights(ElmoModel(tiny_config(**overrides))).eval()
    batches = [batch_of(sentences) for sentences in BATCHES]
    for batch in batches:
        batch["pos_tag_ids"] = batch["input_ids"] % 3
    plain = [model(**batch).last_hidden_state for batch in batches]
    model.cache_word_vectors(1)
    for _ in range(2):
        for batch, expected in zip(batches, plain, strict=True):
            torch.testing.assert_close(model(**batch).last_hidden_state, expected, rtol=0, atol=1e-6)
    cache = kept_words[model.embeddings]
    assert cache.words_found > cache.words_asked / 2
    for weight in model.embeddings.parameters():
        weight.mul_(0.5)
    changed = model(**batches[0]).last_hidden_state
    model.cache_word_vectors(None)
    assert model.embeddings not in kept_words
    torch.testing.assert_close(changed, model(**batches[0]).last_hidden_state, rtol=0, atol=1e-6)
    assert not torch.equal(changed, plain[0])


def test_in_and_out_of_inference_mode():
    """Vectors cached in inference mode also serve training on a frozen biLM."""
    model = with_large_weights(ElmoForTokenClassification(tiny_config(num_labels=3))).eval()
    model.freeze_bilm()
    model.elmo.cache_word_vectors(1)
    expected = [model(**batch_of(sentences)).logits for sentences in BATCHES]
    model.elmo.cache_word_vectors(1)
    for weight in model.elmo.embeddings.parameters():
        weight.data = weight.data.clone()
    with torch.inference_mode():
        model(**batch_of(BATCHES[0]))
    with torch.no_grad():
        model(**batch_of(BATCHES[1]))
    for sentences, logits in zip(BATCHES, expected, strict=True):
        found = model(**batch_of(sentences)).logits
        torch.testing.assert_close(found, logits, rtol=0, atol=1e-5)
    found.sum().backward()


def test_a_trainable_word_layer_is_an_error():
    model = ElmoModel(tiny_config())
    model.cache_word_vectors(1)
    batch = batch_of(BATCHES[0])
    for mode in (True, False):
        model.train(mode)
        with pytest.raises(ValueError, match=r"cache_word_vectors\(None\)"):
            model(**batch)
        with torch.no_grad():
            model(**batch)
    model.cache_word_vectors(None)
    assert model(**batch).last_hidden_state.requires_grad


def test_a_frozen_bilm_in_a_task_that_trains():
    model = with_large_weights(ElmoForTokenClassification(tiny_config(num_labels=3))).eval()
    model.freeze_bilm()
    batch = batch_of(BATCHES[0])
    expected = model(**batch).logits
    model.elmo.cache_word_vectors(1)
    for _ in range(2):
        logits = model(**batch).logits
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    logits.sum().backward()
    assert model.elmo.scalar_mixes[0].gamma.grad is not None


def test_model_without_characters_is_refused():
    model = ElmoModel(tiny_config(**WORD_INPUT))
    with pytest.raises(ValueError, match="character_filters"):
        model.cache_word_vectors(10)
    model.cache_word_vectors(None)


@torch.no_grad()
def test_saving_and_copying_a_model(tmp_path):
    model = ElmoModel(tiny_config()).eval()
    model.cache_word_vectors(1)
    expected = model(**batch_of(BATCHES[0])).last_hidden_state
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.embeddings not in kept_words and model.embeddings in kept_words
        torch.testing.assert_close(other(**batch_of(BATCHES[0])).last_hidden_state, expected, rtol=0, atol=1e-6)
        assert len(kept_words[other.embeddings]) == len(kept_words[model.embeddings])
    assert not any("cache" in name for name in model.state_dict())
    model.save_pretrained(tmp_path)
    loaded = ElmoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**batch_of(BATCHES[0])).last_hidden_state, expected, rtol=0, atol=1e-6)
    assert loaded.embeddings not in kept_words
    half = model.bfloat16()(**batch_of(BATCHES[0])).last_hidden_state
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.05, atol=0.02)


def test_threads_that_read_and_evict_at_once():
    cache, encoder = WordCache(megabytes(16)), Encoder()
    cache.vectors(rows_of(range(16)), encoder.weights, encoder)

    def read(seed):
        draw = torch.Generator().manual_seed(seed)
        for _ in range(60):
            rows = rows_of(torch.randperm(60, generator=draw)[:12].tolist())
            if not torch.allclose(cache.vectors(rows, encoder.weights, encoder), encoder(rows), atol=1e-6):
                return False
        return True

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(read, range(4)))
    finally:
        sys.setswitchinterval(interval)


@torch.no_grad()
def test_autocast_has_vectors_of_its_own(monkeypatch):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)
    model = with_large_weights(ElmoModel(tiny_config())).eval()
    batch = batch_of(["a cat sat", "a dog"])
    plain = model(**batch, output_hidden_states=True).hidden_states[0]
    model.cache_word_vectors(1.0)
    for precise in (True, False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
            found = model(**batch, output_hidden_states=True).hidden_states[0]
        assert torch.allclose(found.float(), plain, atol=1e-4 if precise else 0.3)


@torch.no_grad()
def test_adapters_are_not_cached():
    class Adapter(nn.Module):
        """An adapter layer that is switched by an attribute, like PEFT's."""

        def __init__(self, layer):
            super().__init__()
            self.layer, self.on = layer, True

        def forward(self, inputs):
            return self.layer(inputs) * (2 if self.on else 1)

    model = with_large_weights(ElmoModel(tiny_config())).eval()
    batch = batch_of(["a cat sat", "a dog"])
    plain = model(**batch, output_hidden_states=True).hidden_states[0]
    adapter = model.embeddings.projection = Adapter(model.embeddings.projection)
    model.cache_word_vectors(1.0)
    doubled = model(**batch, output_hidden_states=True).hidden_states[0]
    adapter.on = False
    assert torch.allclose(model(**batch, output_hidden_states=True).hidden_states[0], plain, atol=1e-4)
    assert torch.allclose(doubled, 2 * plain, atol=1e-4)

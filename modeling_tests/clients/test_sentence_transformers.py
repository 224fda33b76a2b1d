"""sentence-transformers reads an unmodified ELMo; it needs its own environment: `make clients`."""

import numpy as np
import pytest
import torch

from elmo_hf import ElmoModel, ElmoTokenizer
from modeling_tests.tiny import TRANSFORMER, tiny_config, with_large_weights


@pytest.mark.parametrize("overrides", [{}, TRANSFORMER], ids=["biLSTM", "Transformer"])
def test_truncation_at_max_position_embeddings(overrides, tmp_path):
    """A biLSTM reads texts of any length, a Transformer at most `max_position_embeddings` words."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    torch.manual_seed(0)
    model = with_large_weights(ElmoModel(tiny_config(**overrides))).eval()
    tokenizer = ElmoTokenizer(max_characters_per_word=9)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    client = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    texts = ["one two", "word " * 5100 + "end", "word " * 5100 + "other"]
    found = client.encode(texts)
    assert found.shape == (3, model.config.hidden_size)
    # Words after the limit change the vectors only if there is no limit.
    assert np.array_equal(found[1], found[2]) == bool(overrides)
    batch = tokenizer(texts[:1], return_tensors="pt")
    with torch.no_grad():
        mean = model(**batch).last_hidden_state.mean(1)[0].numpy()
    np.testing.assert_allclose(found[0], mean, rtol=1e-5, atol=1e-6)

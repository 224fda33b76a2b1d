"""A forward-only model, compared with the forward half of a bidirectional one."""

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from elmo_hf import (
    ElmoForCausalLM,
    ElmoForMaskedLM,
    ElmoForPreTraining,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
    embed,
    embed_document,
    score,
)
from elmo_hf.pretraining import StreamingObjective
from modeling_tests.tiny import TRANSFORMER, batch_of, tiny_config, with_large_weights

WORDS = ["<S>", "</S>", "<UNK>", *"the cat sat on a mat".split()]
TOKENIZER = ElmoTokenizer(vocab=WORDS, max_characters_per_word=9)
SENTENCES = ["the cat sat on a mat".split(), ["a", "dog"], [], ["mat"] * 7]


def pair(cls=ElmoModel, **overrides):
    """A bidirectional model, and a forward-only one with its weights."""
    overrides = {"vocab_size": len(TOKENIZER), "mask_token_id": TOKENIZER.mask_token_id, **overrides}
    both = with_large_weights(cls(tiny_config(**overrides))).eval()
    one = cls(tiny_config(bidirectional=False, **overrides)).eval()
    weights = {name: value for name, value in both.state_dict().items() if "backward" not in name}
    assert one.load_state_dict(weights, strict=True)
    assert len(one.state_dict()) < len(both.state_dict())
    return both, one


@pytest.mark.slow
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("trains", [True, False])
def test_layers_and_state(skip, side, trains):
    both, one = pair(use_skip_connections=skip)
    batch = batch_of(["a cat sat", "b", "on a mat ."], side)
    with torch.set_grad_enabled(trains):
        states = [None, None]
        for _ in range(2):
            outputs = [
                model(**batch, initial_state=state, return_state=True, output_hidden_states=True)
                for model, state in zip((both, one), states, strict=True)
            ]
            for wide, narrow in zip(outputs[0].hidden_states, outputs[1].hidden_states, strict=True):
                assert narrow.shape == (3, 6, 4)
                torch.testing.assert_close(narrow, wide[..., :4], rtol=0, atol=1e-6)
            states = [output.state for output in outputs]
            for wide, narrow in zip(*states, strict=True):
                torch.testing.assert_close(narrow[:, 0], wide[:, 0], rtol=0, atol=1e-6)
                assert not narrow[:, 1].any()
        assert one.config.hidden_size == 4 and outputs[1].last_hidden_state.shape == (3, 6, 4)
    if trains:
        outputs[1].last_hidden_state.sum().backward()
        assert all(weight.grad is not None for weight in one.parameters())


@pytest.mark.slow
def test_saved_and_embedded(tmp_path):
    both, one = pair()
    one.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    for layers in ("all", "top", 1):
        arrays = embed(SENTENCES, tmp_path, layers=layers)
        for array, wide in zip(arrays, embed(SENTENCES, both, TOKENIZER, layers=layers), strict=True):
            np.testing.assert_allclose(array, wide[..., :4], rtol=0, atol=1e-6)
    document = ["the", "cat"] * 11
    parts = np.concatenate(list(embed_document(document, tmp_path, chunk_words=5)))
    np.testing.assert_allclose(parts, embed([document], tmp_path)[0], rtol=0, atol=1e-6)
    carried = embed(SENTENCES, tmp_path, layers="top", carry_state=True)
    for array, wide in zip(carried, embed(SENTENCES, both, TOKENIZER, layers="top", carry_state=True), strict=True):
        np.testing.assert_allclose(array, wide[..., :4], rtol=0, atol=1e-6)


def test_language_model():
    both, one = pair(ElmoForPreTraining)
    batch = TOKENIZER(SENTENCES, is_split_into_words=True, padding=True, return_tensors="pt")
    wide, narrow = (model(**batch, labels=batch["input_ids"]) for model in (both, one))
    torch.testing.assert_close(narrow.forward_log_probs, wide.forward_log_probs, rtol=0, atol=1e-6)
    torch.testing.assert_close(narrow.loss, wide.forward_loss, rtol=0, atol=1e-6)
    assert narrow.backward_log_probs is None and narrow.backward_loss is None
    expected, found = (score(SENTENCES, model, TOKENIZER, per_word=True, progress=False) for model in (both, one))
    np.testing.assert_allclose(found.forward, expected.forward, rtol=1e-6)
    np.testing.assert_array_equal(found.both, found.forward)
    assert np.isnan(found.backward).all() and np.isnan(found.total.backward)
    assert found.total.both == found.total.forward == pytest.approx(expected.total.forward, rel=1e-6)


def test_causal_language_model():
    both, one = pair(ElmoForCausalLM)
    batch = TOKENIZER(SENTENCES[:2], is_split_into_words=True, padding=True, return_tensors="pt")
    wide, narrow = (model(**batch).logits for model in (both, one))
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(narrow[real], wide[real], rtol=0, atol=1e-5)


def test_task_model():
    one = ElmoForTokenClassification(tiny_config(bidirectional=False, num_labels=3, task_lstm_size=2))
    batch = batch_of(["a cat sat", "b"])
    output = one.train()(**batch, labels=torch.zeros_like(batch["input_ids"]))
    output.loss.backward()
    assert output.logits.shape == (2, 5, 3)


def test_refusals():
    with pytest.raises(StrictDataclassError, match='bidirectional=False needs encoder_type="lstm"'):
        tiny_config(bidirectional=False, **TRANSFORMER)
    with pytest.raises(StrictDataclassError, match="bidirectional=False.*context_word_layer=False"):
        tiny_config(bidirectional=False, context_word_layer=True)
    with pytest.raises(StrictDataclassError, match='direction="backward".*bidirectional=False'):
        tiny_config(bidirectional=False, direction="backward")
    with pytest.raises(ValueError, match="^bidirectional=False: .*ElmoForPreTraining"):
        ElmoForMaskedLM(tiny_config(bidirectional=False))
    with pytest.raises(ValueError, match="^bidirectional=False: .*pretraining"):
        StreamingObjective(ElmoForPreTraining(tiny_config(bidirectional=False)), loss="full")

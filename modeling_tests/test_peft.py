"""Adapters of PEFT on the tables of words and characters, and prompts in front of a text."""

import pytest
import torch

from elmo_hf import ElmoForCausalLM, ElmoForSequenceClassification, ElmoForTokenClassification
from modeling_tests.tiny import BOTH_INPUTS, WORD_INPUT, batch_of, tiny_config, with_large_weights

peft = pytest.importorskip("peft")

TABLES = {
    "words": (WORD_INPUT, ["word_embeddings"]),
    "joined words": (BOTH_INPUTS, ["word_embeddings"]),
    "characters": ({}, ["character_embeddings"]),
}


def trained(adapted, batch) -> list[str]:
    """Weights with a gradient."""
    adapted.train()
    labels = batch["input_ids"].remainder(2).masked_fill(batch["attention_mask"].eq(0), -100)
    adapted(**batch, labels=labels).loss.backward()
    return [name for name, weight in adapted.named_parameters() if weight.grad is not None and weight.grad.any()]


@pytest.mark.parametrize("table", TABLES)
def test_lora_on_tables(table):
    overrides, targets = TABLES[table]
    model = with_large_weights(ElmoForTokenClassification(tiny_config(**overrides)))
    batch = batch_of(["a cat sat", "no"])
    expected = model.eval()(**batch).logits
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=True)).eval()
    torch.testing.assert_close(adapted(**batch).logits, expected, rtol=1e-5, atol=1e-6)
    assert any("lora_embedding" in name for name in trained(adapted, batch))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_embedding" in name:
                weight.normal_()
    changed = adapted.eval()(**batch).logits
    assert not torch.allclose(changed, expected)
    torch.testing.assert_close(adapted.merge_and_unload()(**batch).logits, changed, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("table", TABLES)
def test_trainable_tokens(table):
    overrides, targets = TABLES[table]
    model = with_large_weights(ElmoForTokenClassification(tiny_config(**overrides)))
    batch = batch_of(["a cat sat", "no"])
    # Rows of two words, or of the letters a and c.
    settings = peft.TrainableTokensConfig(
        target_modules=targets, token_indices=[98, 100] if table == "characters" else [5, 6]
    )
    adapted = peft.get_peft_model(model, settings)
    assert [name for name in trained(adapted, batch) if "trainable_tokens" in name]


def test_prompt_tuning_of_a_causal_language_model():
    """Prompts are as wide as a word vector, half of the model's output."""
    model = with_large_weights(ElmoForCausalLM(tiny_config(**WORD_INPUT)))
    settings = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=2, token_dim=model.config.projection_size
    )
    adapted = peft.get_peft_model(model, settings)
    batch = batch_of(["a cat sat", "no"])
    batch.pop("character_ids")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"].eq(0), -100)
    output = adapted(**batch, labels=labels)
    assert output.logits.shape[:2] == (2, 7)
    output.loss.backward()
    assert any(
        "prompt" in name and weight.grad.any() for name, weight in adapted.named_parameters() if weight.grad is not None
    )
    # It also generates, each word read once, as without the cache.
    prompt = {name: value[:1, :3] for name, value in batch.items()}
    found, whole = (
        adapted.eval().generate(**prompt, max_new_tokens=4, do_sample=False, use_cache=use_cache)
        for use_cache in (True, False)
    )
    assert torch.equal(found, whole) and found.shape[1] > 3


def test_prompt_tuning_of_a_classifier():
    model = with_large_weights(ElmoForSequenceClassification(tiny_config(**WORD_INPUT, num_labels=2)))
    settings = peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2, token_dim=4)
    adapted = peft.get_peft_model(model, settings)
    batch = batch_of(["a cat sat", "no"])
    batch.pop("character_ids")
    adapted(**batch, labels=torch.tensor([0, 1])).loss.backward()
    assert any(
        "prompt" in name and weight.grad.any() for name, weight in adapted.named_parameters() if weight.grad is not None
    )

"""Cached layers of a biLM: the same outputs, gradients and files, with each sentence computed once."""

from pathlib import Path
from typing import Any

import pytest
import torch

from elmo_hf import ElmoConfig, ElmoForTokenClassification
from elmo_hf.finetuning import cache_layers

from ..tiny import WORD_INPUT, batch_of, tiny_config, with_large_weights

SENTENCES = ["Ada saw Oslo .", "It", "Ada saw", "Oslo is far away", "It"]


def frozen(**overrides: Any) -> ElmoForTokenClassification:
    torch.manual_seed(3)
    config = tiny_config(num_labels=3, elmo_at=["input", "output"], task_lstm_size=5, **overrides)
    model = with_large_weights(ElmoForTokenClassification(config))
    model.freeze_bilm()
    return model


def loss_and_gradients(model: ElmoForTokenClassification, sentences: list[str], side: str) -> dict[str, torch.Tensor]:
    batch = batch_of(sentences, side)
    labels = torch.where(batch["attention_mask"].bool(), batch["input_ids"] % 3, -100)
    model.zero_grad()
    loss = model(**batch, labels=labels).loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **gradients}


@pytest.mark.samples(3)
@pytest.mark.parametrize("overrides", [{}, WORD_INPUT, {"scalar_mix_layer_norm": "words"}])
@pytest.mark.parametrize("room", [1.0, 1e-6, 0.0])
def test_same_losses_and_gradients(room: float, overrides: dict[str, Any]) -> None:
    plain, cached = frozen(**overrides).train(), frozen(**overrides).train()
    memory = cache_layers(cached.elmo, room)
    for sentences, side in ((SENTENCES[:2], "right"), (SENTENCES, "left"), (SENTENCES[::-1], "right")):
        expected, found = (loss_and_gradients(model, sentences, side) for model in (plain, cached))
        assert expected.keys() == found.keys() and len(found) > 8
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=name)
    # To a word model, whose ids the batch makes of positions, sentences of one length are the same.
    distinct = len(set(SENTENCES)) if overrides is not WORD_INPUT else len({len(s.split()) for s in SENTENCES})
    assert len(memory) == distinct if room == 1 else len(memory) < distinct
    assert sum(layers.nbytes for layers in memory.values()) <= room * 1e9


def test_each_sentence_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = frozen()
    rows: list[int] = []
    encode = model.elmo.encoder.forward

    def count(words: torch.Tensor, *more: Any) -> Any:
        rows.append(len(words))
        return encode(words, *more)

    monkeypatch.setattr(model.elmo.encoder, "forward", count)
    cache_layers(model.elmo, 1.0)
    for sentences in (SENTENCES[:2], SENTENCES, SENTENCES[::-1]):
        model(**batch_of(sentences))
    assert rows == [2, 2]


def test_saved_model_has_no_cache(tmp_path: Path) -> None:
    model = frozen()
    expected = model(**batch_of(SENTENCES)).logits
    cache_layers(model.elmo, 1.0)
    model(**batch_of(SENTENCES))
    model.save_pretrained(tmp_path)
    loaded = ElmoForTokenClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**batch_of(SENTENCES)).logits, expected)


def test_trainable_layers_and_dropout_are_refused() -> None:
    model = frozen()
    model.freeze_bilm(False)
    with pytest.raises(ValueError, match="--cache_layers without --freeze_bilm"):
        cache_layers(model.elmo, 1.0)
    model = frozen(lstm_input_dropout=0.1)
    with pytest.raises(ValueError, match="--cache_layers with dropout"):
        cache_layers(model.elmo, 1.0)
    assert isinstance(model.config, ElmoConfig)

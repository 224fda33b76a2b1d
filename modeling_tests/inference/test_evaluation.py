"""Inference does not change a shared model's mode, also with other threads."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from elmo_hf import ElmoForPreTraining, ElmoForTokenClassification, ElmoTokenizer, embed, score, tag
from elmo_hf.inference.evaluation import in_evaluation
from modeling_tests.tiny import tiny_config, with_large_weights

SENTENCES = [["a", "cat", "sat"], ["on"], ["the", "mat", "of", "a", "cat"]] * 3


def model_and_tokenizer(kind=ElmoForPreTraining, **overrides):
    tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "a", "cat", "sat"], max_characters_per_word=9)
    dropouts = {"representation_dropout": 0.5, "lstm_input_dropout": 0.5, "task_dropout": 0.5}
    config = tiny_config(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id, **dropouts, **overrides)
    return with_large_weights(kind(config)), tokenizer


def test_evaluation_view_of_a_training_model():
    model, _ = model_and_tokenizer()
    assert in_evaluation(model.eval()) is model
    model.elmo.encoder.train()  # in part
    modes = [part.training for part in model.modules()]
    view = in_evaluation(model)
    assert not any(part.training for part in view.modules()) and len(list(view.modules())) == len(modes)
    assert [part.training for part in model.modules()] == modes
    assert all(ours is theirs for ours, theirs in zip(view.parameters(), model.parameters(), strict=True))
    assert isinstance(view, ElmoForPreTraining) and view.config is model.config
    # A parameter replaced later is replaced in the view too.
    model.elmo.scalar_mixes[0].gamma = nn.Parameter(torch.tensor([7.0]))
    assert view.elmo.scalar_mixes[0].gamma.item() == 7.0


def test_instance_methods_are_bound_to_the_view():
    layer = nn.Sequential(nn.Dropout(0.9))
    inner = layer[0]
    plain = inner.forward

    def offloaded(module: nn.Module, values: torch.Tensor) -> torch.Tensor:
        assert not module.training
        return module.plain(values)

    inner.plain = plain
    inner.forward = partial(offloaded, inner)
    assert torch.equal(in_evaluation(layer.train())(torch.ones(50)), torch.ones(50))
    assert inner.training


@pytest.mark.slow
def test_threads_evaluate_while_the_model_is_in_training_mode():
    """A model in training mode is evaluated without dropout and keeps its mode."""
    model, tokenizer = model_and_tokenizer()
    tagger, _ = model_and_tokenizer(ElmoForTokenClassification, id2label={0: "A", 1: "B", 2: "C"})
    expected = (
        embed(SENTENCES, model.eval(), tokenizer, layers="all"),
        score(SENTENCES, model, tokenizer).forward,
        tag(SENTENCES, tagger.eval(), tokenizer),
    )
    model.train()
    tagger.train()
    modes = []
    handle = model.elmo.encoder.register_forward_pre_hook(lambda module, _: modes.append(module.training))

    def read(_: int) -> None:
        for array, same in zip(
            embed(SENTENCES, model, tokenizer, layers="all", batch_words=9), expected[0], strict=True
        ):
            np.testing.assert_allclose(array, same, atol=1e-6)
        np.testing.assert_allclose(score(SENTENCES, model, tokenizer).forward, expected[1], rtol=1e-5)
        assert tag(SENTENCES, tagger, tokenizer) == expected[2]

    stop = threading.Event()
    trained = []

    def train() -> None:
        batch = tokenizer(SENTENCES[:3], is_split_into_words=True, padding=True, return_tensors="pt")
        while not stop.is_set():
            trained.append(model.training and model(**batch, labels=batch["input_ids"]).loss.item())

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(read, range(3)))
    finally:
        stop.set()
        trainer.join()
        handle.remove()
    assert all(part.training for part in [*model.modules(), *tagger.modules()])
    assert len(set(trained)) > 1 and False not in trained
    assert set(modes) == {True, False}

"""Warm starts: same vocabulary, new vocabulary, without softmax, adaptive softmax."""

from pathlib import Path
from typing import Any

import pytest
import torch

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, ElmoTokenizer
from elmo_hf.pretraining.warm_starts import warm_start

SPECIALS = ["<S>", "</S>", "<UNK>"]
OLD = [*SPECIALS, "the", "cat", "dog", "a", "runs"]
NEW = [*SPECIALS, "a", "der", "cat", "Hund", "läuft", "the", "rennt"]


def tokenizer_of(words: list[str], length: int = 8) -> ElmoTokenizer:
    return ElmoTokenizer(vocab=words, pre_tokenization="whitespace", max_characters_per_word=length)


def save(folder: Path, model_class: type = ElmoForPreTraining, **changes: Any) -> ElmoForPreTraining:
    tokenizer = tokenizer_of(OLD)
    fields: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "mask_token_id": tokenizer.mask_token_id,
        "max_characters_per_word": 8,
        "character_embedding_size": 4,
        "character_filters": [[1, 4], [2, 8]],
        "num_highway_layers": 1,
        "projection_size": 6,
        "cell_size": 10,
    }
    model = model_class(ElmoConfig(**{**fields, **changes}))
    if model_class is ElmoForPreTraining:
        for weight in model.softmax.parameters():
            torch.nn.init.normal_(weight)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def assert_same_bilm(model: ElmoForPreTraining, old: ElmoForPreTraining | ElmoModel) -> None:
    expected = old.bilm.state_dict()
    assert model.elmo.state_dict().keys() == expected.keys()
    for name, weight in model.elmo.state_dict().items():
        assert torch.equal(weight, expected[name]), name


def test_same_vocabulary(tmp_path: Path) -> None:
    old = save(tmp_path)
    start = warm_start(tmp_path)
    assert_same_bilm(start.model, old)
    assert torch.equal(start.model.softmax.weight[1:-1], old.softmax.weight[1:-1])
    assert torch.equal(start.model.softmax.bias[1:-1], old.softmax.bias[1:-1])
    assert (start.had_softmax, start.kept_words, start.new_words) == (True, len(OLD), 0)
    assert start.model.training
    assert start.tokenizer.get_vocab() == tokenizer_of(OLD).get_vocab()


@pytest.mark.parametrize("new_rows", ["mean", "random"])
def test_new_vocabulary(tmp_path: Path, new_rows: str) -> None:
    old, tokenizer = save(tmp_path), tokenizer_of(NEW)
    start = warm_start(tmp_path, tokenizer, new_rows=new_rows)
    model = start.model
    assert_same_bilm(model, old)
    known = [word for word in NEW if word in OLD]
    assert (start.kept_words, start.new_words) == (len(known), len(NEW) - len(known))
    assert model.config.vocab_size == len(tokenizer) == model.softmax.out_features
    assert model.config.mask_token_id == tokenizer.mask_token_id
    for word in NEW:
        row, bias = (part[NEW.index(word) + 1] for part in (model.softmax.weight, model.softmax.bias))
        if word in OLD:
            assert torch.equal(row, old.softmax.weight[OLD.index(word) + 1])
            assert torch.equal(bias, old.softmax.bias[OLD.index(word) + 1])
        elif new_rows == "mean":
            torch.testing.assert_close(row, old.softmax.weight[1:-1].mean(0), atol=1e-6, rtol=0)
            torch.testing.assert_close(bias, old.softmax.bias[1:-1].mean(), atol=1e-6, rtol=0)
        else:
            assert row.abs().max() > 0
            assert bias == 0
    # The saved model is complete.
    model.save_pretrained(tmp_path / "next")
    tokenizer.save_pretrained(tmp_path / "next")
    again = warm_start(tmp_path / "next")
    assert torch.equal(again.model.softmax.weight, model.softmax.weight)


@pytest.mark.parametrize("reuse_softmax", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_the_table_of_a_word_model_follows_the_vocabulary(tmp_path: Path, tied: bool, reuse_softmax: bool) -> None:
    old = save(tmp_path, character_filters=[], word_embedding_size=6, tie_word_embeddings=tied)
    start = warm_start(tmp_path, tokenizer_of(NEW), reuse_softmax=reuse_softmax)
    assert start.had_softmax
    table, before = (model.get_input_embeddings().weight for model in (start.model, old))
    assert table.shape == (len(NEW) + 2, 6)
    for number, word in enumerate(NEW, start=1):
        if word in OLD:
            assert torch.equal(table[number], before[OLD.index(word) + 1])
        else:
            torch.testing.assert_close(table[number], before[1:-1].mean(0), atol=1e-6, rtol=0)
    assert (start.model.softmax.weight is table) == tied
    assert torch.equal(start.model.softmax.bias[1], old.softmax.bias[1]) == reuse_softmax
    ids = torch.tensor([[1, NEW.index("cat") + 1, 2]])
    old_ids = torch.tensor([[1, OLD.index("cat") + 1, 2]])
    layers, old_layers = (
        model.eval()(input_ids=each, output_hidden_states=True).hidden_states
        for model, each in ((start.model, ids), (old, old_ids))
    )
    # Loaded weights may have misaligned addresses, where sums round differently.
    torch.testing.assert_close(layers[-1], old_layers[-1], atol=1e-6, rtol=0)
    if tied:
        with pytest.raises(ValueError, match=r"softmax_cutoffs=\[4\]"):
            warm_start(tmp_path, softmax_cutoffs=[4])


def test_a_joined_model_keeps_its_characters_and_its_projection(tmp_path: Path) -> None:
    old = save(tmp_path, word_embedding_size=5)
    model = warm_start(tmp_path, tokenizer_of(NEW)).model
    before, after = old.elmo.embeddings.state_dict(), model.elmo.embeddings.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        if name != "words.word_embeddings.weight":
            assert torch.equal(after[name], value), name
    table = after["words.word_embeddings.weight"]
    assert torch.equal(table[NEW.index("cat") + 1], before["words.word_embeddings.weight"][OLD.index("cat") + 1])
    assert table.shape == (len(NEW) + 2, 5)


def test_another_dictionary_of_characters_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    symbols = ["<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>", "a"]
    other = ElmoTokenizer(vocab=NEW, max_characters_per_word=8, character_vocabulary=symbols)
    with pytest.raises(ValueError, match="character_vocabulary=old_tokenizer.character_vocabulary"):
        warm_start(tmp_path, other)


def test_without_reusing_the_softmax(tmp_path: Path) -> None:
    old = save(tmp_path)
    start = warm_start(tmp_path, reuse_softmax=False)
    assert_same_bilm(start.model, old)
    assert start.had_softmax
    assert (start.kept_words, start.new_words) == (0, len(OLD))
    assert not torch.isclose(start.model.softmax.weight[1:-1], old.softmax.weight[1:-1]).any()
    assert (start.model.softmax.bias == 0).all()


def test_checkpoint_without_softmax(tmp_path: Path) -> None:
    """A converted original has only the biLM."""
    old = save(tmp_path, ElmoModel)
    start = warm_start(tmp_path, tokenizer_of(NEW))
    assert_same_bilm(start.model, old)
    assert (start.had_softmax, start.kept_words, start.new_words) == (False, 0, len(NEW))
    assert float(start.model.softmax.weight.std()) == pytest.approx(6**-0.5, rel=0.5)


def test_adaptive_softmax(tmp_path: Path) -> None:
    old = save(tmp_path / "plain")
    start = warm_start(tmp_path / "plain", softmax_cutoffs=[4])
    assert_same_bilm(start.model, old)
    assert start.model.config.softmax_cutoffs == [4]
    assert start.kept_words == 0
    old = save(tmp_path / "adaptive", softmax_cutoffs=[4])
    start = warm_start(tmp_path / "adaptive")
    assert start.kept_words == len(OLD)
    for name, weight in start.model.softmax.state_dict().items():
        assert torch.equal(weight, old.softmax.state_dict()[name])
    assert warm_start(tmp_path / "adaptive", tokenizer_of(NEW)).kept_words == 0


def test_refusals(tmp_path: Path) -> None:
    save(tmp_path / "words")
    with pytest.raises(ValueError, match="max_characters_per_word=9.*8"):
        warm_start(tmp_path / "words", tokenizer_of(NEW, length=9))
    with pytest.raises(ValueError, match="new_rows='zero'"):
        warm_start(tmp_path / "words", new_rows="zero")  # type: ignore[arg-type]
    model = save(tmp_path / "damaged")
    model.resize_token_embeddings(20)
    model.save_pretrained(tmp_path / "damaged")
    with pytest.raises(ValueError, match="tokenizer.*10.*vocab_size=20"):
        warm_start(tmp_path / "damaged")
    no_words = ElmoTokenizer(max_characters_per_word=8)
    model.resize_token_embeddings(len(no_words))
    model.save_pretrained(tmp_path / "no_words")
    no_words.save_pretrained(tmp_path / "no_words")
    with pytest.raises(ValueError, match=f"{tmp_path / 'no_words'}.*no vocabulary"):
        warm_start(tmp_path / "no_words")

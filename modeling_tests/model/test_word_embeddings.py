"""The table of words: rows, masks, gradients, ranges."""

import pytest
import torch

from elmo_hf.model.word_embeddings import ElmoWordEmbeddings
from modeling_tests.tiny import WORD_INPUT, tiny_config, with_large_weights


@pytest.fixture
def table():
    return with_large_weights(ElmoWordEmbeddings(tiny_config(**WORD_INPUT))).double()


def test_rows_follow_the_ids_and_masked_words_are_zero(table):
    ids = torch.tensor([[1, 5, 2], [11, 0, 7]])
    mask = torch.tensor([[True, True, False], [True, False, True]])
    vectors = table(ids, mask=mask)
    assert torch.equal(vectors[mask], table.word_embeddings.weight[ids[mask]])
    assert (vectors[~mask] == 0).all()
    assert torch.equal(table(ids.to(torch.int16), mask=mask), vectors)
    assert table(ids[:, :0], mask=mask[:, :0]).shape == (2, 0, 4)


def test_gradients_of_repeated_words_add_up_and_padding_has_none(table):
    ids, mask = torch.tensor([[5, 5, 6, 0]]), torch.ones(1, 4, dtype=torch.bool)
    weights = torch.randn(1, 4, 4).double()
    (table(ids, mask=mask) * weights).sum().backward()
    expected = torch.zeros(12, 4).double()
    expected[5], expected[6] = weights[0, 0] + weights[0, 1], weights[0, 2]
    torch.testing.assert_close(table.word_embeddings.weight.grad, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("value", [-1, 12])
def test_ids_outside_the_table_are_refused(table, value):
    ids, mask = torch.tensor([[3, value]]), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"input_ids holds {value}.* 0 to 11; .*tokenizer"):
        table(ids, mask=mask)
    mask[0, 1] = False
    assert (table(ids, mask=mask)[0, 1] == 0).all()


def test_resizing_keeps_padding_and_follows_the_mean_of_real_words(table):
    weight = table.word_embeddings.weight.clone()
    table.resize(14, mean_resizing=True)
    assert torch.equal(table.word_embeddings.weight[:12], weight)
    mean = weight[[1, 2, 3, 5, 6, 7, 8, 9, 10, 11]].mean(0)  # neither padding nor mask
    torch.testing.assert_close(table.word_embeddings.weight[12:], mean.expand(2, 4))
    assert table.word_embeddings.weight.requires_grad
    table.word_embeddings.weight.requires_grad_(False)
    table.resize(3, mean_resizing=True)
    assert torch.equal(table.word_embeddings.weight, weight[:3])
    assert not table.word_embeddings.weight.requires_grad


@pytest.mark.parametrize("tied", [False, True])
def test_new_rows_start_as_a_new_table_does(tied):
    table = ElmoWordEmbeddings(tiny_config(**WORD_INPUT, tie_word_embeddings=tied))
    size = table.word_embeddings.embedding_dim
    table.resize(2012, mean_resizing=False)
    new = table.word_embeddings.weight[12:]
    assert new.std().item() == pytest.approx(size**-0.5 if tied else 3**-0.5, rel=0.05)
    assert (new.abs().max() <= 1) == (not tied)


def test_other_pad_token_id_and_none():
    table = ElmoWordEmbeddings(tiny_config(**WORD_INPUT, pad_token_id=11))
    assert table.word_embeddings.padding_idx == 11
    table.resize(5, mean_resizing=False)
    assert table.word_embeddings.padding_idx is None
    assert ElmoWordEmbeddings(tiny_config(**WORD_INPUT, pad_token_id=None)).word_embeddings.padding_idx is None

"""Pooling, compared with loops; division of pairs into sentences."""

import numpy as np
import pytest
import torch

from elmo_hf.model.pooling import ElmoPooling, is_token, segments_of, words_to_pool
from modeling_tests.tiny import tiny_config

WAYS = ["mean", "max", "min", "attention"]
# Right padding, left padding, gaps, nothing at all, one word, everything.
MASK = torch.tensor(
    [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [1, 1, 1, 1, 1]]
).bool()


def make_pooling(*ways, width=3):
    pooling = ElmoPooling(tiny_config(pooling=list(ways)), width)
    with torch.no_grad():
        for parameter in pooling.parameters():
            parameter.normal_(std=2.0)
    return pooling.double()


def plain_pooling(pooling, way, words):
    """(words, width) -> (width,), NumPy."""
    if not len(words):
        return np.zeros(words.shape[1])
    if way == "attention":
        scores = words @ pooling.attention.weight.detach().numpy()[0]
        shares = np.exp(scores) / np.exp(scores).sum()
        return sum(share * word for share, word in zip(shares, words, strict=True))
    return {"mean": np.mean, "max": np.max, "min": np.min}[way](words, axis=0)


@pytest.mark.parametrize("ways", [[way] for way in WAYS] + [WAYS, ["attention", "min"]], ids="+".join)
def test_agrees_with_plain_loops(ways):
    pooling, words = make_pooling(*ways), torch.randn(6, 5, 3).double() * 3
    # Padding is not read, whatever it holds.
    for nothing in (0.0, 1e6, float("nan"), float("-inf")):
        found = pooling(words.masked_fill(~MASK.unsqueeze(-1), nothing), MASK)
        assert found.shape == (6, pooling.output_size) == (6, 3 * len(ways))
        for row in range(6):
            real = words[row][MASK[row]].numpy()
            expected = np.concatenate([plain_pooling(pooling, way, real) for way in ways])
            np.testing.assert_allclose(found[row].detach(), expected, rtol=0, atol=1e-12)
    assert (found[3] == 0).all()


@pytest.mark.parametrize("way", WAYS)
def test_gradients(way):
    pooling, words = make_pooling(way), torch.randn(6, 5, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda words: pooling(words, MASK), words)
    pooling(words, MASK).square().sum().backward()
    padding = ~MASK
    assert (words.grad[padding] == 0).all() and (words.grad[~padding] != 0).any(-1).sum() >= 5
    assert all(parameter.grad.isfinite().all() for parameter in pooling.parameters())


@pytest.mark.parametrize("way", WAYS)
def test_rows_without_words_have_gradients_of_zero(way):
    pooling, words = make_pooling(way), torch.full((2, 3, 3), float("nan")).double().requires_grad_()
    pooled = pooling(words, torch.zeros(2, 3).bool())
    assert (pooled == 0).all()
    pooled.sum().backward()
    assert (words.grad == 0).all()
    assert all((parameter.grad == 0).all() for parameter in pooling.parameters())


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_no_words_give_zeros(shape):
    pooling = make_pooling(*WAYS)
    assert torch.equal(pooling(torch.zeros(*shape, 3).double(), torch.ones(shape).bool()), torch.zeros(shape[0], 12))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_neither_overflows_nor_loses_count(dtype):
    """The sum of these words overflows half precision."""
    pooling = make_pooling(*WAYS, width=2).to(dtype)
    pooled = pooling(torch.full((1, 5000, 2), 100.0, dtype=dtype), torch.ones(1, 5000).bool())
    assert pooled.dtype == dtype
    torch.testing.assert_close(pooled, torch.full((1, 8), 100.0, dtype=dtype), rtol=2**-7, atol=0)


def test_initial_values_of_attention():
    pooling = ElmoPooling(tiny_config(pooling=["attention"]), 400)
    assert pooling.attention.initial_values == ("normal", 0.05, 0.0)
    assert pooling.attention.bias is None


class TestSegments:
    @pytest.mark.parametrize("padding", [0, 1, 2, -100])  # also padding that looks like a boundary
    def test_of_pairs_padded_on_either_side(self, padding):
        x = padding
        ids = torch.tensor(
            [
                [1, 5, 6, 2, 1, 7, 2, x, x],
                [x, x, 1, 5, 6, 2, 1, 7, 2],
                [1, 2, 1, 2, x, x, x, x, x],  # two empty sentences
                [1, 5, 2, x, x, x, x, x, x],
                [1, 2, 1, 2, 1, 2, x, x, x],  # three
                [5, 6, 2, 1, 7, 2, x, x, x],  # cut off on the left
                [5, 6, x, x, x, x, x, x, x],  # without boundaries
                [x, x, x, x, x, x, x, x, x],
            ]
        )
        expected = torch.tensor(
            [
                [0, 0, 0, 0, 1, 1, 1, -1, -1],
                [-1, -1, 0, 0, 0, 0, 1, 1, 1],
                [0, 0, 1, 1, -1, -1, -1, -1, -1],
                [0, 0, 0, -1, -1, -1, -1, -1, -1],
                [0, 0, 1, 1, 2, 2, -1, -1, -1],
                [0, 0, 0, 0, 0, 0, -1, -1, -1],
                [0, 0, -1, -1, -1, -1, -1, -1, -1],
                [-1, -1, -1, -1, -1, -1, -1, -1, -1],
            ]
        )
        mask = expected.ge(0)
        assert torch.equal(segments_of(ids, mask, 1), expected)
        assert torch.equal(segments_of(ids.to(torch.int16), mask, 1), expected)

    def test_without_ids_or_boundaries(self):
        mask = torch.tensor([[1, 1, 0], [0, 1, 1]]).bool()
        expected = torch.tensor([[0, 0, -1], [-1, 0, 0]])
        assert torch.equal(segments_of(None, mask, 1), expected)
        assert torch.equal(segments_of(torch.ones(2, 3).long(), mask, None), expected)
        assert segments_of(None, mask[:, :0], 1).shape == (2, 0)


def test_special_tokens():
    ids = torch.tensor([[1, 5, 2], [9, 0, 1]])
    assert is_token(ids, 1, 2).tolist() == [[True, False, True], [False, False, True]]
    assert is_token(ids, None, [2, 9]).tolist() == [[False, False, True], [True, False, False]]
    assert not is_token(ids, None).any() and not is_token(ids, []).any()
    assert torch.equal(is_token(ids.to(torch.int16), 1, 2), is_token(ids, 1, 2))


def test_boundaries_are_pooled_in_empty_sentences_only():
    sentence = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
    without = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    expected = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
    assert torch.equal(words_to_pool(sentence, without), expected)

"""Biattention of a sentence with itself, word by word."""

import torch

from elmo_hf.model.attention import biattention, masked_softmax


def test_one_word_at_a_time():
    words = torch.randn(4, 5, 3, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]).bool()
    found = biattention(words, mask)
    assert found.shape == (4, 5, 9)
    for row, real in zip(range(3), mask, strict=False):
        x = words[row][real]
        for place, one in zip(real.nonzero().flatten().tolist(), x, strict=True):
            weights = torch.stack([torch.exp(one @ other) for other in x])
            y = (weights / weights.sum()) @ x
            torch.testing.assert_close(found[row, place], torch.cat([one, one - y, one * y]), rtol=0, atol=1e-12)
    # Nothing to attend to.
    assert (found[3, :, 6:] == 0).all() and torch.equal(found[3, :, :3], found[3, :, 3:6])


def test_words_outside_of_the_mask_are_not_read():
    words = torch.randn(1, 4, 2)
    mask = torch.tensor([[1, 1, 0, 1]]).bool()
    changed = words.clone()
    changed[0, 2] = 1e30
    assert torch.equal(biattention(words, mask)[mask], biattention(changed, mask)[mask])


def test_fully_masked_softmax_is_zero():
    scores = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.bfloat16)
    found = masked_softmax(scores, torch.tensor([[True, False], [False, False]]))
    assert found.tolist() == [[1, 0], [0, 0]] and found.dtype == torch.float32

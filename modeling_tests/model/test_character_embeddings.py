"""The character encoder: distinct words, trimmed columns, shapes and ranges."""

import pytest
import torch

from elmo_hf.model import character_embeddings
from elmo_hf.model.character_embeddings import ElmoCharacterEmbeddings, distinct_rows
from modeling_tests.tiny import character_row, tiny_config, with_large_weights


@pytest.fixture
def encoder():
    return with_large_weights(ElmoCharacterEmbeddings(tiny_config())).double()


def rows_of(words):
    return torch.tensor([character_row(word) for word in words])


class TestDistinctRows:
    def test_restores_every_row(self):
        rows = torch.randint(0, 3, (500, 4))
        distinct, inverse = distinct_rows(rows)
        assert torch.equal(distinct[inverse], rows)
        assert len(distinct) == len(set(map(tuple, rows.tolist())))

    def test_survives_colliding_hashes(self):
        """Rows with equal hashes stay distinct."""
        multiplier = 0x5851F42D4C957F2D
        first = torch.tensor([multiplier, 0])
        second = torch.tensor([0, 1])
        values = torch.full((2,), multiplier).cumprod(0)
        assert (first * values).sum() == (second * values).sum()
        rows = torch.stack([first, second, first])
        distinct, inverse = distinct_rows(rows)
        assert len(distinct) == 2 and torch.equal(distinct[inverse], rows)


def test_each_distinct_word_is_encoded_once(encoder, monkeypatch):
    seen = []
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda rows: seen.append(len(rows)) or encode(rows))
    ids = rows_of(["the", "cat", "the", "the", "dog", "cat"]).view(2, 3, 9)
    vectors = encoder(ids, mask=torch.ones(2, 3, dtype=torch.bool))
    assert seen == [3]
    assert torch.equal(vectors[0, 0], vectors[1, 0])


def test_trimming_is_exact(encoder):
    for words in (["a"], ["", "a"], ["a", "abcdefg"], ["abcdefghij"], ["ab", "cd", ""], ["<S>", "</S>"]):
        rows = rows_of(words)
        assert encoder.checked(rows)[0].shape[1] <= rows.shape[1]
        torch.testing.assert_close(encoder.encode(encoder.checked(rows)[0]), encoder.encode(rows), rtol=0, atol=1e-14)
    assert encoder.checked(rows_of(["a"]))[0].shape[1] < 9
    # Nothing but padding characters still leaves one window of the widest filter.
    assert encoder.checked(torch.full((2, 9), 261))[0].shape[1] == 4


def test_trimming_keeps_gradients(encoder):
    rows = rows_of(["a", "bcd"])
    gradients = []
    for given in (rows, encoder.checked(rows)[0]):
        encoder.zero_grad()
        encoder.encode(given).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in encoder.named_parameters()})
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, rtol=0, atol=1e-12)


def test_many_words_are_encoded_in_parts(encoder, monkeypatch):
    ids = torch.randint(1, 262, (4, 5, 9))
    mask = torch.ones(4, 5, dtype=torch.bool)
    whole = encoder(ids, mask=mask)
    monkeypatch.setattr(character_embeddings, "WORDS_AT_A_TIME", 3)
    torch.testing.assert_close(encoder(ids, mask=mask), whole, rtol=0, atol=1e-14)


def test_masked_words_are_zero(encoder):
    ids = torch.randint(1, 262, (2, 3, 9))
    mask = torch.tensor([[True, False, True], [False, False, True]])
    vectors = encoder(ids, mask=mask)
    assert (vectors[~mask] == 0).all() and (vectors[mask] != 0).any(dim=-1).all()

"""ELMoForManyLangs' class, compared with the original's outputs and with `embed`."""

import json

import numpy as np
import pytest

from elmo_hf import embed
from elmo_hf.compat.elmoformanylangs import Embedder
from hub_upload import convert


@pytest.fixture(params=["char_only", "word_and_char"])
def original(reference, request):
    folder = reference / "elmoformanylangs" / request.param
    expected = np.load(folder / "expected_layers.npz")
    sentences = json.loads((folder / "sentences.json").read_text())
    return folder, sentences, [expected[f"sentence_{number}"] for number in range(len(sentences))]


def check(found, expected, bound=2e-6):
    assert len(found) == len(expected)
    for array, same in zip(found, expected, strict=True):
        assert array.shape == same.shape and array.dtype == np.float32
        np.testing.assert_allclose(array, same, rtol=0, atol=bound)


@pytest.mark.slow
def test_one_batch(original):
    """Every `output_layer`, compared with the original's outputs from zero states."""
    folder, sentences, expected = original
    embedder = Embedder(folder)
    for output_layer, choose in ((-1, lambda each: each.mean(axis=0)), (-2, lambda each: each)):
        check(embedder.sents2elmo(sentences, output_layer), [choose(each) for each in expected])
        embedder.reset_states()
    check(embedder.sents2elmo(sentences), [each.mean(axis=0) for each in expected])
    for number in range(3):
        embedder.reset_states()
        check(embedder.sents2elmo(sentences, output_layer=number), [each[number] for each in expected])
    with pytest.raises(ValueError, match="layers=3.* 0 .* 2"):
        embedder.sents2elmo(sentences, 3)
    with pytest.raises(ValueError, match="layers=-3"):
        embedder.sents2elmo(sentences, -3)
    with pytest.raises(TypeError, match="sentence 0 is the text 'a text'"):
        embedder.sents2elmo(["a text"])


@pytest.mark.slow
def test_state(original, tmp_path):
    """State carries over row by row and from call to call, longest sentences first."""
    folder, sentences, _ = original
    convert(folder, tmp_path / "ours")
    order = sorted(range(len(sentences)), key=lambda place: -len(sentences[place]))
    ordered = [sentences[place] for place in order]
    twice = embed([*ordered, *([] for _ in range(-len(ordered) % 2)), *ordered], tmp_path / "ours", layers="all")
    embedder = Embedder(tmp_path / "ours", batch_size=2)
    first, second = embedder.sents2elmo(sentences, -2), embedder.sents2elmo(sentences, -2)
    expected = embed(ordered, tmp_path / "ours", layers="all", carry_state=True, rows=2)
    check([first[place] for place in order], expected, 1e-6)
    assert max(np.abs(a - b).max() for a, b in zip(first, second, strict=True)) > 1e-3
    embedder.reset_states()
    check(embedder.sents2elmo(sentences, -2), first, 0)
    alone = Embedder(tmp_path / "ours", batch_size=2, carry_state=False)
    for _ in range(2):
        check([alone.sents2elmo(sentences, -2)[place] for place in order], twice[: len(order)], 1e-6)

"""The word in its context, unit vectors, and the nearest usages by definition."""

import numpy as np
import pytest

from elmo_hf import ElmoModel, ElmoTokenizer, embed, neighbors
from elmo_hf.inference.neighbors import Usage, marked, unit
from modeling_tests.tiny import tiny_config, with_large_weights


@pytest.mark.parametrize("around", [0, 1, 2, 8])
def test_marked_word(around: int) -> None:
    words = list("abcde")
    for place in range(len(words)):
        shown = [f"[{word}]" if at == place else word for at, word in enumerate(words) if abs(at - place) <= around]
        expected = ["..."] * (place - around > 0) + shown + ["..."] * (place + around < len(words) - 1)
        assert marked(words, place, around).split() == expected


def test_usage_shows_eight_words_on_each_side() -> None:
    words = [str(number) for number in range(30)]
    usage = Usage(1.0, words, 15)
    assert usage.word == "15"
    assert usage.marked() == marked(words, 15) == " ".join(["...", *words[7:15], "[15]", *words[16:24], "..."])


def test_unit_vectors() -> None:
    vectors = np.array([[3.0, 4.0], [0.0, 0.0]])
    assert unit(vectors).tolist() == [[0.6, 0.8], [0.0, 0.0]]


def test_more_usages_than_are_kept_at_once() -> None:
    """`each_usage` discards far usages on the way; the result is that of sorting all of them."""
    model, tokenizer = (
        with_large_weights(ElmoModel(tiny_config()), 0.3).eval(),
        ElmoTokenizer(max_characters_per_word=9),
    )
    corpus = [[f"w{number}x{place}" for place in range(6)] for number in range(200)]
    found = neighbors("cat", ["a", "cat"], corpus, model, tokenizer, count=3, each_usage=True)
    target = unit(embed([["a", "cat"]], model, tokenizer)[0])[1]
    everything = [
        (float(vector @ target), number, place)
        for number, vectors in enumerate(embed(corpus, model, tokenizer))
        for place, vector in enumerate(unit(vectors))
    ]
    nearest = sorted(everything, reverse=True)[:3]
    assert [usage.word for usage in found] == [corpus[number][place] for _, number, place in nearest]
    assert [usage.similarity for usage in found] == pytest.approx([similarity for similarity, *_ in nearest], abs=1e-5)

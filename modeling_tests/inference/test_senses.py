"""Clusters of usages, their number, and the draw of usages."""

import numpy as np
import pytest
import torch

from elmo_hf.inference.senses import divide, draw_usages

pytest.importorskip("sklearn")


def grouped(groups: int, size: int = 20, spread: float = 0.05) -> np.ndarray:
    """Vectors of length 1 around `groups` orthogonal centers."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.eye(groups, 16).repeat_interleave(size, 0)
    noise = spread * torch.randn(groups * size, 16, generator=generator)
    return torch.nn.functional.normalize(centers + noise, dim=1).numpy()


def groups_of(labels: np.ndarray, size: int = 20) -> list[int]:
    """The number of labels in each group."""
    return [len(set(labels[start : start + size])) for start in range(0, len(labels), size)]


def test_clear_clusters_are_found() -> None:
    labels, silhouette = divide(grouped(3), None, 6, 0)
    assert silhouette is not None and 0.5 < silhouette <= 1
    assert groups_of(labels) == [1, 1, 1] and len(set(labels)) == 3


def test_without_clear_clusters_there_is_one_sense() -> None:
    generator = torch.Generator().manual_seed(0)
    same = torch.nn.functional.normalize(torch.randn(60, 64, generator=generator) + 2, dim=1).numpy()
    labels, silhouette = divide(same, None, 6, 0)
    assert silhouette is None and set(labels) == {0}


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (2, 2), (3, 3), (4, 3)])
def test_number_of_senses_is_bounded(most: int, expected: int) -> None:
    labels, _ = divide(grouped(3), None, most, 0)
    assert len(set(labels)) == expected


def test_number_of_senses_is_less_than_that_of_distinct_usages() -> None:
    """Three groups of equal vectors and one usage that is nearly one of them: four distinct vectors."""
    vectors = np.concatenate([np.eye(3, 8).repeat(5, 0), np.eye(1, 8) + 0.01])
    labels, _ = divide(vectors, None, 6, 0)
    assert len(set(labels)) == 3 and labels[-1] == labels[0]


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_a_given_number_of_senses(count: int) -> None:
    vectors = grouped(3, size=2)
    labels, silhouette = divide(vectors, count, 6, 0)
    assert len(set(labels)) == count
    # One cluster, and clusters of one usage, have no silhouette.
    assert (silhouette is None) == (count in (1, 6))


def test_a_given_number_of_senses_may_be_unclear() -> None:
    generator = torch.Generator().manual_seed(0)
    same = torch.nn.functional.normalize(torch.randn(30, 64, generator=generator) + 2, dim=1).numpy()
    labels, silhouette = divide(same, 2, 6, 0)
    assert set(labels) == {0, 1} and silhouette is not None


def test_more_senses_than_distinct_usages() -> None:
    vectors = np.eye(2, 8).repeat(3, 0)
    assert len(set(divide(vectors, 2, 6, 0)[0])) == 2
    with pytest.raises(ValueError, match="count=3.*2"):
        divide(vectors, 3, 6, 0)


def test_draw_of_usages() -> None:
    """All usages where they are few, a fixed draw where they are many."""
    corpus = [["a", "b", "A"]] * 50
    assert len(draw_usages("a", corpus, 1000, False, 0)) == 100 and len(draw_usages("a", corpus, 1000, True, 0)) == 50
    drawn = draw_usages("a", corpus, 7, False, 3)
    assert len(drawn) == 7 and drawn == draw_usages("a", corpus, 7, False, 3)
    assert all(words[place].lower() == "a" for words, place in drawn)


def test_draw_of_usages_is_uniform() -> None:
    corpus = [[str(number), "a"] for number in range(40)]
    counts = np.zeros(40)
    for seed in range(2000):
        counts[[int(words[0]) for words, _ in draw_usages("a", corpus, 4, False, seed)]] += 1
    assert counts.sum() == 8000 and counts.min() > 140 and counts.max() < 260  # 200 expected, deviation 13
    assert 710 < counts[:4].sum() < 890  # 800 expected, deviation 27

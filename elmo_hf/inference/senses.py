"""Word sense induction from contextual vectors, and semantic change between corpora.

Usages are clustered by k-means on vectors of length 1. The number of clusters is that of the highest silhouette
(Rousseeuw 1987), or one if no clustering is clear. Change between two corpora is measured by the average pairwise
cosine distance of usages and by the cosine distance of the mean vectors, the prototypes (Giulianelli et al. 2020;
Kutuzov and Giulianelli 2020).
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from elmo_hf.atomic import appearing
from elmo_hf.checks import at_least_one
from elmo_hf.model.pretrained import ElmoPreTrainedModel
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .embedding import Layers
from .loading import Name
from .neighbors import marked, open_reader, read, unit

# Clusterings with a lower silhouette are rejected. Usages of one sense reach about 0.05 to 0.1 in many dimensions.
CLEAR_SILHOUETTE = 0.12


@dataclass(frozen=True)
class Sense:
    """One sense of a word.

    Attributes:
        counts: number of usages by corpus.
        examples: usages nearest to the cluster's center, with the word in brackets.
    """

    counts: dict[str, int]
    examples: list[str]

    @property
    def usages(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True)
class Change:
    """Semantic change of a word between two corpora; 0 means none.

    Attributes:
        first, second: names of the corpora.
        average_pairwise_distance: mean cosine distance between a usage in the first corpus and one in the second.
        prototype_distance: cosine distance between their mean vectors.
    """

    first: str
    second: str
    average_pairwise_distance: float
    prototype_distance: float


@dataclass(frozen=True)
class WordSenses:
    """Result of `senses`.

    Attributes:
        word: the word as given.
        senses: senses, most frequent first.
        changes: one for each pair of corpora that contain the word.
        silhouette: silhouette of the clustering, from -1 to 1; `None` for a single sense.
        vectors: (usages, 2P), of length 1.
        labels: (usages,), index into `senses` of each usage.
        corpora: (usages,), index into `names` of each usage.
        names: names of the corpora.
    """

    word: str
    senses: list[Sense]
    changes: list[Change]
    silhouette: float | None
    vectors: NDArray[np.floating]
    labels: NDArray[np.integer]
    corpora: NDArray[np.integer]
    names: list[str]


def senses(
    word: str,
    corpora: Mapping[str, Iterable[Sequence[str]]],
    model: ElmoPreTrainedModel | Name | None = None,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    count: int | None = None,
    most: int = 6,
    max_usages: int = 1000,
    match_case: bool = False,
    layers: Layers = "mix",
    examples: int = 3,
    seed: int = 0,
    batch_words: int | None = None,
    device: torch.device | str | None = None,
) -> WordSenses:
    """Cluster the usages of a word into senses.

    Args:
        word: the exact form; inflected forms are not included.
        corpora: sentences as lists of words, by corpus name; each corpus is read once, as a stream.
        model, tokenizer, batch_words, device: as in [`embed`].
        count: number of senses; by default chosen by silhouette, up to `most`.
        max_usages: maximum number of usages per corpus, sampled uniformly.
        match_case: distinguish upper and lower case.
        layers: as in [`embed`], except `"all"`.
        examples: number of usages to show per sense.
        seed: seed of sampling and clustering.

    Raises:
        ModuleNotFoundError: scikit-learn is missing.
        ValueError: a word that no corpus contains, fewer usages than senses, or an impossible option.
    """
    at_least_one(count=count, most=most, max_usages=max_usages, examples=examples)
    embedder = open_reader(model, tokenizer, layers, batch_words, device)
    names = list(corpora)
    usages: list[tuple[list[str], int]] = []
    parts: list[NDArray[Any]] = []
    home: list[int] = []
    for number, name in enumerate(names):
        drawn = draw_usages(word, corpora[name], max_usages, match_case, seed)
        pairs = zip(drawn, read((words for words, _ in drawn), embedder), strict=True)
        parts += [vectors[place] for (_, place), (_, vectors) in pairs]
        usages += drawn
        home += [number] * len(drawn)
    if not usages:
        raise ValueError(f"word={word!r}: none of {', '.join(names)} holds it")
    vectors, corpus_of = unit(np.stack(parts)), np.array(home)
    labels, silhouette = divide(vectors, count, most, seed)

    order = np.argsort(-np.bincount(labels), kind="stable")
    labels = np.argsort(order)[labels]
    found = []
    for label in range(len(order)):
        members = np.flatnonzero(labels == label)
        near = members[np.argsort(-vectors[members] @ vectors[members].mean(axis=0), kind="stable")]
        found.append(
            Sense(
                {name: int((corpus_of[members] == number).sum()) for number, name in enumerate(names)},
                [marked(*usages[place]) for place in near[:examples]],
            )
        )
    means = {number: vectors[corpus_of == number].mean(axis=0) for number in set(home)}
    changes = [
        Change(
            names[one],
            names[other],
            # The mean of all pairwise dot products is the dot product of the means.
            float(1 - means[one] @ means[other]),
            float(1 - unit(means[one]) @ unit(means[other])),
        )
        for one, other in combinations(sorted(means), 2)
    ]
    return WordSenses(word, found, changes, silhouette, vectors, labels, corpus_of, names)


def draw_usages(
    word: str, corpus: Iterable[Sequence[str]], most: int, match_case: bool, seed: int
) -> list[tuple[list[str], int]]:
    """Sentences that contain the word, and its index in each: all, or a uniform sample of `most` (reservoir)."""
    draw = np.random.default_rng(seed)
    wanted = word if match_case else word.lower()
    kept: list[tuple[list[str], int]] = []
    seen = 0
    for words in corpus:
        for place, each in enumerate(words):
            if (each if match_case else each.lower()) != wanted:
                continue
            seen += 1
            if len(kept) < most:
                kept.append((list(words), place))
            elif (slot := int(draw.integers(seen))) < most:
                kept[slot] = (list(words), place)
    return kept


def divide(
    vectors: NDArray[np.floating], count: int | None, most: int, seed: int
) -> tuple[NDArray[np.integer], float | None]:
    """Cluster vectors; return the cluster number of each, from 0, and the silhouette, `None` for a single cluster.

    Raises:
        ValueError: fewer distinct vectors than clusters.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    distinct = len(np.unique(vectors, axis=0))
    if count is not None and distinct < count:
        raise ValueError(f"count={count}: the word has {distinct} different usages; ask for fewer senses, or more text")
    whole = np.zeros(len(vectors), dtype=np.int64)
    best, best_score = whole, None
    for clusters in range(2, min(most, distinct - 1) + 1) if count is None else [count]:
        if clusters == 1:
            return whole, None
        labels = KMeans(clusters, n_init=10, random_state=seed).fit(vectors).labels_
        if clusters == len(vectors):
            return labels, None
        score = float(silhouette_score(vectors, labels))
        if (best_score or (CLEAR_SILHOUETTE if count is None else -2.0)) < score:
            best, best_score = labels, score
    return best, best_score


def draw_senses(found: WordSenses, path: str | os.PathLike[str]) -> None:
    """Plot the usages by their two principal components, with one color per sense and one marker per corpus.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
    """
    from matplotlib.figure import Figure

    centered = found.vectors - found.vectors.mean(axis=0)
    plane = np.zeros((len(centered), 2))
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    plane[:, : min(2, len(axes))] = centered @ axes[:2].T
    figure = Figure(figsize=(7, 6), layout="constrained")
    (drawing,) = figure.subplots(1, 1, squeeze=False).flat
    for label, sense in enumerate(found.senses):
        for number, name in enumerate(found.names):
            here = (found.labels == label) & (found.corpora == number)
            if here.any():
                legend = (
                    f"sense {label + 1}" + (f", {name}" if len(found.names) > 1 else "") + f" ({sense.counts[name]})"
                )
                drawing.scatter(*plane[here].T, color=f"C{label % 10}", marker="ox^sDv"[number % 6], label=legend)
    drawing.set(title=found.word, xlabel="first component", ylabel="second component")
    drawing.legend()
    with appearing(path) as aside:
        figure.savefig(aside, format=os.fspath(path).rpartition(".")[2].lower() if "." in os.fspath(path) else "png")

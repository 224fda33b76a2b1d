"""Nearest neighbors of a word in a sentence among the words of a corpus, by contextual vectors."""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from elmo_hf.checks import at_least_one
from elmo_hf.model.pretrained import ElmoPreTrainedModel
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .embedding import Embedder, Layers, open_embedder
from .loading import Name

WINDOW = 8  # number of batches whose sentences are sorted by length together


class Usage(NamedTuple):
    """An occurrence of a word in a corpus.

    Attributes:
        similarity: cosine similarity with the query word.
        words: its sentence.
        place: its index in the sentence, from 0.
    """

    similarity: float
    words: list[str]
    place: int

    @property
    def word(self) -> str:
        return self.words[self.place]

    def marked(self, around: int = 8) -> str:
        """The word in brackets, with up to `around` words on each side."""
        return marked(self.words, self.place, around)


def marked(words: Sequence[str], place: int, around: int = 8) -> str:
    """The word at index `place` in brackets, with up to `around` words on each side."""
    before, after = list(words[max(0, place - around) : place]), list(words[place + 1 : place + 1 + around])
    cut_before, cut_after = ["..."] * (place > around), ["..."] * (len(words) > place + 1 + around)
    return " ".join([*cut_before, *before, f"[{words[place]}]", *after, *cut_after])


def neighbors(
    word: str,
    sentence: str | Sequence[str],
    corpus: Iterable[Sequence[str]],
    model: ElmoPreTrainedModel | Name | None = None,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    count: int = 10,
    layers: Layers = "mix",
    each_usage: bool = False,
    batch_words: int | None = None,
    device: torch.device | str | None = None,
) -> list[Usage]:
    """Find the words of a corpus nearest to a word in a sentence, by the cosine of their contextual vectors.

    Args:
        word: one of the sentence's words; its first occurrence is used.
        sentence: a text, which the tokenizer splits, or a list of words.
        corpus: lists of words, read once, as a stream.
        model, tokenizer, batch_words, device: as in [`embed`].
        count: maximum number of results.
        layers: as in [`embed`], except `"all"`.
        each_usage: return every occurrence; by default each word once, ignoring case, with its nearest occurrence.

    Returns:
        Occurrences, nearest first.

    Raises:
        ValueError: a word that is not in the sentence; an impossible option.
    """
    at_least_one(count=count)
    embedder = open_reader(model, tokenizer, layers, batch_words, device)
    if isinstance(sentence, str):
        words = [found for found, _ in embedder.tokenizer.words(sentence)]
    else:
        words = list(sentence)
    if word not in words:
        raise ValueError(f"word={word!r} is not in the sentence, whose words are {' '.join(words)!r}: give one of them")
    (query,) = read([words], embedder)
    target = unit(query[1][words.index(word)])

    nearest: dict[object, Usage] = {}
    number = 0
    for found, vectors in read(corpus, embedder):
        if not found:
            continue
        for place, similarity in enumerate(unit(vectors) @ target):
            usage = Usage(float(similarity), found, place)
            key: object = (number, place) if each_usage else usage.word.lower()
            if key not in nearest or nearest[key].similarity < usage.similarity:
                nearest[key] = usage
        number += 1
        if each_usage and len(nearest) > 1000 + 2 * count:
            nearest = dict(heapq.nlargest(count, nearest.items(), key=lambda item: item[1].similarity))
    return heapq.nlargest(count, nearest.values(), key=lambda usage: usage.similarity)


def open_reader(
    model: ElmoPreTrainedModel | Name | None,
    tokenizer: ElmoTokenizer | Name | None,
    layers: Layers,
    batch_words: int | None,
    device: torch.device | str | None,
) -> Embedder:
    """Open an [`Embedder`] that gives one vector per word; arguments and errors as in [`embed`]."""
    if layers == "all":
        raise ValueError("layers='all': expected one vector per word: 'mix', 'top', 'average' or the number of a layer")
    embedder = open_embedder(model, tokenizer, layers, False, batch_words, WINDOW, device, None)
    embedder.refuse_without_pos_tags("a model that reads words alone")
    return embedder


def read(sentences: Iterable[Sequence[str]], embedder: Embedder) -> Iterator[tuple[list[str], NDArray[np.floating]]]:
    """Yield each sentence with its vectors (words, 2P)."""
    pending: deque[list[str]] = deque()

    def given() -> Iterator[list[str]]:
        for sentence in sentences:
            pending.append(list(sentence))
            yield pending[-1]

    for vectors in embedder.run(given()):
        yield pending.popleft(), vectors


def unit(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    """Vectors scaled to length 1; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)

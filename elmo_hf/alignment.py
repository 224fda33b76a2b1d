"""Cross-lingual alignment: orthogonal maps of a model's layers into another model's space, fitted on a dictionary.

A word has many contextual vectors; its *anchor* is their mean over a text. Each map brings the anchors of a
dictionary's words as close as possible to those of their translations, and is applied to every vector of the layer.
Maps are stored with the model (`config.aligned`): embedding, pipelines and task heads then use the other language's
space, and a task model trained on one language can read another (`with_bilm_of`).

Source: Schuster et al. 2019, *Cross-Lingual Alignment of Contextual Word Embeddings*, sections 3 and 4, and its code
(`gen_anchors.py`). As there, vectors are neither centered nor normalized before the fit.
"""

import copy
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elmo_hf.checks import at_least_one
from elmo_hf.corpus.lines import numbered_lines
from elmo_hf.inference.embedding import embed_iter
from elmo_hf.inference.loading import Name, check_sentences, is_a, load_tokenizer
from elmo_hf.inference.neighbors import unit
from elmo_hf.model.configuration_elmo import ElmoConfig
from elmo_hf.model.language_model import ElmoForPreTraining
from elmo_hf.model.layer_alignment import ElmoAlignment
from elmo_hf.model.pretrained import ElmoPreTrainedModel
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

Pair = tuple[str, str]
Doubles = NDArray[np.float64]

# Similarities (words x candidates) computed at a time: 32 MB.
SIMILARITIES_AT_A_TIME = 2**22
# Fields of the configuration that belong to a task model, not to its biLM.
TASK_FIELDS = (
    "num_representations scalar_mix scalar_mix_parameters scalar_mix_layer_norm scalar_mix_layer_norm_epsilon "
    "scalar_mix_l2 representation_dropout elmo_at word_vector_size train_word_vectors task_lstm_size task_lstm_layers "
    "task_encoder task_forget_bias task_recurrent_dropout words_only task_character_size num_task_characters "
    "task_character_filters task_character_activation pre_encoder_layers classifier_layers integrator_size "
    "integrator_layers task_dropout use_crf tag_scheme tag_names crf_constraints crf_start_end_transitions "
    "crf_label_weights crf_weight_strategy pooling maxout_sizes maxout_pieces maxout_classifier sentence_pairs"
).split()


def read_dictionary(path: str | os.PathLike[str]) -> list[Pair]:
    """Read a bilingual dictionary in MUSE format: one word and translation per line, separated by a space or tab.

    A word may have several translations, one per line. Repeated lines count once; blank lines are skipped.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line without exactly two words, bytes that are not UTF-8, or no pair at all.
    """
    pairs: dict[Pair, None] = {}
    for number, line in numbered_lines(path):
        fields = line.split()
        if fields and len(fields) != 2:
            raise ValueError(
                f"{path}, line {number}: {' '.join(fields)!r} has {len(fields)} words: expected two, a word and its "
                "translation, with a space or a tab between them"
            )
        if fields:
            pairs[fields[0], fields[1]] = None
    if not pairs:
        raise ValueError(f"{path} has no pair of words: expected a word and its translation a line")
    return list(pairs)


@dataclass(frozen=True)
class Anchors:
    """The mean vectors of words over a text, layer by layer.

    Attributes:
        words: the requested words that occur, in the requested order.
        vectors: (layers, words, 2P), float64, word layer first.
        counts: (words,), int64, number of occurrences.
        lengths: (layers,), float64, mean length of the averaged vectors.
    """

    words: tuple[str, ...]
    vectors: Doubles = field(repr=False)
    counts: NDArray[np.int64] = field(repr=False)
    lengths: Doubles = field(repr=False)

    @cached_property
    def rows(self) -> dict[str, int]:
        """Row number of every word."""
        return {word: row for row, word in enumerate(self.words)}


def anchors(
    sentences: Iterable[str | Sequence[str]],
    model: ElmoPreTrainedModel | Name,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    words: Iterable[str],
    lowercase: bool = False,
    batch_words: int | None = None,
    device: torch.device | str | None = None,
    progress: bool | None = None,
) -> Anchors:
    """Compute the anchors of words: the mean of their contextual vectors over a text, in every layer.

    The text is streamed. Memory holds a window of it (see `embed_iter`) and 8 bytes per word, layer and dimension: 123
    MB for 5,000 words of the published original model.

    Args:
        sentences: any iterable of texts, which the tokenizer splits, or lists of words.
        model, tokenizer, device: as in `embed`.
        words: the words whose anchors to compute.
        lowercase: count an occurrence that is not in `words` for its lower-cased form; most dictionaries are in lower
            case.
        batch_words: words per batch, including padding and boundaries; by default as in `embed`.

    Raises:
        TypeError: a sentence that is neither a text nor a list of words.
        ValueError: no words, no sentences, or none of the words in any sentence.
    """
    rows = {word: row for row, word in enumerate(dict.fromkeys(words))}
    if not rows:
        raise ValueError("words is empty: expected the words whose anchors to compute")
    splitter = load_tokenizer(tokenizer, model)
    reading: deque[list[str]] = deque()

    def split() -> Iterator[list[str]]:
        for sentence in check_sentences(sentences):
            reading.append([word for word, _ in splitter.words(sentence)] if isinstance(sentence, str) else sentence)
            yield reading[-1]

    sums: Doubles = np.zeros((len(rows), 0, 0))
    counts, lengths = np.zeros(len(rows), np.int64), 0.0
    arrays = embed_iter(
        split(), model, splitter, layers="all", batch_words=batch_words, device=device, progress=progress
    )
    for array in arrays:
        places, found = _occurrences(reading.popleft(), rows, lowercase)
        if not sums.size:
            sums = np.zeros((len(rows), len(array), array.shape[-1]))
        if not places:
            continue
        vectors = array[:, places].astype(np.float64).swapaxes(0, 1)  # [occurrences, layers, 2P]
        np.add.at(sums, found, vectors)
        np.add.at(counts, found, 1)
        lengths = lengths + np.linalg.norm(vectors, axis=-1).sum(axis=0)
    if not sums.size:
        raise ValueError("sentences is empty: expected a text in which the words occur")
    kept = np.flatnonzero(counts)
    if not len(kept):
        raise ValueError(
            f"none of the {len(rows)} words occurs in the text (such as {next(iter(rows))!r}): give a text of their "
            "language, split into words as they are"
            + ("" if lowercase else ", or lowercase=True for words in lower case")
        )
    means = (sums[kept] / counts[kept, None, None]).swapaxes(0, 1)
    every = list(rows)
    return Anchors(tuple(every[row] for row in kept), np.ascontiguousarray(means), counts[kept], lengths / counts.sum())


def _occurrences(sentence: list[str], rows: dict[str, int], lowercase: bool) -> tuple[list[int], list[int]]:
    """Positions of known words in a sentence, and their rows."""
    places, found = [], []
    for place, word in enumerate(sentence):
        row = rows.get(word, rows.get(word.lower()) if lowercase else None)
        if row is not None:
            places.append(place)
            found.append(row)
    return places, found


@dataclass(frozen=True)
class Alignment:
    """Maps of each layer into another language's space, with statistics of the fit.

    Attributes:
        maps: (layers, 2P, 2P), float64; a vector x becomes W x.
        pairs: the dictionary pairs used for the fit, whose words both have anchors.
        given: number of pairs in the dictionary.
        before, after: (layers,), mean cosine between the anchors of a pair's words, before and after mapping.
    """

    maps: Doubles = field(repr=False)
    pairs: tuple[Pair, ...] = field(repr=False)
    given: int
    before: Doubles
    after: Doubles

    @property
    def coverage(self) -> float:
        """Share of the dictionary's pairs that were used."""
        return len(self.pairs) / self.given

    def apply(self, source: Anchors) -> Anchors:
        """The anchors of source words in the target's space."""
        mapped = source.vectors @ self.maps.swapaxes(1, 2)
        return replace(source, vectors=mapped)

    def __str__(self) -> str:
        cosines = ", ".join(f"{old:.3f} to {new:.3f}" for old, new in zip(self.before, self.after, strict=True))
        return (
            f"{len(self.pairs):,} of {self.given:,} pairs ({self.coverage:.1%}) occur in both texts; mean cosine of "
            f"their anchors, layer by layer: {cosines}"
        )


def fit_alignment(source: Anchors, target: Anchors, pairs: Iterable[Pair], *, match_lengths: bool = False) -> Alignment:
    """Fit, for each layer, the orthogonal map that brings source anchors closest to those of their translations.

    Orthogonal Procrustes: W = U V^T, where U S V^T is the singular value decomposition of Y^T X. The rows of X are the
    anchors of source words, those of Y the anchors of their translations (Schuster et al. 2019, equation 2). W
    minimizes the sum of |W x - y|^2 over all orthogonal matrices, and preserves lengths and angles.

    Args:
        source, target: anchors of both languages.
        pairs: (source word, target word); pairs with a word without anchor are ignored.
        match_lengths: multiply each W by the ratio of the languages' mean vector lengths. The published maps are
            similar: they scale the vectors of every language to a mean length of 1.

    Warns:
        UserWarning: fewer pairs than dimensions, so that W is one of several optimal maps.

    Raises:
        ValueError: models of different widths or numbers of layers, no known pair, or anchors that are not finite.
    """
    _check_fit_each_other(source, target)
    given = list(dict.fromkeys(pairs))
    known = _known(given, source, target)
    width = source.vectors.shape[-1]
    if len(known) < width:
        warnings.warn(
            f"{len(known)} pairs for a map of {width} dimensions: such a map is not determined in all of them. Give a "
            f"larger dictionary or more text, with at least {width} pairs and preferably several times more",
            stacklevel=2,
        )
    xs = source.vectors[:, [source.rows[word] for word, _ in known]]  # [layers, pairs, 2P]
    ys = target.vectors[:, [target.rows[word] for _, word in known]]
    if not (np.isfinite(xs).all() and np.isfinite(ys).all()):
        raise ValueError("anchors hold values that are not finite: the model they were computed with is damaged")
    left, _, right = np.linalg.svd(ys.swapaxes(1, 2) @ xs)
    maps = left @ right
    mapped = xs @ maps.swapaxes(1, 2)
    if match_lengths:
        if not (source.lengths > 0).all():
            raise ValueError("match_lengths=True: a layer of the source model is zero everywhere")
        maps = maps * (target.lengths / source.lengths)[:, None, None]
    return Alignment(maps, tuple(known), len(given), _mean_cosine(xs, ys), _mean_cosine(mapped, ys))


def _check_fit_each_other(source: Anchors, target: Anchors) -> None:
    shapes = [(len(each.vectors), each.vectors.shape[-1]) for each in (source, target)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"the source model has {shapes[0][0]} layers of {shapes[0][1]} dimensions and the target model "
            f"{shapes[1][0]} of {shapes[1][1]}: an orthogonal map needs two models of one shape"
        )


def _known(pairs: Sequence[Pair], source: Anchors, target: Anchors) -> list[Pair]:
    """Pairs whose words both have anchors; raises `ValueError` if there are none."""
    if not pairs:
        raise ValueError("pairs is empty: expected pairs of a source word and its translation")
    known = [pair for pair in pairs if pair[0] in source.rows and pair[1] in target.rows]
    if not known:
        sources = sum(word in source.rows for word, _ in pairs)
        targets = sum(word in target.rows for _, word in pairs)
        raise ValueError(
            f"none of the {len(pairs)} pairs has both its words in the texts ({sources} source words and {targets} "
            f"target words occur; the first pair is {pairs[0]}): check the direction of the dictionary, its case "
            "(lowercase=True) and the languages of the texts"
        )
    return known


def _mean_cosine(xs: Doubles, ys: Doubles) -> Doubles:
    return (unit(xs) * unit(ys)).sum(axis=-1).mean(axis=1)


@dataclass(frozen=True)
class TranslationPrecision:
    """Precision of translating words by nearest neighbors.

    Attributes:
        cosine: (layers,), share of source words whose nearest target word, by cosine, is a translation.
        csls: (layers,), the same by cross-domain similarity local scaling, which discounts words close to everything.
        words: number of translated source words.
        candidates: number of target words to choose from.
    """

    cosine: Doubles
    csls: Doubles
    words: int
    candidates: int

    def __str__(self) -> str:
        rows = ", ".join(f"{a:.1%} / {b:.1%}" for a, b in zip(self.cosine, self.csls, strict=True))
        return (
            f"translations found first for {self.words:,} words among {self.candidates:,}, by cosine / CSLS, layer by "
            f"layer: {rows}"
        )


def translation_precision(
    source: Anchors, target: Anchors, pairs: Iterable[Pair], *, neighbours: int = 10
) -> TranslationPrecision:
    """Compute precision at 1 of translating words by their nearest neighbor in the target language, in every layer.

    CSLS of x and y is 2 cos(x, y) - r(x) - r(y), where r is the mean cosine with the `neighbours` nearest words of the
    other language (Conneau et al. 2018, section 2.3). Any of a word's translations counts as correct.

    Args:
        source: anchors in the target's space, from an aligned model or `Alignment.apply`.
        target: anchors of the target language; all its words are candidates.
        pairs: words and their translations; pairs with a word without anchor are ignored.
        neighbours: number of nearest neighbors for CSLS (MUSE: 10); all words if there are fewer.

    Raises:
        ValueError: models of different widths or numbers of layers, no known pair, or `neighbours` below 1.
    """
    at_least_one(neighbours=neighbours)
    _check_fit_each_other(source, target)
    right: dict[int, set[int]] = {}
    for word, translation in _known(list(pairs), source, target):
        right.setdefault(source.rows[word], set()).add(target.rows[translation])
    queries = np.fromiter(right, np.int64)
    precision: list[list[float]] = []
    for xs, ys in zip(unit(source.vectors), unit(target.vectors), strict=True):
        near_source, near_target = _mean_of_nearest(xs, ys, neighbours), _mean_of_nearest(ys, xs, neighbours)
        hits = np.zeros(2)
        for some in _split(queries, len(ys)):
            cosines = xs[some] @ ys.T
            csls = 2 * cosines - near_source[some, None] - near_target
            for kind, scores in enumerate((cosines, csls)):
                best = scores.argmax(axis=1)
                hits[kind] += sum(int(found) in right[int(row)] for row, found in zip(some, best, strict=True))
        precision.append(list(hits / len(queries)))
    cosine, csls = np.array(precision).T
    return TranslationPrecision(cosine, csls, len(queries), len(target.words))


def _mean_of_nearest(xs: Doubles, ys: Doubles, count: int) -> Doubles:
    """Mean cosine of each of `xs` with its `count` nearest of `ys`; all vectors have length one."""
    count = min(count, len(ys))
    parts = [
        np.partition(xs[some] @ ys.T, -count, axis=1)[:, -count:].mean(axis=1)
        for some in _split(np.arange(len(xs)), len(ys))
    ]
    return np.concatenate(parts)


def _split(rows: NDArray[np.int64], columns: int) -> Iterator[NDArray[np.int64]]:
    step = max(1, SIMILARITIES_AT_A_TIME // columns)
    return (rows[start : start + step] for start in range(0, len(rows), step))


@torch.no_grad()
def set_alignment(model: ElmoPreTrainedModel, maps: Doubles | Tensor) -> None:
    """Set the maps of a model's layers. They are saved with the model, and `config.aligned` is set.

    Args:
        model: any model with a biLM, except language models.
        maps: (layers, 2P, 2P), as `Alignment.maps`.

    Raises:
        ValueError: maps of another shape or not finite, a model without biLM, or a language model.
    """
    bilm = model.bilm
    if bilm is None:
        raise ValueError("the model has no biLM (elmo_at=[]): there are no layers to map")
    if is_a(model, ElmoForPreTraining):
        raise ValueError(
            f"{type(model).__name__} is a language model, whose softmax reads its layers as they were trained: load "
            "its checkpoint as ElmoModel and align that"
        )
    values = torch.as_tensor(maps)
    expected = (model.config.num_mixed_layers, model.config.elmo_size, model.config.elmo_size)
    if tuple(values.shape) != expected:
        raise ValueError(f"maps has shape {tuple(values.shape)}: expected (layers, 2P, 2P) = {expected}")
    if not values.isfinite().all():
        raise ValueError("maps holds values that are not finite")
    model.config.aligned = bilm.config.aligned = True
    alignment = ElmoAlignment(bilm.config).to(device=bilm.device, dtype=bilm.dtype)
    alignment.maps.copy_(values)
    bilm.alignment = alignment.train(bilm.training)


def align(
    source: ElmoPreTrainedModel,
    target: ElmoPreTrainedModel | Name,
    pairs: Iterable[Pair],
    source_sentences: Iterable[str | Sequence[str]],
    target_sentences: Iterable[str | Sequence[str]],
    *,
    source_tokenizer: ElmoTokenizer | Name | None = None,
    target_tokenizer: ElmoTokenizer | Name | None = None,
    lowercase: bool = False,
    match_lengths: bool = False,
    batch_words: int | None = None,
    progress: bool | None = None,
) -> Alignment:
    """Map a model's layers into the space of another language's model, in place.

    Calls `anchors` for both models, `fit_alignment`, and `set_alignment` for the source.

    Args:
        source: the model to align, not aligned yet.
        target: the model whose space is used. It may itself be aligned to a third language.
        pairs: (source word, target word), as returned by `read_dictionary`.
        source_sentences, target_sentences: a text in each language. They need not be translations of each other.

    Other arguments and errors are those of the three functions.
    """
    if source.config.aligned:
        raise ValueError("the source model is aligned already: load it with aligned=False to align it again")
    pairs = list(pairs)
    ours, theirs = (
        anchors(
            sentences,
            model,
            tokenizer,
            words=(pair[side] for pair in pairs),
            lowercase=lowercase,
            batch_words=batch_words,
            progress=progress,
        )
        for side, (sentences, model, tokenizer) in enumerate(
            ((source_sentences, source, source_tokenizer), (target_sentences, target, target_tokenizer))
        )
    )
    found = fit_alignment(ours, theirs, pairs, match_lengths=match_lengths)
    set_alignment(source, found.maps)
    return found


def with_bilm_of(task_model: ElmoPreTrainedModel, bilm: ElmoPreTrainedModel) -> ElmoPreTrainedModel:
    """Combine a task model's mixes and task layers with an aligned biLM of another language.

    This is the zero-shot transfer of Schuster et al. 2019, section 5: a model trained on the target language reads the
    source language through a biLM aligned to its own. Weights are copied.

    Args:
        task_model: a model trained with the biLM of the target language. That biLM should have been frozen
            (`freeze_bilm`), since training moves its space.
        bilm: any model with an aligned biLM of the same number of layers and dimensions.

    Raises:
        ValueError: no biLM, a different shape, a biLM that is not aligned, or a task model with word vectors of its
            own, which cover one language only.
    """
    for name, model in (("task_model", task_model), ("bilm", bilm)):
        if model.bilm is None:
            raise ValueError(f"{name} has no biLM (elmo_at=[]): nothing of it can be exchanged")
    old, new = task_model.config, bilm.config
    if not new.aligned:
        raise ValueError("bilm is not aligned (config.aligned is False): give the model that `align` has mapped")
    shapes = [(config.num_mixed_layers, config.elmo_size) for config in (old, new)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"task_model reads {shapes[0][0]} layers of {shapes[0][1]} dimensions and bilm has {shapes[1][0]} of "
            f"{shapes[1][1]}: expected the same"
        )
    if old.word_vector_size:
        raise ValueError(
            f"word_vector_size={old.word_vector_size}: task_model has word vectors of its own, which know the words of "
            "its language only; train one without"
        )
    config = copy.deepcopy(old)
    for name in ElmoConfig.__annotations__:
        if name not in TASK_FIELDS:
            setattr(config, name, copy.deepcopy(getattr(new, name)))
    exchanged = type(task_model)(config)
    parts = ("embeddings.", "encoder.", "alignment.")
    prefix = "" if task_model.bilm is task_model else f"{task_model.base_model_prefix}."
    weights = {
        name: value
        for name, value in task_model.state_dict().items()
        if not name.removeprefix(prefix).startswith(parts)
    }
    weights |= {prefix + name: value for name, value in bilm.bilm.state_dict().items() if name.startswith(parts)}
    exchanged.load_state_dict(weights)
    exchanged.to(task_model.device, task_model.dtype)  # type: ignore[arg-type] # hidden by a wrapper
    return exchanged.train(task_model.training)

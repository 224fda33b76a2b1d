"""Contextual word vectors of sentences as NumPy arrays: `embed`, and `embed_iter` for streams."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from elmo_hf.checks import at_least_one
from elmo_hf.corpus.cut_words import CutWords
from elmo_hf.corpus.tagged_text import Sentence, TaggedSentence
from elmo_hf.model.base_model import ElmoModel, ElmoModelOutput
from elmo_hf.model.pretrained import ElmoPreTrainedModel
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .batching import BatchSize, read_in_batches
from .carried_state import CarriedState
from .evaluation import in_evaluation
from .host_copy import HostCopy
from .loading import Name, check_pos_tags, check_sentences, load_model, load_tokenizer, named, with_pos_tags

Layers: TypeAlias = Literal["mix", "top", "average", "all"] | int
Sentences: TypeAlias = Iterable[str | Sequence[str]]
Vectors: TypeAlias = NDArray[np.floating]


def embed(
    sentences: Sentences,
    model: ElmoPreTrainedModel | Name | None = None,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    pos_tags: Iterable[Sequence[str | None]] | None = None,
    layers: Layers = "mix",
    boundaries: bool = False,
    batch_words: int | None = None,
    window: int = 8,
    carry_state: bool = False,
    rows: int = 1,
    warm_up: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool | None = None,
) -> list[Vectors]:
    """Compute contextual vectors of the words of sentences.

    Every sentence is read independently, from zero states, unless `carry_state` is set. Sentences of similar length are
    batched together; results have the order of the sentences.

    Args:
        sentences: any iterable of sentences, each a text, which the tokenizer splits, or a list of words.
        model: any ELMo model with a biLM, or the folder of its checkpoint; by default the shipped one
            ([`default_model`]).
        tokenizer: the model's tokenizer; by default the one in its checkpoint's folder.
        pos_tags: for a model that reads them, the POS tags of each sentence's words, `None` for a word without one;
            sentences must then be lists of words. Other models ignore them.
        layers: `"mix"`, the model's (first) mix of layers, learned or not; `"top"`, the last layer; `"average"`, the
            mean of all layers including the word layer; `"all"`, every layer; or a layer's number, 0 being the word
            layer.
        boundaries: keep the vectors of `<S>` and `</S>` as first and last word.
        batch_words: words per batch, including padding and boundaries. A longer sentence forms its own batch. The
            default is 2048; on a GPU, 512 sentences of up to 16384 words in total.
        window: number of batches whose sentences are sorted by length together.
        carry_state: read sentences in order, each from the final state of the previous one, as the original programs
            do.
        rows: with carried state, the number of sentences per batch; each continues the sentence `rows` before it. Use 1
            to match bilm-tf's `dump_bilm_embeddings`, 64 to match AllenNLP's `ElmoEmbedder`. `batch_words` and
            `window` have no effect then.
        warm_up: with carried state, the number of leading sentences that are read once beforehand.
        device, dtype: for a model given as a folder; by default a GPU if there is one, and the stored dtype.
        progress: show a progress bar; by default if the output is a terminal.

    Returns:
        One array per sentence: (words, 2 * projection_size), or (layers, words, 2 * projection_size) for `"all"`, word
        layer first. The dtype is float32, or float64 for a float64 model. An empty sentence has 0 words.

        A mix with `scalar_mix_layer_norm` normalizes by the statistics of a batch. Such a model reads one sentence per
        batch, so that vectors do not depend on other sentences.

    Raises:
        TypeError: a sentence that is neither a text nor a list of words; the message names it.
        ValueError: an impossible option, a model without biLM, a checkpoint of another kind of model; POS tags that do
            not match the words or the model.
    """
    return list(
        embed_iter(
            sentences,
            model,
            tokenizer,
            pos_tags=pos_tags,
            layers=layers,
            boundaries=boundaries,
            batch_words=batch_words,
            window=window,
            carry_state=carry_state,
            rows=rows,
            warm_up=warm_up,
            device=device,
            dtype=dtype,
            progress=progress,
        )
    )


def embed_iter(
    sentences: Sentences,
    model: ElmoPreTrainedModel | Name | None = None,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    pos_tags: Iterable[Sequence[str | None]] | None = None,
    layers: Layers = "mix",
    boundaries: bool = False,
    batch_words: int | None = None,
    window: int = 8,
    carry_state: bool = False,
    rows: int = 1,
    warm_up: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool | None = None,
) -> Iterator[Vectors]:
    """Compute the vectors of `embed` over a stream: one array after another, in the order of the sentences.

    Holds the sentences and vectors of one window, about `window * batch_words` words, whatever the stream's length.
    Options are checked and models loaded at the call, before the first array is requested.
    """
    checked: Iterator[str | list[str] | TaggedSentence] = check_sentences(sentences)
    if pos_tags is not None:
        checked = with_pos_tags(check_sentences(sentences), pos_tags)
    embedder = open_embedder(model, tokenizer, layers, boundaries, batch_words, window, device, dtype)
    carried = CarriedState.on_request(embedder.model.config, carry_state, rows, warm_up)
    if pos_tags is None:
        embedder.refuse_without_pos_tags("pos_tags, the tags of each sentence's words")
    checked = embedder.counted(checked)
    total = len(sentences) if isinstance(sentences, Sequence) else None
    # `disable=None` makes tqdm show a bar only on a terminal.
    disable = None if progress is None else not progress
    arrays = embedder.run(checked) if carried is None else _warmed_up(embedder, checked, carried, warm_up)
    return _with_progress(arrays, total, disable)


def _warmed_up(
    embedder: "Embedder", sentences: Iterator[str | list[str] | TaggedSentence], carried: CarriedState, warm_up: int
) -> Iterator[Vectors]:
    first = list(islice(sentences, warm_up))
    for _ in embedder.run(first, carried):
        pass
    yield from embedder.run(chain(first, sentences), carried)


def _with_progress(arrays: Iterator[Vectors], total: int | None, disable: bool | None) -> Iterator[Vectors]:
    with tqdm(total=total, unit=" sentences", disable=disable) as bar:
        words = 0
        for array in arrays:
            words += array.shape[-2]
            bar.set_postfix_str(f"{words:,} words", refresh=False)
            bar.update()
            yield array


def open_embedder(
    model: ElmoPreTrainedModel | Name | None,
    tokenizer: ElmoTokenizer | Name | None,
    layers: Layers,
    boundaries: bool,
    batch_words: int | None,
    window: int,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    stored: torch.dtype | None = None,
) -> "Embedder":
    """Check options, load model and tokenizer, and return an [`Embedder`]. Arguments and errors as in `embed`."""
    check_layers(layers)
    at_least_one(batch_words=batch_words, window=window)
    model = named(model)
    source = model if isinstance(model, str | os.PathLike) else getattr(model, "bilm", model)
    if source is None:
        raise ValueError("the model has no biLM (elmo_at=[]): it has no contextual vectors to give")
    bilm = load_model(source, ElmoModel, device, dtype)
    check_layers(layers, bilm.config.num_mixed_layers)
    words_of = load_tokenizer(tokenizer, model)
    if bilm.config.word_embedding_size and len(words_of) != bilm.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(words_of)} words and the model, which reads words by their id, "
            f"vocab_size={bilm.config.vocab_size}: give the tokenizer that belongs to the model"
        )
    check_pos_tags(bilm.config, words_of)
    return Embedder(bilm, words_of, layers, boundaries, batch_words, window, stored)


def check_layers(layers: Layers, count: int | None = None) -> None:
    """Raise `ValueError` unless `layers` names a layer of a model with `count` layers (`None`: not known yet)."""
    if isinstance(layers, int) and not isinstance(layers, bool):
        if layers < 0 or (count is not None and layers >= count):
            expected = "the number of a layer" if count is None else f"0 (the word layer) to {count - 1}"
            raise ValueError(f"layers={layers}: expected {expected}")
    elif layers not in ("mix", "top", "average", "all"):
        raise ValueError(f"layers={layers!r}: expected 'mix', 'top', 'average', 'all', or the number of a layer")


# The words of a sentence, and their POS tags if given.
_Words: TypeAlias = tuple[list[str], Sequence[str | None] | None]


class Embedder:
    """A model and tokenizer that embed a stream of sentences window by window.

    Attributes:
        model, tokenizer: the biLM, in evaluation mode, and its tokenizer.
        layers, boundaries: as in `embed`.
        is_normalized: True if a mix normalizes by statistics of the batch.
        before, after: number of boundaries that the tokenizer adds before and after a sentence, 0 or 1 each.
        stored: dtype of the arrays; by default float32, or float64 for a float64 model.
    """

    def __init__(
        self,
        model: ElmoModel,
        tokenizer: ElmoTokenizer,
        layers: Layers,
        boundaries: bool,
        batch_words: int | None,
        window: int,
        stored: torch.dtype | None = None,
    ) -> None:
        self.model, self.tokenizer = in_evaluation(model), tokenizer
        self.layers, self.boundaries = layers, boundaries
        # Batches of one, because statistics over a batch would make vectors depend on other sentences.
        self.is_normalized = layers == "mix" and model.config.scalar_mix_layer_norm is not None
        self.batch_size = BatchSize(rows=1) if self.is_normalized else BatchSize.of(batch_words, model.device)
        self.window = window
        self.before, self.after = int(tokenizer.add_bos_token), int(tokenizer.add_eos_token)
        self.stored = stored

    def run(
        self, sentences: Iterable[str | list[str] | TaggedSentence], carried: CarriedState | None = None
    ) -> Iterator[Vectors]:
        """Yield the arrays of all sentences, in order. With carried state, sentences are also read in order."""
        if carried is not None:
            return self._run_in_order(iter(sentences), carried)
        return read_in_batches(
            map(self._split, sentences),
            self._embed,
            lambda sentence: self.length(sentence[0]),
            self.batch_size,
            self.window,
        )

    def _run_in_order(
        self, sentences: Iterator[str | list[str] | TaggedSentence], carried: CarriedState
    ) -> Iterator[Vectors]:
        while batch := list(islice(sentences, carried.rows)):
            yield from self.read_rows(batch, carried)

    def read_rows(
        self, sentences: Sequence[str | list[str] | TaggedSentence], carried: CarriedState, first: int = 0
    ) -> Iterator[Vectors]:
        """Yield the arrays of sentences read as consecutive rows.

        Args:
            sentences: at most as many as there are rows.
            carried: the state of each row; updated.
            first: row of the first sentence.
        """
        batch = list(map(self._split, sentences))
        # All rows in one batch, or each alone if statistics over a batch would mix them.
        count = self.batch_size.rows or max(1, len(batch))
        for start in range(0, len(batch), count):
            yield from self._embed(batch[start : start + count], carried, first + start)

    def counted(self, sentences: Iterator[Sentence]) -> Iterator[Sentence]:
        """Yield the sentences unchanged; after the last one, warn if words were truncated."""
        if not self.model.config.character_filters:
            return sentences
        return CutWords(self.tokenizer.spelling).over(sentences, lambda sentence: self._split(sentence)[0])

    def _split(self, sentence: str | list[str] | TaggedSentence) -> _Words:
        if isinstance(sentence, TaggedSentence):
            return list(sentence.words), sentence.tags
        return [word for word, _ in self.tokenizer.words(sentence)] if isinstance(sentence, str) else sentence, None

    def refuse_without_pos_tags(self, expected: str) -> None:
        """Raise `ValueError`, naming what is `expected`, if the model needs POS tags."""
        count = self.model.config.num_pos_tags
        if count:
            raise ValueError(
                f"num_pos_tags={count}: the model also reads POS tags, and none are given. Expected {expected}"
            )

    def length(self, words: Sequence[str]) -> int:
        """Number of words of a sentence as the model reads it, including boundaries."""
        return self.before + len(words) + self.after

    def _embed(self, batch: list[_Words], carried: CarriedState | None = None, row: int = 0) -> Iterator[Vectors]:
        """Read one batch of sentences, either all with tags or all without, and return their arrays.

        The computation starts at the call; the first array waits for its result.
        """
        tags = [tags for _, tags in batch if tags is not None]
        inputs = self.encode([words for words, _ in batch], tags or None)
        if carried is None:
            outputs = self.outputs(inputs)
        else:
            outputs = self.outputs(inputs, initial_state=carried.of(row, len(batch)), return_state=True)
            assert outputs.state is not None
            carried.keep(row, outputs.state)
        return self._cut(batch, self._copied(outputs))

    def _cut(self, batch: list[_Words], copy: HostCopy) -> Iterator[Vectors]:
        values = copy.numpy()  # [batch, words, 2P] or [batch, layers, words, 2P]
        for (words, _), row in zip(batch, values, strict=True):
            first, end = 0, self.length(words)
            if not self.boundaries:
                first, end = self.before, end - self.after
            # A copy, so that an array does not keep its whole batch in memory.
            yield row[..., first:end, :].copy()

    def encode(
        self, sentences: list[list[str]], pos_tags: list[Sequence[str | None]] | None = None
    ) -> dict[str, Tensor]:
        """Model inputs for a batch of sentences, with boundaries, on the model's device."""
        beside = {"pos_tags": pos_tags} if pos_tags is not None and self.model.config.num_pos_tags else {}
        encoding = self.tokenizer(
            sentences, is_split_into_words=True, padding=True, padding_side="right", return_tensors="pt", **beside
        )
        return dict(encoding.to(self.model.device))

    @torch.no_grad()
    def outputs(self, inputs: dict[str, Tensor], **options: Any) -> ElmoModelOutput:
        """Model outputs, computed without dropout and gradients."""
        return self.model(**inputs, output_hidden_states=self.layers != "mix", return_dict=True, **options)

    def arrays(self, outputs: ElmoModelOutput) -> Vectors:
        """Selected layers as an array (batch, words, 2P), or (batch, layers, words, 2P) for `"all"`."""
        return self._copied(outputs).numpy()

    def _copied(self, outputs: ElmoModelOutput) -> HostCopy:
        values = self._choose(outputs.last_hidden_state, outputs.hidden_states)
        return HostCopy(values.to(self.stored or torch.promote_types(values.dtype, torch.float32)))

    def _choose(self, mix: Tensor | None, hidden_states: tuple[Tensor, ...] | None) -> Tensor:
        if self.layers == "mix" or hidden_states is None:
            assert mix is not None
            return mix
        if isinstance(self.layers, int):
            return hidden_states[self.layers]
        if self.layers == "top":
            return hidden_states[-1]
        layers = torch.stack(hidden_states, dim=1)  # [batch, layers, words, 2P]
        return layers if self.layers == "all" else layers.mean(dim=1)

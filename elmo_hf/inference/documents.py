"""Embedding of documents of any length as one sequence, in bounded memory: `embed_document`."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from elmo_hf.checks import at_least_one
from elmo_hf.model.configuration_elmo import ElmoConfig
from elmo_hf.model.pretrained import ElmoPreTrainedModel
from elmo_hf.model.state import ElmoState
from elmo_hf.model.task_model import ElmoTaskModel
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .carried_state import CarriedState
from .chunks import Chunks, States, sweep_chunks
from .embedding import Embedder, Layers, Vectors, open_embedder
from .loading import Name


def embed_document(
    words: str | Iterable[str],
    model: ElmoPreTrainedModel | Name | None = None,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    pos_tags: Iterable[str | None] | None = None,
    layers: Layers = "mix",
    boundaries: bool = False,
    chunk_words: int = 2048,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[Vectors]:
    """Embed a document as one sequence, chunk by chunk. The vectors equal those of `embed`, up to rounding.

    The document is read twice. The first pass, from end to start, keeps only the backward states at the borders between
    chunks. The second pass, from start to end, reads each chunk from the forward state of the previous chunk and the
    backward state of the next one. `<S>` and `</S>` are placed at the document's ends only.

    Only one chunk is held in memory. Words and border states are kept in a temporary file; for a model of the original
    size, states take at most about 40 KB per chunk.

    Args:
        words: any iterable of the document's words; or its text, which the tokenizer splits and which is then in
            memory.
        model, tokenizer, layers, boundaries, device, dtype: as in `embed`.
        pos_tags: for a model that reads them, the POS tag of each word, `None` for a word without one; `words` must
            then not be a text. Other models ignore them.
        chunk_words: words per chunk.

    Yields:
        Vectors of consecutive words, in order: (chunk, 2 * projection_size), or (layers, chunk, 2 * projection_size)
        for `"all"`. A document without words gives one empty array.

    Raises:
        TypeError: a word that is not a string, or a tag that is neither a string nor `None`.
        ValueError: an impossible option; POS tags that do not match the words or the model; a Transformer, or a mix
            normalized by the statistics of all words, since both need the whole document at once.
    """
    at_least_one(chunk_words=chunk_words)
    if not isinstance(words, str | Iterable):
        raise TypeError(f"words is {words!r}: expected a text, or an iterable of words")
    embedder = open_embedder(model, tokenizer, layers, boundaries, chunk_words, 1, device, dtype)
    reason = why_not_by_chunks(embedder)
    if reason is not None:
        raise ValueError(reason)
    if pos_tags is None:
        embedder.refuse_without_pos_tags("pos_tags, the tags of the document's words")
    elif isinstance(words, str):
        raise ValueError(f"words is the text {words!r:.60}: expected a list of words, because pos_tags are given")
    elif isinstance(pos_tags, str) or not isinstance(pos_tags, Iterable):
        raise TypeError(f"pos_tags is {pos_tags!r:.60}: expected a list, or another iterable, of tags")
    return read_by_chunks(embedder, words, chunk_words, pos_tags)


def why_not_by_chunks(embedder: Embedder) -> str | None:
    """The reason why this model cannot read a document by chunks, with the remedy; `None` if it can."""
    config = embedder.model.config
    if config.encoder_type != "lstm":
        return needs_all_words(config)
    if embedder.is_normalized:
        return f"{needs_all_words(config)}. Choose layers='all', 'top' or 'average'"
    return None


def needs_all_words(config: ElmoConfig) -> str | None:
    """The reason why a model's result for one word needs all words of the document at once; `None` if it does not."""
    if config.encoder_type != "lstm":
        return (
            f"encoder_type={config.encoder_type!r}: every word of a Transformer attends to all others, so a document "
            "cannot be read by chunks. Expected a biLSTM; or split the document into sentences"
        )
    if config.scalar_mix_layer_norm is not None:
        return (
            f"scalar_mix_layer_norm={config.scalar_mix_layer_norm!r}: the mix is normalized by the statistics of all "
            "words, so a document cannot be read by chunks"
        )
    if config.integrator_size:
        return (
            f"integrator_size={config.integrator_size}: biattention compares every word with all others, so a document "
            "cannot be read by chunks. Expected a model without it; or split the document into sentences"
        )
    return None


def read_by_chunks(
    embedder: Embedder,
    words: str | Iterable[str],
    chunk_words: int,
    pos_tags: Iterable[str | None] | None = None,
    carried: CarriedState | None = None,
    row: int = 0,
) -> Iterator[Vectors]:
    """Run `embed_document` with an opened embedder and checked options.

    With carried state, the document starts from the state of `row`, and stores its final state there at the end.
    """
    at_ends = None if carried is None else States(carried.of(row, 1), None)
    behind: dict[int, ElmoState] = {}  # states after the first and the last chunk, in the last sweep
    with Chunks(embedder.tokenizer, words, chunk_words, pos_tags) as chunks:

        def read(number: int, state: States | None) -> tuple[Vectors, States]:
            some, tags = chunks[number]
            inputs = chunks.cut(number, embedder.encode([some], None if tags is None else [tags]))
            initial = None if state is None else state.bilm
            outputs = embedder.outputs(inputs, initial_state=initial, return_state=True)
            assert outputs.state is not None
            if number in (0, len(chunks) - 1):
                behind[number] = outputs.state
            array = embedder.arrays(outputs)[0]
            if not embedder.boundaries:
                first = chunks.first_word(number)
                array = array[..., first : first + len(some), :]
            return array, States(outputs.state, None)

        yield from sweep_chunks(len(chunks), read, 1, at_ends)
        if carried is not None:
            # The forward direction ends at the last chunk, the backward direction at the first.
            pairs = zip(behind[len(chunks) - 1], behind[0], strict=True)
            carried.keep(row, ElmoState(*(torch.cat([last[:, :1], first[:, 1:]], dim=1) for last, first in pairs)))


class Features(NamedTuple):
    """Inputs of a task's classifier for one chunk.

    Attributes:
        features: (1, positions, width), of the words and, at the document's ends, of the sentence boundaries.
        inputs: inputs of the model.
        is_word: (1, positions), bool; False at boundaries.
    """

    features: Tensor
    inputs: dict[str, Tensor]
    is_word: Tensor


def read_features(model: ElmoTaskModel, tokenizer: ElmoTokenizer, chunks: Chunks) -> Iterator[Features]:
    """Compute a task classifier's inputs chunk by chunk, equal to those of the whole document.

    Args:
        model: a model with `task_layers`, in evaluation mode, that does not need all words at once
            (`needs_all_words`).
        tokenizer: the model's tokenizer.
        chunks: the document.
    """

    @torch.no_grad()
    def read(number: int, state: States | None) -> tuple[Features, States]:
        words, _ = chunks[number]
        encoding: Any = tokenizer([words], is_split_into_words=True, return_tensors="pt").to(model.device)
        inputs: dict[str, Any] = chunks.cut(number, dict(encoding))
        of_bilm, of_layers = state or (None, None)
        features, mask, outputs, after = model.read_words(
            **inputs, initial_state=of_bilm, return_state=True, layers_state=of_layers
        )
        place = torch.arange(mask.shape[1], device=mask.device) - chunks.first_word(number)
        is_word = mask & (place >= 0) & (place < len(words))
        return Features(features, inputs, is_word), States(None if outputs is None else outputs.state, after)

    task_layers: Any = model.get_submodule("task_layers")
    layers = len(task_layers.layers) + (model.bilm is not None)
    yield from sweep_chunks(len(chunks), read, layers)

"""Tagging of sentences: `tag`, `tag_iter` for streams, and `tag_document` for long texts."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from safetensors.torch import load, save
from torch import Tensor
from tqdm.auto import tqdm

from elmo_hf.checks import at_least_one
from elmo_hf.corpus.cut_words import CutWords
from elmo_hf.corpus.tagged_text import TaggedSentence
from elmo_hf.model.crf import CrfScores, best_tags
from elmo_hf.model.token_classification import ElmoForTokenClassification
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .batching import BatchSize, read_in_batches
from .chunks import Chunks, Spool
from .documents import needs_all_words, read_features
from .evaluation import in_evaluation
from .loading import Name, check_sentences, load_model, load_tokenizer


def tag(
    sentences: Iterable[str | Sequence[str]],
    model: ElmoForTokenClassification | Name,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    batch_words: int | None = None,
    window: int = 8,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool | None = None,
) -> list[TaggedSentence]:
    """Label the words of sentences, for example with POS tags or named entities.

    Every sentence is read independently; sentences of similar length are batched together. If the labels are POS tags,
    the result can be passed to `elmo_hf.pretraining` and `elmo_hf.score`.

    Args:
        sentences: any iterable of sentences, each a text, which the tokenizer splits, or a list of words.
        model: the tagger, or the folder of its checkpoint.
        tokenizer: the model's tokenizer; by default the one in its checkpoint's folder.
        batch_words: words per batch, including padding and boundaries. A longer sentence is read in chunks of this
            size, as in `tag_document`. The default is that of `embed`.
        window: number of batches whose sentences are sorted by length together.
        device, dtype: for a model given as a folder; by default a GPU if there is one, and the stored dtype.
        progress: show a progress bar; by default if the output is a terminal.

    Returns:
        For each sentence, in order, its words and the names of their labels: the best sequence for a tagger with a CRF,
        else each word's most probable label.

    Raises:
        TypeError: a sentence that is neither a text nor a list of words; the message names it.
        ValueError: an impossible option, a checkpoint of another kind of model, or a tagger that itself reads POS tags.
    """
    options = {"batch_words": batch_words, "window": window, "device": device, "dtype": dtype, "progress": progress}
    return list(tag_iter(sentences, model, tokenizer, **options))  # type: ignore[arg-type]


def tag_iter(
    sentences: Iterable[str | Sequence[str]],
    model: ElmoForTokenClassification | Name,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    batch_words: int | None = None,
    window: int = 8,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool | None = None,
) -> Iterator[TaggedSentence]:
    """Label a stream of sentences as `tag` does: one sentence after another, in order.

    Only the sentences of one window are in memory, about `window * batch_words` words, for a stream of any length.
    Options are checked and models loaded at the call, before the first sentence is requested.
    """
    at_least_one(batch_words=batch_words, window=window)
    checked = check_sentences(sentences)
    tagger = _load_tagger(model, device, dtype)
    size = BatchSize.of(batch_words, tagger.device)
    words_of = load_tokenizer(tokenizer, model)
    split: Iterator[list[str]] = (
        sentence if isinstance(sentence, list) else _words(words_of, sentence) for sentence in checked
    )
    if tagger.config.character_filters:
        split = CutWords(words_of.spelling).over(split, lambda words: words)
    words_and_labels = read_in_batches(
        split,
        partial(_tag, tagger, words_of, size),
        lambda words: len(words) + 2,
        size,
        window,
    )
    count = len(sentences) if isinstance(sentences, Sequence) else None
    # `disable=None` makes tqdm show a bar only on a terminal.
    disable = None if progress is None else not progress
    return iter(tqdm(words_and_labels, total=count, unit=" sentences", disable=disable))


def _words(tokenizer: ElmoTokenizer, text: str) -> list[str]:
    return [word for word, _ in tokenizer.words(text)]


def _load_tagger(
    model: ElmoForTokenClassification | Name, device: torch.device | str | None, dtype: torch.dtype | None
) -> ElmoForTokenClassification:
    tagger = load_model(model, ElmoForTokenClassification, device, dtype)
    if tagger.config.num_pos_tags:
        raise ValueError(
            f"num_pos_tags={tagger.config.num_pos_tags}: this tagger also reads POS tags; expected one that reads only "
            "words"
        )
    return in_evaluation(tagger)


def _tag(
    model: ElmoForTokenClassification, tokenizer: ElmoTokenizer, size: BatchSize, batch: list[list[str]]
) -> list[TaggedSentence]:
    if size.words is not None and len(batch[0]) + 2 > size.words and needs_all_words(model.config) is None:
        parts = _tag_chunks(model, tokenizer, batch[0], size.words)
        return [TaggedSentence(batch[0], [tag for part in parts for tag in part.tags])]
    names = model.config.label_names
    encoding = tokenizer(batch, is_split_into_words=True, padding=True, padding_side="right", return_tensors="pt")
    labels = model.predict(**encoding.to(model.device))
    return [
        TaggedSentence(words, [names[label] for label in of_words])
        for words, of_words in zip(batch, labels, strict=True)
    ]


def tag_document(
    words: str | Iterable[str],
    model: ElmoForTokenClassification | Name,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    chunk_words: int = 2048,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Iterator[TaggedSentence]:
    """Label a document as one sequence, chunk by chunk. The labels equal those of `tag` on the whole document.

    The states of the biLM and of the task's own biLSTM carry over from chunk to chunk, as in `embed_document`, and a
    CRF decodes one sequence of labels. Only one chunk is held in memory; words, states and CRF scores are kept in a
    temporary file.

    Args:
        words: any iterable of the document's words; or its text, which the tokenizer splits and which is then in
            memory.
        model, tokenizer, device, dtype: as in `tag`.
        chunk_words: words per chunk.

    Yields:
        Consecutive words and their labels. A document without words gives one empty part.

    Raises:
        TypeError: a word that is not a string.
        ValueError: as in `tag`; a Transformer, or a mix normalized by the statistics of all words, since both need the
            whole document at once.
    """
    at_least_one(chunk_words=chunk_words)
    tagger = _load_tagger(model, device, dtype)
    reason = needs_all_words(tagger.config)
    if reason is not None:
        raise ValueError(reason)
    return _tag_chunks(tagger, load_tokenizer(tokenizer, model), words, chunk_words)


@torch.no_grad()
def _tag_chunks(
    model: ElmoForTokenClassification, tokenizer: ElmoTokenizer, words: str | Iterable[str], chunk_words: int
) -> Iterator[TaggedSentence]:
    names = model.config.label_names
    with Chunks(tokenizer, words, chunk_words) as chunks:
        features = (chunk.features[chunk.is_word] for chunk in read_features(model, tokenizer, chunks))
        emissions = (model.classifier(model.hidden_layers(words_of_chunk)) for words_of_chunk in features)
        found: Iterator[Tensor]
        if model.crf is None:
            found = (scores.argmax(dim=-1) for scores in emissions)
        else:
            found = best_tags_of_chunks(emissions, model.crf())
        for number, labels in enumerate(found):
            yield TaggedSentence(chunks[number][0], [names[label] for label in labels.tolist()])


def best_tags_of_chunks(emissions: Iterable[Tensor], scores: CrfScores) -> Iterator[Tensor]:
    """Viterbi decoding of a CRF over a document, chunk by chunk, with the same result as over the whole.

    A pass from start to end keeps the best score of every tag at each border between chunks. A pass from end to start
    decodes each chunk from those scores and the first tag of the next chunk.

    Args:
        emissions: emissions of each chunk, (words, L).
        scores: scores of the CRF.

    Yields:
        (words,), int64, of each chunk.
    """
    with Spool() as parts, Spool() as tags:
        start = scores.start
        for chunk in emissions:
            parts.append(save({"emissions": chunk.cpu().contiguous(), "start": start.cpu()}))
            if len(chunk):
                for emission in chunk.to(start.dtype):
                    start = ((start + emission)[:, None] + scores.transitions).amax(dim=0)
                # Only differences matter, and sums over a long document would round them away.
                start = start - start.max()
        end = scores.end
        for number in range(len(parts) - 1, -1, -1):
            part = load(parts[number])
            chunk, start = part["emissions"].to(end.device), part["start"].to(end.device)
            best = best_tags(chunk[None], _all(chunk), CrfScores(start, scores.transitions, end))[0]
            if len(chunk):
                end = scores.transitions[:, best[0]]
            tags.append(save({"tags": best.cpu()}))
        for number in range(len(tags) - 1, -1, -1):
            yield load(tags[number])["tags"]


def _all(chunk: Tensor) -> Tensor:
    """Mask (1, words) that includes all words of a chunk."""
    return torch.ones(1, len(chunk), dtype=torch.bool, device=chunk.device)

"""Sentences to their words with a tagger's labels: `tag`, and `tag_iter` for streams."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import torch
from tqdm.auto import tqdm

from elmo_hf.corpus.tagged_text import TaggedSentence
from elmo_hf.model.token_classification import ElmoForTokenClassification
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .batching import BatchSize, read_in_batches
from .evaluation import in_evaluation
from .loading import Name, check_sentences, load_model, load_tokenizer


def tag(
    sentences: Iterable[str | Sequence[str]],
    model: ElmoForTokenClassification | Name,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    batch_words: int = 2048,
    window: int = 8,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool | None = None,
) -> list[TaggedSentence]:
    """The labels of the words of sentences: parts of speech, named entities.

    Every sentence is read by itself; sentences of about the same length are read together. With parts of speech for
    its labels, the result is what `elmo_hf.pretraining` and `elmo_hf.score` read beside the words.

    Args:
        sentences: each a text, which the tokenizer splits into words, or a list of words. Any iterable.
        model: the tagger, or the folder of its checkpoint.
        tokenizer: the model's; by default the one in its checkpoint's folder.
        batch_words: how many words, padding and boundaries included, are read at a time; a longer sentence alone.
        window: how many batches' sentences are sorted by length together.
        device, dtype: of a model that is given as a folder; by default a GPU if there is one, and as stored.
        progress: show a progress bar; by default where the output is a terminal.

    Returns:
        Of each sentence, in their order, the words and the names of their labels: the best sequence of a tagger with a
        random field, else each word's likeliest.

    Raises:
        TypeError: what is neither a text nor a list of words; the message tells which.
        ValueError: an impossible option, a checkpoint of another kind of model, a tagger that itself reads parts of
            speech.
    """
    options = {"batch_words": batch_words, "window": window, "device": device, "dtype": dtype, "progress": progress}
    return list(tag_iter(sentences, model, tokenizer, **options))  # type: ignore[arg-type]


def tag_iter(
    sentences: Iterable[str | Sequence[str]],
    model: ElmoForTokenClassification | Name,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    batch_words: int = 2048,
    window: int = 8,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool | None = None,
) -> Iterator[TaggedSentence]:
    """As `tag`, over a stream: the sentences one by one, in their order.

    Holds the sentences of one window, about `window * batch_words` words, whatever the stream's length. Options are
    checked, and models loaded, before the first sentence is asked for.
    """
    for name, value in (("batch_words", batch_words), ("window", window)):
        if value < 1:
            raise ValueError(f"{name}={value}: expected at least 1")
    checked = check_sentences(sentences)
    tagger = load_model(model, ElmoForTokenClassification, device, dtype)
    if tagger.config.num_pos_tags:
        raise ValueError(
            f"num_pos_tags={tagger.config.num_pos_tags}: this tagger reads parts of speech beside the words; expected "
            "one that reads words alone"
        )
    words_of = load_tokenizer(tokenizer, model)
    words_and_labels = read_in_batches(
        (sentence if isinstance(sentence, list) else _words(words_of, sentence) for sentence in checked),
        partial(_tag, in_evaluation(tagger), words_of),
        lambda words: len(words) + 2,
        BatchSize(words=batch_words),
        window,
    )
    count = len(sentences) if isinstance(sentences, Sequence) else None
    # `disable=None` is tqdm's word for "unless at a terminal".
    disable = None if progress is None else not progress
    return iter(tqdm(words_and_labels, total=count, unit=" sentences", disable=disable))


def _words(tokenizer: ElmoTokenizer, text: str) -> list[str]:
    return [word for word, _ in tokenizer.words(text)]


def _tag(model: ElmoForTokenClassification, tokenizer: ElmoTokenizer, batch: list[list[str]]) -> list[TaggedSentence]:
    names = model.config.label_names
    encoding = tokenizer(batch, is_split_into_words=True, padding=True, padding_side="right", return_tensors="pt")
    labels = model.predict(**encoding.to(model.device))
    return [
        TaggedSentence(words, [names[label] for label in of_words])
        for words, of_words in zip(batch, labels, strict=True)
    ]

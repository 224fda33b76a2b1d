"""Sentences to their words with a tagger's labels: `tag`, and `tag_iter` for streams."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from tqdm.auto import tqdm

from elmo_hf.corpus.tagged_text import TaggedSentence
from elmo_hf.model.token_classification import ElmoForTokenClassification
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

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
    split = (sentence if isinstance(sentence, list) else _words(words_of, sentence) for sentence in checked)
    count = len(sentences) if isinstance(sentences, Sequence) else None
    # `disable=None` is tqdm's word for "unless at a terminal".
    disable = None if progress is None else not progress
    tagged = _tag(split, tagger, words_of, batch_words, window * batch_words)
    return iter(tqdm(tagged, total=count, unit=" sentences", disable=disable))


def _words(tokenizer: ElmoTokenizer, text: str) -> list[str]:
    return [word for word, _ in tokenizer.words(text)]


def _tag(
    sentences: Iterator[list[str]],
    model: ElmoForTokenClassification,
    tokenizer: ElmoTokenizer,
    batch_words: int,
    window_words: int,
) -> Iterator[TaggedSentence]:
    pool: list[list[str]] = []
    size = 0
    for words in sentences:
        pool.append(words)
        size += len(words) + 2
        if size >= window_words:
            yield from _tag_window(pool, model, tokenizer, batch_words)
            pool, size = [], 0
    yield from _tag_window(pool, model, tokenizer, batch_words)


def _tag_window(
    pool: list[list[str]], model: ElmoForTokenClassification, tokenizer: ElmoTokenizer, batch_words: int
) -> list[TaggedSentence]:
    names = model.config.label_names
    found: dict[int, TaggedSentence] = {}
    order = sorted(range(len(pool)), key=lambda place: len(pool[place]), reverse=True)
    was_training = model.training
    model.eval()
    try:
        while order:
            # The first is the longest, boundaries included.
            count = max(1, batch_words // (len(pool[order[0]]) + 2))
            places, order = order[:count], order[count:]
            batch = [pool[place] for place in places]
            encoding = tokenizer(
                batch, is_split_into_words=True, padding=True, padding_side="right", return_tensors="pt"
            )
            for place, words, labels in zip(places, batch, model.predict(**encoding.to(model.device)), strict=True):
                found[place] = TaggedSentence(words, [names[label] for label in labels])
    finally:
        model.train(was_training)
    return [found[place] for place in range(len(pool))]

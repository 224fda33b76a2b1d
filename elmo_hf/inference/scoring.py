"""How probable sentences are to a language model: `score`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from elmo_hf.corpus.tagged_text import TaggedSentence
from elmo_hf.model.language_model import ElmoForPreTraining
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .loading import Name, check_sentences, load_model, load_tokenizer, with_pos_tags
from .perplexity import SentenceScore, TextScore, score_sentences


@dataclass(frozen=True)
class Scores:
    """Scores of sentences, in the order in which they were given.

    Attributes:
        sentences: of each sentence, the counts of its words and unknown words, and both directions' log-probabilities
            in nats; on request those of every word too (`SentenceScore` of `elmo_hf.pretraining`).
        total: the same summed over all sentences, with the perplexities `total.forward`, `.backward` and `.both`
            (`TextScore` of `elmo_hf.pretraining`).
        forward, backward, both: (sentences,), float64: the perplexity of each sentence, its boundary included. `both`
            is the geometric mean of the directions', the number that bilm-tf reports. A model without a backward
            direction has NaN there, and the forward direction's in `both`.
    """

    sentences: list[SentenceScore]
    total: TextScore
    forward: NDArray[np.float64] = field(repr=False)
    backward: NDArray[np.float64] = field(repr=False)
    both: NDArray[np.float64] = field(repr=False)


def score(
    sentences: str | Iterable[str | Sequence[str]],
    model: ElmoForPreTraining | Name | None = None,
    tokenizer: ElmoTokenizer | Name | None = None,
    *,
    pos_tags: Iterable[Sequence[str | None]] | None = None,
    per_word: bool = False,
    batch_size: int = 32,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    progress: bool | None = None,
) -> Scores:
    """Perplexities of sentences, each for itself: no state is carried from one to the next.

    What `elmo_hf.pretraining.perplexity(..., carry_state=False)` computes, with the full softmax, in batches of about
    equally long sentences. A word outside the vocabulary is scored as `<UNK>`, and read by its own characters.

    Args:
        sentences: texts, which the tokenizer splits into words, or lists of words; a single text is one sentence.
        model: the language model, or the folder of its checkpoint; by default the shipped one.
        tokenizer: the model's; by default the one in its checkpoint's folder.
        pos_tags: for a model that reads them, the parts of speech of each sentence's words, beside `sentences`, which
            are lists of words then; `None` for a word without one.
        per_word: also give the log-probability of every word in each direction.
        batch_size: sentences read side by side; the result does not depend on it.
        device, dtype: of a model that is given as a folder; by default a GPU if there is one, and as stored.
        progress: show a progress bar; by default where the output is a terminal.

    Raises:
        TypeError: what is neither a text nor a list of words; the message tells which.
        ValueError: an impossible batch size, a tokenizer that is not the model's, or a checkpoint without a softmax;
            parts of speech that do not fit the words or the model.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: expected at least 1")
    texts = [sentences] if isinstance(sentences, str) else sentences
    checked: Iterator[str | list[str] | TaggedSentence] = check_sentences(texts)
    if pos_tags is not None:
        checked = with_pos_tags(check_sentences(texts), pos_tags)
    scorer = load_model(model, ElmoForPreTraining, device, dtype)
    words_of = load_tokenizer(tokenizer, model)
    found = score_sentences(scorer, words_of, checked, rows=batch_size, carry_state=False, per_word=per_word)
    count = len(texts) if isinstance(texts, Sequence) else None
    # `disable=None` is tqdm's word for "unless at a terminal".
    bar = tqdm(found, total=count, unit=" sentences", disable=None if progress is None else not progress)
    scores = list(bar)
    total = TextScore()
    for each in scores:
        total.add(each)
    targets = np.array([each.targets for each in scores], dtype=np.float64)
    losses = [-np.array([getattr(each, name) for each in scores]) / targets for name in ("forward", "backward")]
    with np.errstate(over="ignore"):  # an untrained or broken model may be that bad: infinite
        forward, backward, both = (np.exp(loss) for loss in (*losses, np.nanmean(losses, axis=0)))
    return Scores(scores, total, forward, backward, both)

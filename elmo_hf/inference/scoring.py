"""Log-probabilities and perplexities of sentences: `score`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from elmo_hf.checks import at_least_one
from elmo_hf.corpus.tagged_text import TaggedSentence
from elmo_hf.model.language_model import ElmoForPreTraining
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

from .loading import Name, check_sentences, load_model, load_tokenizer, with_pos_tags
from .perplexity import SentenceScore, TextScore, score_sentences


@dataclass(frozen=True)
class Scores:
    """Scores of sentences, in their original order.

    Attributes:
        sentences: for each sentence, its numbers of words and unknown words and both directions' log-probabilities in
            nats; on request those of every word too (`SentenceScore` of `elmo_hf.pretraining`).
        total: sums over all sentences, with the perplexities `total.forward`, `.backward` and `.both` (`TextScore` of
            `elmo_hf.pretraining`).
        forward, backward, both: (sentences,), float64: perplexity of each sentence including its boundary. `both` is
            the geometric mean of the directions, as reported by bilm-tf. For a model without backward direction,
            `backward` is NaN and `both` equals `forward`.
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
    """Compute perplexities of independent sentences: no state is carried from one to the next.

    Equivalent to `elmo_hf.pretraining.perplexity(..., carry_state=False)`: the full softmax, in batches of sentences of
    similar length. A word outside the vocabulary is scored as `<UNK>`, but read by its own characters.

    Args:
        sentences: texts, which the tokenizer splits, or lists of words; a single text is one sentence.
        model: the language model, or the folder of its checkpoint; by default the shipped one.
        tokenizer: the model's tokenizer; by default the one in its checkpoint's folder.
        pos_tags: for a model that reads them, the POS tags of each sentence's words, `None` for a word without one;
            sentences must then be lists of words.
        per_word: also return the log-probability of every word in each direction.
        batch_size: sentences per batch; the result does not depend on it.
        device, dtype: for a model given as a folder; by default a GPU if there is one, and the stored dtype.
        progress: show a progress bar; by default if the output is a terminal.

    Raises:
        TypeError: a sentence that is neither a text nor a list of words; the message names it.
        ValueError: an impossible batch size, a tokenizer that does not match the model, a checkpoint without a softmax,
            or POS tags that do not match the words or the model.
    """
    at_least_one(batch_size=batch_size)
    texts = [sentences] if isinstance(sentences, str) else sentences
    checked: Iterator[str | list[str] | TaggedSentence] = check_sentences(texts)
    if pos_tags is not None:
        checked = with_pos_tags(check_sentences(texts), pos_tags)
    scorer = load_model(model, ElmoForPreTraining, device, dtype)
    words_of = load_tokenizer(tokenizer, model)
    found = score_sentences(scorer, words_of, checked, rows=batch_size, carry_state=False, per_word=per_word)
    count = len(texts) if isinstance(texts, Sequence) else None
    # `disable=None` makes tqdm show a bar only on a terminal.
    bar = tqdm(found, total=count, unit=" sentences", disable=None if progress is None else not progress)
    scores = list(bar)
    targets = np.array([each.targets for each in scores], dtype=np.float64)
    losses = [-np.array([getattr(each, name) for each in scores]) / targets for name in ("forward", "backward")]
    with np.errstate(over="ignore"):  # infinite for an untrained or broken model
        forward, backward, both = (np.exp(loss) for loss in (*losses, np.nanmean(losses, axis=0)))
    return Scores(scores, TextScore.of(scores), forward, backward, both)

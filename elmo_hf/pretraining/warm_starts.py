"""Continuing a pretrained biLM on new text, with its own vocabulary or a new one.

A character model reads words of any spelling; only its softmax has a vocabulary. So a new vocabulary changes only the
softmax: rows of words in both vocabularies are kept bit for bit, the others are initialized. The word embeddings of a
word model are treated in the same way. State of the run (statistics of the optimizer, sequence of the sampler) always
starts over.
"""

import os
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from elmo_hf.hub.names import resolve
from elmo_hf.model.adaptive_softmax import ElmoAdaptiveSoftmax
from elmo_hf.model.configuration_elmo import ElmoConfig
from elmo_hf.model.initialization import initialize
from elmo_hf.model.modeling_elmo import ElmoForPreTraining
from elmo_hf.model.softmax import ElmoSoftmax
from elmo_hf.model.word_embeddings import ElmoWordEmbeddings
from elmo_hf.model.word_layer import word_table_of
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer

NewRows = Literal["mean", "random"]


@dataclass(frozen=True)
class WarmStart:
    """A model to train further, with the numbers of kept and new words.

    Attributes:
        model: the model, float32, in training mode.
        tokenizer: its tokenizer, with the requested vocabulary.
        had_softmax: True if the checkpoint had a softmax.
        kept_words: number of words with the checkpoint's softmax rows.
        new_words: number of words with newly initialized rows.
    """

    model: ElmoForPreTraining
    tokenizer: ElmoTokenizer
    had_softmax: bool
    kept_words: int
    new_words: int


def warm_start(
    checkpoint: str | os.PathLike[str],
    tokenizer: ElmoTokenizer | None = None,
    *,
    reuse_softmax: bool = True,
    new_rows: NewRows = "mean",
    softmax_cutoffs: list[int] | None = None,
) -> WarmStart:
    """Load a biLM, saved from any class, to pretrain it further.

    To train the softmax first, call `model.freeze_bilm()`, and `model.freeze_bilm(False)` after some steps.

    Args:
        checkpoint: folder or Hub name of a saved model, such as a converted original, with or without softmax.
        tokenizer: a tokenizer with the new vocabulary; `None` keeps the checkpoint's.
        reuse_softmax: keep the rows of known words. `False` initializes the whole softmax, or only its bias if its
            weight is tied to the word embeddings.
        new_rows: initial value of the other rows: the mean of the known ones (`"mean"`: new words start alike and
            improbable), or random as in the original training (`"random"`). Without known rows always random. The
            word embeddings of a word model are treated alike.
        softmax_cutoffs: give the model an adaptive softmax with these cutoffs. Rows are kept only if the checkpoint
            has the same cutoffs and the vocabulary stays. `None` keeps the checkpoint's kind of softmax.

    Raises:
        ValueError: a tokenizer that does not fit the model, or no vocabulary at all.
    """
    checkpoint = resolve(checkpoint)
    old_tokenizer = ElmoTokenizer.from_pretrained(checkpoint)
    # A map into another language's space was fitted on the old weights.
    options: Any = {"dtype": torch.float32, "aligned": False, "output_loading_info": True}
    loaded: Any = ElmoForPreTraining.from_pretrained(checkpoint, **options)
    model: ElmoForPreTraining = loaded[0]
    loading: dict[str, Any] = loaded[1]
    had_softmax = not any(name.startswith("softmax.") for name in loading["missing_keys"])
    if len(old_tokenizer) != model.config.vocab_size:
        raise ValueError(
            f"{os.fspath(checkpoint)}: the checkpoint's tokenizer has {len(old_tokenizer)} words and its model "
            f"vocab_size={model.config.vocab_size}: it is damaged; convert or save it again"
        )
    new_tokenizer = old_tokenizer if tokenizer is None else tokenizer
    if len(_predictable(new_tokenizer)) <= 3 and tokenizer is None:
        raise ValueError(
            f"the checkpoint {os.fspath(checkpoint)!r} has no vocabulary beyond the special tokens, so there are no "
            "words to predict: give the vocabulary of the new text"
        )
    kept = adopt_vocabulary(
        model,
        old_tokenizer,
        new_tokenizer,
        reuse_rows=reuse_softmax and had_softmax,
        new_rows=new_rows,
        softmax_cutoffs=softmax_cutoffs,
    )
    words = len(_predictable(new_tokenizer))
    return WarmStart(model.train(), new_tokenizer, had_softmax, kept, words - kept)


@torch.no_grad()
def adopt_vocabulary(
    model: ElmoForPreTraining,
    old_tokenizer: ElmoTokenizer,
    new_tokenizer: ElmoTokenizer,
    *,
    reuse_rows: bool = True,
    new_rows: NewRows = "mean",
    softmax_cutoffs: list[int] | None = None,
) -> int:
    """Give a model the vocabulary of another tokenizer, in place; arguments as in `warm_start`.

    Returns:
        Number of words that keep their softmax rows.

    Raises:
        ValueError: characters of another length or dictionary than the model's, or impossible cutoffs.
    """
    if new_rows not in ("mean", "random"):
        raise ValueError(f"new_rows={new_rows!r}: expected 'mean' or 'random'")
    config = model.config
    if new_tokenizer.max_characters_per_word != config.max_characters_per_word:
        raise ValueError(
            f"the tokenizer has max_characters_per_word={new_tokenizer.max_characters_per_word} and the model "
            f"{config.max_characters_per_word}: make the tokenizer with the model's"
        )
    if new_tokenizer.character_vocabulary != old_tokenizer.character_vocabulary and config.character_filters:
        raise ValueError(
            "the tokenizers have different dictionaries of characters, and the model reads them: make the new one with "
            "character_vocabulary=old_tokenizer.character_vocabulary"
        )
    if new_tokenizer.pos_tag_set != old_tokenizer.pos_tag_set and config.num_pos_tags:
        raise ValueError(
            "the tokenizers have different POS tags, and the model reads them: make the new one with "
            "pos_tag_set=old_tokenizer.pos_tag_set"
        )
    if softmax_cutoffs is not None and config.tie_word_embeddings:
        raise ValueError(
            f"softmax_cutoffs={softmax_cutoffs}: an adaptive softmax does not have one row per word, and this model's "
            "softmax is tied to its word embeddings (tie_word_embeddings); leave softmax_cutoffs out"
        )
    old_words, words = _predictable(old_tokenizer), _predictable(new_tokenizer)
    old_softmax, old_cutoffs = model.softmax, config.softmax_cutoffs
    _number_words(config, new_tokenizer)
    if softmax_cutoffs is not None:
        config.softmax_cutoffs = list(softmax_cutoffs)
    softmax = ElmoSoftmax(config) if config.softmax_cutoffs is None else ElmoAdaptiveSoftmax(config)
    _start_anew(softmax, model.device)
    excluded = softmax.excluded_ids
    kept = 0
    if reuse_rows and isinstance(softmax, ElmoSoftmax) and isinstance(old_softmax, ElmoSoftmax):
        for new, old in ((softmax.weight, old_softmax.weight), (softmax.bias, old_softmax.bias)):
            kept = _keep_rows(new, old, words, old_words, excluded, new_rows)
    elif reuse_rows and old_cutoffs == config.softmax_cutoffs and old_words == words:
        softmax.load_state_dict(old_softmax.state_dict())
        kept = len(words)
    model.softmax = softmax
    table = word_table_of(model.elmo.embeddings)
    if table is not None:
        anew = ElmoWordEmbeddings(config)
        _start_anew(anew, model.device)
        new, old = anew.word_embeddings.weight, table.word_embeddings.weight
        _keep_rows(new, old, words, old_words, excluded, new_rows)
        table.word_embeddings, table.excluded_ids = anew.word_embeddings, anew.excluded_ids
        model.tie_weights()
    return kept


def _start_anew(part: nn.Module, device: torch.device) -> None:
    part.to(device=device, dtype=torch.float32)
    for module in part.modules():
        initialize(module)


def _keep_rows(
    new: Tensor,
    old: Tensor,
    words: dict[str, int],
    old_words: dict[str, int],
    excluded_ids: list[int],
    new_rows: NewRows,
) -> int:
    """Fill `new`, one row per word, from the rows of the old words; return the number of common words."""
    known = [word for word in words if word in old_words]
    if not known:
        return 0
    targets = torch.tensor([words[word] for word in known], device=new.device)
    sources = torch.tensor([old_words[word] for word in known], device=new.device)
    if new_rows == "mean":
        every_old = torch.tensor(list(old_words.values()), device=new.device)
        new.copy_(old[every_old].mean(dim=0).expand_as(new))
    new[targets] = old[sources].to(new.dtype)
    # Rows of no word are zero, as in converted originals.
    new[excluded_ids] = 0.0
    return len(known)


def _predictable(tokenizer: ElmoTokenizer) -> dict[str, int]:
    """Map the words with a probability (all but padding and mask) to their ids."""
    special = (tokenizer.pad_token_id, tokenizer.mask_token_id)
    return {word: number for word, number in tokenizer.get_vocab().items() if number not in special}


def _number_words(config: ElmoConfig, tokenizer: ElmoTokenizer) -> None:
    config.vocab_size = len(tokenizer)
    for name in ("pad", "bos", "eos", "unk", "mask"):
        setattr(config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))

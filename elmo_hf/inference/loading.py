"""Loading and checking the arguments of `embed`, `score` and others: model, tokenizer and sentences."""

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import AutoTokenizer

from elmo_hf.corpus.tagged_text import TaggedSentence
from elmo_hf.folders import damage_named
from elmo_hf.hub.names import resolve
from elmo_hf.model.configuration_elmo import ElmoConfig
from elmo_hf.model.configuration_encoder_decoder import ENCODERS
from elmo_hf.model.pretrained import ElmoPreTrainedModel
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer
from elmo_hf.version import __version__

Model = TypeVar("Model", bound=ElmoPreTrainedModel)
Name = str | os.PathLike[str]

DEFAULT_MODEL = Path(__file__).resolve().parent.parent / "data" / "default"


def default_model() -> str:
    """Folder of the small English language model shipped with this package: weights, softmax, tokenizer and model card.

    Functions and commands that read a biLM use it by default. Weights are stored in float16 and load in float32.

    Raises:
        FileNotFoundError: the package was installed without its data.
    """
    if not (DEFAULT_MODEL / "config.json").is_file():
        raise FileNotFoundError(f"{DEFAULT_MODEL} holds no model: install the package again, or name a model")
    return str(DEFAULT_MODEL)


def named(model: Any) -> Any:
    """Resolve a model argument: `None` to the shipped model, a published original's name to its cached folder."""
    return default_model() if model is None else resolve(model)


def load_model(
    model: Model | Name | None,
    kind: type[Model],
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Model:
    """Load a checkpoint, or return a model object unchanged.

    Args:
        model: an object, a folder, a Hub name, or the name of a published original such as `elmo:small`; `None` for the
            shipped model.
        kind: the expected class of an object, and the class to load a checkpoint as.
        device: for a checkpoint; by default the GPU if there is one. An object stays where it is.
        dtype: for a checkpoint; by default the stored dtype. An object keeps its own.

    Raises:
        OSError: the folder or one of its files is missing, or there is no such name.
        TypeError: neither a name nor a model of that kind.
        ValueError: a checkpoint that lacks a part of that kind of model; device or dtype given for an object.
    """
    model = named(model)
    if isinstance(model, str | os.PathLike):
        options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        try:
            loaded, info = kind.from_pretrained(model, output_loading_info=True, **options)
        except OSError as error:
            raise OSError(f"{os.fspath(model)} is neither a model folder nor the name of a model: {error}") from error
        missing = sorted(name for name in info["missing_keys"] if "scalar_mixes." not in name)
        if missing:
            raise ValueError(
                f"{os.fspath(model)} lacks {len(missing)} weights of {kind.__name__}, {missing[0]} among them: give a "
                "checkpoint that holds them"
            )
        loaded.to(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
        return loaded
    if not is_a(model, kind):
        raise TypeError(f"model is of type {type(model).__name__}: expected {kind.__name__}, or a checkpoint's folder")
    check_copy(model)
    for name, value in (("device", device), ("dtype", dtype)):
        if value is not None:
            raise ValueError(
                f"{name}={value!r} needs a model given as a folder: this one is loaded, call model.to({value!r})"
            )
    return model


def is_a(model: Any, kind: type[ElmoPreTrainedModel]) -> bool:
    """True if a model is of a class, whichever copy of the code defines it.

    `isinstance` fails for classes that `trust_remote_code=True` loads from the checkpoint's own folder.
    """
    if isinstance(model, kind):
        return True
    names = {base.__name__ for base in type(model).__mro__}
    return getattr(getattr(model, "config", None), "model_type", None) in ENCODERS and kind.__name__ in names


def check_copy(model: Any) -> None:
    """Refuse a model whose remote code is too old for the functions of this package.

    Raises:
        TypeError: the message names both origins and versions.
    """
    bilm = getattr(model, "bilm", model)
    if bilm is None:
        return
    # A Transformer has one way or the other to read what pretraining reads (`sentence_streams`).
    carries_state = getattr(bilm.encoder, "carries_state", None)
    if carries_state or (
        carries_state is False and any(hasattr(bilm.encoder, name) for name in ("with_positions", "read_streams"))
    ):
        return
    home = type(model).__module__
    models = sys.modules.get(f"{home.rpartition('.')[0]}.modeling_elmo")
    version = getattr(models, "CODE_VERSION", "before 0.1.0")
    raise TypeError(
        f"model is a {type(model).__name__} of {home}, version {version}; "
        f"this function is of elmo_hf {__version__} and needs a newer copy: load the checkpoint without "
        "trust_remote_code, or save it again with this package"
    )


def load_tokenizer(tokenizer: ElmoTokenizer | Name | None, model: ElmoPreTrainedModel | Name | None) -> ElmoTokenizer:
    """Load a tokenizer, return an object unchanged, or by default load the one in the model's folder.

    Raises:
        ValueError: no tokenizer is given, and the model does not come from a checkpoint.
    """
    if tokenizer is not None and not isinstance(tokenizer, str | os.PathLike):
        return tokenizer
    model = named(model)
    source = model if isinstance(model, str | os.PathLike) else model.name_or_path
    place = resolve(tokenizer or source)
    if not place:
        raise ValueError("tokenizer=None, and the model was not loaded from a checkpoint: give the model's tokenizer")
    try:
        with damage_named(place, "tokenizer"):
            loaded: Any = AutoTokenizer.from_pretrained(place)
    except OSError as error:
        raise OSError(
            f"{os.fspath(place)} is neither a tokenizer folder nor the name of a tokenizer: {error}"
        ) from error
    return loaded


def check_pos_tags(config: ElmoConfig, tokenizer: ElmoTokenizer) -> None:
    """Raise `ValueError` if the tokenizer's POS tags are not those that the model reads."""
    known = len(tokenizer.pos_tag_set or ())
    if config.num_pos_tags and known != config.num_pos_tags:
        raise ValueError(
            f"the tokenizer has {known} POS tags and the model num_pos_tags={config.num_pos_tags}: load the "
            "tokenizer that belongs to the model, or make one with its pos_tag_set"
        )


def check_mask(config: ElmoConfig, tokenizer: ElmoTokenizer) -> None:
    """Raise `ValueError` if a language model's mask id is a regular word of the tokenizer's vocabulary.

    The mask has probability zero, so that word would never be predicted.
    """
    mask = config.mask_token_id
    if mask is None or mask == tokenizer.mask_token_id or not 0 <= mask < len(tokenizer):
        return
    raise ValueError(
        f"mask_token_id={mask} in the model's configuration is {tokenizer.convert_ids_to_tokens(mask)!r} in the "
        f"tokenizer's vocabulary, whose mask has id {tokenizer.mask_token_id}: the model would never predict it. Load "
        f"the tokenizer that belongs to the model, or set config.mask_token_id={tokenizer.mask_token_id}"
    )


def check_sentences(sentences: Iterable[str | Sequence[str]]) -> Iterator[str | list[str]]:
    """Yield the sentences one by one, each a text or a list of words.

    Raises:
        TypeError: a single text instead of a list; or, once reached, a sentence that is neither.
    """
    if isinstance(sentences, str) or not isinstance(sentences, Iterable):
        raise TypeError(
            f"sentences is {sentences!r}: expected a list, or another iterable, of sentences, each a text or a list of "
            "words; put a single one into a list"
        )
    return map(_check_sentence, enumerate(sentences))


def with_pos_tags(
    sentences: Iterator[str | list[str]], pos_tags: Iterable[Sequence[str | None]]
) -> Iterator[TaggedSentence]:
    """Pair lists of words with their POS tags, `None` for a word without one.

    Raises:
        ValueError: once reached: a text instead of words, a sentence whose numbers of tags and words differ, or
            `sentences` and `pos_tags` of different lengths.
    """
    for number, (words, tags) in enumerate(zip_longest(sentences, pos_tags)):
        if words is None or tags is None:
            raise ValueError(
                f"pos_tags and sentences differ in length: only one of them has an item {number}, counted from 0"
            )
        if isinstance(words, str):
            raise ValueError(
                f"sentence {number} is the text {words!r:.60}: expected a list of words, because pos_tags are given"
            )
        yield TaggedSentence(words, tags)


def _check_sentence(numbered: tuple[int, str | Sequence[str]]) -> str | list[str]:
    number, sentence = numbered
    if isinstance(sentence, str):
        return sentence
    is_list = isinstance(sentence, list | tuple)
    for value in sentence if is_list else [sentence]:
        if not isinstance(value, str):
            raise TypeError(
                f"sentence {number} {'holds' if is_list else 'is'} {value!r} of type {type(value).__name__}: expected "
                "a text, or a list of words of type str"
            )
    return list(sentence)

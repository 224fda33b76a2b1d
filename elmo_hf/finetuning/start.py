"""Initial configuration, tokenizer and model of fine-tuning, from a checkpoint or new."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from elmo_hf.folders import damage_named
from elmo_hf.model.base_model import ElmoModel
from elmo_hf.model.configuration_elmo import ElmoConfig
from elmo_hf.model.pretrained import ElmoPreTrainedModel
from elmo_hf.tokenizer.tokenization_elmo import ElmoTokenizer
from elmo_hf.word_vectors import read_word_vectors, start_from_word_vectors

from .layer_cache import cache_layers
from .options import BilmArguments, ModelArguments

logger = logging.getLogger(__name__)

# A new task biLSTM does not read the sentence boundaries, as in the paper; docs/finetuning.md has the measurement.
NEW_HEAD = {"words_only": True}

Model = TypeVar("Model", bound=ElmoPreTrainedModel)


def load_config(
    model_args: BilmArguments, model_class: type[ElmoPreTrainedModel], **fields: Any
) -> tuple[ElmoConfig, bool]:
    """Load the initial configuration; also return True if the checkpoint is a `model_class` whose head is kept.

    The biLM's internal dropouts, which are meant for pretraining, are off unless an option sets them, as in AllenNLP.
    A new task biLSTM reads words only (`words_only`); that of a loaded head reads what it was trained on.

    Args:
        model_args: the options, which take precedence.
        model_class: the task model.
        fields: further configuration fields set by the task.

    Raises:
        ValueError: not an ELMo checkpoint, no such preset, or contradictory fields.
    """
    overrides = {**fields, **model_args.overrides()}
    keeps_head = False
    try:
        if model_args.model_name_or_path is not None:
            with damage_named(model_args.model_name_or_path):
                stored = AutoConfig.from_pretrained(model_args.model_name_or_path)
            if not isinstance(stored, ElmoConfig):
                raise ValueError(f"{model_args.model_name_or_path} is a {stored.model_type!r} model: expected 'elmo'")
            stored.set_dropout(0.0)
            is_whole = model_class.__name__ in (stored.architectures or [])
            keeps_head = is_whole and not (model_args.new_classifier or model_args.random_weights)
            # Created anew instead of changed field by field, because the fields are checked together.
            config = ElmoConfig.from_dict({**stored.to_dict(), **({} if keeps_head else NEW_HEAD), **overrides})
        elif model_args.bilm_preset is not None:
            config = ElmoConfig.from_preset(model_args.bilm_preset, **{**NEW_HEAD, **overrides})
        else:
            config = ElmoConfig(**{**NEW_HEAD, **overrides})
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error
    return config, keeps_head


def set_labels(config: ElmoConfig, labels: Sequence[str]) -> None:
    """Set the labels of a new classifier, numbered in this order."""
    config.tag_names = None
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}


def labels_of(config: ElmoConfig) -> list[str]:
    """The labels of a classifier, in the order of their numbers."""
    return config.label_names


def initial_tokenizer(model_args: BilmArguments, config: ElmoConfig) -> Any:
    """The checkpoint's tokenizer, or a new one without vocabulary."""
    path = model_args.model_name_or_path
    if path is None:
        return ElmoTokenizer(max_characters_per_word=config.max_characters_per_word)
    with damage_named(path, "tokenizer"):
        return AutoTokenizer.from_pretrained(path)


def load_tokenizer(
    model_args: ModelArguments,
    config: ElmoConfig,
    keeps_head: bool,
    splits: Mapping[str, list[Any]],
    words_of: Callable[[PreTrainedTokenizerBase, list[Any]], Iterable[str]],
) -> PreTrainedTokenizerBase:
    """Load the tokenizer, and set the vocabulary size and special token ids in the configuration.

    A character-based biLM needs no vocabulary, and a task model has no softmax that would. If the task has its own word
    vectors, its vocabulary is built from the frequent words of the training data, and from all words of the data that
    have a vector in the given file. If it has its own character CNN, its dictionary is built from the frequent code
    points. A biLM that reads words by their id keeps its vocabulary, and so does a fine-tuned model.

    Args:
        model_args: the options.
        config: configuration from `load_config`; modified unless the checkpoint's vocabulary is kept.
        keeps_head: flag from `load_config`.
        splits: the examples of each split; the vocabulary is built from `"train"`.
        words_of: returns all words of some examples, with repetitions, given a tokenizer and the examples.
    """
    path, tokenizer = model_args.model_name_or_path, initial_tokenizer(model_args, config)
    if model_args.pre_tokenization is not None:
        tokenizer.pre_tokenization = model_args.pre_tokenization
    if keeps_head:
        return tokenizer
    if model_args.lowercase_words:
        tokenizer = _remade(tokenizer, lowercase_lookup=True)
    bilm_reads_word_ids = bool(config.word_embedding_size and config.elmo_at)
    has_table = (config.word_vector_size or bilm_reads_word_ids) and not (path and bilm_reads_word_ids)
    counts: Counter[str] = Counter()
    if has_table or config.task_character_size:
        counts.update(words_of(tokenizer, splits.get("train", [])))
    if has_table:
        as_looked_up = str.lower if tokenizer.lowercase_lookup else str
        looked_up: Counter[str] = Counter()
        for word, count in counts.items():
            looked_up[as_looked_up(word)] += count
        known = {word for word, count in looked_up.items() if count >= model_args.min_count}
        if model_args.word_vectors is not None:
            every = (word for examples in splits.values() for word in words_of(tokenizer, examples))
            words = sorted(set(map(as_looked_up, every)))
            found = read_word_vectors(model_args.word_vectors, words).found
            known |= {word for word, has_vector in zip(words, found, strict=True) if has_vector}
        logger.info("%s different training words, %s words in the vocabulary", f"{len(looked_up):,}", f"{len(known):,}")
        special = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token]
        known -= {*special, tokenizer.pad_token, tokenizer.mask_token}
        words_by_count = sorted(known, key=lambda word: (-looked_up[word], word))
        tokenizer = _remade(tokenizer, vocab=[*special, *words_by_count])
    if config.task_character_size:
        characters: Counter[str] = Counter()
        for word, count in counts.items():
            characters.update(dict.fromkeys(word, count))
        known = {character for character, count in characters.items() if count >= model_args.min_count}
        known = {character for character in known if not "\ud800" <= character <= "\udfff"}
        code_points = sorted(known, key=lambda character: (-characters[character], character))
        tokenizer = _remade(tokenizer, code_point_set=code_points)
        config.num_task_characters = tokenizer.num_code_points
    if not (path and bilm_reads_word_ids):
        config.vocab_size = len(tokenizer)
        for name in ("pad", "bos", "eos", "unk", "mask"):
            setattr(config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    return tokenizer


def _remade(tokenizer: Any, **changes: Any) -> ElmoTokenizer:
    """A copy of the tokenizer with some options changed."""
    names = (
        "pre_tokenization max_characters_per_word special_boundary_words lowercase_lookup character_vocabulary "
        "pos_tag_set code_point_set add_bos_token add_eos_token bos_token eos_token unk_token pad_token mask_token"
    )
    options = {name: getattr(tokenizer, name) for name in names.split()}
    return ElmoTokenizer(**{"vocab": tokenizer.get_vocab(), **options, **changes})


def load_model(
    model_args: ModelArguments,
    model_class: type[Model],
    config: ElmoConfig,
    tokenizer: PreTrainedTokenizerBase,
    keeps_head: bool = False,
) -> Model:
    """Load the task model from the checkpoint, or create one around its biLM, its word vectors, or random weights.

    Training uses float32 weights whatever dtype the checkpoint is stored in; `--bf16` computes in bfloat16.
    """
    path = model_args.model_name_or_path
    options: dict[str, Any] = {"config": config, "dtype": torch.float32}
    if path is not None and keeps_head:
        model = model_class.from_pretrained(path, **options)
    else:
        model = model_class(config)
        if path is not None and config.elmo_at and not model_args.random_weights:
            # Weights are copied, so that the model's own choice of trained mixes is preserved.
            model.bilm.load_state_dict(ElmoModel.from_pretrained(path, **options).state_dict())
        if model_args.word_vectors is not None:
            logger.info("%s", start_from_word_vectors(model, tokenizer, model_args.word_vectors, table="task"))
    freeze_and_cache(model, model_args)
    logger.info(
        "%s parameters to train of %s",
        f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,}",
        f"{model.num_parameters():,}",
    )
    return model


def freeze_and_cache(model: ElmoPreTrainedModel, model_args: BilmArguments) -> None:
    """Freeze the biLM and cache its layers, as far as the options say so."""
    model.freeze_bilm(model_args.freeze_bilm)
    if model_args.cache_layers is not None and model.bilm is not None:
        cache_layers(model.bilm, model_args.cache_layers)

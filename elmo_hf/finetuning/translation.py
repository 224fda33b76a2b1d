"""Translation and summarization: an ELMo encoder and a Transformers decoder, with tokenizers, data and Trainer."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    DataCollatorForSeq2Seq,
    EncoderDecoderConfig,
    GenerationConfig,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)

from elmo_hf.fields import option
from elmo_hf.folders import damage_named
from elmo_hf.inference.translating import TARGET_TOKENIZER
from elmo_hf.model.base_model import ElmoModel
from elmo_hf.model.configuration_elmo import ElmoConfig, ElmoTaskEncoderConfig
from elmo_hf.model.encoder_decoder import ElmoEncoderDecoderModel
from elmo_hf.model.pretrained import ElmoPreTrainedModel
from elmo_hf.model.task_encoder import ElmoTaskEncoder

from .files import CorpusError
from .options import ModelArguments, TaskTrainingArguments
from .pairs import Pair, PairArguments
from .start import freeze_and_cache, load_config, load_model, load_tokenizer
from .tags import IGNORED_LABEL
from .training import TaskTrainer

logger = logging.getLogger(__name__)

PAD, BOS, EOS = "<pad>", "<s>", "</s>"


# Layers of the task between ELMo and the decoder. Without any of them, the encoder is the biLM itself.
TASK_LAYERS = ("word_vector_size", "task_character_size", "task_lstm_size")
# Their further fields.
TASK_FIELDS = (
    "train_word_vectors", "num_task_characters", "task_character_filters", "task_character_activation",
    "task_lstm_layers", "task_encoder", "task_forget_bias", "task_recurrent_dropout", "task_dropout",
    "pre_encoder_layers", "integrator_size", "integrator_layers", "words_only",
)  # fmt: skip


@dataclass
class TranslatorArguments(ModelArguments):
    """Options of the initial encoder and of the decoder."""

    model_name_or_path: str | None = option(
        None,
        "ELMo checkpoint of the encoder, or a complete translator saved by this script (default: the "
        "shipped English model).",
    )
    decoder_type: Literal["bert", "gpt2"] = option("bert", "Layer norm after (bert) or before (gpt2) each sublayer.")
    decoder_hidden_size: int = option(256, "Width of the decoder.")
    decoder_layers: int = option(2, "Its layers.")
    decoder_heads: int = option(4, "Its attention heads.")
    decoder_intermediate_size: int | None = option(
        None, "Width of its feed-forward layers (default: four times its hidden size)."
    )
    decoder_dropout: float = option(0.1, "Dropout everywhere in the decoder.")
    decoder_initializer_range: float = option(
        0.02, "Standard deviation of its initial weights; larger for a small decoder."
    )
    target_vocab_size: int = option(
        8000, "Number of subwords (byte-level BPE) that its tokenizer learns from the training targets."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_hidden_size % self.decoder_heads:
            raise ValueError(
                f"--decoder_hidden_size {self.decoder_hidden_size}: expected a multiple of --decoder_heads "
                f"{self.decoder_heads}"
            )
        if self.target_vocab_size < 3 + len(pre_tokenizers.ByteLevel.alphabet()):
            raise ValueError(
                f"--target_vocab_size {self.target_vocab_size}: expected at least "
                f"{3 + len(pre_tokenizers.ByteLevel.alphabet())}, three special tokens and every byte"
            )


@dataclass
class TranslationTrainingArguments(TaskTrainingArguments, Seq2SeqTrainingArguments):
    """The Trainer's arguments, and options of the beam search."""

    task: Literal["translation", "summarization"] = option(
        "translation", "translation: scored by BLEU. summarization: scored by ROUGE."
    )
    num_beams: int = option(4, "Beam size of the final evaluation, the test and the saved model.")
    generation_num_beams: int | None = option(1, "Beam size of evaluations during training; 1 is greedy decoding.")
    length_penalty: float = option(1.0, "Exponent of the length that divides a beam's score; larger for longer texts.")
    no_repeat_ngram_size: int = option(0, "Length of token sequences that must not be repeated; 0 for none.")
    predict_with_generate: bool = option(True, "Evaluate translations, not only the loss.")
    metric_for_best_model: str | None = option(
        None, "Metric that chooses the best model (default: bleu or rougeL, by the task)."
    )

    def __post_init__(self) -> None:
        if self.metric_for_best_model is None:
            score = "bleu" if self.task == "translation" else "rougeL"
            self.metric_for_best_model = score if self.predict_with_generate else "loss"
        super().__post_init__()


# ---- data


def by_length(pairs: Sequence[Pair]) -> list[int]:
    """The order of generation: sources sorted by length, longest first, so that batches have similar lengths.

    Generation of a batch lasts until its longest text is complete.
    """
    return sorted(range(len(pairs)), key=lambda index: -len(pairs[index].source))


def encode_pairs(
    pairs: Sequence[Pair],
    tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    data: PairArguments,
    cut_targets: bool,
    report: Callable[[str], None] = logger.warning,
) -> Dataset:
    """Encode pairs, in order, as encoder inputs, `labels` for the decoder, and their `length`.

    Raises:
        CorpusError: a target longer than the decoder's limit, unless `cut_targets`.
    """
    limit = data.max_target_tokens
    cut_sources = cut = 0

    def encode_batch(batch: dict[str, list[Any]]) -> dict[str, Any]:
        nonlocal cut_sources, cut
        encoded = tokenizer(batch["source"])
        if data.max_source_words is not None:
            longest = data.max_source_words + tokenizer.num_special_tokens_to_add()
            cut_sources += sum(len(ids) > longest for ids in encoded["input_ids"])
            encoded = tokenizer(batch["source"], truncation=True, max_length=longest)
        labels = target_tokenizer(batch["target"])["input_ids"]
        for place, ids in zip(batch["place"], labels, strict=True):
            if len(ids) > limit and not cut_targets:
                raise CorpusError(
                    f"{place}: the target has {len(ids)} tokens, and the decoder's limit is {limit}; train with a "
                    "higher --max_target_tokens, or remove the pair"
                )
            cut += len(ids) > limit
        # A truncated target has no end token, because the model must not learn to stop there.
        labels = [ids[:limit] for ids in labels]
        return {**encoded, "labels": labels, "length": list(map(len, labels))}

    dataset = Dataset.from_dict({name: [getattr(pair, name) for pair in pairs] for name in Pair._fields})
    encoded = dataset.map(encode_batch, batched=True, remove_columns=list(Pair._fields), desc="Tokenizing")
    if cut_sources:
        limit_of_words = data.max_source_words
        report(f"{cut_sources:,} of {len(pairs):,} sources are longer than {limit_of_words} words and were truncated")
    if cut:
        report(f"{cut:,} of {len(pairs):,} training targets are longer than {limit} tokens and were truncated")
    return encoded


class PairCollator(DataCollatorForSeq2Seq):
    """Collator that pads batches of encoded pairs.

    `length` is used by the Trainer to group batches: the decoder computes padding, the biLM does not.
    """

    def __call__(self, features: list[dict[str, Any]], return_tensors: str | None = None) -> Any:
        features = [{name: value for name, value in row.items() if name != "length"} for row in features]
        return super().__call__(features, return_tensors)


# ---- tokenizers and model


def train_target_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer, which encodes every text losslessly. Texts end with `</s>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
    )
    # Spaces before punctuation are part of the text.
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    )


def decoder_config(
    model_args: TranslatorArguments, data: PairArguments, tokenizer: PreTrainedTokenizerBase
) -> PreTrainedConfig:
    """Configuration of a small decoder with cross-attention to the encoder's words."""
    width, dropout = model_args.decoder_hidden_size, model_args.decoder_dropout
    intermediate = model_args.decoder_intermediate_size or 4 * width
    common: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "num_hidden_layers": model_args.decoder_layers,
        "num_attention_heads": model_args.decoder_heads,
        # The decoder reads the start token and all but the last token of the target.
        "max_position_embeddings": data.max_target_tokens,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": model_args.decoder_initializer_range,
        "is_decoder": True,
        "add_cross_attention": True,
    }
    if model_args.decoder_type == "bert":
        return BertConfig(
            **common,
            intermediate_size=intermediate,
            hidden_act="relu",
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    # Targets are padded after their end, where causal attention does not look. Without a padding id, the decoder does
    # not warn about it.
    return GPT2Config(
        **{**common, "pad_token_id": None},
        n_inner=intermediate,
        activation_function="relu",
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
    )


# Options that may be given with a saved translator.
KEPT = ("model_name_or_path", "freeze_bilm", "cache_layers")


def is_translator(model_args: TranslatorArguments) -> bool:
    """True for a checkpoint that is a complete encoder-decoder, used as it is."""
    if model_args.model_name_or_path is None:
        return False
    with damage_named(model_args.model_name_or_path):
        config = AutoConfig.from_pretrained(model_args.model_name_or_path)
    if not isinstance(config, EncoderDecoderConfig):
        return False
    encoder: Any = config.encoder
    if not isinstance(encoder, ElmoConfig):
        raise ValueError(
            f"{model_args.model_name_or_path}: its encoder is a {encoder.model_type!r} model: expected 'elmo'"
        )
    for each in fields(ModelArguments):
        if each.name not in KEPT and getattr(model_args, each.name) != each.default:
            raise ValueError(
                f"--{each.name}: {model_args.model_name_or_path} is a whole translator, which stays as it is"
            )
    return True


def check_translator(model_args: TranslatorArguments, args: TranslationTrainingArguments) -> None:
    """Raise `ValueError` if an untrained translator is to be evaluated."""
    if not is_translator(model_args) and not args.do_train:
        raise ValueError(
            "only a translator that is trained can be evaluated: give --do_train, or its folder as the model"
        )


def words_of_sources(tokenizer: PreTrainedTokenizerBase, pairs: Iterable[Pair]) -> Iterator[str]:
    """Yield all words of the sources, as split by the tokenizer."""
    for pair in pairs:
        yield from (word for word, _ in tokenizer.words(pair.source))


def make_encoder(
    model_args: TranslatorArguments, splits: Mapping[str, Sequence[Pair]]
) -> tuple[ElmoPreTrainedModel, PreTrainedTokenizerBase]:
    """Create the encoder and its tokenizer: the biLM itself or, with layers of the task, a task model."""
    # Layers of a fine-tuned checkpoint are another task's.
    new = ElmoConfig()
    without = {name: getattr(new, name) for name in (*TASK_LAYERS, *TASK_FIELDS)}
    config, _ = load_config(model_args, ElmoTaskEncoder, elmo_at=["input"], num_representations=1, **without)
    joins_layers = any(getattr(config, name) for name in TASK_LAYERS)
    if joins_layers:
        config = ElmoTaskEncoderConfig.from_dict(config.to_dict())
    elif unread := [name for name in TASK_FIELDS if getattr(config, name) != without[name]]:
        raise ValueError(
            f"{unread[0]}={getattr(config, unread[0])!r} without layers of the task: give --word_vectors, "
            "--word_vector_size, --task_character_size or --task_lstm_size"
        )
    lists = {name: list(pairs) for name, pairs in splits.items()}
    tokenizer = load_tokenizer(model_args, config, False, lists, words_of_sources)
    kind: type[ElmoPreTrainedModel] = ElmoTaskEncoder if joins_layers else ElmoModel
    return load_model(model_args, kind, config, tokenizer), tokenizer


def make_translator(
    model_args: TranslatorArguments, data: PairArguments, splits: Mapping[str, Sequence[Pair]]
) -> tuple[ElmoEncoderDecoderModel, PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Create a translator around an encoder, with vocabularies built from the training pairs."""
    encoder, tokenizer = make_encoder(model_args, splits)
    target_tokenizer = train_target_tokenizer((pair.target for pair in splits["train"]), model_args.target_vocab_size)
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        encoder.config,
        decoder_config(model_args, data, target_tokenizer),
        decoder_start_token_id=target_tokenizer.bos_token_id,
        bos_token_id=target_tokenizer.bos_token_id,
        eos_token_id=target_tokenizer.eos_token_id,
        pad_token_id=target_tokenizer.pad_token_id,
    )
    return ElmoEncoderDecoderModel(config, encoder=encoder), tokenizer, target_tokenizer


def search(model: ElmoEncoderDecoderModel, data: PairArguments, args: TranslationTrainingArguments) -> GenerationConfig:
    """Generation configuration of the saved model: beam search that ends when all beams of a text are complete."""
    config = model.config
    return GenerationConfig(
        max_length=data.max_target_tokens,
        num_beams=args.num_beams,
        early_stopping=args.num_beams > 1,
        length_penalty=args.length_penalty if args.num_beams > 1 else 1.0,
        no_repeat_ngram_size=args.no_repeat_ngram_size,
        decoder_start_token_id=config.decoder_start_token_id,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )


def load_or_make_translator(
    model_args: TranslatorArguments,
    data: PairArguments,
    args: TranslationTrainingArguments,
    splits: Mapping[str, Sequence[Pair]],
) -> tuple[ElmoEncoderDecoderModel, PreTrainedTokenizerBase, PreTrainedTokenizerBase]:
    """Load a saved translator, or create one around an encoder; return it with the tokenizers of both sides."""
    if is_translator(model_args):
        path = str(model_args.model_name_or_path)
        model = ElmoEncoderDecoderModel.from_pretrained(path, dtype=torch.float32)
        with damage_named(path, "tokenizer"):
            tokenizer: Any = AutoTokenizer.from_pretrained(path)
            target_tokenizer: Any = AutoTokenizer.from_pretrained(path, subfolder=TARGET_TOKENIZER)
        encoder: Any = model.encoder
        freeze_and_cache(encoder, model_args)
    else:
        model, tokenizer, target_tokenizer = make_translator(model_args, data, splits)
    # The collator pads targets on the same side as sources, and a decoder needs padding on the right.
    tokenizer.padding_side = "right"
    data.max_target_tokens = min(data.max_target_tokens, model.config.decoder.max_position_embeddings)
    model.generation_config = search(model, data, args)
    logger.info(
        "%s parameters to train of %s; %s subwords in targets",
        f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,}",
        f"{model.num_parameters():,}",
        f"{len(target_tokenizer):,}",
    )
    return model, tokenizer, target_tokenizer


# ---- training


def make_loss(encoder: Any, label_smoothing: float) -> Callable[..., torch.Tensor]:
    """Make the model's loss function with label smoothing.

    The loss is normalized by `num_items_in_batch`, the tokens in all batches of an optimizer step. The Trainer's own
    label smoothing is not: with `gradient_accumulation_steps` N, gradients would be N times too large.
    """

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
        total = functional.cross_entropy(
            outputs["logits"].flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=IGNORED_LABEL,
            label_smoothing=label_smoothing,
            reduction="sum",
        )
        mean = total / (labels.ne(IGNORED_LABEL).sum() if num_items_in_batch is None else num_items_in_batch)
        return encoder._penalized(mean, labels, num_items_in_batch)

    return loss


def texts_of(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Decode ids (texts, tokens), padded with -100 or the padding token."""
    ids = np.where(ids == IGNORED_LABEL, tokenizer.pad_token_id, ids)
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


class ExactSeq2SeqTrainer(Seq2SeqTrainer):
    """A `Seq2SeqTrainer` that evaluates each example exactly once, even if processes cannot divide them evenly.

    Transformers' own also gathers the duplicates that fill up the last batch.
    """

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self.gather_function = self.accelerator.gather_for_metrics
        return super().evaluation_loop(*args, **kwargs)


class TranslatorTrainer(TaskTrainer, ExactSeq2SeqTrainer):
    """A Trainer for translators that saves both tokenizers and uses beam search in the final evaluation.

    The base Trainer gets no tokenizer, because it would set the decoder's special token ids to those of the source.

    Args:
        tokenizers: tokenizers of sources and targets.
        args, model, datasets, keywords: as in [`TaskTrainer`].
    """

    def __init__(
        self,
        model: ElmoEncoderDecoderModel,
        args: TranslationTrainingArguments,
        datasets: Mapping[str, Dataset],
        tokenizers: tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase],
        **keywords: Any,
    ) -> None:
        self.tokenizers = tokenizers
        super().__init__(
            model,
            args,
            datasets,
            data_collator=PairCollator(tokenizers[0], model=model),
            compute_loss_func=make_loss(model.encoder, args.label_smoothing_factor),
            callbacks=[_BeamsAtTheEnd()] if args.do_train else [],
            **keywords,
        )
        if not args.do_train:
            args.generation_num_beams = args.num_beams

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            self.tokenizers[0].save_pretrained(folder)
            self.tokenizers[1].save_pretrained(folder / TARGET_TOKENIZER)


class _BeamsAtTheEnd(TrainerCallback):
    """Callback that uses greedy decoding during training and beam search afterwards."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        args.generation_num_beams = args.num_beams

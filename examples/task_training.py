"""What the examples share: options, the model and its tokenizer, the optimizer, the stages of a run and its report.

A script reads its data, then

    config, keeps_head = load_config(model_args, ElmoForTokenClassification)
    set_labels(config, labels)
    tokenizer = load_tokenizer(model_args, config, keeps_head, splits, words_of)
    model = load_model(model_args, ElmoForTokenClassification, config, tokenizer, keeps_head)
    trainer = TaskTrainer(model, args, ..., optimizers=optimizers(model, args), callbacks=callbacks(args))
    metrics, prediction = run_stages(trainer, datasets, sizes)
"""

import json
import logging
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from datasets import Dataset, load_dataset
from huggingface_hub.errors import StrictDataclassError
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoTokenizer,
    EarlyStoppingCallback,
    HfArgumentParser,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import PredictionOutput, get_last_checkpoint

from corpus_files import CorpusError
from elmo_hf import (
    ElmoConfig,
    ElmoModel,
    ElmoPreTrainedModel,
    ElmoTokenizer,
    WordVectors,
    read_word_vectors,
    start_from_word_vectors,
)
from layer_cache import cache_layers
from training_curve import plot_training_curve

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=ElmoPreTrainedModel)


@dataclass
class BilmArguments:
    """Where a model's biLM starts, and how it is trained: what `load_config` reads of every script's options."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Checkpoint to start from: a folder or a name on the Hub."}
    )
    preset: str | None = field(
        default=None, metadata={"help": "Start from random weights in a published shape instead: small, medium, ..."}
    )
    config_overrides: str | None = field(
        default=None,
        metadata={
            "help": "JSON object of configuration fields to replace, such as '{\"representation_dropout\": 0.3}'."
        },
    )
    freeze_bilm: bool = field(
        default=False, metadata={"help": "Train only the layer mix and what the task adds to it, as in the paper."}
    )
    cache_layers: float | None = field(
        default=None,
        metadata={
            "help": "With --freeze_bilm: gigabytes in which to keep the layers of sentences after the first epoch."
        },
    )
    min_count: int = field(
        default=2,
        metadata={
            "help": "For word vectors of the task's own: occurrences that give a training word one; rarer ones share "
            "that of <UNK>."
        },
    )
    new_classifier = False  # an option of those that have a classifier

    def __post_init__(self) -> None:
        if self.model_name_or_path is not None and self.preset is not None:
            raise ValueError("give either --model_name_or_path (a checkpoint) or --preset (random weights), not both")
        if self.min_count < 1:
            raise ValueError(f"--min_count {self.min_count}: expected 1 or more")

    @property
    def names_a_bilm(self) -> bool:
        return self.model_name_or_path is not None or self.preset is not None

    def overrides(self) -> dict[str, Any]:
        """Configuration fields that the options set."""
        return overrides_of(self.config_overrides)


@dataclass
class ModelArguments(BilmArguments):
    """The biLM of a task model, and what it has between biLM and classifier."""

    new_classifier: bool = field(
        default=False,
        metadata={"help": "Take only the biLM of a checkpoint that is fine-tuned already, for other labels or layers."},
    )
    without_elmo: bool = field(
        default=False,
        metadata={"help": "The same task model without a biLM, the paper's baseline; needs word vectors."},
    )
    elmo_at: list[str] | None = field(
        default=None, metadata={"help": "Where the task reads ELMo: input (of its own layers), output, or both."}
    )
    task_lstm_size: int | None = field(
        default=None, metadata={"help": "Width of each direction of the task's own biLSTM (default: none)."}
    )
    task_lstm_layers: int | None = field(default=None, metadata={"help": "Its layers (default: 1)."})
    task_dropout: float | None = field(
        default=None, metadata={"help": "Dropout on the input of each of the task's own layers (default: none)."}
    )
    word_vector_size: int | None = field(
        default=None,
        metadata={"help": "Width of the task's own word vectors (default: of those in --word_vectors)."},
    )
    word_vectors: str | None = field(
        default=None, metadata={"help": "GloVe or word2vec text file that these vectors start from."}
    )
    freeze_word_vectors: bool = field(default=False, metadata={"help": "Do not train them."})
    pre_tokenization: Literal["ptb", "whitespace"] | None = field(
        default=None,
        metadata={"help": 'How raw text becomes words (default: as the checkpoint says, else ptb, as "do n\'t").'},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.names_a_bilm or self.without_elmo):
            raise ValueError("give either --model_name_or_path (a checkpoint) or --preset (random weights)")
        if self.without_elmo and self.elmo_at:
            raise ValueError(f"--elmo_at {' '.join(self.elmo_at)}: there is none of it --without_elmo")

    def overrides(self) -> dict[str, Any]:
        """Configuration fields that the options set; `--config_overrides` goes last and may set any."""
        named = ("elmo_at", "task_lstm_size", "task_lstm_layers", "task_dropout", "word_vector_size")
        fields = {name: getattr(self, name) for name in named if getattr(self, name) is not None}
        if self.without_elmo:
            fields["elmo_at"] = []
        if self.word_vectors is not None and self.word_vector_size is None:
            fields["word_vector_size"] = read_vectors(self.word_vectors, []).vectors.shape[1]
        if self.freeze_word_vectors:
            fields["train_word_vectors"] = False
        return fields | super().overrides()


@dataclass
class TaskTrainingArguments(TrainingArguments):
    """The Trainer's arguments; their defaults evaluate and save every epoch and keep the best model.

    A script says what is best: it derives a class with a default of its own for `metric_for_best_model`.
    """

    learning_rate: float = field(default=1e-3, metadata={"help": "Of the layer mix and the task's own layers."})
    bilm_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the biLM, unless it is frozen (default: --learning_rate)."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations without a better score."}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep, the best among them."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best model, not the last."})
    logging_strategy: str = field(default="epoch", metadata={"help": "no, steps or epoch."})
    report_to: str | None = field(default="none", metadata={"help": "none, tensorboard, wandb, ..."})

    def __post_init__(self) -> None:
        if not self.do_train:  # there is nothing to evaluate every epoch, and no best model to come
            self.eval_strategy, self.load_best_model_at_end = "no", False
        super().__post_init__()


def parse(argv: Sequence[str] | None, *kinds: type[Any]) -> tuple[Any, ...]:
    """One instance of each dataclass of options, the last of which holds the Trainer's.

    Args:
        argv: the command line (default: the program's own); a single `.json` file of options works too.
        kinds: dataclasses.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = HfArgumentParser(kinds)
    if len(argv) == 1 and argv[0].endswith(".json"):
        parsed = parser.parse_json_file(argv[0])
    else:
        parsed = parser.parse_args_into_dataclasses(list(argv))
    args = parsed[-1]
    if not (args.do_train or args.do_eval or args.do_predict):
        raise ValueError("nothing to do: give --do_train, --do_eval or --do_predict")
    return parsed


def start(args: TrainingArguments) -> None:
    """What every run begins with: messages, the seed, no warning about memory that a CPU cannot pin."""
    logging.basicConfig(format="%(message)s", level=logging.INFO if args.should_log else logging.WARNING)
    set_seed(args.seed)
    if args.device.type == "cpu":
        args.dataloader_pin_memory = False  # torch warns every epoch otherwise


# ---- configuration, tokenizer, model


def overrides_of(text: str | None) -> dict[str, Any]:
    """The fields that `--config_overrides` holds."""
    text = text or "{}"
    try:
        overrides = json.loads(text)
    except json.JSONDecodeError:
        overrides = None
    if not isinstance(overrides, dict):
        raise ValueError(f"--config_overrides {text!r}: expected a JSON object, such as " + '{"cell_size": 512}')
    known = ElmoConfig()
    for name in overrides:
        if not hasattr(known, name):
            raise ValueError(f"--config_overrides: ElmoConfig has no field {name!r}")
    return overrides


def load_config(
    model_args: BilmArguments, model_class: type[ElmoPreTrainedModel], **fields: Any
) -> tuple[ElmoConfig, bool]:
    """The configuration to start from, and whether the checkpoint is a `model_class` whose head is kept.

    The dropouts inside of the biLM, which are for pretraining, are off unless an option sets them, as in AllenNLP.

    Args:
        model_args: the options; theirs are the last word.
        model_class: the task model.
        fields: further configuration fields that the task sets.

    Raises:
        ValueError: no ELMo checkpoint, no such preset, or fields that contradict each other.
    """
    overrides = {**fields, **model_args.overrides()}
    keeps_head = False
    try:
        if model_args.model_name_or_path is not None:
            stored = AutoConfig.from_pretrained(model_args.model_name_or_path)
            if not isinstance(stored, ElmoConfig):
                raise ValueError(f"{model_args.model_name_or_path} is a {stored.model_type!r} model: expected 'elmo'")
            stored.set_dropout(0.0)
            # Made anew, and not changed field by field: only together do the fields make sense, and are checked.
            config = ElmoConfig.from_dict({**stored.to_dict(), **overrides})
            keeps_head = model_class.__name__ in (stored.architectures or []) and not model_args.new_classifier
        elif model_args.preset is not None:
            config = ElmoConfig.from_preset(model_args.preset, **overrides)
        else:
            config = ElmoConfig(**overrides)
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error
    return config, keeps_head


def set_labels(config: ElmoConfig, labels: Sequence[str]) -> None:
    """Number the labels of a classifier in this order."""
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}


def labels_of(config: ElmoConfig) -> list[str]:
    """The labels of a classifier, in the order of their numbers."""
    return [config.id2label[index] for index in range(config.num_labels)]


def load_tokenizer(
    model_args: ModelArguments,
    config: ElmoConfig,
    keeps_head: bool,
    splits: Mapping[str, list[Any]],
    words_of: Callable[[PreTrainedTokenizerBase, list[Any]], Iterable[str]],
) -> PreTrainedTokenizerBase:
    """The tokenizer; the vocabulary's size and the ids of its special tokens go into the configuration.

    A biLM that reads characters needs no vocabulary, and a task model has no softmax whose rows a vocabulary would
    number: with word vectors of its own, the task gets a vocabulary of its own, of the frequent words of the training
    data. Words that have a vector in a file are known too, wherever in the data they stand. A biLM that reads words by
    their id keeps the vocabulary that it has learned, and so does a fine-tuned model.

    Args:
        model_args: the options.
        config: what `load_config` returned; changed, unless the checkpoint's vocabulary stays.
        keeps_head: likewise.
        splits: the examples of each split; those of `"train"` make the vocabulary.
        words_of: a tokenizer and some examples -> all their words, as often as they occur.
    """
    path = model_args.model_name_or_path
    if path is None:
        tokenizer = ElmoTokenizer(max_characters_per_word=config.max_characters_per_word)
    else:
        tokenizer = AutoTokenizer.from_pretrained(path)
    if model_args.pre_tokenization is not None:
        tokenizer.pre_tokenization = model_args.pre_tokenization
    bilm_reads_word_ids = bool(config.word_embedding_size and config.elmo_at)
    if path is not None and (keeps_head or bilm_reads_word_ids):
        return tokenizer
    if config.word_vector_size or bilm_reads_word_ids:
        counts = Counter(words_of(tokenizer, splits.get("train", [])))
        known = {word for word, count in counts.items() if count >= model_args.min_count}
        if model_args.word_vectors is not None:
            words = sorted({word for examples in splits.values() for word in words_of(tokenizer, examples)})
            found = read_vectors(model_args.word_vectors, words).found
            known |= {word for word, has_vector in zip(words, found, strict=True) if has_vector}
        logger.info("%s different training words, %s words in the vocabulary", f"{len(counts):,}", f"{len(known):,}")
        tokenizer = with_vocabulary(tokenizer, sorted(known, key=lambda word: (-counts[word], word)))
    config.vocab_size = len(tokenizer)
    for name in ("pad", "bos", "eos", "unk", "mask"):
        setattr(config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    return tokenizer


def with_vocabulary(tokenizer: PreTrainedTokenizerBase, words: Iterable[str]) -> ElmoTokenizer:
    """The same tokenizer with the special tokens and these words for its vocabulary."""
    special = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token]
    known = {*special, tokenizer.pad_token, tokenizer.mask_token}
    options = ("pre_tokenization", "max_characters_per_word", "special_boundary_words")
    names = ("bos_token", "eos_token", "unk_token", "pad_token", "mask_token")
    return ElmoTokenizer(
        vocab=[*special, *(word for word in words if word not in known)],
        **{name: getattr(tokenizer, name) for name in (*options, *names)},
    )


def read_vectors(path: str, words: Sequence[str]) -> WordVectors:
    """The vectors of some words; what is wrong with the file is an error of the data, not of the program."""
    try:
        return read_word_vectors(path, words)
    except (OSError, ValueError) as error:
        raise CorpusError(str(error)) from error


def load_model(
    model_args: ModelArguments,
    model_class: type[Model],
    config: ElmoConfig,
    tokenizer: PreTrainedTokenizerBase,
    keeps_head: bool = False,
) -> Model:
    """The task model: whole from the checkpoint, or a new one around its biLM, its word vectors, or random weights.

    Trained in float32 whatever the checkpoint is stored in; `--bf16` computes in bfloat16.
    """
    path = model_args.model_name_or_path
    options: dict[str, Any] = {"config": config, "dtype": torch.float32}
    if path is not None and keeps_head:
        model = model_class.from_pretrained(path, **options)
    else:
        model = model_class(config)
        if path is not None and config.elmo_at:
            # Copied into the model's own: which of its mixes are trained stays as the model says.
            model.elmo.load_state_dict(ElmoModel.from_pretrained(path, **options).state_dict())
        if model_args.word_vectors is not None:
            logger.info("%s", start_from_word_vectors(model, tokenizer, model_args.word_vectors, table="task"))
    model.freeze_bilm(model_args.freeze_bilm)
    if model_args.cache_layers is not None and config.elmo_at:
        cache_layers(model.elmo, model_args.cache_layers)
    logger.info(
        "%s parameters to train of %s",
        f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,}",
        f"{model.num_parameters():,}",
    )
    return model


# ---- training


def parameter_groups(model: ElmoPreTrainedModel, args: TaskTrainingArguments) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate (biLM, or layer mix and task) and weight decay (matrices only)."""
    elmo = getattr(model, "elmo", getattr(model, "encoder", None))  # the encoder of an EncoderDecoderModel
    bilm = set() if elmo is None else {id(p) for part in (elmo.embeddings, elmo.encoder) for p in part.parameters()}
    bilm_rate = args.learning_rate if args.bilm_learning_rate is None else args.bilm_learning_rate
    groups = []
    for in_bilm, rate in ((True, bilm_rate), (False, args.learning_rate)):
        for is_matrix, decay in ((True, args.weight_decay), (False, 0.0)):
            params = [
                p
                for p in model.parameters()
                if p.requires_grad and (id(p) in bilm) is in_bilm and (p.ndim > 1) is is_matrix
            ]
            if params:
                groups.append({"params": params, "lr": rate, "weight_decay": decay})
    return groups


def make_optimizer(model: ElmoPreTrainedModel, args: TaskTrainingArguments) -> torch.optim.Optimizer:
    """The optimizer that `--optim` names; the Trainer adds the schedule that `--lr_scheduler_type` names."""
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    return optimizer_class(parameter_groups(model, args), **options)


def optimizers(model: ElmoPreTrainedModel, args: TaskTrainingArguments) -> tuple[torch.optim.Optimizer | None, None]:
    """The Trainer's argument of this name: an optimizer if there is anything to train."""
    return (make_optimizer(model, args) if args.do_train else None), None


def callbacks(args: TaskTrainingArguments) -> list[TrainerCallback]:
    """The Trainer's argument of this name: early stopping, if asked for."""
    patience = args.early_stopping_patience
    return [] if patience is None else [EarlyStoppingCallback(patience)]


def checkpoint_to_resume(args: TrainingArguments) -> str | None:
    """`--resume_from_checkpoint FOLDER`, `false` to start anew, or else the last checkpoint in the output folder."""
    choice = args.resume_from_checkpoint
    if choice is not None and choice.lower() in ("false", "no"):
        return None
    if choice is not None and choice.lower() not in ("true", "yes"):
        return choice
    last = get_last_checkpoint(args.output_dir) if os.path.isdir(args.output_dir) else None
    if last is not None:
        logger.info("Continuing from %s (--resume_from_checkpoint false starts anew)", last)
    return last


class TaskTrainer(Trainer):
    """A Trainer that evaluates and predicts in the order of the data.

    With `--train_sampling_strategy group_by_length` the Trainer sorts evaluation data by length too, and predictions
    would stand beside other examples.
    """

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        with self._in_order():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        with self._in_order():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _in_order(self) -> Iterator[None]:
        chosen = self.args.train_sampling_strategy
        self.args.train_sampling_strategy = "sequential"
        try:
            yield
        finally:
            self.args.train_sampling_strategy = chosen


def run_stages(
    trainer: Trainer,
    datasets: Mapping[str, Dataset],
    sizes: Mapping[str, int] | None = None,
    names: Mapping[str, str] | None = None,
) -> tuple[dict[str, float], PredictionOutput | None]:
    """Train, evaluate and predict, as far as the Trainer's arguments ask for it.

    Args:
        trainer: with its train and evaluation data; its output folder gets the model and its tokenizer, the metrics
            (`all_results.json`), the log (`trainer_state.json`) and `training_curve.png`.
        datasets: `"test"` is predicted; the numbers of examples of all are reported.
        sizes: numbers to report instead, where an example of the user's is several of the model's.
        names: what to call `metric_for_best_model` in the picture, for each metric that is not its own name.

    Returns:
        All metrics, and what was predicted for the test data.
    """
    args, metrics, prediction = trainer.args, {}, None
    numbers = {name: len(dataset) for name, dataset in datasets.items()} | dict(sizes or {})
    if args.do_train:
        result = trainer.train(resume_from_checkpoint=checkpoint_to_resume(args))
        trainer.save_model()
        trainer.save_state()
        metrics |= report(trainer, "train", result.metrics, numbers["train"])
        if trainer.is_world_process_zero():
            best = (args.metric_for_best_model or "loss").removeprefix("eval_")
            path = Path(args.output_dir) / "training_curve.png"
            plot_training_curve(trainer.state.log_history, path, best, (names or {}).get(best, best))
    if args.do_eval:
        metrics |= report(trainer, "eval", trainer.evaluate(), numbers["validation"])
    if args.do_predict:
        prediction = trainer.predict(datasets["test"], metric_key_prefix="test")
        metrics |= report(trainer, "test", prediction.metrics or {}, numbers["test"])
    return metrics, prediction


def report(trainer: Trainer, name: str, metrics: dict[str, float], samples: int) -> dict[str, float]:
    """Print metrics, add them to the output folder's `{name}_results.json` and `all_results.json`, return them."""
    metrics[f"{name}_samples"] = samples
    trainer.log_metrics(name, metrics)
    trainer.save_metrics(name, metrics)
    return metrics


# ---- data


@dataclass
class SourceArguments:
    """Where examples come from; a script adds the columns."""

    train_file: str | None = field(default=None, metadata={"help": "Training data; its suffix tells the form."})
    validation_file: str | None = field(default=None, metadata={"help": "The same, to choose the best model by."})
    test_file: str | None = field(default=None, metadata={"help": "The same, for the final score and predictions."})
    dataset_name: str | None = field(
        default=None, metadata={"help": "In place of files: a dataset with train, validation and test splits."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of that dataset."})

    def __post_init__(self) -> None:
        if self.dataset_name and (self.train_file or self.validation_file or self.test_file):
            raise ValueError("give either --dataset_name or files")


@dataclass
class SplitArguments(SourceArguments):
    """Where labelled examples come from."""

    validation_share: float | None = field(
        default=None,
        metadata={"help": "Without validation data: hold out this share of the training data, the same for any seed."},
    )
    labels: list[str] | None = field(
        default=None, metadata={"help": "All labels, in the order of integer ones (default: the training data's)."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation_share is not None and not 0 < self.validation_share < 1:
            raise ValueError(f"--validation_share {self.validation_share}: expected a number between 0 and 1")


def split_readers(
    data: Any, read_file: Callable[..., list[Any]], read_dataset: Callable[..., list[Any]]
) -> dict[str, Callable[..., list[Any]]]:
    """For each split (of train, validation, test) that there is, what reads it.

    Args:
        data: [`SourceArguments`], or options of the same names that `read_file` understands.
        read_file: reads what the option of a split's file names, then further arguments.
        read_dataset: reads a split of a dataset: the split, its name for messages, the same further arguments.

    Returns:
        A function of the further arguments.
    """
    readers: dict[str, Callable[..., list[Any]]] = {}
    if data.dataset_name:
        for name, split in load_dataset(data.dataset_name, data.dataset_config_name).items():
            readers[name] = partial(read_dataset, split, f"{data.dataset_name}, {name}")
    for name in ("train", "validation", "test"):
        given = getattr(data, f"{name}_file")
        if given is not None:
            readers[name] = partial(read_file, given)
    return readers


def read_splits(
    data: SplitArguments,
    args: TrainingArguments,
    known_labels: list[str] | None,
    read_file: Callable[[str, list[str] | None], list[Any]],
    read_dataset: Callable[[Dataset, str, list[str] | None], list[Any]],
    label_set: Callable[[list[Any]], list[str]],
) -> tuple[dict[str, list[Any]], list[str]]:
    """The examples of each split (train, validation, test) that a run reads, and the labels.

    Args:
        data: where they come from.
        args: what the run does.
        known_labels: those of the checkpoint's classifier, which stay as they are; else `--labels` or the data's.
        read_file: path, labels that may occur (`None`: all) -> examples.
        read_dataset: split of a dataset, its name for messages, labels -> examples.
        label_set: examples -> their labels.

    Raises:
        CorpusError: a split is missing, or what the readers raise.
        ValueError: `--labels` that the checkpoint does not have.
    """
    labels = known_labels or data.labels
    if data.labels and not set(data.labels) <= set(labels):
        raise ValueError(
            f"--labels {' '.join(data.labels)}: the checkpoint has {' '.join(labels)}; for others give --new_classifier"
        )
    readers = split_readers(data, read_file, read_dataset)
    holds_out = data.validation_share is not None and "validation" not in readers
    available = [*readers, "validation"] if holds_out and "train" in readers else list(readers)
    needed = needed_splits(args, available)
    to_read = {"train" if holds_out and name == "validation" else name for name in needed}
    splits = {}
    # The first file that is there says what the labels are, also where the run only evaluates.
    for name in ("train", "validation", "test"):
        if name in to_read or (name in readers and labels is None):
            splits[name] = readers[name](labels)
            labels = labels or label_set(splits[name])
    if holds_out and "train" in to_read:
        splits["train"], splits["validation"] = hold_out(splits["train"], data.validation_share or 0.0)
    return {name: splits[name] for name in needed}, labels or []


def needed_splits(args: TrainingArguments, available: Iterable[str]) -> list[str]:
    """The splits (of train, validation, test) that a run reads.

    Raises:
        CorpusError: one of them is not among the `available` ones; the message names the option that gives it.
    """
    needed = {"train": args.do_train, "validation": args.do_eval, "test": args.do_predict}
    names = [name for name in needed if needed[name]]
    for name in names:
        if name not in set(available):
            remedy = f"give --{name}_file"
            if args.do_train and name == "validation":
                remedy += ", or --eval_strategy no --load_best_model_at_end false to train without"
            raise CorpusError(f"no {name} data; {remedy}")
    return names


def hold_out(examples: list[Any], share: float) -> tuple[list[Any], list[Any]]:
    """Split examples into those to keep and those to hold out, drawn at random, the same in every run; orders stay."""
    if len(examples) < 2:
        raise CorpusError(f"{len(examples)} training example: too few to hold any out; give --validation_file")
    count = min(max(1, round(share * len(examples))), len(examples) - 1)
    held = set(random.Random(0).sample(range(len(examples)), count))
    logger.info("%s of %s training examples are held out for validation", f"{count:,}", f"{len(examples):,}")
    return tuple([e for i, e in enumerate(examples) if (i in held) is out] for out in (False, True))


def write_atomically(path: Path, lines: Iterable[str]) -> None:
    """Write text lines, each with its line break; the file appears only when it is complete."""
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(lines)
    os.replace(unfinished, path)

"""Fine-tune ELMo for named entities with the Trainer of Transformers.

    python examples/run_ner.py --model_name_or_path elmo-folder --train_file train.conll --validation_file dev.conll \\
        --test_file test.conll --output_dir tagger --do_train --do_eval --do_predict

`--help` lists all options; a single `.json` file of options works too. Started again with the same `--output_dir`, a
run continues from its last checkpoint.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from transformers import (
    AutoConfig,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    EarlyStoppingCallback,
    EvalPrediction,
    HfArgumentParser,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from elmo_hf import ElmoConfig, ElmoForTokenClassification, ElmoModel, ElmoTokenizer
from elmo_hf.metrics import Seqeval
from ner_data import IGNORED_LABEL, Columns, CorpusError, Sentence, encode, label_set, read_dataset, read_file
from training_curve import plot_training_curve

logger = logging.getLogger(__name__)


@dataclass
class ModelArguments:
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
        default=False, metadata={"help": "Train only the layer mix and the classifier, as in the paper."}
    )
    new_classifier: bool = field(
        default=False, metadata={"help": "Replace the classifier of a checkpoint that is a tagger for other tags."}
    )

    def __post_init__(self) -> None:
        if (self.model_name_or_path is None) == (self.preset is None):
            raise ValueError("give either --model_name_or_path (a checkpoint) or --preset (random weights)")


@dataclass
class DataArguments:
    train_file: str | None = field(default=None, metadata={"help": "CoNLL (any suffix), .json or .jsonl file."})
    validation_file: str | None = field(default=None, metadata={"help": "The same, to choose the best model by."})
    test_file: str | None = field(default=None, metadata={"help": "The same, for the final score and predictions."})
    dataset_name: str | None = field(
        default=None, metadata={"help": "In place of files: a dataset with train, validation and test splits."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of that dataset."})
    word_column: int = field(default=0, metadata={"help": "CoNLL column of the words, from 0."})
    tag_column: int = field(default=-1, metadata={"help": "CoNLL column of the tags; -1 is the last."})
    tokens_column: str = field(default="tokens", metadata={"help": "Field of the words in JSON and datasets."})
    ner_tags_column: str = field(default="ner_tags", metadata={"help": "Field of the tags in JSON and datasets."})
    labels: list[str] | None = field(
        default=None, metadata={"help": "All tags, in the order of integer tags (default: those of the training data)."}
    )
    scheme: str | None = field(
        default=None, metadata={"help": "Score entities strictly in this scheme, IOB2 or BIOES (default: conlleval)."}
    )
    max_words: int | None = field(
        default=None, metadata={"help": "Cut longer training sentences into windows. Evaluation reads them whole."}
    )
    stride: int = field(default=0, metadata={"help": "Words that a window repeats of the one before, as context."})

    def __post_init__(self) -> None:
        if self.dataset_name and (self.train_file or self.validation_file or self.test_file):
            raise ValueError("give either --dataset_name or files")
        if self.max_words is not None and not 0 <= self.stride < self.max_words:
            raise ValueError(f"--stride {self.stride}: expected 0 or more and less than --max_words {self.max_words}")

    @property
    def columns(self) -> Columns:
        return Columns(self.word_column, self.tag_column, self.tokens_column, self.ner_tags_column, self.labels)


@dataclass
class NerTrainingArguments(TrainingArguments):
    """The Trainer's arguments; their defaults evaluate and save every epoch and keep the best model by entity F1."""

    learning_rate: float = field(default=1e-3, metadata={"help": "Of the classifier and the layer mix."})
    bilm_learning_rate: float | None = field(
        default=None, metadata={"help": "Of the biLM, unless it is frozen (default: --learning_rate)."}
    )
    early_stopping_patience: int | None = field(
        default=None, metadata={"help": "Stop after this many evaluations without a better F1."}
    )
    eval_strategy: str = field(default="epoch", metadata={"help": "no, steps or epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "no, steps, epoch or best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints to keep, the best among them."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best model, not the last."})
    metric_for_best_model: str | None = field(default="f1", metadata={"help": "What the best model is best in."})
    logging_strategy: str = field(default="epoch", metadata={"help": "no, steps or epoch."})
    report_to: str | None = field(default="none", metadata={"help": "none, tensorboard, wandb, ..."})

    def __post_init__(self) -> None:
        if not self.do_train:  # there is nothing to evaluate every epoch, and no best model to come
            self.eval_strategy, self.load_best_model_at_end = "no", False
        super().__post_init__()


def parse(argv: Sequence[str]) -> tuple[ModelArguments, DataArguments, NerTrainingArguments]:
    parser = HfArgumentParser((ModelArguments, DataArguments, NerTrainingArguments))
    if len(argv) == 1 and argv[0].endswith(".json"):
        model_args, data_args, args = parser.parse_json_file(argv[0])
    else:
        model_args, data_args, args = parser.parse_args_into_dataclasses(list(argv))
    if not (args.do_train or args.do_eval or args.do_predict):
        raise ValueError("nothing to do: give --do_train, --do_eval or --do_predict")
    return model_args, data_args, args


def read_splits(
    data: DataArguments, args: TrainingArguments, known_labels: list[str] | None
) -> tuple[dict[str, list[Sentence]], list[str]]:
    """The sentences of each split that this run needs, and the labels: the checkpoint's, `--labels` or the data's."""
    labels = known_labels or data.labels
    if data.labels and not set(data.labels) <= set(labels):
        raise ValueError(
            f"--labels {' '.join(data.labels)}: the checkpoint has {' '.join(labels)}; for others give --new_classifier"
        )
    readers: dict[str, Callable[[list[str] | None], list[Sentence]]] = {}
    if data.dataset_name:
        for name, split in load_dataset(data.dataset_name, data.dataset_config_name).items():
            readers[name] = partial(read_dataset, split, f"{data.dataset_name}, {name}", data.columns)
    for name in ("train", "validation", "test"):
        path = getattr(data, f"{name}_file")
        if path is not None:
            readers[name] = partial(read_file, path, data.columns)

    needed = {"train": args.do_train, "validation": args.do_eval, "test": args.do_predict}
    for name in needed:
        if needed[name] and name not in readers:
            remedy = f"give --{name}_file"
            if args.do_train and name == "validation":
                remedy += ", or --eval_strategy no --load_best_model_at_end false to train without"
            raise CorpusError(f"no {name} data; {remedy}")
    splits = {}
    for name in needed:
        if name in readers and (needed[name] or labels is None):
            splits[name] = readers[name](labels)
            labels = labels or label_set(splits[name])
    return {name: sentences for name, sentences in splits.items() if needed[name]}, labels or []


def overrides_of(model_args: ModelArguments) -> dict[str, Any]:
    text = model_args.config_overrides or "{}"
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


def load_config(model_args: ModelArguments) -> tuple[ElmoConfig, list[str] | None]:
    """The configuration to start from, and the tags of the checkpoint's classifier, if it has one to keep."""
    overrides = overrides_of(model_args)
    if model_args.preset is not None:
        return ElmoConfig.from_preset(model_args.preset, **overrides), None
    config = AutoConfig.from_pretrained(model_args.model_name_or_path, **overrides)
    if not isinstance(config, ElmoConfig):
        raise ValueError(f"{model_args.model_name_or_path} is a {config.model_type!r} model: expected 'elmo'")
    labels = [config.id2label[index] for index in range(config.num_labels)]
    return config, labels if "O" in labels and not model_args.new_classifier else None


def load_model(
    model_args: ModelArguments, config: ElmoConfig, labels: list[str], is_tagger: bool
) -> tuple[ElmoForTokenClassification, PreTrainedTokenizerBase]:
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: index for index, label in enumerate(labels)}
    if model_args.model_name_or_path is None:
        tokenizer = ElmoTokenizer(max_characters_per_word=config.max_characters_per_word)
        config.vocab_size = len(tokenizer)
        model = ElmoForTokenClassification(config)
    else:
        tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path)
        # Trained in float32 whatever the checkpoint is stored in; `--bf16` computes in bfloat16.
        options: dict[str, Any] = {"config": config, "dtype": torch.float32}
        if is_tagger:
            model = ElmoForTokenClassification.from_pretrained(model_args.model_name_or_path, **options)
        else:
            model = ElmoForTokenClassification(config)
            model.elmo = ElmoModel.from_pretrained(model_args.model_name_or_path, **options)
    model.freeze_bilm(model_args.freeze_bilm)
    return model, tokenizer


def parameter_groups(model: ElmoForTokenClassification, args: NerTrainingArguments) -> list[dict[str, Any]]:
    """Trainable parameters by learning rate (biLM, or layer mix and head) and weight decay (matrices only)."""
    bilm = {id(p) for part in (model.elmo.embeddings, model.elmo.encoder) for p in part.parameters()}
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


def make_optimizer(model: ElmoForTokenClassification, args: NerTrainingArguments) -> torch.optim.Optimizer:
    """The optimizer that `--optim` names; the Trainer adds the schedule that `--lr_scheduler_type` names."""
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    return optimizer_class(parameter_groups(model, args), **options)


def best_labels(outputs: Any, labels: Any) -> torch.Tensor:
    """(batch, words): the likeliest label; a configuration may ask for further outputs beside the logits."""
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    return logits.argmax(dim=-1)


def tags_of(predicted: np.ndarray, gold: np.ndarray, labels: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Label ids (sentences, words) -> predicted and gold tags of the words that have a label."""
    kept = gold != IGNORED_LABEL
    predicted_tags = [[labels[i] for i in row[keep]] for row, keep in zip(predicted, kept, strict=True)]
    gold_tags = [[labels[i] for i in row[keep]] for row, keep in zip(gold, kept, strict=True)]
    return predicted_tags, gold_tags


def make_compute_metrics(labels: list[str], scheme: str | None) -> Callable[[EvalPrediction], dict[str, float]]:
    metric = Seqeval()

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        predicted, gold = tags_of(prediction.predictions, prediction.label_ids, labels)
        scores = metric.compute(predictions=predicted, references=gold, scheme=scheme)
        overall = {name: scores[f"overall_{name}"] for name in ("precision", "recall", "f1", "accuracy")}
        return overall | {f"f1_{name}": score["f1"] for name, score in scores.items() if isinstance(score, dict)}

    return compute_metrics


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


def write_predictions(path: Path, sentences: list[Sentence], predicted: list[list[str]]) -> None:
    """`word<TAB>gold<TAB>predicted` lines; the file appears only when it is complete."""
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("w", encoding="utf-8") as file:
        for (words, gold), tags in zip(sentences, predicted, strict=True):
            file.writelines("\t".join(row) + "\n" for row in zip(words, gold, tags, strict=True))
            file.write("\n")
    os.replace(unfinished, path)


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run; returns all metrics, which the output folder holds too."""
    model_args, data_args, args = parse(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(message)s", level=logging.INFO if args.should_log else logging.WARNING)
    set_seed(args.seed)
    if args.device.type == "cpu":
        args.dataloader_pin_memory = False  # torch warns every epoch otherwise
    output = Path(args.output_dir)

    config, known_labels = load_config(model_args)
    splits, labels = read_splits(data_args, args, known_labels)
    model, tokenizer = load_model(model_args, config, labels, is_tagger=known_labels is not None)
    logger.info(
        "%s parameters to train of %s; tags: %s",
        f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,}",
        f"{model.num_parameters():,}",
        " ".join(labels),
    )
    datasets = {
        name: encode(
            sentences,
            tokenizer,
            config.label2id,
            max_words=data_args.max_words if name == "train" else None,
            stride=data_args.stride,
            report=logger.warning,
        )
        for name, sentences in splits.items()
    }

    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=datasets.get("train"),
        eval_dataset=datasets.get("validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=make_compute_metrics(labels, data_args.scheme),
        preprocess_logits_for_metrics=best_labels,
        optimizers=(make_optimizer(model, args) if args.do_train else None, None),
        callbacks=[] if args.early_stopping_patience is None else [EarlyStoppingCallback(args.early_stopping_patience)],
    )

    metrics: dict[str, float] = {}
    if args.do_train:
        result = trainer.train(resume_from_checkpoint=checkpoint_to_resume(args))
        trainer.save_model()
        trainer.save_state()
        metrics |= report(trainer, "train", result.metrics, splits)
        plot_training_curve(trainer.state.log_history, output / "training_curve.png")
    if args.do_eval:
        metrics |= report(trainer, "eval", trainer.evaluate(), splits)
    if args.do_predict:
        prediction = trainer.predict(datasets["test"], metric_key_prefix="test")
        metrics |= report(trainer, "test", prediction.metrics or {}, splits)
        predicted, _ = tags_of(prediction.predictions, prediction.label_ids, labels)
        if trainer.is_world_process_zero():
            write_predictions(output / "predictions.conll", splits["test"], predicted)
    return metrics


def report(
    trainer: Trainer, name: str, metrics: dict[str, float], splits: dict[str, list[Sentence]]
) -> dict[str, float]:
    """Print metrics, add them to the output folder's `{name}_results.json` and `all_results.json`, return them."""
    metrics[f"{name}_samples"] = len(splits["validation" if name == "eval" else name])
    trainer.log_metrics(name, metrics)
    trainer.save_metrics(name, metrics)
    return metrics


if __name__ == "__main__":
    try:
        main()
    except CorpusError as error:
        sys.exit(f"error: {error}")

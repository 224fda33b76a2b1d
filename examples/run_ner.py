"""Fine-tune ELMo for named entities, or other tags of words, with the Trainer of Transformers.

    python examples/run_ner.py --model_name_or_path elmo-folder --train_file train.conll --validation_file dev.conll \\
        --test_file test.conll --output_dir tagger --do_train --do_eval --do_predict

`--help` lists all options; a single `.json` file of options works too. `--task pos` takes any tags and counts right
words. Started again with the same `--output_dir`, a run continues from its last checkpoint.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import DataCollatorForTokenClassification, EvalPrediction, PreTrainedTokenizerBase

from corpus_files import CorpusError
from elmo_hf import ElmoConfig, ElmoForTokenClassification
from elmo_hf.metrics import Seqeval
from ner_data import (
    IGNORED_LABEL,
    Columns,
    Sentence,
    encode,
    is_well_formed,
    label_set,
    read_dataset,
    read_file,
    tag_scheme,
    windows,
)
from task_training import (
    ModelArguments,
    SplitArguments,
    TaskTrainer,
    TaskTrainingArguments,
    callbacks,
    labels_of,
    load_config,
    load_model,
    load_tokenizer,
    logger,
    optimizers,
    parse,
    read_splits,
    run_stages,
    set_labels,
    start,
    write_atomically,
)


@dataclass
class TaggerArguments(ModelArguments):
    """The task model's options, and those that only a tagger has."""

    use_crf: bool = field(
        default=False,
        metadata={"help": "Score whole sequences of tags by a CRF, which forbids what the tags' scheme forbids."},
    )

    def overrides(self) -> dict[str, Any]:
        return ({"use_crf": True} if self.use_crf else {}) | super().overrides()


@dataclass
class DataArguments(SplitArguments):
    """Files have CoNLL columns (any suffix) or records (`.json`, `.jsonl`)."""

    task: Literal["ner", "pos"] = field(
        default="ner", metadata={"help": "ner: tags of entities, scored by F1. pos: any tags, scored by accuracy."}
    )
    word_column: int = field(default=0, metadata={"help": "CoNLL column of the words, from 0."})
    tag_column: int = field(default=-1, metadata={"help": "CoNLL column of the tags; -1 is the last."})
    tokens_column: str = field(default="tokens", metadata={"help": "Field of the words in JSON and datasets."})
    ner_tags_column: str = field(default="ner_tags", metadata={"help": "Field of the tags in JSON and datasets."})
    scheme: str | None = field(
        default=None, metadata={"help": "Score entities strictly in this scheme, IOB2 or BIOES (default: conlleval)."}
    )
    max_words: int | None = field(
        default=None, metadata={"help": "Cut longer training sentences into windows. Evaluation reads them whole."}
    )
    stride: int = field(default=0, metadata={"help": "Words that a window repeats of the one before, as context."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_words is not None and not 0 <= self.stride < self.max_words:
            raise ValueError(f"--stride {self.stride}: expected 0 or more and less than --max_words {self.max_words}")

    @property
    def columns(self) -> Columns:
        return Columns(
            self.word_column,
            self.tag_column,
            self.tokens_column,
            self.ner_tags_column,
            self.labels,
            any_tag=self.task == "pos",
        )


@dataclass
class NerTrainingArguments(TaskTrainingArguments):
    metric_for_best_model: str | None = field(
        default="f1", metadata={"help": "What the best model is best in; without entities that is accuracy."}
    )


def words_of(tokenizer: PreTrainedTokenizerBase, sentences: list[Sentence]) -> Iterator[str]:
    return (word for sentence in sentences for word in sentence.words)


def check_sequences(config: ElmoConfig, splits: dict[str, list[Sentence]]) -> None:
    """Refuse sentences that a CRF with a tag scheme finds impossible.

    Raises:
        CorpusError: the first of them.
    """
    if config.tag_scheme is None:
        return
    for name, sentences in splits.items():
        for words, tags in sentences:
            if not is_well_formed(tags, config.tag_scheme):
                tagged = " ".join(map("/".join, zip(words, tags, strict=True)))
                raise CorpusError(
                    f"{name} data: {tagged!r} is no sequence of {config.tag_scheme}, which the CRF expects; correct "
                    "the tags, or let it forbid nothing with --config_overrides '{\"tag_scheme\": null}'"
                )


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


def make_compute_metrics(
    labels: list[str], task: str, scheme: str | None
) -> Callable[[EvalPrediction], dict[str, float]]:
    metric = Seqeval()

    def entities(prediction: EvalPrediction) -> dict[str, float]:
        predicted, gold = tags_of(prediction.predictions, prediction.label_ids, labels)
        scores = metric.compute(predictions=predicted, references=gold, scheme=scheme)
        overall = {name: scores[f"overall_{name}"] for name in ("precision", "recall", "f1", "accuracy")}
        return overall | {f"f1_{name}": score["f1"] for name, score in scores.items() if isinstance(score, dict)}

    def words(prediction: EvalPrediction) -> dict[str, float]:
        kept = prediction.label_ids != IGNORED_LABEL
        return {"accuracy": float((prediction.predictions == prediction.label_ids)[kept].mean())}

    return entities if task == "ner" else words


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run; returns all metrics, which the output folder holds too."""
    model_args, data_args, args = parse(argv, TaggerArguments, DataArguments, NerTrainingArguments)
    start(args)
    if data_args.task != "ner" and args.metric_for_best_model == "f1":
        args.metric_for_best_model = "accuracy"

    config, keeps_head = load_config(model_args, ElmoForTokenClassification)
    columns = data_args.columns
    splits, labels = read_splits(
        data_args,
        args,
        labels_of(config) if keeps_head else None,
        lambda path, labels: read_file(path, columns, labels),
        lambda split, name, labels: read_dataset(split, name, columns, labels),
        lambda sentences: label_set(sentences, columns.any_tag),
    )
    if not keeps_head:
        set_labels(config, labels)
        if config.use_crf and data_args.task == "ner" and "tag_scheme" not in model_args.overrides():
            parts = (w for s in splits.get("train", []) for w in windows(s, data_args.max_words, data_args.stride))
            config.tag_scheme = tag_scheme((part.tags for part in parts), labels)
            logger.info("The CRF forbids what no sequence of %s has", config.tag_scheme or "tags has: nothing")
    check_sequences(config, splits)
    logger.info("Tags: %s", " ".join(labels))
    tokenizer = load_tokenizer(model_args, config, keeps_head, splits, words_of)
    model = load_model(model_args, ElmoForTokenClassification, config, tokenizer, keeps_head)

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
    trainer = TaskTrainer(
        model=model,
        args=args,
        train_dataset=datasets.get("train"),
        eval_dataset=datasets.get("validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=make_compute_metrics(labels, data_args.task, data_args.scheme),
        preprocess_logits_for_metrics=best_labels,
        optimizers=optimizers(model, args),
        callbacks=callbacks(args),
    )
    sizes = {name: len(sentences) for name, sentences in splits.items()}
    metrics, prediction = run_stages(trainer, datasets, sizes, {"f1": "entity F1"})
    if prediction is not None and trainer.is_world_process_zero():
        predicted, _ = tags_of(prediction.predictions, prediction.label_ids, labels)
        write_predictions(Path(args.output_dir) / "predictions.conll", splits["test"], predicted)
    return metrics


def write_predictions(path: Path, sentences: list[Sentence], predicted: list[list[str]]) -> None:
    """`word<TAB>gold<TAB>predicted` lines; the file appears only when it is complete."""
    lines: list[str] = []
    for (words, gold), tags in zip(sentences, predicted, strict=True):
        lines.extend("\t".join(row) + "\n" for row in zip(words, gold, tags, strict=True))
        lines.append("\n")
    write_atomically(path, lines)


if __name__ == "__main__":
    try:
        main()
    except CorpusError as error:
        sys.exit(f"error: {error}")

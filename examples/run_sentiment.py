"""Fine-tune ELMo for sentences: their sentiment, topic, several labels, or a value, with the Trainer of Transformers.

    python examples/run_sentiment.py --model_name_or_path elmo-folder --text_column 1 --label_column 0 \\
        --train_file train.tsv --validation_file dev.tsv --test_file test.tsv --output_dir classifier \\
        --do_train --do_eval --do_predict

`--help` lists all options; a single `.json` file of options works too. Started again with the same `--output_dir`, a
run continues from its last checkpoint.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerBase,
)

from corpus_files import CorpusError
from elmo_hf import ElmoForSequenceClassification
from elmo_hf.metrics import Classification
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
from text_data import Problem, Text, TextColumns, encode_texts, label_names, read_text_dataset, read_texts


@dataclass
class ClassifierArguments(ModelArguments):
    """The task model's options, and those that only a classifier of sentences has."""

    pooling: list[str] | None = field(
        default=None, metadata={"help": "How words become one vector, one or more of mean, max, min, attention."}
    )
    maxout_sizes: list[int] | None = field(
        default=None, metadata={"help": "Widths of max-out layers under the classifier (default: none)."}
    )

    def overrides(self) -> dict[str, Any]:
        fields = {"pooling": self.pooling, "maxout_sizes": self.maxout_sizes}
        return {name: value for name, value in fields.items() if value is not None} | super().overrides()


@dataclass
class DataArguments(SplitArguments):
    """Files have columns between tabs (any suffix) or commas (`.csv`), or records (`.json`, `.jsonl`)."""

    text_column: str = field(
        default="sentence",
        metadata={"help": "Its name in the header line or record, or its number, from 0, in a file without header."},
    )
    label_column: str = field(default="label", metadata={"help": "Likewise."})
    text_pair_column: str | None = field(
        default=None, metadata={"help": "Likewise, of the second sentence where pairs of sentences are classified."}
    )
    problem_type: Problem = field(
        default="single_label_classification", metadata={"help": "One label, any number of labels, or a value."}
    )
    label_separator: str = field(default=",", metadata={"help": "Between several labels in one column of a file."})
    max_words: int | None = field(default=None, metadata={"help": "Read only so many words of a text (default: all)."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_words is not None and self.max_words < 1:
            raise ValueError(f"--max_words {self.max_words}: expected 1 or more")

    @property
    def columns(self) -> TextColumns:
        return TextColumns(
            self.text_column,
            self.label_column,
            self.text_pair_column,
            self.problem_type,
            self.label_separator,
            self.labels,
        )


@dataclass
class ClassifierTrainingArguments(TaskTrainingArguments):
    metric_for_best_model: str | None = field(
        default=None,
        metadata={"help": "What the best model is best in (default: accuracy; of several labels, f1; of values, mse)."},
    )
    greater_is_better: bool | None = field(default=None, metadata={"help": "Whether more of it is better."})

    def __post_init__(self) -> None:
        self.metric_is_chosen = self.metric_for_best_model is not None
        super().__post_init__()


BEST_METRIC = {
    "single_label_classification": ("accuracy", True),
    "multi_label_classification": ("f1", True),
    "regression": ("mse", False),
}


def words_of(tokenizer: PreTrainedTokenizerBase, texts: list[Text]) -> Iterator[str]:
    for text in texts:
        for part in (text.text, text.pair):
            yield from (word for word, _ in tokenizer.words(part or ""))


def decisions(logits: np.ndarray, problem: Problem) -> np.ndarray:
    """Logits (texts, labels) -> label numbers (texts,), 0 or 1 for each label (texts, labels), or values (texts,)."""
    if problem == "single_label_classification":
        return logits.argmax(-1)
    return logits[:, 0] if problem == "regression" else (logits > 0).astype(np.int64)


def make_compute_metrics(problem: Problem) -> Callable[[EvalPrediction], dict[str, float]]:
    metric = Classification("multilabel") if problem == "multi_label_classification" else Classification()

    def labels(prediction: EvalPrediction) -> dict[str, float]:
        average = "macro" if problem == "single_label_classification" else "micro"
        predicted = decisions(prediction.predictions, problem)
        return metric.compute(predictions=predicted, references=prediction.label_ids, average=average)

    def values(prediction: EvalPrediction) -> dict[str, float]:
        predicted, gold = decisions(prediction.predictions, problem), prediction.label_ids
        error = predicted - gold
        constant = predicted.std() == 0 or gold.std() == 0
        correlation = 0.0 if constant else float(np.corrcoef(predicted, gold)[0, 1])
        return {"mse": float((error**2).mean()), "mae": float(np.abs(error).mean()), "pearson": correlation}

    return values if problem == "regression" else labels


def only_logits(outputs: Any, labels: Any) -> Any:
    """A configuration may ask for further outputs beside the logits."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run; returns all metrics, which the output folder holds too."""
    model_args, data_args, args = parse(argv, ClassifierArguments, DataArguments, ClassifierTrainingArguments)
    start(args)
    problem = data_args.problem_type
    if not args.metric_is_chosen:
        args.metric_for_best_model, args.greater_is_better = BEST_METRIC[problem]

    pairs = {"sentence_pairs": True} if data_args.text_pair_column is not None else {}
    config, keeps_head = load_config(model_args, ElmoForSequenceClassification, **pairs)
    if keeps_head and config.problem_type not in (None, problem):
        raise ValueError(
            f"--problem_type {problem}: the checkpoint is for {config.problem_type}; for another give --new_classifier"
        )
    columns = data_args.columns
    splits, labels = read_splits(
        data_args,
        args,
        labels_of(config) if keeps_head else None,
        lambda path, labels: read_texts(path, columns, labels),
        lambda split, name, labels: read_text_dataset(split, name, columns, labels),
        lambda texts: label_names(texts, problem),
    )
    if not keeps_head:
        set_labels(config, labels)
    config.problem_type = problem
    logger.info("%s, labels: %s", problem, " ".join(labels))
    tokenizer = load_tokenizer(model_args, config, keeps_head, splits, words_of)
    model = load_model(model_args, ElmoForSequenceClassification, config, tokenizer, keeps_head)

    datasets = {
        name: encode_texts(texts, tokenizer, config.label2id, problem, data_args.max_words, logger.warning)
        for name, texts in splits.items()
    }
    trainer = TaskTrainer(
        model=model,
        args=args,
        train_dataset=datasets.get("train"),
        eval_dataset=datasets.get("validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=make_compute_metrics(problem),
        preprocess_logits_for_metrics=only_logits,
        optimizers=optimizers(model, args),
        callbacks=callbacks(args),
    )
    metrics, prediction = run_stages(trainer, datasets)
    if prediction is not None and trainer.is_world_process_zero():
        predicted = decisions(prediction.predictions, problem)
        write_predictions(Path(args.output_dir) / "predictions.jsonl", splits["test"], predicted, labels, problem)
    return metrics


def write_predictions(
    path: Path, texts: list[Text], predicted: np.ndarray, labels: list[str], problem: Problem
) -> None:
    """One JSON object a text: the text, its label (labels, value), and the predicted one; complete or not at all."""

    def readable(decision: Any) -> Any:
        if problem == "regression":
            return float(decision)
        if problem == "single_label_classification":
            return labels[decision]
        return [label for label, chosen in zip(labels, decision, strict=True) if chosen]

    def record(text: Text, decision: Any) -> dict[str, Any]:
        pair = {} if text.pair is None else {"pair": text.pair}
        return {"text": text.text, **pair, "label": text.label, "predicted": readable(decision)}

    rows = zip(texts, predicted, strict=True)
    write_atomically(path, (json.dumps(record(*row), ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    try:
        main()
    except CorpusError as error:
        sys.exit(f"error: {error}")

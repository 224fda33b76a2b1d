"""Fine-tune ELMo for sentence classification (one or several labels) or regression, with Transformers' Trainer.

    python examples/run_sentiment.py --model_name_or_path elmo-folder --text_column 1 --label_column 0 \\
        --train_file train.tsv --validation_file dev.tsv --test_file test.tsv --output_dir classifier \\
        --do_train --do_eval --do_predict

`--help` lists all options; a single `.json` file of options works too. Started again with the same `--output_dir`, a
run continues from its last checkpoint.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import DataCollatorWithPadding, EvalPrediction

from elmo_hf import ElmoForSequenceClassification
from elmo_hf.finetuning import (
    ClassifierArguments,
    TaskTrainer,
    TaskTrainingArguments,
    Text,
    TextArguments,
    labels_of,
    load_config,
    load_model,
    load_tokenizer,
    parse,
    run,
    run_record,
    run_stages,
    set_labels,
    warn_of_one_class,
    words_of_texts,
    write_lines,
)
from elmo_hf.metrics import Classification

# Metric that chooses the best model, and whether greater is better.
BEST_METRIC = {
    "single_label_classification": ("accuracy", True),
    "multi_label_classification": ("f1", True),
    "regression": ("mse", False),
}


def only_logits(outputs: Any, labels: Any) -> Any:
    """The logits. Some configurations return further outputs after them."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def decisions(logits: np.ndarray, problem: str) -> np.ndarray:
    """Convert logits to label numbers (texts,), 0 or 1 for each label (texts, labels), or values (texts,)."""
    if problem == "single_label_classification":
        return logits.argmax(-1)
    return logits[:, 0] if problem == "regression" else (logits > 0).astype(np.int64)


def scorer(problem: str, labels: list[str]) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the scoring function: accuracy and F1 of labels, or errors and correlation of values."""
    metric = Classification("multilabel") if problem == "multi_label_classification" else Classification()

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        predicted, gold = decisions(prediction.predictions, problem), prediction.label_ids
        if problem == "regression":
            error = predicted - gold
            is_constant = predicted.std() == 0 or gold.std() == 0
            correlation = 0.0 if is_constant else float(np.corrcoef(predicted, gold)[0, 1])
            return {"mse": float((error**2).mean()), "mae": float(np.abs(error).mean()), "pearson": correlation}
        if problem == "single_label_classification":
            warn_of_one_class(predicted.tolist(), gold.tolist(), labels.__getitem__)
            return metric.compute(predictions=predicted, references=gold, average="macro")
        rows = ([tuple(np.flatnonzero(row)) for row in each] for each in (predicted, gold))
        warn_of_one_class(*rows, lambda chosen: " ".join(labels[i] for i in chosen) or "no label")
        return metric.compute(predictions=predicted, references=gold, average="micro")

    return compute_metrics


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run fine-tuning and return all metrics, which are also in the output folder."""
    # Parse.
    model_args, data_args, args = parse(argv, ClassifierArguments, TextArguments, TaskTrainingArguments)
    problem = data_args.problem_type
    args.choose_by(*BEST_METRIC[problem])

    # Data.
    pairs = {"sentence_pairs": True} if data_args.text_pair_column is not None else {}
    config, keeps_head = load_config(model_args, ElmoForSequenceClassification, **pairs)
    if keeps_head and config.problem_type not in (None, problem):
        raise ValueError(
            f"--problem_type {problem}: the checkpoint is for {config.problem_type}; for another give --new_classifier"
        )
    splits, labels = data_args.read(args, labels_of(config) if keeps_head else None)

    # Model.
    if not keeps_head:
        set_labels(config, labels)
    config.problem_type = problem
    tokenizer = load_tokenizer(model_args, config, keeps_head, splits, words_of_texts)
    model = load_model(model_args, ElmoForSequenceClassification, config, tokenizer, keeps_head)

    # Train, evaluate, save.
    trainer = TaskTrainer(
        model,
        args,
        data_args.encode(splits, tokenizer, labels),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=scorer(problem, labels),
        preprocess_logits_for_metrics=only_logits,
    )
    record = run_record(model, splits, labels, (model_args, data_args, args))
    metrics, prediction = run_stages(trainer, record)
    if prediction is not None:
        predicted = decisions(prediction.predictions, problem)
        write_lines(Path(args.output_dir) / "predictions.jsonl", records(splits["test"], predicted, labels, problem))
    return metrics


def records(texts: list[Text], predicted: np.ndarray, labels: list[str], problem: str) -> Iterator[str]:
    """Yield one JSON object per text: the text, its label (labels, value), and the predicted one."""
    for text, decision in zip(texts, predicted, strict=True):
        if problem == "regression":
            found: Any = float(decision)
        elif problem == "single_label_classification":
            found = labels[decision]
        else:
            found = [label for label, chosen in zip(labels, decision, strict=True) if chosen]
        pair = {} if text.pair is None else {"pair": text.pair}
        row = {"text": text.text, **pair, "label": text.label, "predicted": found}
        yield json.dumps(row, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    run(main)

"""Fine-tune ELMo for named entity recognition or other tagging, with Transformers' Trainer.

    python examples/run_ner.py --model_name_or_path elmo-folder --train_file train.conll --validation_file dev.conll \\
        --test_file test.conll --output_dir tagger --do_train --do_eval --do_predict

`--help` lists all options; a single `.json` file of options works too. `--task pos` accepts any tags and measures
accuracy. Started again with the same `--output_dir`, a run continues from its last checkpoint.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import DataCollatorForTokenClassification, EvalPrediction

from elmo_hf import ElmoForTokenClassification
from elmo_hf.finetuning import (
    IGNORED_LABEL,
    Sentence,
    TagArguments,
    TaggerArguments,
    TaskTrainer,
    TaskTrainingArguments,
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
    words_of_tagged,
    write_lines,
)
from elmo_hf.metrics import Seqeval


def best_labels(outputs: Any, labels: Any) -> Any:
    """The most probable labels (batch, words). Some configurations return further outputs after the logits."""
    return (outputs[0] if isinstance(outputs, tuple) else outputs).argmax(dim=-1)


def tags_of(predicted: np.ndarray, gold: np.ndarray, labels: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Convert label ids (sentences, words) to predicted and gold tags of the labeled words."""
    kept = gold != IGNORED_LABEL
    return tuple([[labels[i] for i in row[k]] for row, k in zip(ids, kept, strict=True)] for ids in (predicted, gold))


def scorer(labels: list[str], data: TagArguments) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the scoring function: entity scores by conlleval or in a strict scheme, or accuracy for other tags."""
    metric = Seqeval()

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        predicted, gold = tags_of(prediction.predictions, prediction.label_ids, labels)
        flat = [[tag for sentence in tags for tag in sentence] for tags in (predicted, gold)]
        warn_of_one_class(*flat)
        if data.task == "pos":
            return {"accuracy": float(np.mean([one == other for one, other in zip(*flat, strict=True)]))}
        scores = metric.compute(predictions=predicted, references=gold, scheme=data.scheme)
        overall = {name: scores[f"overall_{name}"] for name in ("precision", "recall", "f1", "accuracy")}
        return overall | {f"f1_{name}": score["f1"] for name, score in scores.items() if isinstance(score, dict)}

    return compute_metrics


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run fine-tuning and return all metrics, which are also in the output folder."""
    # Parse.
    model_args, data_args, args = parse(argv, TaggerArguments, TagArguments, TaskTrainingArguments)
    args.choose_by("f1" if data_args.task == "ner" else "accuracy")

    # Data.
    config, keeps_head = load_config(model_args, ElmoForTokenClassification)
    splits, labels = data_args.read(args, labels_of(config) if keeps_head else None)

    # Model.
    if not keeps_head:
        set_labels(config, labels)
        if "tag_scheme" not in model_args.overrides():
            config.tag_scheme = data_args.scheme_of(splits.get("train", []), labels)
    data_args.check_sequences(config, splits)
    tokenizer = load_tokenizer(model_args, config, keeps_head, splits, words_of_tagged)
    model = load_model(model_args, ElmoForTokenClassification, config, tokenizer, keeps_head)

    # Train, evaluate, save.
    trainer = TaskTrainer(
        model,
        args,
        data_args.encode(splits, tokenizer, labels),
        sizes={name: len(sentences) for name, sentences in splits.items()},
        processing_class=tokenizer,
        data_collator=DataCollatorForTokenClassification(tokenizer),
        compute_metrics=scorer(labels, data_args),
        preprocess_logits_for_metrics=best_labels,
    )
    record = run_record(model, splits, labels, (model_args, data_args, args))
    metrics, prediction = run_stages(trainer, record, {"f1": "entity F1"})
    if prediction is not None:
        predicted, _ = tags_of(prediction.predictions, prediction.label_ids, labels)
        write_predictions(Path(args.output_dir) / "predictions.conll", splits["test"], predicted)
    return metrics


def write_predictions(path: Path, sentences: list[Sentence], predicted: list[list[str]]) -> None:
    """Write lines `word<TAB>gold<TAB>predicted`, with a blank line after each sentence."""
    rows = zip(sentences, predicted, strict=True)
    blocks = ("".join("\t".join(row) + "\n" for row in zip(*sentence, tags, strict=True)) for sentence, tags in rows)
    write_lines(path, (block + "\n" for block in blocks))


if __name__ == "__main__":
    run(main)

"""Fine-tune ELMo for question answering, as in SQuAD, with Transformers' Trainer.

    python examples/run_question_answering.py --model_name_or_path elmo-folder --task_lstm_size 128 --freeze_bilm \\
        --train_file train-v1.1.json --validation_file dev-v1.1.json --test_file dev-v1.1.json \\
        --output_dir answerer --do_train --do_eval --do_predict

`--help` lists all options; a single `.json` file of options works too. Started again with the same `--output_dir`, a
run continues from its last checkpoint.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import DataCollatorWithPadding, EvalPrediction

from elmo_hf import Answer, ElmoForQuestionAnswering, answers_from_spans
from elmo_hf.finetuning import (
    ModelArguments,
    Question,
    QuestionArguments,
    TaskTrainer,
    TaskTrainingArguments,
    load_config,
    load_model,
    load_tokenizer,
    parse,
    run,
    run_record,
    run_stages,
    words_of_questions,
    write_lines,
)
from elmo_hf.metrics import AnswerSpans


def spans_only(outputs: Any, labels: Any) -> Any:
    """The start and end logits. Some configurations return further outputs after them."""
    return outputs[:2]


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run fine-tuning and return all metrics, which are also in the output folder."""
    # Parse.
    model_args, data_args, args = parse(argv, ModelArguments, QuestionArguments, TaskTrainingArguments)
    args.choose_by("f1")

    # Data.
    splits, _ = data_args.read(args)
    data_args.check_answers(splits)

    # Model.
    config, keeps_head = load_config(model_args, ElmoForQuestionAnswering)
    tokenizer = load_tokenizer(model_args, config, keeps_head, splits, words_of_questions)
    model = load_model(model_args, ElmoForQuestionAnswering, config, tokenizer, keeps_head)

    # Train, evaluate, save.
    datasets = data_args.encode(splits, tokenizer)
    null_threshold = data_args.threshold_of(splits)

    def answers_of(dataset: Dataset, logits: Any, n_best: int) -> tuple[list[Question], dict[str, list[Answer]]]:
        """The questions of a dataset, and the best answers to each."""
        questions = next(splits[name] for name in splits if datasets[name] is dataset)
        options = {"max_answer_words": data_args.max_answer_words, "null_threshold": null_threshold}
        return questions, answers_from_spans(questions, dataset, *logits, n_best=n_best, **options)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        """Exact match and F1 of the best answers, also separately for questions with and without an answer."""
        questions, answers = answers_of(trainer.evaluated, prediction.predictions, 1)
        return AnswerSpans().compute(
            predictions=[answers[question["id"]][0].text for question in questions],
            references=[question["answers"]["text"] for question in questions],
        )

    trainer = TaskTrainer(
        model,
        args,
        datasets,
        sizes={name: len(questions) for name, questions in splits.items()},
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=spans_only,
    )
    record = run_record(model, splits, [], (model_args, data_args, args))
    metrics, prediction = run_stages(trainer, record, {"f1": "answer F1"})
    if prediction is not None:
        _, answers = answers_of(datasets["test"], prediction.predictions, data_args.n_best)
        write_predictions(Path(args.output_dir), answers)
    return metrics


def write_predictions(folder: Path, answers: dict[str, list[Answer]]) -> None:
    """Write `predictions.json`, {id: text}, for SQuAD's scripts; and `nbest_predictions.json` with scores."""
    best = {name: candidates[0].text for name, candidates in answers.items()}
    nbest = {name: [answer._asdict() for answer in candidates] for name, candidates in answers.items()}
    for name, content in (("predictions", best), ("nbest_predictions", nbest)):
        write_lines(folder / f"{name}.json", [json.dumps(content, ensure_ascii=False, indent=1) + "\n"])


if __name__ == "__main__":
    run(main)

"""Fine-tune ELMo to answer questions about texts, as in SQuAD, with the Trainer of Transformers.

    python examples/run_question_answering.py --model_name_or_path elmo-folder --task_lstm_size 128 --freeze_bilm \\
        --train_file train-v1.1.json --validation_file dev-v1.1.json --test_file dev-v1.1.json \\
        --output_dir answerer --do_train --do_eval --do_predict

`--help` lists all options; a single `.json` file of options works too. Started again with the same `--output_dir`, a
run continues from its last checkpoint.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, EvalPrediction

from corpus_files import CorpusError
from elmo_hf import Answer, ElmoForQuestionAnswering, answers_from_spans
from elmo_hf.metrics import AnswerSpans
from squad_data import Question, QuestionColumns, encode_questions, read_question_dataset, read_questions, words_of
from task_training import (
    ModelArguments,
    SourceArguments,
    TaskTrainer,
    TaskTrainingArguments,
    callbacks,
    load_config,
    load_model,
    load_tokenizer,
    logger,
    needed_splits,
    optimizers,
    parse,
    run_stages,
    split_readers,
    start,
    write_atomically,
)


@dataclass
class DataArguments(SourceArguments):
    """Files are SQuAD's JSON, or flat records (`.json`, `.jsonl`)."""

    train_file: str | None = field(default=None, metadata={"help": "SQuAD's .json, or .json or .jsonl of records."})
    test_file: str | None = field(
        default=None, metadata={"help": "The same, for predictions and, if it has answers, the final score."}
    )
    id_column: str = field(default="id", metadata={"help": "Field of a question's id in records and datasets."})
    question_column: str = field(default="question", metadata={"help": "Field of the question in them."})
    context_column: str = field(default="context", metadata={"help": "Field of the text that it is about."})
    answers_column: str = field(default="answers", metadata={"help": "Field of the answers, texts and starts."})
    max_length: int = field(
        default=384, metadata={"help": "Words of a window over question and context; longer contexts give several."}
    )
    stride: int = field(default=128, metadata={"help": "Context words that a window repeats of the one before."})
    max_answer_words: int = field(default=30, metadata={"help": "Longest answer to give."})
    n_best: int = field(default=5, metadata={"help": "Answers to write for each question of the test data."})
    null_threshold: float | None = field(
        default=None,
        metadata={
            "help": "How much better than the best answer none at all must be to be given (default: 0 if the data "
            "holds questions without an answer, else there is always one)."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.stride < self.max_length:
            raise ValueError(f"--stride {self.stride}: expected 0 or more and less than --max_length {self.max_length}")

    @property
    def columns(self) -> QuestionColumns:
        return QuestionColumns(self.id_column, self.question_column, self.context_column, self.answers_column)


@dataclass
class AnswerTrainingArguments(TaskTrainingArguments):
    metric_for_best_model: str | None = field(default="f1", metadata={"help": "What the best model is best in."})


def read_splits(data: DataArguments, args: AnswerTrainingArguments) -> dict[str, list[Question]]:
    """The questions of each split (train, validation, test) that the run reads."""
    readers = split_readers(data, read_questions, read_question_dataset)
    splits = {name: readers[name](data.columns) for name in needed_splits(args, readers)}
    for name, questions in splits.items():
        if name != "test" and "answers" not in questions[0]:
            raise CorpusError(
                f"{name} data: no field {data.answers_column!r}; choose another with --answers_column, or give "
                "questions without answers as --test_file only"
            )
    return splits


class AnswerTrainer(TaskTrainer):
    """A trainer that remembers what it evaluates: answers are parts of texts, and logits do not hold those.

    Attributes:
        evaluated: the data whose logits `compute_metrics` gets.
    """

    evaluated: Dataset

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        self.evaluated = self.eval_dataset if eval_dataset is None else eval_dataset
        return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        self.evaluated = test_dataset
        return super().get_test_dataloader(test_dataset)


def spans_only(outputs: Any, labels: Any) -> Any:
    """Start and end logits; a configuration may ask for further outputs beside them."""
    return outputs[:2]


def score(questions: Sequence[Question], answers: Mapping[str, list[Answer]]) -> dict[str, float]:
    """Exact match and F1 of the best answers, of questions with and without an answer apart if there are both."""
    return AnswerSpans().compute(
        predictions=[answers[question["id"]][0].text for question in questions],
        references=[question["answers"]["text"] for question in questions],
    )


def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Run; returns all metrics, which the output folder holds too."""
    model_args, data_args, args = parse(argv, ModelArguments, DataArguments, AnswerTrainingArguments)
    start(args)

    splits = read_splits(data_args, args)
    config, keeps_head = load_config(model_args, ElmoForQuestionAnswering)
    tokenizer = load_tokenizer(model_args, config, keeps_head, splits, words_of)
    model = load_model(model_args, ElmoForQuestionAnswering, config, tokenizer, keeps_head)

    datasets = {
        name: encode_questions(questions, tokenizer, data_args.max_length, data_args.stride, f"{name} data")
        for name, questions in splits.items()
    }
    for name, questions in splits.items():
        logger.info("%s: %d questions, %d windows", name, len(questions), len(datasets[name]))
    threshold = data_args.null_threshold
    if threshold is None and any(not q.get("answers", {"text": [""]})["text"] for s in splits.values() for q in s):
        threshold = 0.0

    def answers_of(dataset: Dataset, logits: Any, n_best: int = 1) -> tuple[list[Question], dict[str, list[Answer]]]:
        questions = next(splits[name] for name in splits if datasets[name] is dataset)
        options = {"max_answer_words": data_args.max_answer_words, "null_threshold": threshold}
        return questions, answers_from_spans(questions, dataset, *logits, n_best=n_best, **options)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        return score(*answers_of(trainer.evaluated, prediction.predictions))

    trainer = AnswerTrainer(
        model=model,
        args=args,
        train_dataset=datasets.get("train"),
        eval_dataset=datasets.get("validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=spans_only,
        optimizers=optimizers(model, args),
        callbacks=callbacks(args),
    )
    sizes = {name: len(questions) for name, questions in splits.items()}
    metrics, prediction = run_stages(trainer, datasets, sizes, {"f1": "answer F1"})
    if prediction is not None and trainer.is_world_process_zero():
        _, answers = answers_of(datasets["test"], prediction.predictions, data_args.n_best)
        write_predictions(Path(args.output_dir), answers)
    return metrics


def write_predictions(folder: Path, answers: Mapping[str, list[Answer]]) -> None:
    """`predictions.json`, {id: text}, which SQuAD's scripts read; `nbest_predictions.json` with scores and places."""
    best = {name: candidates[0].text for name, candidates in answers.items()}
    nbest = {name: [answer._asdict() for answer in candidates] for name, candidates in answers.items()}
    for name, content in (("predictions", best), ("nbest_predictions", nbest)):
        write_atomically(folder / f"{name}.json", [json.dumps(content, ensure_ascii=False, indent=1) + "\n"])


if __name__ == "__main__":
    try:
        main()
    except CorpusError as error:
        sys.exit(f"error: {error}")

"""Data for question answering: SQuAD's JSON, flat records, or a `datasets` name, read as records and encoded.

A record is a dictionary of `id`, `question`, `context` and, if known, `answers`: the lists `text` and `answer_start`,
both empty for a question without an answer.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from elmo_hf.fields import option
from elmo_hf.inference.answers import question_answering_features

from .files import CorpusError, named, read_json, read_lines, read_records, suffix_of
from .splits import SourceArguments

logger = logging.getLogger(__name__)

Question = dict[str, Any]


@dataclass(frozen=True)
class QuestionColumns:
    """Names of the fields of flat records; not used for SQuAD's JSON."""

    id: str = "id"
    question: str = "question"
    context: str = "context"
    answers: str = "answers"


def read_questions(path: str | Path, columns: QuestionColumns) -> list[Question]:
    """Read SQuAD's JSON, versions 1.1 and 2.0 (`.json`), or flat records (`.json`: a list, `.jsonl`: one per line).

    Args:
        path: the file, UTF-8.
        columns: fields of flat records. Records without an id are numbered. Answers may be two lists or, as in SQuAD's
            JSON, a list of objects with `text` and `answer_start`.

    Raises:
        CorpusError: the file is missing, empty, not UTF-8 or not in this format, or has a repeated id.
    """
    rows: Iterable[tuple[str, Mapping[str, Any]]]
    if suffix_of(path) == ".json" and _is_squad(path):
        rows, columns = _squad_rows(path), QuestionColumns()
    else:
        rows = read_records(path)
    return _questions(rows, columns, str(path))


def read_question_dataset(dataset: Dataset, name: str, columns: QuestionColumns) -> list[Question]:
    """Read one split of a dataset, called `name` in errors; otherwise as [`read_questions`]."""
    rows = ((f"{name}: record {number}", row) for number, row in enumerate(dataset))
    return _questions(rows, columns, name)


def _is_squad(path: str | Path) -> bool:
    """True for a JSON file that begins with an object; a list holds flat records."""
    return next((line.lstrip()[0] for _, line in read_lines(path) if line.strip()), "") == "{"


def _squad_rows(path: str | Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (location, flat record) for every question in {"data": [{"paragraphs": [{"context", "qas": [...]}]}]}."""
    for number, article in enumerate(_list_of(read_json(path), "data", str(path))):
        place = f"{path}: article {number}"
        for index, paragraph in enumerate(_list_of(article, "paragraphs", place)):
            for question in _list_of(paragraph, "qas", f"{place}, paragraph {index}"):
                where = f"{place}, paragraph {index}, question {question.get('id')!r}"
                yield where, {"context": paragraph.get("context"), **question}


def _list_of(parent: Any, name: str, place: str) -> list[dict[str, Any]]:
    children = parent.get(name) if isinstance(parent, dict) else None
    if not isinstance(children, list) or not all(isinstance(child, dict) for child in children):
        raise CorpusError(f"{place}: no list {name!r} of objects; expected SQuAD's JSON, or a list of records")
    return children


def _questions(rows: Iterable[tuple[str, Mapping[str, Any]]], columns: QuestionColumns, name: str) -> list[Question]:
    questions = [_question_of_row(row, columns, place, number) for number, (place, row) in enumerate(rows)]
    if not questions:
        raise CorpusError(f"{name}: holds no question")
    seen: set[str] = set()
    for question in questions:
        if question["id"] in seen:
            raise CorpusError(f"{name}: two questions have the id {question['id']!r}; expected each once")
        seen.add(question["id"])
    labeled = sum("answers" in question for question in questions)
    if 0 < labeled < len(questions):
        without = next(question["id"] for question in questions if "answers" not in question)
        raise CorpusError(
            f"{name}: question {without!r} has no field {columns.answers!r} and {labeled} others have; give all, with "
            "empty lists for no answer, or none"
        )
    return questions


def _question_of_row(row: Mapping[str, Any], columns: QuestionColumns, place: str, number: int) -> Question:
    given = row.get(columns.id)
    found: Question = {"id": str(number if given is None else given)}
    for name in ("question", "context"):
        column = getattr(columns, name)
        if not isinstance(row.get(column), str):
            raise CorpusError(
                f"{place}: no text {column!r} among {named(row)}; choose another field with --{name}_column"
            )
        found[name] = row[column]
    if row.get(columns.answers) is not None:
        found["answers"] = _answers(row[columns.answers], columns.answers, place)
    return found


def _answers(answers: Any, column: str, place: str) -> dict[str, list[Any]]:
    if isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        answers = {name: [answer.get(name) for answer in answers] for name in ("text", "answer_start")}
    if not isinstance(answers, dict) or not all(isinstance(answers.get(key), list) for key in ("text", "answer_start")):
        raise CorpusError(
            f"{place}: {column!r} is {answers!r}; expected the lists 'text' and 'answer_start', or a list of objects "
            "with both; choose another field with --answers_column"
        )
    return {name: answers[name] for name in ("text", "answer_start")}


def words_of_questions(tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> Iterator[str]:
    """Yield the words of all questions, and of every distinct context once."""
    for text in [question["question"] for question in questions] + list(dict.fromkeys(q["context"] for q in questions)):
        yield from (word for word, _ in tokenizer.words(text))


def encode_questions(
    questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int, name: str
) -> Dataset:
    """Encode questions as model inputs, one row per window of a context, by `question_answering_features`.

    Raises:
        CorpusError: a text or an answer that cannot be used; `name` names the data in the message.
    """
    dataset = Dataset.from_list(list(questions))
    rule = partial(question_answering_features, tokenizer=tokenizer, max_length=max_length, stride=stride)
    try:
        return dataset.map(rule, batched=True, remove_columns=dataset.column_names, desc="Tokenizing")
    except ValueError as error:
        raise CorpusError(f"{name}: {error}") from error


@dataclass
class QuestionArguments(SourceArguments):
    """Options for data in SQuAD's JSON or flat records (`.json`, `.jsonl`)."""

    train_file: str | None = option(None, "SQuAD's .json, or .json or .jsonl of records.")
    test_file: str | None = option(None, "The same, for predictions and, if it has answers, the final score.")
    id_column: str = option("id", "Field of a question's id in records and datasets.")
    question_column: str = option("question", "Field of the question.")
    context_column: str = option("context", "Field of the text that contains the answer.")
    answers_column: str = option("answers", "Field of the answers, texts and starts.")
    max_length: int = option(384, "Words per window of question and context; longer contexts give several.")
    stride: int = option(128, "Context words shared by consecutive windows.")
    max_answer_words: int = option(30, "Maximum length of an answer.")
    n_best: int = option(5, "Answers to write per question of the test data.")
    null_threshold: float | None = option(
        None,
        'Margin by which "no answer" must exceed the best answer (default: 0 if the data has questions '
        "without an answer, else there always is an answer).",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.stride < self.max_length:
            raise ValueError(f"--stride {self.stride}: expected 0 or more and less than --max_length {self.max_length}")

    @property
    def columns(self) -> QuestionColumns:
        return QuestionColumns(self.id_column, self.question_column, self.context_column, self.answers_column)

    def read_file(self, path: str, labels: Sequence[str] | None) -> list[Question]:
        return read_questions(path, self.columns)

    def read_dataset(self, split: Dataset, name: str, labels: Sequence[str] | None) -> list[Question]:
        return read_question_dataset(split, name, self.columns)

    def check_answers(self, splits: Mapping[str, Sequence[Question]]) -> None:
        """Check that the training and validation questions have answers.

        Raises:
            CorpusError: they do not; the message names the data.
        """
        for name, questions in splits.items():
            if name != "test" and "answers" not in questions[0]:
                raise CorpusError(
                    f"{name} data: no field {self.answers_column!r}; choose another with --answers_column, or give "
                    "questions without answers as --test_file only"
                )

    def threshold_of(self, splits: Mapping[str, Sequence[Question]]) -> float | None:
        """`--null_threshold`, by default 0 if some question has no answer."""
        if self.null_threshold is None and any(
            not q.get("answers", {"text": [""]})["text"] for questions in splits.values() for q in questions
        ):
            return 0.0
        return self.null_threshold

    def encode(
        self, splits: Mapping[str, Sequence[Question]], tokenizer: PreTrainedTokenizerBase
    ) -> dict[str, Dataset]:
        """Encode each split as model inputs."""
        found = {}
        for name, questions in splits.items():
            found[name] = encode_questions(questions, tokenizer, self.max_length, self.stride, f"{name} data")
            logger.info("%s: %d questions, %d windows", name, len(questions), len(found[name]))
        return found

"""Questions about texts: SQuAD's JSON, flat records, or a `datasets` name -> records -> model inputs.

A record is a dictionary of `id`, `question`, `context` and, where they are known, `answers`: the lists `text` and
`answer_start`, both empty for a question without an answer.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from corpus_files import CorpusError, read_lines, read_records
from elmo_hf import question_answering_features

Question = dict[str, Any]


@dataclass(frozen=True)
class QuestionColumns:
    """Names of the fields of flat records; SQuAD's JSON has names of its own."""

    id: str = "id"
    question: str = "question"
    context: str = "context"
    answers: str = "answers"


def read_questions(path: str | Path, columns: QuestionColumns) -> list[Question]:
    """Read SQuAD's JSON, versions 1.1 and 2.0 (`.json`), or flat records (`.json`: a list, `.jsonl`: one a line).

    Args:
        path: the file, UTF-8.
        columns: the fields of flat records. Those without an id are numbered; answers may be two lists or, as in
            SQuAD's JSON, a list of objects with `text` and `answer_start`.

    Raises:
        CorpusError: the file is missing, empty, not UTF-8 or not in this form, or holds an id twice.
    """
    path = Path(path)
    rows: Iterable[tuple[str, Mapping[str, Any]]]
    if path.suffix == ".json" and _is_squad(path):
        rows, columns = _squad_rows(path), QuestionColumns()
    else:
        rows = read_records(path)
    return _questions(rows, columns, str(path))


def read_question_dataset(dataset: Dataset, name: str, columns: QuestionColumns) -> list[Question]:
    """Read one split of a dataset; `name` stands for it in errors. Otherwise as [`read_questions`]."""
    rows = ((f"{name}: record {number}", row) for number, row in enumerate(dataset))
    return _questions(rows, columns, name)


def _is_squad(path: Path) -> bool:
    """Whether a JSON file begins as an object; a list holds flat records."""
    return next((line.lstrip()[0] for _, line in read_lines(path) if line.strip()), "") == "{"


def _squad_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, flat record) of every question of {"data": [{"paragraphs": [{"context", "qas": [...]}]}]}."""
    try:
        parsed = json.loads("\n".join(line for _, line in read_lines(path)))
    except json.JSONDecodeError as error:
        raise CorpusError(f"{path}: not JSON ({error}); expected SQuAD's, or a list of records") from error
    for number, article in enumerate(_list_of(parsed, "data", str(path))):
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
    labelled = sum("answers" in question for question in questions)
    if 0 < labelled < len(questions):
        without = next(question["id"] for question in questions if "answers" not in question)
        raise CorpusError(
            f"{name}: question {without!r} has no field {columns.answers!r} and {labelled} others have; give all, with "
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
                f"{place}: no text {column!r} among {', '.join(map(repr, row)) or 'no fields'}; choose another field "
                f"with --{name}_column"
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


def words_of(tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]) -> Iterator[str]:
    """The words of all questions and, once each, of all contexts."""
    for text in [question["question"] for question in questions] + list(dict.fromkeys(q["context"] for q in questions)):
        yield from (word for word, _ in tokenizer.words(text))


def encode_questions(
    questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int, name: str
) -> Dataset:
    """Model inputs, one row a window of a context; see `question_answering_features`.

    Raises:
        CorpusError: a text or an answer that cannot be used; `name` says what data it is of.
    """
    dataset = Dataset.from_list(list(questions))
    rule = partial(question_answering_features, tokenizer=tokenizer, max_length=max_length, stride=stride)
    try:
        return dataset.map(rule, batched=True, remove_columns=dataset.column_names, desc="Tokenizing")
    except ValueError as error:
        raise CorpusError(f"{name}: {error}") from error

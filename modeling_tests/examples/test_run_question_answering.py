"""`examples/run_question_answering.py` end to end on a tiny model: files, answers, resuming, bad data."""

import json
import random
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from elmo_hf import ElmoTokenizer, answer_question
from elmo_hf.finetuning import CorpusError, QuestionColumns, encode_questions, read_questions, words_of_questions
from elmo_hf.metrics import AnswerSpans
from examples import run_question_answering

TINY = {
    "character_embedding_size": 4,
    "character_filters": [[1, 8], [2, 8]],
    "max_characters_per_word": 16,
    "projection_size": 8,
    "cell_size": 8,
    "num_hidden_layers": 1,
    "representation_dropout": 0.0,
}
CONTEXTS = {"train": 60, "validation": 12, "test": 12}
PLACES = "Oslo Rome Lima Cairo Paris Delhi Quito Tunis Sofia Hanoi".split()


class Run(NamedTuple):
    output: Path
    metrics: dict[str, float]
    argv: list[str]


def squad(split: str, contexts: int) -> dict[str, Any]:
    """SQuAD 2.0's JSON: which of the named places does the context hold, and where?"""
    generator = random.Random(split)
    paragraphs = []
    for number in range(contexts):
        here = generator.sample(PLACES, 5)
        context = f"They went to {', '.join(here[:-1])} and {here[-1]}."
        questions = []
        for place in generator.sample(here, 3) + generator.sample(sorted(set(PLACES) - set(here)), 1):
            answers = [{"text": place, "answer_start": context.index(place)}] if place in here else []
            questions.append(
                {
                    "id": f"{number}-{place}",
                    "question": f"Where is {place}?",
                    "answers": answers,
                    "is_impossible": not answers,
                }
            )
        paragraphs.append({"context": context, "qas": questions})
    return {"version": "v2.0", "data": [{"title": "Places", "paragraphs": paragraphs}]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for split, contexts in CONTEXTS.items():
        (folder / f"{split}.json").write_text(json.dumps(squad(split, contexts)))
    return folder


def options(corpus: Path, output: Path, *more: str) -> list[str]:
    """A complete run: training, evaluation in every epoch, prediction; each context has two or three windows."""
    files = [part for split in CONTEXTS for part in (f"--{split}_file", str(corpus / f"{split}.json"))]
    start = ["--preset", "small", "--config_overrides", json.dumps(TINY), "--word_vector_size", "8"]
    fixed = "--do_train --do_eval --do_predict --disable_tqdm true --use_cpu --max_length 16 --stride 3"
    batches = "--per_device_train_batch_size 32 --num_train_epochs 5 --learning_rate 3e-2 --save_total_limit 9"
    return [*start, *files, "--output_dir", str(output), *fixed.split(), *batches.split(), *more]


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    output = tmp_path_factory.mktemp("run")
    argv = options(corpus, output)
    return Run(output, run_question_answering.main(argv), argv)


def answers_in(output: Path) -> tuple[dict[str, str], dict[str, list[dict[str, Any]]]]:
    best, nbest = (json.loads((output / f"{name}.json").read_text()) for name in ("predictions", "nbest_predictions"))
    return best, nbest


@pytest.mark.slow
def test_output_folder(run: Run) -> None:
    names = {path.name for path in run.output.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    assert {"train_results.json", "eval_results.json", "test_results.json", "trainer_state.json"} <= names
    assert (run.output / "training_curve.png").is_file()
    assert not [name for name in names if name.endswith(".part")]
    results = json.loads((run.output / "all_results.json").read_text())
    assert {name: results[name] for name in run.metrics} == run.metrics
    assert (results["train_samples"], results["eval_samples"], results["test_samples"]) == (240, 48, 48)


@pytest.mark.slow
def test_it_learns_and_ends_with_the_best_epoch(run: Run) -> None:
    history = json.loads((run.output / "trainer_state.json").read_text())["log_history"]
    losses = [row["loss"] for row in history if "loss" in row]
    f1 = [row["eval_f1"] for row in history if "eval_f1" in row]
    assert losses[-1] < 0.5 * losses[0]
    assert run.metrics["eval_f1"] == max(f1[:5]) > 0.8
    assert run.metrics["test_has_answer_f1"] > 0.7 and run.metrics["test_no_answer_f1"] > 0.7


@pytest.mark.slow
def test_predictions_give_the_score(run: Run, corpus: Path) -> None:
    questions = read_questions(corpus / "test.json", QuestionColumns())
    best, nbest = answers_in(run.output)
    assert list(best) == list(nbest) == [question["id"] for question in questions]
    for question in questions:
        candidates = nbest[question["id"]]
        assert len(candidates) == 5 and candidates[0]["text"] == best[question["id"]]
        for answer in candidates:
            place = slice(answer["start"], answer["end"])
            assert answer["text"] == ("" if answer["start"] is None else question["context"][place])
    scores = AnswerSpans().compute(
        predictions=list(best.values()), references=[question["answers"]["text"] for question in questions]
    )
    assert {name: run.metrics[f"test_{name}"] for name in scores} == scores


@pytest.mark.slow
def test_the_saved_model_answers_alike(run: Run, corpus: Path) -> None:
    model = AutoModelForQuestionAnswering.from_pretrained(run.output)
    tokenizer = AutoTokenizer.from_pretrained(run.output)
    questions = read_questions(corpus / "test.json", QuestionColumns())
    columns = ([question[name] for question in questions] for name in ("question", "context"))
    found = answer_question(model, tokenizer, *columns, max_length=16, stride=3, null_threshold=0.0)
    assert {q["id"]: answers[0].text for q, answers in zip(questions, found, strict=True)} == answers_in(run.output)[0]


@pytest.mark.slow
def test_resumed_run_equals_an_uninterrupted_one(run: Run, corpus: Path, tmp_path: Path) -> None:
    # As after a kill in the third epoch: only the first two checkpoints exist.
    steps = sorted((int(path.name.split("-")[1]), path) for path in run.output.glob("checkpoint-*"))
    for _, path in steps[:2]:
        shutil.copytree(path, tmp_path / path.name)
    metrics = run_question_answering.main(options(corpus, tmp_path))
    expected, resumed = (load_file(folder / "model.safetensors") for folder in (run.output, tmp_path))
    assert expected.keys() == resumed.keys()
    for name in expected:
        assert torch.equal(expected[name], resumed[name]), name  # bit for bit
    assert metrics["test_f1"] == run.metrics["test_f1"]
    assert metrics["train_loss"] != run.metrics["train_loss"], "the first two epochs ran again"


@pytest.mark.slow
def test_early_stopping(corpus: Path, tmp_path: Path) -> None:
    more = ["--learning_rate", "0", "--early_stopping_patience", "2", "--num_train_epochs", "9", "--max_length", "40"]
    more += ["--train_file", str(corpus / "validation.json")]
    metrics = run_question_answering.main(options(corpus, tmp_path, *more))
    assert metrics["epoch"] == 3.0  # the first evaluation is the best, the next two are not better


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jsonl", "json", "dataset", "other names"])
def test_other_forms_of_the_same_data(form: str, run: Run, corpus: Path, tmp_path: Path) -> None:
    questions = read_questions(corpus / "test.json", QuestionColumns())
    data = tmp_path / "data"
    data.mkdir()
    source = ["--test_file", str(data / f"test.{form}")]
    if form == "jsonl":
        (data / "test.jsonl").write_text("\n".join(map(json.dumps, questions)))
    elif form == "json":
        (data / "test.json").write_text(json.dumps(questions))
    elif form == "dataset":
        datasets.Dataset.from_list(questions).to_parquet(data / "test.parquet")
        source = ["--dataset_name", str(data)]
    else:
        rows = [{"q": q["question"], "text": q["context"], "a": q["answers"]} for q in questions]
        (data / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
        source = ["--test_file", str(data / "test.jsonl")]
        source += "--id_column n --question_column q --context_column text --answers_column a".split()
    start = ["--model_name_or_path", str(run.output), "--output_dir", str(tmp_path / "out"), "--do_predict"]
    metrics = run_question_answering.main(
        [*start, *source, "--use_cpu", "--disable_tqdm", "true", "--max_length", "16", "--stride", "3"]
    )
    assert metrics["test_f1"] == run.metrics["test_f1"]
    expected = answers_in(run.output)[0]
    if form == "other names":
        expected = {str(number): text for number, text in enumerate(expected.values())}
    assert answers_in(tmp_path / "out")[0] == expected


@pytest.mark.slow
def test_questions_without_answers_are_predicted(run: Run, corpus: Path, tmp_path: Path) -> None:
    questions = read_questions(corpus / "test.json", QuestionColumns())
    for question in questions:
        del question["answers"]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, questions)))
    argv = ["--model_name_or_path", str(run.output), "--test_file", str(tmp_path / "test.jsonl"), "--do_predict"]
    argv += ["--use_cpu", "--disable_tqdm", "true", "--max_length", "16", "--stride", "3", "--n_best", "1"]
    metrics = run_question_answering.main([*argv, "--output_dir", str(tmp_path / "out"), "--null_threshold", "0"])
    assert "test_f1" not in metrics and metrics["test_samples"] == 48
    assert answers_in(tmp_path / "out")[0] == answers_in(run.output)[0]
    # No question lacks an answer, so every question gets one.
    run_question_answering.main([*argv, "--output_dir", str(tmp_path / "all")])
    assert all(answers_in(tmp_path / "all")[0].values())


# ---- reading


def test_squad_json_is_read_as_it_stands(corpus: Path) -> None:
    questions = read_questions(corpus / "train.json", QuestionColumns("other", "names", "are", "ignored"))
    raw = squad("train", CONTEXTS["train"])["data"][0]["paragraphs"]
    assert len(questions) == sum(len(paragraph["qas"]) for paragraph in raw) == 240
    for paragraph, number in zip(raw, range(0, 240, 4), strict=True):
        for given, found in zip(paragraph["qas"], questions[number : number + 4], strict=True):
            assert (found["id"], found["question"], found["context"]) == (
                given["id"],
                given["question"],
                paragraph["context"],
            )
            assert found["answers"]["text"] == [answer["text"] for answer in given["answers"]]
            assert found["answers"]["answer_start"] == [answer["answer_start"] for answer in given["answers"]]
    assert sum(not question["answers"]["text"] for question in questions) == 60


def test_questions_without_an_id_are_numbered(tmp_path: Path) -> None:
    records = [{**GOOD, "id": None}, {name: value for name, value in GOOD.items() if name != "id"}]
    (tmp_path / "plain.jsonl").write_text("\n".join(map(json.dumps, records)))
    assert [found["id"] for found in read_questions(tmp_path / "plain.jsonl", QuestionColumns())] == ["0", "1"]


def test_words_of_a_context_count_once() -> None:
    questions = [{"question": f"Who {number}?", "context": "Ada did."} for number in range(2)]
    assert list(words_of_questions(ElmoTokenizer(), questions)) == ["Who", "0", "?", "Who", "1", "?", "Ada", "did", "."]


GOOD = {"id": "x", "question": "Who?", "context": "Ada did.", "answers": {"text": ["Ada"], "answer_start": [0]}}


def changed(**fields: Any) -> dict[str, Any]:
    return {**GOOD, **fields}


BAD_FILES = {
    "nothing": ([], "jsonl.*empty"),
    "no question": ([changed(question=None)], "jsonl:1.*'question'.*--question_column"),
    "no context": ([GOOD, {"question": "Who?"}], "jsonl:2.*'context'.*'question'.*--context_column"),
    "an id twice": ([GOOD, GOOD], "id 'x'"),
    "some answers": ([GOOD, changed(id="y", answers=None)], "question 'y'.*'answers' and 1 "),
    "odd answers": ([changed(answers="Ada")], "jsonl:1: 'answers'.*'Ada'.*'text'"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name: str, tmp_path: Path) -> None:
    records, message = BAD_FILES[name]
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    with pytest.raises(CorpusError, match=message):
        read_questions(path, QuestionColumns())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"bad.json: not JSON .*line 1 column 2"),
        ('{"articles": []}', "bad.json: .*'data'"),
        ('{"data": [{}]}', "article 0: .*'paragraphs'"),
        ('{"data": [{"paragraphs": [{"qas": [7]}]}]}', "article 0, paragraph 0: .*'qas'"),
        (
            '{"data": [{"paragraphs": [{"qas": [{"id": "z", "question": "Who?"}]}]}]}',
            "article 0, paragraph 0, question 'z'.*'context'",
        ),
        ('{"data": []}', "bad.json: holds no question"),
        ("[7]", "bad.json: record 0.*int"),
        ("", "bad.json.*empty"),
    ],
)
def test_bad_json(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(CorpusError, match=message):
        read_questions(tmp_path / "bad.json", QuestionColumns())


@pytest.mark.slow
def test_misplaced_answer_is_refused(run: Run) -> None:
    tokenizer = AutoTokenizer.from_pretrained(run.output)
    bad = changed(answers={"text": ["Ada"], "answer_start": [2]})
    with pytest.raises(CorpusError, match="'x'.*'Ada'.*0.*answer_start"):
        encode_questions([bad], tokenizer, 16, 3, "train data")


def test_bad_options(corpus: Path, tmp_path: Path) -> None:
    start = ["--preset", "small", "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="--stride 9.*0.*--max_length 9"):
        run_question_answering.main([*start, "--do_train", "--max_length", "9", "--stride", "9"])
    with pytest.raises(ValueError, match="either --dataset_name"):
        run_question_answering.main([*start, "--do_train", "--dataset_name", "a", "--train_file", "b"])
    with pytest.raises(CorpusError, match="no test data.*--test_file"):
        run_question_answering.main([*start, "--do_predict"])
    questions = read_questions(corpus / "test.json", QuestionColumns())
    for question in questions:
        del question["answers"]
    (tmp_path / "plain.jsonl").write_text("\n".join(map(json.dumps, questions)))
    with pytest.raises(CorpusError, match="'answers'.*--answers_column"):
        run_question_answering.main([*start, "--do_eval", "--validation_file", str(tmp_path / "plain.jsonl")])


def test_errors_of_the_data_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["--preset", "small", "--output_dir", str(tmp_path), "--do_predict", "--test_file", "missing.json"]
    monkeypatch.setattr(sys, "argv", ["run_question_answering.py", *argv])
    with pytest.raises(SystemExit, match=r"^error: missing.json: .*\(No such file or directory\)"):
        runpy.run_path(run_question_answering.__file__, run_name="__main__")

"""`examples/run_sentiment.py` end to end on tiny models: one label, several, values, pairs; saved and reloaded."""

import json
import random
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from elmo_hf.finetuning import CorpusError
from examples import run_sentiment

GOOD, BAD, OTHER = "fine lovely great".split(), "dull awful poor".split(), "the a film plot is was actor".split()
SIZES = {"train": 96, "validation": 24, "test": 24}
BASELINE = "--without_elmo --word_vector_size 8 --pooling mean max --task_dropout 0.1 --min_count 1".split()
TINY = {
    "character_embedding_size": 6,
    "character_filters": [[1, 12], [2, 16]],
    "max_characters_per_word": 20,
    "projection_size": 8,
    "cell_size": 12,
}


def sentences(seed: str, count: int) -> list[tuple[str, str]]:
    """(label, sentence) pairs; one word of the sentence decides the label."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        label = draw.choice(["good", "bad"])
        words = draw.choices(OTHER, k=draw.randrange(1, 7))
        words.insert(draw.randrange(len(words) + 1), draw.choice(GOOD if label == "good" else BAD))
        rows.append((label, " ".join(words)))
    return rows


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    for split, count in SIZES.items():
        (folder / f"{split}.tsv").write_text("".join("\t".join(row) + "\n" for row in sentences(split, count)))
    return folder


def options(corpus: Path, output: Path, *more: str, start: list[str] = BASELINE, suffix: str = "tsv") -> list[str]:
    files = [part for split in SIZES for part in (f"--{split}_file", str(corpus / f"{split}.{suffix}"))]
    columns = ["--text_column", "1", "--label_column", "0"] if suffix == "tsv" else []
    fixed = "--do_train --do_eval --do_predict --disable_tqdm true --use_cpu --learning_rate 2e-2"
    batches = "--per_device_train_batch_size 8 --num_train_epochs 6"
    return [*start, *files, *columns, "--output_dir", str(output), *fixed.split(), *batches.split(), *more]


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    output = tmp_path_factory.mktemp("run")
    return output, run_sentiment.main(options(corpus, output))


def predictions_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


def test_output_folder_and_scores(run: tuple[Path, dict[str, float]]) -> None:
    output, metrics = run
    names = {path.name for path in output.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "all_results.json", "training_curve.png"} <= names
    rows = predictions_of(output)
    assert [(row["label"], row["text"]) for row in rows] == sentences("test", SIZES["test"])
    right = np.mean([row["label"] == row["predicted"] for row in rows])
    assert metrics["test_accuracy"] == json.loads((output / "all_results.json").read_text())["test_accuracy"] == right
    assert right > 0.9  # each sentence has a word that decides
    assert metrics["test_samples"] == SIZES["test"]
    history = json.loads((output / "trainer_state.json").read_text())["log_history"]
    assert metrics["eval_accuracy"] == max(row["eval_accuracy"] for row in history if "eval_accuracy" in row)


def test_saved_classifier_evaluates_and_answers_alike(
    run: tuple[Path, dict[str, float]], corpus: Path, tmp_path: Path
) -> None:
    argv = ["--model_name_or_path", str(run[0]), "--output_dir", str(tmp_path), "--disable_tqdm", "true", "--use_cpu"]
    argv += ["--test_file", str(corpus / "test.tsv"), "--text_column", "1", "--label_column", "0", "--do_predict"]
    metrics = run_sentiment.main(argv)
    assert metrics["test_accuracy"] == run[1]["test_accuracy"]
    assert metrics["test_loss"] == pytest.approx(run[1]["test_loss"], rel=1e-6)
    rows = predictions_of(tmp_path)
    assert rows == predictions_of(run[0])
    model = AutoModelForSequenceClassification.from_pretrained(run[0])
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(run[0]))
    assert [answer["label"] for answer in classify([row["text"] for row in rows])] == [row["predicted"] for row in rows]


@pytest.mark.slow
def test_the_biattentive_network(corpus: Path, tmp_path: Path) -> None:
    start = ["--preset", "small", "--config_overrides", json.dumps(TINY), "--task_lstm_size", "6"]
    start += ["--elmo_at", "input", "output", "--pooling", "max", "attention", "--maxout_sizes", "5", "--freeze_bilm"]
    start += ["--integrator_size", "4"]
    metrics = run_sentiment.main(options(corpus, tmp_path, "--max_steps", "2", start=start))
    config = json.loads((tmp_path / "config.json").read_text())
    fields = [config[name] for name in ("elmo_at", "pooling", "maxout_sizes", "integrator_size")]
    assert fields == [["input", "output"], ["max", "attention"], [5], 4]
    assert 0 <= metrics["test_accuracy"] <= 1


@pytest.mark.slow
def test_multi_label_classification(corpus: Path, tmp_path: Path) -> None:
    """One label for a good word and one for "film"; some sentences have neither."""
    for split, count in SIZES.items():
        rows = [
            {"sentence": text, "label": ["good"] * (label == "good") + ["film"] * ("film" in text.split())}
            for label, text in sentences(split, count)
        ]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    more = ["--problem_type", "multi_label_classification"]
    metrics = run_sentiment.main(options(tmp_path, tmp_path / "out", *more, suffix="jsonl"))
    rows = predictions_of(tmp_path / "out")
    assert metrics["test_accuracy"] == np.mean([sorted(r["label"]) == sorted(r["predicted"]) for r in rows]) > 0.7
    hits = sum(len({*row["label"]} & {*row["predicted"]}) for row in rows)
    total = sum(len(row["label"]) + len(row["predicted"]) for row in rows)
    assert metrics["test_f1"] == pytest.approx(2 * hits / total)
    state = json.loads((tmp_path / "out/trainer_state.json").read_text())
    assert state["best_metric"] == metrics["eval_f1"]


@pytest.mark.slow
def test_regression(corpus: Path, tmp_path: Path) -> None:
    for split, count in SIZES.items():
        rows = [f"{'1.5' if label == 'good' else '-0.5'},{text}" for label, text in sentences(split, count)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["label,sentence", *rows]))
    argv = options(tmp_path, tmp_path / "out", "--problem_type", "regression", suffix="csv")
    metrics = run_sentiment.main(argv)
    rows = predictions_of(tmp_path / "out")
    predicted, gold = np.array([r["predicted"] for r in rows]), np.array([r["label"] for r in rows])
    assert set(gold) == {1.5, -0.5}
    assert metrics["test_mse"] == pytest.approx(np.mean((predicted - gold) ** 2), rel=1e-5)
    assert metrics["test_mse"] == pytest.approx(metrics["test_loss"], rel=1e-5)
    assert metrics["test_mae"] == pytest.approx(np.mean(np.abs(predicted - gold)), rel=1e-5)
    assert metrics["test_pearson"] == pytest.approx(np.corrcoef(predicted, gold)[0, 1], rel=1e-4)
    assert metrics["test_pearson"] > 0.9
    state = json.loads((tmp_path / "out/trainer_state.json").read_text())
    errors = [row["eval_mse"] for row in state["log_history"] if "eval_mse" in row]
    assert state["best_metric"] == min(errors)


@pytest.mark.slow
def test_pairs_of_sentences_from_a_dataset(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "one": datasets.Value("string"),
            "two": datasets.Value("string"),
            "same": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    (tmp_path / "data").mkdir()
    for split, count in SIZES.items():
        first, second = sentences(split, count), sentences(f"{split} again", count)
        columns = {
            "one": [text for _, text in first],
            "two": [text for _, text in second],
            "same": [int(a == b) for (a, _), (b, _) in zip(first, second, strict=True)],
        }
        datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "data" / f"{split}.parquet")
    argv = [*BASELINE, "--dataset_name", str(tmp_path / "data"), "--text_column", "one", "--text_pair_column", "two"]
    argv += ["--label_column", "same", "--output_dir", str(tmp_path / "out"), "--disable_tqdm", "true", "--use_cpu"]
    run_sentiment.main([*argv, "--do_train", "--do_eval", "--do_predict", "--max_steps", "3"])
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["sentence_pairs"] is True and config["id2label"] == {"0": "no", "1": "yes"}
    rows = predictions_of(tmp_path / "out")
    assert [row["pair"] for row in rows] == [text for _, text in sentences("test again", SIZES["test"])]


def test_validation_labels_that_the_training_data_lacks(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "dev.tsv"
    other.write_text("good\ta film\nneutral\ta plot\n")
    argv = options(corpus, tmp_path / "out", "--validation_file", str(other))
    with pytest.raises(CorpusError, match=r"dev\.tsv:2.*'neutral'"):
        run_sentiment.main(argv)


@pytest.mark.slow
def test_another_task_does_not_continue(run: tuple[Path, dict[str, float]], corpus: Path, tmp_path: Path) -> None:
    """A second task in the output folder of the first does not resume from its checkpoints."""
    for path in run[0].glob("checkpoint-*"):
        shutil.copytree(path, tmp_path / path.name)
    for split in SIZES:
        text = (corpus / f"{split}.tsv").read_text()
        swapped = "".join(
            f"{'bad' if line[0] == 'g' else 'good'}{line[line.index(chr(9)) :]}\n" for line in text.splitlines()
        )
        (tmp_path / f"{split}.tsv").write_text(swapped)
        (tmp_path / f"three-{split}.tsv").write_text(text + "new\ta film\n")
    with pytest.raises(ValueError, match=r"train data of 96 .*\(was 96 "):
        run_sentiment.main(options(tmp_path, tmp_path))
    files = [part for split in SIZES for part in (f"--{split}_file", str(tmp_path / f"three-{split}.tsv"))]
    with pytest.raises(ValueError, match=r"\(was bad good\)"):
        run_sentiment.main(options(tmp_path, tmp_path, *files))
    metrics = run_sentiment.main(options(tmp_path, tmp_path, "--resume_from_checkpoint", "false"))
    assert metrics["test_accuracy"] > 0.9


@pytest.mark.slow
def test_single_class_predictions_are_reported_during_training(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = (corpus / "train.tsv").read_text().splitlines(keepends=True)
    good = [line for line in lines if line.startswith("good")]
    bad = [line for line in lines if line.startswith("bad")]
    (tmp_path / "train.tsv").write_text("".join([*good, bad[0]]))
    more = ["--train_file", str(tmp_path / "train.tsv"), "--max_steps", "12"]
    run_sentiment.main(options(corpus, tmp_path / "out", *more))
    told = [record.getMessage() for record in caplog.records if "Every prediction is" in record.getMessage()]
    assert len(told) > 1, "after each epoch"


def test_problem_type_other_than_the_checkpoint(
    run: tuple[Path, dict[str, float]], corpus: Path, tmp_path: Path
) -> None:
    start = ["--model_name_or_path", str(run[0])]
    argv = options(corpus, tmp_path, "--problem_type", "multi_label_classification", start=start)
    with pytest.raises(ValueError, match="single_label_classification.*--new"):
        run_sentiment.main(argv)


def test_command_line_reports_a_bad_file_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "bad.tsv"
    bad.write_text("1\tfine\n2\t\n")
    argv = [*BASELINE, "--train_file", str(bad), "--output_dir", str(tmp_path / "out"), "--use_cpu"]
    argv += ["--text_column", "1", "--label_column", "0", "--validation_share", "0.5", "--do_train", "--do_eval"]
    monkeypatch.setattr(sys, "argv", ["run_sentiment.py", *argv])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(run_sentiment.__file__, run_name="__main__")
    # Python prints the message, with exit status 1.
    assert str(stop.value.code).startswith(f"error: {bad}:2: the text is empty ('')")
    assert len(str(stop.value.code).splitlines()) == 1

"""`examples/compare_tasks.py`: the runs it starts, reuses or refuses, and its table."""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from elmo_hf.finetuning import ModelArguments, TaskTrainingArguments, parse
from examples import compare_tasks

# Stand-in for an example: its score depends on its arguments, and a file counts its runs.
SCRIPT = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int)
parser.add_argument("--output_dir", type=pathlib.Path)
parser.add_argument("--score", type=float)
parser.add_argument("--words", nargs="*")
parser.add_argument("--train_share", type=float, default=1)
parser.add_argument("--rate", type=float, default=0)
args = parser.parse_args()
with open(args.output_dir / "runs", "a") as file:
    file.write("run ")
if args.score < 0:
    raise SystemExit("broken")
(args.output_dir / "words").write_text(repr(args.words))
f1 = args.train_share * (args.score + args.seed / 100)
results = {"test_f1": f1, "train_runtime": 2.0, "eval_f1": f1 - abs(args.rate), "eval_loss": abs(args.rate)}
(args.output_dir / "all_results.json").write_text(json.dumps(results))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def compare(script: Path, *variants: str, common: str = "--score 0.5", options: str = "") -> int:
    argv = ["--script", str(script), "--output_dir", str(script.parent / "out"), "--metric", "test_f1"]
    argv += [part for variant in variants for part in ("--variant", variant)]
    return compare_tasks.main([*argv, "--scale", "100", *options.split(), "--", *common.split()])


@pytest.mark.slow
@pytest.mark.usefixtures("figures")
def test_table_of_means_and_deviations(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(script, "Frozen biLM=", "fine-tuned=--score 0.7 --words 'a b' c", options="--seeds 1 2 4") == 0
    out = script.parent / "out"
    table = json.loads((out / "results.json").read_text())
    row = table["variants"]["Frozen biLM"]
    assert row["values"] == {"1": 0.51, "2": 0.52, "4": 0.54}
    assert row["mean"] == pytest.approx(1.57 / 3)
    assert row["deviation"] == pytest.approx(statistics.stdev([0.51, 0.52, 0.54]))
    assert row["train_runtime"] == 2.0
    assert row["commands"][0] == f"python {script} --score 0.5 --seed 1 --output_dir {out}/frozen-bilm/seed-1"
    assert (out / "fine-tuned/seed-2/words").read_text() == "['a b', 'c']"  # quoted as in a shell
    text = (out / "results.md").read_text()
    assert text.splitlines()[2:] == [
        "| Frozen biLM | 52.33 | 1.53 | 51.00, 52.00, 54.00 | 2 |",
        "| fine-tuned | 72.33 | 1.53 | 71.00, 72.00, 74.00 | 2 |",
    ]
    printed = capsys.readouterr().out
    assert "2 runs, 0 of them finished before" in printed and "4 runs, 0 of them finished before" in printed
    assert "[4/4] fine-tuned, seed 4: test_f1 0.7400; about 0 s left" in printed
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert printed.endswith(text)


def test_finished_runs_are_not_repeated(script: Path) -> None:
    compare(script, "a=", options="--seeds 1")
    (script.parent / "out/a/seed-1/all_results.json").write_text('{"test_f1": 0.25, "train_runtime": 1}')
    compare(script, "a=", "b=", options="--seeds 1 2 --jobs 2")
    assert (script.parent / "out/a/seed-1/runs").read_text() == "run "
    rows = json.loads((script.parent / "out/results.json").read_text())["variants"]
    assert (rows["a"]["values"], rows["b"]["values"]) == ({"1": 0.25, "2": 0.52}, {"1": 0.51, "2": 0.52})


def test_unfinished_runs_run_again(script: Path) -> None:
    compare(script, "a=", options="--seeds 1")
    (script.parent / "out/a/seed-1/all_results.json").write_text('{"eval_f1": 0.25}')
    compare(script, "a=", options="--seeds 1")
    assert (script.parent / "out/a/seed-1/runs").read_text() == "run run "


def test_other_commands_are_refused(script: Path) -> None:
    compare(script, "a=", options="--seeds 1")
    with pytest.raises(ValueError, match="out/a/seed-1 .*another.*--output_dir"):
        compare(script, "a=", options="--seeds 1", common="--score 0.6")


def test_failures_are_reported_and_do_not_stop_the_rest(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(script, "bad=--score -1", "good=", options="--seeds 1") == 1
    printed = capsys.readouterr().out
    assert "[1/2] bad, seed 1: ended with status 1, see " in printed and "broken" in printed
    assert "| bad | - | - | - | - |\n| good | 51.00 | - | 51.00 | 2 |" in printed


def test_unknown_metric(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(script, "a=", options="--seeds 1 --metric test_accuracy") == 1
    assert "has no test_accuracy; expected one of eval_f1, eval_loss, test_f1, train_runtime" in capsys.readouterr().out


@pytest.mark.parametrize("variants", [["a"], ["a=", "A =--score 1"]])
def test_bad_variants(script: Path, variants: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare(script, *variants)
    assert "--variant: expected NAME=ARGUMENTS, each name once" in capsys.readouterr().err


@pytest.mark.slow
def test_shares_of_the_data(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(script, "a=", "b=--score 0.7", options="--seeds 1 2 --shares 0.1 1") == 0
    out = script.parent / "out"
    assert (out / "a/share-0.1/seed-2/runs").is_file() and (out / "a/seed-2/runs").is_file()
    shares = json.loads((out / "results.json").read_text())["shares"]
    assert shares["0.1"]["variants"]["b"]["values"] == pytest.approx({"1": 0.071, "2": 0.072})
    assert shares["1"]["variants"]["a"]["values"] == pytest.approx({"1": 0.51, "2": 0.52})
    assert (out / "results.md").read_text().splitlines() == [
        "| model | test_f1, 10 % | test_f1, 100 % |",
        "|---|---|---|",
        "| a | 5.15 ± 0.07 | 51.50 ± 0.71 |",
        "| b | 7.15 ± 0.07 | 71.50 ± 0.71 |",
    ]
    assert (out / "results.png").is_file()
    assert "b, 10 %, seed 2: test_f1 0.0720" in capsys.readouterr().out


@pytest.mark.slow
def test_values_of_a_grid_are_chosen_by_validation(script: Path) -> None:
    grids = ["--grid", "rate=0.3 -0.1 0.2", "--grid", "b:score=0.6 0.4"]
    argv = ["--script", str(script), "--output_dir", str(script.parent / "out"), "--metric", "test_f1", *grids]
    argv += ["--variant", "a=", "--variant", "b=", "--seeds", "1", "2"]
    assert compare_tasks.main([*argv, "--", "--score", "0.5"]) == 0
    out = script.parent / "out"
    rows = json.loads((out / "results.json").read_text())["variants"]
    assert (rows["a"]["chosen"], rows["b"]["chosen"]) == ("--rate -0.1", "--rate -0.1 --score 0.6")
    assert rows["a"]["values"] == pytest.approx({"1": 0.51, "2": 0.52})
    assert rows["b"]["values"] == pytest.approx({"1": 0.61, "2": 0.62})
    # Each value is tried with the first seed, the best one with the others.
    assert len(list(out.glob("a/*/seed-1"))) == 3 and len(list(out.glob("b/*/seed-1"))) == 6
    assert [path.parent.name for path in out.glob("a/*/seed-2")] == ["rate=-0.1"]
    # Chosen by another metric, where lower is better.
    argv += ["--choose_by", "eval_loss", "--lower_is_better"]
    assert compare_tasks.main([*argv, "--", "--score", "0.5"]) == 0
    assert (out / "a/rate=-0.1/seed-1/runs").read_text() == "run "


def test_default_ablation_variants() -> None:
    argv = ["--script", "s.py", "--output_dir", "o", "--metric", "test_f1", "--bilm", "elmo", "--variant", "mine=-x 1"]
    found = compare_tasks.parse([*argv, "--word_vectors", "w2v.txt", "--", "--use_crf"])
    assert list(found.variants) == [
        "words and characters",
        "started from word vectors",
        "and random biLM",
        "and frozen biLM",
        "and fine-tuned biLM",
        "mine",
    ]
    for name, arguments in found.variants.items():
        if name == "mine":
            continue
        options = ModelArguments(**parsed_options(arguments))
        assert (options.word_vectors == "w2v.txt") is (name != "words and characters")
        assert (options.model_name_or_path == "elmo") is ("biLM" in name) is not options.without_elmo
        assert options.random_weights is ("random" in name)
        assert options.freeze_bilm is ("frozen" in name or "random" in name)
        assert options.task_character_size == 16
    assert found.variants["mine"] == ["-x", "1"] and found.common == ["--use_crf"]
    # Without a file of vectors there is no second row, and vectors start at random.
    assert len(compare_tasks.parse(argv).variants) == 5


def parsed_options(arguments: list[str]) -> dict[str, Any]:
    argv = [*arguments, "--output_dir", "o", "--do_train", "--use_cpu"]
    options = parse(argv, ModelArguments, TaskTrainingArguments)[0]
    return {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}


@pytest.mark.parametrize("grid", ["rate", "rate=", "=1"])
def test_bad_grids(script: Path, grid: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare(script, "a=", options=f"--grid {grid}")
    assert f"--grid {grid}: expected OPTION=VALUES" in capsys.readouterr().err


def test_grid_of_an_unknown_variant(script: Path) -> None:
    with pytest.raises(ValueError, match="grid of 'c'.* a$"):
        compare(script, "a=", options="--grid c:rate=1")

"""`examples/compare_tasks.py`: the runs it starts, reads again or refuses, and its table."""

import json
import statistics
from pathlib import Path

import pytest

import compare_tasks

# An example in a few lines: its score depends on its arguments, and a file counts how often it ran.
SCRIPT = """
import argparse, json, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int)
parser.add_argument("--output_dir", type=pathlib.Path)
parser.add_argument("--score", type=float)
parser.add_argument("--words", nargs="*")
args = parser.parse_args()
with open(args.output_dir / "runs", "a") as file:
    file.write("run ")
if args.score < 0:
    raise SystemExit("broken")
(args.output_dir / "words").write_text(repr(args.words))
results = {"test_f1": args.score + args.seed / 100, "train_runtime": 2.0}
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
    assert "6 runs, 0 of them finished before" in printed
    assert "[6/6] fine-tuned, seed 4: test_f1 0.7400; about 0 s left" in printed
    assert printed.endswith(text)


def test_finished_runs_are_read(script: Path) -> None:
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
    with pytest.raises(SystemExit, match=r"out/a/seed-1 holds a run of another command .*: remove it"):
        compare(script, "a=", options="--seeds 1", common="--score 0.6")


def test_failures_are_told_and_do_not_stop_the_rest(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(script, "bad=--score -1", "good=", options="--seeds 1") == 1
    printed = capsys.readouterr().out
    assert "[1/2] bad, seed 1: ended with status 1, see " in printed and "broken" in printed
    assert "| bad | - | - | - | - |\n| good | 51.00 | - | 51.00 | 2 |" in printed


def test_unknown_metric(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(script, "a=", options="--seeds 1 --metric test_accuracy") == 1
    assert "has no test_accuracy; expected one of test_f1, train_runtime" in capsys.readouterr().out


@pytest.mark.parametrize("variants", [["a"], ["a=", "A =--score 1"]])
def test_bad_variants(script: Path, variants: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        compare(script, *variants)
    assert "--variant: expected NAME=ARGUMENTS, each name once" in capsys.readouterr().err

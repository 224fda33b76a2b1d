"""`benchmarks/results.py`: the cells it runs, their records, and the results page."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))  # its scripts import each other

import results
import results_page

from elmo_hf.finetuning import ClassifierArguments, TaggerArguments, TaskTrainingArguments, TranslatorArguments

# Stands in for an example: its score depends on its arguments.
SCRIPT = """
import json, pathlib, sys
given = dict(zip(sys.argv[1::1], sys.argv[2::1]))
output = pathlib.Path(given["--output_dir"])
output.mkdir(parents=True, exist_ok=True)
if given.get("--learning_rate") == "9":
    raise SystemExit("diverged")
with open(output.parent.parent / "started", "a") as file:
    file.write("x")
if "--do_train" in sys.argv:
    elmo = "--without_elmo" not in sys.argv
    score = 0.5 + 0.2 * elmo + 0.01 * int(given["--seed"]) + 0.1 * (given["--learning_rate"] == "2e-3")
    score *= float(given.get("--train_share", 1)) ** 0.5
else:
    score = 0.25
names = [f"{split}_{name}" for split in ("eval", "test") for name in ("f1", "accuracy", "bleu")]
(output / "all_results.json").write_text(json.dumps({"epoch": 3.0, **{name: score for name in names}}))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs the command over stand-ins for the examples."""
    for script in {task.script for task in results.TASKS.values()}:
        (tmp_path / script).write_text(SCRIPT)
    monkeypatch.setattr(results, "EXAMPLES", tmp_path)
    data = tmp_path / "data" / "ner" / "wnut17"
    data.mkdir(parents=True)
    (data / "test.conll").write_text("Oslo\tB-LOC\n\n")

    def run(*arguments):
        command = ["results.py", "cells", "--data", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", [*command, "--word_vectors", "w2v.txt", *arguments])
        results.main()
        started = tmp_path / "out" / "started"
        return results.read_cells(tmp_path / "out" / "cells.jsonl"), len(started.read_text()) if started.exists() else 0

    return run


def last(command, option):
    """The value of an option that counts, the last one."""
    return command[len(command) - command[::-1].index(option)]


def test_cells_are_run_once_with_the_best_rate(run, tmp_path):
    options = ["--tasks", "wnut17", "--variants", "a", "d", "--seeds", "1", "2", "--shares", "1", "0.25"]
    cells, started = run(*options, "--rates", "1e-3", "2e-3")
    keys = [(cell["variant"], cell["seed"], cell["share"], cell["rate"]) for cell in cells]
    assert len(keys) == len(set(keys)) == 2 * (1 + 4)  # the second learning rate of each variant runs once
    assert {key[3] for key in keys if key[1] == 2 or key[2] == 0.25} == {"2e-3"}
    # An epoch of a quarter of the data has a quarter of the updates.
    epochs = {(cell["share"], last(cell["command"], "--num_train_epochs")) for cell in cells}
    assert epochs == {(1, "40"), (0.25, "80")}
    assert {last(cell["command"], "--early_stopping_patience") for cell in cells if cell["share"] == 0.25} == {"8"}
    assert not any((tmp_path / "out" / "runs").iterdir())
    # Nothing runs twice, except the cell of a truncated line.
    assert run(*options, "--rates", "1e-3", "2e-3") == (cells, started)
    path = tmp_path / "out" / "cells.jsonl"
    path.write_text(path.read_text()[:-10])
    again, restarted = run(*options, "--rates", "1e-3", "2e-3")
    assert restarted == started + 1 and [cell["test"] for cell in again] == [cell["test"] for cell in cells]


def test_failures_typos_and_time(run, tmp_path, capsys):
    cells, _ = run("--tasks", "wnut17", "--variants", "a", "--seeds", "1", "--rates", "9")
    assert cells == [] and "failed with status 1" in capsys.readouterr().out
    assert run("--tasks", "wnut17", "--variants", "a", "--minutes", "1e-9")[0] == []
    cells, _ = run("--tasks", "wnut17", "--variants", "d", "--seeds", "1", "--typos")
    assert cells[0]["typos"] == dict.fromkeys(results.KINDS, 0.25)
    assert "OSLO" not in json.dumps(cells)


def test_recorded_commands_do_not_name_folders_of_the_machine(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--tasks", "wnut17", "--variants", "d", "--seeds", "1")
    for output in (str(tmp_path / "out"), "out"):  # "out" also begins the name of an option
        cells, _ = run(*options, "--output_dir", output)
        command = cells[0]["command"]
        assert last(command, "--train_file") == "DATA/ner/wnut17/train.conll"
        assert last(command, "--output_dir") == "outputs/results/runs/wnut17-d-1-1.0-2e-3"
        (tmp_path / "out" / "cells.jsonl").unlink()


@pytest.mark.parametrize("task", results.TASKS)
@pytest.mark.parametrize("variant", results.VARIANTS)
def test_options_are_those_of_the_scripts(task, variant, tmp_path, monkeypatch):
    """The script's parser accepts every option, and the options are consistent."""
    from transformers import HfArgumentParser

    from elmo_hf.finetuning import PairArguments, TagArguments, TextArguments, TranslationTrainingArguments

    vectors = tmp_path / "w2v.txt"
    vectors.write_text("2 2\ncat 0 1\ndog 1 0\n")
    found = results.options_of(variant, None, str(vectors))
    kinds = {
        "run_ner.py": (TaggerArguments, TagArguments, TaskTrainingArguments),
        "run_sentiment.py": (ClassifierArguments, TextArguments, TaskTrainingArguments),
        "run_translation.py": (TranslatorArguments, PairArguments, TranslationTrainingArguments),
    }[results.TASKS[task].script]
    options = [*results.TASKS[task].options.split(), *found, "--output_dir", str(tmp_path), "--use_cpu"]
    model, *_, trainer = HfArgumentParser(kinds).parse_args_into_dataclasses(options)
    assert trainer.early_stopping_patience == 4 and trainer.load_best_model_at_end
    assert model.without_elmo == (variant in "wab") and model.freeze_bilm == (variant in "cd")
    # Every variant has the task's own word vectors, and all but one its character CNN.
    assert bool(model.task_character_size) == (variant != "w") and (model.word_vectors is not None) == (variant != "a")


@pytest.mark.usefixtures("figures")
def test_results_page(run, tmp_path, monkeypatch):
    run("--tasks", "wnut17", "--variants", "a", "--seeds", "1", "--rates", "1e-3", "2e-3", "5e-4")
    cells, _ = run("--tasks", "wnut17", "--variants", "a", "d", "--seeds", "1", "2", "--shares", "1", "0.25")
    folder = tmp_path / "out"
    noisy = [cell | {"typos": dict.fromkeys(results.KINDS, 0.25)} if cell["share"] == 1 else cell for cell in cells]
    (folder / "cells.jsonl").write_text("".join(json.dumps(cell) + "\n" for cell in noisy))
    row = {"model": "shipped biLM", "text": "t.txt", "forward": 90.0, "backward": 80.0, "both": 84.85}
    (folder / "perplexity.jsonl").write_text(json.dumps(row | {"words": 100, "unknown": 3, "targets": 105}) + "\n")
    (folder / "minimal_pairs.md").write_text("|  | both |\n|---|---|\n| **all** | 70.0 |\n| wh_island | 40.0 |\n")
    adapted = [cell | {"test": 0.9} for cell in noisy if cell["variant"] == "d" and cell["seed"] == 1]
    (folder / "domain").mkdir()
    (folder / "domain" / "cells.jsonl").write_text("".join(json.dumps(cell) + "\n" for cell in adapted))
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    monkeypatch.setattr(sys, "argv", ["results_page.py", str(folder), "--output", str(page)])
    results_page.main()
    text = page.read_text()
    # Seeds 1 and 2: 61 and 62 of the baselines, 81 and 82 of ELMo; 38.5 errors become 18.5.
    assert (
        "\n| | (a) words and characters | (d) joined to the biLM, frozen | fewer errors |\n|---|---|---|---|\n" in text
    )
    assert "61.5 ± 0.7 (2)" in text and "81.5 ± 0.7 (2)" in text and "+51.9 %" in text
    assert "| wnut17, (a) | 5e-4: 51.0, 1e-3: 51.0, **2e-3: 61.0** |" in text and "| wnut17, (d) | 2e-3" not in text
    assert "25.0 ± 0.0 (2)" in text and "| t.txt | shipped biLM | 90.0 | 80.0 | 84.8 | 105 | 3.0 % |" in text
    assert "| wnut17, f1, (d) | 81.5 ± 0.7 (2) | 90.0 (1) |" in text
    assert "| all | 70.0 |" in text and "run_ner.py" in text
    assert (page.parent / "results_shares.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("best", results_page.BASELINES)
def test_errors_are_compared_with_the_best_baseline(best):
    scores = dict.fromkeys(results_page.BASELINES, 0.5) | {best: 0.6} | {"c": 0.9, "d": 0.7, "e": 0.8}
    common = {"task": "ewt", "metric": "accuracy", "seed": 1, "share": 1.0, "rate": "2e-3"}
    cells = [common | {"variant": variant, "test": s, "validation": s} for variant, s in scores.items()]
    assert results_page.fewer_errors(cells, "ewt") == pytest.approx(50)

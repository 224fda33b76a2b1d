"""One style of all commands: help, words, exit statuses, pipes, interruptions."""

import dataclasses
import io
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import elmo_hf.cli
from elmo_hf.cli import COMMANDS, PROGRAM, Parser, main
from elmo_hf.cli import pretrain as pretrain_command
from elmo_hf.endings import EXTRAS
from elmo_hf.pretraining.settings import PretrainingSettings
from hub_upload.cli import PROGRAM as HUB

ROOT = Path(__file__).resolve().parents[2]
ALL = [(program, name) for program in (PROGRAM, HUB) for name in program.commands]


def test_without_arguments_it_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == 10
    assert all(name in printed for name in COMMANDS)


@pytest.mark.parametrize(("program", "name"), ALL, ids=[f"{program.name} {name}" for program, name in ALL])
def test_help_is_one_screen(program, name, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    shown = {}
    for how in ("--help", "--help_all"):
        with pytest.raises(SystemExit) as left:
            program.parser(name).parse_args([name, how])
        assert left.value.code == 0
        shown[how] = capsys.readouterr().out
    assert len(shown["--help"].splitlines()) <= 45
    example = shown["--help"].partition("\nExample:\n")[2].splitlines()
    assert f"{program.name} {name}" in example[-1]
    assert shown["--help"].startswith(f"usage: {program.name} {name}")
    # --help names --help_all exactly where that shows more.
    assert ("--help_all" in shown["--help"]) == (len(shown["--help_all"]) > len(shown["--help"]))


@pytest.mark.parametrize(("program", "name"), ALL, ids=[f"{program.name} {name}" for program, name in ALL])
def test_option_names_are_consistent_across_commands(program, name) -> None:
    parser = program.parser(name)
    (commands,) = [action.choices for action in parser._actions if action.dest == "command"]
    spelled = {option for action in commands[name]._actions for option in action.option_strings}
    assert not spelled & {"--output_dir", "--force", "--folder", "--out", "--outfile", "--model_name_or_path"}
    assert not [option for option in spelled if "-" in option[2:]], "shown with underscores, dashes are taken too"
    if name not in ("run", "completion", "tag", "translate"):  # whose results are lines already
        assert "--json" in spelled


def test_every_setting_of_pretraining_has_its_group() -> None:
    tables = (pretrain_command.COMMON, pretrain_command.FURTHER)
    grouped = [name for table in tables for names in table.values() for name in names]
    assert len(set(grouped)) == len(grouped)
    assert set(grouped) <= {field.name for field in dataclasses.fields(PretrainingSettings)}


def test_dashes_and_former_names(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "pretrain",
        "--train-data",
        "a",
        "b",
        "--output-dir",
        "out",
        "--no-shuffle",
        "--max-steps=3",
        "--rows",
        "2",
    ]
    options = PROGRAM.parser("pretrain").parse_args(arguments)
    assert (options.train_data, options.output_dir, options.shuffle) == (["a", "b"], "out", False)
    assert (options.max_steps, options.rows, options.json) == (3, 2, False)
    beside = {"command", "run", "after_stop", "json", "processes"}
    assert set(vars(options)) - beside == {field.name for field in dataclasses.fields(PretrainingSettings)}
    assert "--output_dir is --output now" in capsys.readouterr().err
    assert not PROGRAM.parser("pretrain").parse_args([*arguments[:3], "--output", "o", "--shuffle", "no"]).shuffle
    assert capsys.readouterr().err == ""


def test_options_stand_anywhere() -> None:
    """Between arguments too, as where the output was the last of them."""
    options = PROGRAM.parser("embed").parse_args(["embed", "a", "--model", "m", "b", "--layers", "all", "c"])
    assert (options.input, options.model, options.layers) == (["a", "b", "c"], "m", "all")
    options = HUB.parser("convert").parse_args(["convert", "--weights", "w", "a", "--elmo-only", "b"])
    assert (options.source, options.elmo_only) == (["a", "b"], True)
    options = PROGRAM.parser("run").parse_args(["run", "script.py", "--help", "x", "--model-name", "y"])
    assert options.arguments == ["--help", "x", "--model-name", "y"]


@pytest.mark.parametrize(
    "arguments",
    [["frobnicate"], ["embed"], ["embed", "a.txt", "--model", "m"],
     ["pretrain", "--rows", "many"], ["tag", "a.txt"], ["perplexity", "a.txt", "--model", "m", "--per_word"],
     ["senses", "cell", "a.txt", "--model", "m", "--plot", "a.txt"]],
)  # fmt: skip
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(arguments)
    except SystemExit as left:
        status = left.code
    assert status == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].endswith("--help lists the arguments") and not captured.out


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def raising(error: BaseException):
    def run(options: dict) -> int:
        raise error

    return lambda name: lambda add_command: add_command().set_defaults(run=run, after_stop="all is kept")


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (KeyboardInterrupt(), 130, "elmo-hf info: stopped; all is kept\n"),
        (ValueError("rows=0: expected 1"), 1, "elmo-hf info: rows=0: expected 1\n"),
        (EOFError("cut off"), 1, "elmo-hf info: cut off\n"),
        (ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript.ir"), 1,
         "elmo-hf info: needs onnxscript.ir, which is not installed: pip install 'elmo-hf[onnx]'\n"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
    ],
)  # fmt: skip
def test_exit_status_and_message_of_errors(error, status, told, monkeypatch, capsys) -> None:
    monkeypatch.setattr(PROGRAM, "adder", raising(error))
    assert main(["info"]) == status
    captured = capsys.readouterr()
    assert (captured.err, captured.out) == (told, "")


def test_internal_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PROGRAM, "adder", raising(AssertionError("a bug")))
    with pytest.raises(AssertionError):
        main(["info"])


def test_closed_pipe_exits_quietly() -> None:
    """`elmo-hf | true`, in a process of its own: nothing on stderr, and not a failure of Python's last flush."""
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "elmo_hf"], stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False
    )
    os.close(writing)
    assert (process.returncode, process.stderr) == (141, "")


def test_extras_are_those_of_the_package() -> None:
    """Each module is brought by a requirement of its extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {
        "sklearn": "scikit-learn",
        "rouge_score": "rouge-score",
        "pyarrow": "datasets",
        "tensorflow": "tensorflow-cpu",
    }
    for extra, modules in EXTRAS.items():
        stated = " ".join(project["optional-dependencies"][extra])
        for module in modules.split():
            assert names.get(module, module) in stated, (extra, module)


def test_completion(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    printed = capsys.readouterr().out
    assert "export-onnx" in printed and "--per_sentence" in printed


def test_progress_bars_are_off_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "argv", ["elmo-hf"])
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert main() == 0
    assert os.environ.pop("TQDM_DISABLE") == "1"
    os.environ.pop("HF_HUB_DISABLE_PROGRESS_BARS", None)


def test_no_color_in_parsers() -> None:
    """Parsers set no color; argparse from Python 3.14 on follows NO_COLOR and the terminal."""
    assert "\x1b" not in Parser(prog="p", example="p --x").format_help()
    assert "\x1b" not in PROGRAM.overview()
    assert json.dumps(sorted(elmo_hf.cli.COMMANDS))

"""The command line: parse, call, print."""

import hashlib
import json

import pytest

from hub_upload.cli import main
from modeling_tests.forking import run_python

from .checkpoints import VOCABULARY, write_bilm


def test_convert_verify_and_export_end_to_end(tmp_path, capsys):
    write_bilm(tmp_path / "source", vocabulary=VOCABULARY)
    source, folder, back = (str(tmp_path / name) for name in ("source", "folder", "back"))
    assert main(["convert", source, folder]) == 0
    assert "ElmoForPreTraining in" in capsys.readouterr().out
    assert main(["verify", folder, "--against", source]) == 0
    output = capsys.readouterr().out
    assert output.count("layer ") == 3
    assert "passed: " in output
    assert main(["export", folder, back]) == 0
    assert "weights.hdf5" in capsys.readouterr().out
    (tmp_path / "text").write_text("A sentence .\n\nÜber\n", encoding="utf-8")
    assert main(["verify", folder, "--against", back, "--sentences", str(tmp_path / "text")]) == 0
    assert "2 sentences" in capsys.readouterr().out
    assert main(["verify", folder, "--against", back, "--tolerance", "0"]) == 1
    assert "FAILED: " in capsys.readouterr().out
    assert main(["convert", back, folder, "--force", "--no-remote-code", "--without-softmax"]) == 0
    assert not list((tmp_path / "folder").glob("*.py"))


def test_errors_are_one_line_and_a_status(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "absent"), "--output", str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"elmo-hub convert: {tmp_path / 'absent'}: no such file or folder\n"
    assert not captured.out
    assert main(["verify", "a", "--against", "b", "--sentences", str(tmp_path / "absent")]) == 1


def test_usage(capsys):
    for arguments in (["--help"], ["--version"], ["convert", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
    for arguments in (["convert"], ["frobnicate"], ["verify", "folder"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    assert main(["convert", "a"]) == 2
    capsys.readouterr()
    assert main([]) == 0
    assert len(capsys.readouterr().out.splitlines()) <= 10


@pytest.mark.slow
def test_option_names_match_elmo_hf(tmp_path, capsys):
    """--model, --output, --overwrite and --json; the former options work, with a note."""
    write_bilm(tmp_path / "source", vocabulary=VOCABULARY)
    source, folder, back = (str(tmp_path / name) for name in ("source", "folder", "back"))
    assert main(["convert", source, "--output", folder, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["architecture"] == "ElmoForPreTraining" and "note:" not in captured.err
    assert main(["convert", source, folder, "--force", "--no-remote-code"]) == 0
    notes = capsys.readouterr().err
    assert "--force is --overwrite now" in notes and f"--output {folder}\n" in notes
    assert main(["verify", "--model", folder, "--against", source, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    assert main(["export", "--model", folder, "--output", back]) == 0
    assert main(["export", folder, back]) == 1
    assert "add --overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_runs_as_a_module_and_leaves_tensorflow_alone():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['elmo-hub', '--version']\n"
        "try:\n    runpy.run_module('hub_upload', run_name='__main__')\n"
        "except SystemExit as stop:\n    sys.exit(stop.code or int('tensorflow' in sys.modules))\n"
    )
    result = run_python("-c", code)
    assert result.returncode == 0 and result.stdout.strip(), result.stderr


@pytest.mark.slow
def test_cards_and_dry_runs(tmp_path, capsys):
    write_bilm(tmp_path / "source", vocabulary=VOCABULARY)
    source, folder = str(tmp_path / "source"), tmp_path / "elmo-tiny"
    assert main(["convert", source, str(folder)]) == 0
    text = (folder / "README.md").read_text()
    digest = hashlib.sha256((tmp_path / "source" / "weights.hdf5").read_bytes()).hexdigest()
    assert digest in text and "Not yet compared" in text and str(tmp_path) not in text
    assert main(["verify", str(folder), "--against", source]) == 0
    text = (folder / "README.md").read_text()
    assert "Not yet compared" not in text and "absolute difference" in text
    capsys.readouterr()
    assert main(["push", str(folder), "me/elmo-tiny", "--dry-run"]) == 1
    assert "elmo-hub card elmo-tiny --license" in capsys.readouterr().err
    assert main(["card", str(folder), "--license", "mit", "--language", "en", "de"]) == 0
    assert "license: mit" in capsys.readouterr().out
    assert main(["push", str(folder), "me/elmo-tiny", "--dry_run"]) == 0
    output = capsys.readouterr().out
    assert "model.safetensors" in output and 'name = "me/elmo-tiny"' in output


def test_a_push_from_the_command_line(hub, tmp_path, capsys):
    write_bilm(tmp_path / "source", vocabulary=VOCABULARY)
    folder = str(tmp_path / "elmo-tiny")
    main(["convert", str(tmp_path / "source"), folder])
    main(["card", folder, "--license", "mit", "--language", "en"])
    capsys.readouterr()
    assert main(["push", folder, "writer/elmo-tiny", "--private", "--branch", "next"]) == 0
    assert f"{hub.url}/writer/elmo-tiny/commit/" in capsys.readouterr().out
    assert "model.safetensors" in hub.files("writer/elmo-tiny", "next")
    assert main(["push", folder, "somebody/elmo-tiny"]) == 1
    assert capsys.readouterr().err.count("\n") == 1

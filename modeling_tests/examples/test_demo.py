"""`examples/demo.py`: the whole way once, with less training than `make demo`."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from examples import demo, ner_corpus, run_ner
from hub_upload.cli import main as elmo_hub


def write_predictions(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_predictions_are_read_by_sentence(tmp_path: Path) -> None:
    path = write_predictions(tmp_path / "predictions.conll", "Oslo\tB-LOC\tO\nsleeps\tO\tO\n\nAda\tB-PER\tB-PER\n\n")
    assert demo.read_predictions(path) == [[("Oslo", "O"), ("sleeps", "O")], [("Ada", "B-PER")]]


def test_entities_are_shown_with_their_characters(capsys: pytest.CaptureFixture[str]) -> None:
    def tagger(text: str) -> list[dict[str, object]]:
        assert text == "Ada saw Oslo."
        return [
            {"entity_group": "PER", "start": 0, "end": 3, "score": 0.987},
            {"entity_group": "LOC", "start": 8, "end": 12, "score": 0.5},
        ]

    demo.show("Ada saw Oslo.", tagger)  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == [
        "",
        "  [PER Ada] saw [LOC Oslo].",
        "      0-3   PER  0.99  Ada",
        "      8-12  LOC  0.50  Oslo",
    ]


def in_this_process(command: Sequence[str], **_: Any) -> SimpleNamespace:
    """In the place of `subprocess.run`: the same arguments to the same programs, without starting Python for each."""
    python, program, *arguments = command
    assert python == sys.executable
    if program == "-m":
        assert arguments.pop(0) == "hub_upload"
        return SimpleNamespace(returncode=elmo_hub(arguments))
    assert program == run_ner.__file__
    run_ner.main([*arguments, "--learning_rate", "1e-2", "--per_device_train_batch_size", "8"])  # few sentences
    return SimpleNamespace(returncode=0)


def assert_shown(printed: str, folder: Path, sentences: int, least_score: float) -> None:
    assert "passed: " in printed
    score = float(printed.split(f"Entity F1 on {sentences} unseen sentences: ")[1].split()[0])
    assert score >= least_score
    assert "the same answers as in training" in printed
    assert least_score == 0 or "[LOC " in printed.split("5. Raw text")[1]
    assert "Done in " in printed
    assert (folder / "tagger" / "model.safetensors").is_file()
    assert (folder / "original" / "weights.hdf5").is_file()


def test_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(run=in_this_process))
    smaller = ["--train", "300", "--validation", "30", "--test", "40"]
    monkeypatch.setattr(demo, "write_corpus", lambda argv: ner_corpus.main([*argv, *smaller]))
    demo.main(["--output_dir", str(tmp_path), "--epochs", "2"])
    assert_shown(capsys.readouterr().out, tmp_path, sentences=40, least_score=0.0)
    predictions = tmp_path / "tagger" / "predictions.conll"
    assert len({tag for sentence in demo.read_predictions(predictions) for _, tag in sentence}) > 1
    # A changed answer is noticed.
    text = predictions.read_text(encoding="utf-8")
    last = "O" if not text.rstrip().endswith("\tO") else "B-PER"
    write_predictions(predictions, text.rstrip().rsplit("\t", 1)[0] + f"\t{last}\n\n")
    with pytest.raises(demo.Failure, match="the reloaded tagger answers differently"):
        demo.check_answers(tmp_path / "tagger", predictions)
    # So is a program that fails.
    with pytest.raises(demo.Failure, match="elmo-hub ended with status 1"):
        demo.run("convert", tmp_path / "absent", tmp_path / "out", shown_as="elmo-hub")


@pytest.mark.slow
def test_the_command_learns_and_runs_over_its_own_remains(tmp_path: Path) -> None:
    command = [sys.executable, demo.__file__, "--output_dir", str(tmp_path), "--epochs", "3"]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert_shown(done.stdout, tmp_path, sentences=400, least_score=0.5)

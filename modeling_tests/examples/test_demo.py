"""`examples/demo.py`: the whole way once, with less training than `make demo`."""

import subprocess
import sys
from pathlib import Path

import pytest

import demo

ROOT = Path(__file__).resolve().parents[2]


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


# Once in every run of the tests; the slow one learns something, and runs over the remains of the run before it.
@pytest.mark.parametrize(
    ("epochs", "times", "least_score"), [(1, 1, 0.0), pytest.param(3, 2, 0.5, marks=pytest.mark.slow)]
)
def test_the_whole_way(tmp_path: Path, epochs: int, times: int, least_score: float) -> None:
    script = str(ROOT / "examples/demo.py")
    command = [sys.executable, script, "--output_dir", str(tmp_path), "--epochs", str(epochs)]
    for _ in range(times):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "passed: " in done.stdout
        score = float(done.stdout.split("Entity F1 on 400 unseen sentences: ")[1].split()[0])
        assert score >= least_score
        assert "the same answers as in training" in done.stdout
        assert least_score == 0 or "[LOC " in done.stdout.split("5. Raw text")[1]
        assert "Done in " in done.stdout
    assert (tmp_path / "tagger" / "model.safetensors").is_file()
    assert (tmp_path / "original" / "weights.hdf5").is_file()
    # A changed answer is noticed.
    predictions = tmp_path / "tagger" / "predictions.conll"
    text = predictions.read_text(encoding="utf-8")
    last = "O" if not text.rstrip().endswith("\tO") else "B-PER"
    write_predictions(predictions, text.rstrip().rsplit("\t", 1)[0] + f"\t{last}\n\n")
    with pytest.raises(demo.Failure, match="the reloaded tagger answers differently"):
        demo.check_answers(tmp_path / "tagger", predictions)

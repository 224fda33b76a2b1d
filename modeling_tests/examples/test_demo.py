"""`examples/demo.py`: a complete run with less training than `make demo`, and its corpus."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elmo_hf import ElmoModel
from elmo_hf.finetuning import TagColumns, read_tagged
from examples import demo, plot_layers, run_ner
from hub_upload.cli import main as elmo_hub


def in_this_process(command: Sequence[str], **_: Any) -> SimpleNamespace:
    """Stand-in for `subprocess.run` that calls the programs in this process."""
    python, program, *arguments = map(str, command)
    assert python == sys.executable
    if program == "-m":
        assert arguments.pop(0) == "hub_upload"
        return SimpleNamespace(returncode=elmo_hub(arguments))
    {"run_ner.py": run_ner.main, "plot_layers.py": plot_layers.main}[Path(program).name](arguments)
    return SimpleNamespace(returncode=0)


def assert_reported(printed: str, folder: Path, least_score: float) -> None:
    right, asked = printed.split('The nearest "light" has the same sense in ')[1].split(" sentences")[0].split(" of ")
    assert asked == "6" and int(right) >= 3  # by chance 1.2
    gap = next(line for line in printed.splitlines() if "She was one <mask> them" in line)
    assert " of 0." in gap
    score = float(printed.split("Right tags on 185 test sentences: ")[1].split("%")[0])
    assert score >= least_score
    assert "the same answers as in training for 3,544 words" in printed
    assert "The/DET minister/NOUN" in printed
    assert "passed: " in printed and "largest difference" in printed
    assert (folder / "original" / "options.json").is_file()
    for picture in ("layer_weights.png", "neighbours_light.png"):
        assert (folder / "figures" / picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.timeout(900)  # half a minute of compute
def test_demo_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(run=in_this_process))
    demo.main(["--output_dir", str(tmp_path), "--epochs", "2", "--train_share", "0.25"])
    assert_reported(capsys.readouterr().out, tmp_path, least_score=70.0)
    # A changed answer is detected.
    predictions = tmp_path / "tagger" / "predictions.conll"
    text = predictions.read_text(encoding="utf-8").rstrip()
    predictions.write_text(text.rpartition("\t")[0] + "\tX\n\n", encoding="utf-8")
    last = " ".join(line.split("\t")[0] for line in text.rpartition("\n\n")[2].splitlines())
    with pytest.raises(demo.Failure, match=re.escape(last)):
        demo.check_answers(tmp_path / "tagger", predictions)
    # So are changed vectors and a failed program.
    model = ElmoModel.from_pretrained(tmp_path / "back")
    model.encoder.requires_grad_(False)
    next(model.encoder.parameters()).mul_(1.1)
    model.save_pretrained(tmp_path / "back")
    with pytest.raises(demo.Failure, match=f"^{re.escape(str(tmp_path / 'back'))} "):
        demo.check_round_trip(tmp_path / "back")
    with pytest.raises(demo.Failure, match="elmo-hub .*status 1"):
        demo.run("elmo-hub", "convert", tmp_path / "absent", tmp_path / "out")


def test_the_corpus_and_its_notice() -> None:
    """The numbers of sentences are those in NOTICE.md, and no sentence is in two splits."""
    notice = (demo.CORPUS / "NOTICE.md").read_text(encoding="utf-8")
    assert "licenses/by/2.5/" in notice and "licenses/by/4.0/" in notice
    rows = [line.rsplit("|", 3) for line in notice.splitlines() if "](https://en.wikinews.org/wiki/" in line]
    seen: set[str] = set()
    for split in ("train", "validation", "test"):
        sentences = read_tagged(demo.CORPUS / f"{split}.conll", TagColumns(any_tag=True))
        assert len(sentences) == sum(int(row[2]) for row in rows if row[0].startswith(f"| {split} |"))
        texts = {" ".join(words) for words, _ in sentences if len(words) > 6}
        assert not texts & seen
        seen |= texts


@pytest.mark.slow
def test_command_learns_and_reruns_in_the_same_folder(tmp_path: Path) -> None:
    command = [sys.executable, demo.__file__, "--output_dir", str(tmp_path), "--epochs"]
    for options, least_score in ((["3"], 85.0), (["1", "--train_share", "0.25"], 60.0)):
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert_reported(done.stdout, tmp_path, least_score)

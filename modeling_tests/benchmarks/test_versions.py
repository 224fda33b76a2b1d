"""`benchmarks/versions.py`: what it runs in each checkout, and the speeds that it reads from the outputs."""

import json
import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import versions


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Runs of a stand-in for the programs: the new checkout is twice as fast; processes are slower than threads."""
    made = []

    def run(checkout, threads, command):
        made.append((checkout.name, threads, command))
        output = Path(command[1 + command.index("--output_dir")])
        speed = 100 * threads * (2 if checkout.name == "new" else 1)
        if "pretrain" in command:
            speed += 50 * ("--processes" in command)
            lines = [{"kind": "train", "words_per_second": 1}, {"kind": "train", "words_per_second": speed}]
            (output / "metrics.jsonl").write_text("".join(json.dumps({**each}) + "\n" for each in lines))
            return
        for step, second in ((1, 1000.0), (2, 1001.0), (10, 1001.0 + 60 / speed)):
            path = output / f"checkpoint-{step}" / "trainer_state.json"
            path.parent.mkdir()
            path.write_text("{}")
            os.utime(path, (second, second))

    monkeypatch.setattr(versions, "run", run)
    tags = tmp_path / "tags.conll"
    tags.write_text("a\tX\nb\tY\n\n" * 30)
    command = ["versions.py", str(tmp_path / "old"), str(tmp_path / "new"), "--books", "text", "--vocabulary", "vocab"]
    monkeypatch.setattr(sys, "argv", [*command, "--tags", str(tags), "--model", "model", "--threads", "1", "2"])
    return made


def test_both_checkouts_in_turn(runs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--processes", "2", "--rounds", "1"])
    versions.main()
    rows = [line.rsplit(maxsplit=4) for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[1:] for row in rows[:2]] == [["1", "100", "200", "2.00"], ["2", "200", "400", "2.00"]]
    assert rows[2][1:] == ["2", "400", "250", "0.62"]
    # 60 words in the third epoch, with two threads.
    assert [row[1:] for row in rows[3:]] == [["2", "200", "400", "2.00"]] * 3
    assert [name for name, _, _ in runs[:4]] == ["old", "new"] * 2
    processes = [command for _, _, command in runs if "--processes" in command]
    assert len(processes) == 1 and processes[0][1 + processes[0].index("--rows")] == "64"


def test_a_run_without_three_epochs_is_refused(runs, monkeypatch, tmp_path):
    monkeypatch.setattr(versions, "run", lambda checkout, threads, command: None)
    monkeypatch.setattr(versions, "pretraining", lambda *args: 1.0)
    with pytest.raises(SystemExit, match="old"):
        versions.main()

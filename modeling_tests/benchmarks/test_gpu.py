"""`benchmarks/gpu.py`: a column or a row that fails does not stop the others."""

import importlib.util
import json
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu.py"


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_of_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    return loaded(SCRIPT)


def test_failed_column_does_not_stop_the_others(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    calls = {"ours": 0, "plain": 0}

    def call(name: str, last: int) -> None:
        calls[name] += 1
        if calls[name] > last:
            raise ValueError("no such plan\nand more")

    columns = gpu.Columns({"rows": 2}, "cpu")
    seconds = columns.measure({"ours": lambda: call("ours", 99), "plain": lambda: call("plain", 1)}, 4, worth=10)
    assert seconds.keys() == {"ours"}
    assert columns.row["ours"] == pytest.approx(10 / seconds["ours"])
    assert columns.row["failed"] == {"plain": "ValueError: no such plan"}
    assert calls == {"ours": 4 + gpu.WARM_UPS, "plain": 2}
    # All results so far are printed after each round.
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert said[-1] == columns.row
    assert [row["rounds"] for row in said] == [0, 0, 0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("ending", "failure"),
    [
        ("import time; time.sleep(60)", "killed after 1 s"),
        ("raise SystemExit('CUDA error: an illegal memory access')", "1: CUDA error: an illegal memory access"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "-11"),
        ("", None),
    ],
)
def test_row_that_ends_early_keeps_its_printed_results(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, failure: str | None
) -> None:
    script = tmp_path / "row.py"
    script.write_text(f'print(\'{{"ours": 5.0, "failed": {{}}}}\', flush=True)\n{ending}\n')
    monkeypatch.setattr(gpu, "__file__", str(script))
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    row = gpu.run_row(Namespace(time_limit=1.0 if "sleep" in ending else 60.0), "biLM", "bf16", 32, {})
    assert row == {
        "work": "biLM", "precision": "bf16", "rows": 32, "ours": 5.0, "failed": {"row": failure} if failure else {}
    }  # fmt: skip
    assert "5" in gpu.line_of(row)


def test_verdicts(gpu: ModuleType) -> None:
    """Columns with and without an optimization are compared; a failed column gives no verdict."""
    rows = [
        {"work": "biLM", "precision": "bf16", "rows": 128, "ours": 12.0, "unfused": 10.0, "whole": 5.0},
        {"work": "biLM", "precision": "fp32", "rows": 128, "ours": 10.0, "unfused": 10.0},
        {"work": "biLM training", "precision": "bf16", "rows": 128, "ours": 9.0, "unfused": 10.0},
        {"work": "streams", "precision": "bf16", "rows": 32, "in_turn": 10.0, "side_by_side": 15.0},
    ]
    found = [[line.split(": ")[1] for line in gpu.verdicts(row)] for row in rows]
    assert found == [["1.20 x, keep (or build) it"], [], ["0.90 x, leave it out"], ["1.50 x, keep (or build) it"]]
    assert "gates' matmul: 1.20 x" in gpu.line_of({**rows[0], "failed": {}, "verdicts": gpu.verdicts(rows[0])})


def test_row_is_killed_with_its_child_processes(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that a row started, such as a pretraining run, would slow down the following rows."""
    script, place = tmp_path / "row.py", tmp_path / "started"
    script.write_text(
        "import pathlib, subprocess, sys, time\n"
        "started = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(place)!r}).write_text(str(started.pid))\ntime.sleep(60)\n"
    )
    monkeypatch.setattr(gpu, "__file__", str(script))
    monkeypatch.setattr(sys, "argv", ["gpu.py"])

    class Options:
        @property
        def time_limit(self) -> float:
            """The limit is reached once the process has started."""
            while not place.exists() or not place.read_text():
                time.sleep(0.02)
            return 0.0

    row = gpu.run_row(Options(), "step", "bf16", 128, {})
    assert row["failed"] == {"row": "killed after 0 s"}
    state = Path(f"/proc/{place.read_text()}/stat")
    for _ in range(100):
        if not state.exists() or ") Z " in state.read_text():
            return
        time.sleep(0.05)
    raise AssertionError("what the row had started runs on")


@pytest.mark.parametrize("script", ["gpu", "pretraining_throughput"])
def test_float32_runs_without_tf32(gpu: ModuleType, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 would round the matmuls or convolutions of one side only."""
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    matmul.allow_tf32 = convolution.allow_tf32 = True
    if script == "gpu":
        gpu.build(Namespace(tiny=True, device="cpu", precisions=["fp32"]))
    else:
        module = loaded(SCRIPT.with_name("pretraining_throughput.py"))
        monkeypatch.setattr(module, "made_up_text", mock.Mock(side_effect=InterruptedError))
        monkeypatch.setattr(sys, "argv", ["pretraining_throughput.py"])
        with pytest.raises(InterruptedError):
            module.main()
    found = matmul.allow_tf32, convolution.allow_tf32
    matmul.allow_tf32, convolution.allow_tf32 = before
    assert found == (False, False)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_script_end_to_end(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--tiny", "--precisions", "fp32", "--output", tmp_path]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=SCRIPT.parents[1],
        env={"PYTHONPATH": ".", "PATH": "/bin"},
    )
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    works = [(row["work"], row["rows"]) for row in report["rows"]]
    expected = [(work, rows) for work in ("biLM", "projection", "d_hidden", "streams") for rows in (2, 3)]
    assert sorted(works) == sorted([*expected, ("biLM training", 2), ("step", 2)])
    for row in report["rows"]:
        assert not row["failed"]
    assert all(row["ours"] > 0 for row in report["rows"] if row["work"] in ("biLM", "biLM training", "step"))
    # Nothing is fused in float32.
    assert [len(row["verdicts"]) for row in report["rows"] if row["work"] in ("biLM", "streams")] == [1] * 4
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")

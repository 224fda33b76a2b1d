"""Every test of a metric copies the metric's file into a folder of its own, where `evaluate.load` finds no other."""

import sys
from pathlib import Path

import evaluate
import pytest


@pytest.fixture(autouse=True)
def _own_evaluate_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The package of copied files is imported once per process and looks for all files where the first one was.
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not Path(entry, "evaluate_modules").is_dir()])
    for name in [name for name in sys.modules if name.split(".")[0] == "evaluate_modules"]:
        monkeypatch.delitem(sys.modules, name)

"""Fixtures shared by all tests.

The suite never reaches the network: the Hub is switched off before anything of Transformers is imported.
"""

import os
import random
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import pytest
import torch
from huggingface_hub import constants

from . import shortcuts
from .hub_server import Hub, running_hub

ROOT = Path(__file__).resolve().parent.parent


# Reasons of skips that are failures with `ELMO_REQUIRE_REFERENCE=1`.
REQUIRED = ("no reference outputs", "no C compiler")


def fail_if_required(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure if a required file or program is missing."""
    reason = str(report.longrepr[-1]) if report.skipped and isinstance(report.longrepr, tuple) else ""
    if os.environ.get("ELMO_REQUIRE_REFERENCE") == "1" and any(name in reason for name in REQUIRED):
        report.outcome, report.longrepr = "failed", f"{reason}: required by ELMO_REQUIRE_REFERENCE=1"


# They begin first: a worker that began one of them last would be alone at the end.
LONGEST = (
    "benchmarks/test_gpu.py",
    "examples/test_demo.py",
    "pretraining/test_loop.py",
    "model/test_opaque_parts.py",
    "test_exporting.py",
    "test_remote_code.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, and choose the quick parameters of tests marked `samples(n)`.

    `n` sets of parameters run in `make test`; the others are slow. They are drawn at random by the name of the test:
    the same ones in every run.
    """
    items.sort(key=lambda item: not item.nodeid.partition("::")[0].endswith(LONGEST))
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("samples"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for name, cells in tests.items():
        marker = cells[0].get_closest_marker("samples")
        assert marker is not None
        quick = random.Random(name).sample(cells, min(marker.args[0], len(cells)))
        for item in cells:
            if item not in quick:
                item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Generator[None, pytest.TestReport, Any]:
    report = yield
    fail_if_required(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, Any]:
    report = yield
    fail_if_required(report)
    return report


@pytest.fixture(scope="session")
def reference() -> Path:
    """Outputs of the original programs: the folder in `$ELMO_REFERENCE`, else `../shared/reference`."""
    folder = Path(os.environ.get("ELMO_REFERENCE", ROOT.parent / "shared" / "reference"))
    if not folder.is_dir():
        pytest.skip(f"no reference outputs at {folder}; set ELMO_REFERENCE to their folder")
    return folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)
    shortcuts.take()


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn, as they are for users."""
    from matplotlib.figure import Figure

    shortcuts.take()
    monkeypatch.setattr(Figure, "savefig", shortcuts.drawing[0])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A local Hub that the real client asks with the token of `writer`, and a cache of its own."""
    with running_hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        # Transformers caches a client with the address.
        monkeypatch.setattr("transformers.utils.hub._hf_api", None, raising=False)
        yield server

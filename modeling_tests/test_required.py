"""Skips that become failures with `ELMO_REQUIRE_REFERENCE=1`."""

import pytest

from .conftest import fail_if_required


@pytest.mark.parametrize(
    ("reason", "required", "outcome"),
    [
        ("no reference outputs at /nowhere; set ELMO_REFERENCE to their folder", "1", "failed"),
        ("no C compiler at hand, or ELMO_HF_NATIVE=0", "1", "failed"),
        ("no GPU at hand", "1", "skipped"),
        ("no C compiler at hand", None, "skipped"),
        ("no C compiler at hand", "0", "skipped"),
    ],
)
@pytest.mark.parametrize("kind", [pytest.TestReport, pytest.CollectReport])
def test_missing_requirements_fail(
    kind: type, reason: str, required: str | None, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ELMO_REQUIRE_REFERENCE", raising=False)
    if required is not None:
        monkeypatch.setenv("ELMO_REQUIRE_REFERENCE", required)
    place = ("test_a.py", 3, f"Skipped: {reason}")
    if kind is pytest.TestReport:
        report = kind("test_a.py::test", ("test_a.py", 3, "test"), {}, "skipped", place, "setup")
    else:
        report = kind("test_a.py", "skipped", place, [])
    fail_if_required(report)
    assert report.outcome == outcome
    assert (reason in str(report.longrepr)) and ("ELMO_REQUIRE" in str(report.longrepr)) is (outcome == "failed")


def test_other_outcomes_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELMO_REQUIRE_REFERENCE", "1")
    report = pytest.TestReport("a::b", ("a", 1, "b"), {}, "passed", None, "call")
    fail_if_required(report)
    assert report.outcome == "passed" and report.longrepr is None

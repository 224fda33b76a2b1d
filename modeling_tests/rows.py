"""Test parameters, only some of which run in `make test`."""

from collections.abc import Iterable
from typing import Any

import pytest


def every(step: int, rows: Iterable[Any]) -> list[Any]:
    """Mark all rows slow except the first and every `step`-th after it."""
    return [row if number % step == 0 else slow(row) for number, row in enumerate(rows)]


def slow(row: Any) -> Any:
    """One value of a parameter, marked slow."""
    return pytest.param(row, marks=pytest.mark.slow)

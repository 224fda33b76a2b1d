"""Parameters of tests of which only some run in `make test`."""

from collections.abc import Iterable
from typing import Any

import pytest


def every(step: int, rows: Iterable[Any]) -> list[Any]:
    """The first row and each `step`-th after it are quick, the others slow."""
    return [row if number % step == 0 else slow(row) for number, row in enumerate(rows)]


def slow(row: Any) -> Any:
    """One value of a parameter, marked slow."""
    return pytest.param(row, marks=pytest.mark.slow)

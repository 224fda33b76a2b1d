"""Where the commands write text: a file that is complete or absent, or stdout."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from elmo_hf.atomic import appearing


@contextmanager
def written(name: str | None) -> Iterator[TextIO | None]:
    """A text file that appears under `name` only when it is complete; stdout for "-", nothing for `None`."""
    if name is None or name == "-":
        yield None if name is None else sys.stdout
        return
    with appearing(name) as aside, aside.open("w", encoding="utf-8") as file:
        yield file

"""Output of the commands: files that appear complete, stdout, and the closing line or its JSON."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from elmo_hf.atomic import appearing

from .options import add_flag


@contextmanager
def written(name: str | None) -> Iterator[TextIO | None]:
    """Open a text file that appears as `name` only when complete; stdout for "-", `None` for `None`."""
    if name is None or name == "-":
        yield None if name is None else sys.stdout
        return
    with appearing(name) as aside, aside.open("w", encoding="utf-8", newline="\n") as file:
        yield file


def add_json(parser: Any) -> None:
    """Add the option `--json`."""
    add_flag(parser, "--json", "print the result as JSON")


def tell(options: dict[str, Any], record: dict[str, Any], line: str, *, beside: bool = False) -> None:
    """Print a result: `record` with `--json`, else `line`; on stderr if `beside`, because stdout has the output."""
    text = json.dumps(record, ensure_ascii=False, default=str) if options["json"] else line
    print(text, file=sys.stderr if beside else sys.stdout)

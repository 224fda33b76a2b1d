"""Where the commands write: a file that is complete or absent, stdout, and the closing line or its JSON."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from elmo_hf.atomic import appearing


@contextmanager
def written(name: str | None) -> Iterator[TextIO | None]:
    """A text file that appears under `name` only when it is complete; stdout for "-", nothing for `None`."""
    if name is None or name == "-":
        yield None if name is None else sys.stdout
        return
    with appearing(name) as aside, aside.open("w", encoding="utf-8", newline="\n") as file:
        yield file


def add_json(parser: Any) -> None:
    """Add the option of results as JSON."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def tell(options: dict[str, Any], record: dict[str, Any], line: str, *, beside: bool = False) -> None:
    """Print a result: `record` with `--json`, else `line`; on stderr `beside` an output on stdout."""
    text = json.dumps(record, ensure_ascii=False) if options["json"] else line
    print(text, file=sys.stderr if beside else sys.stdout)

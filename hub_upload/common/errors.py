"""The exception of this package, and formatting of lists in messages."""

from collections.abc import Iterable


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, converted, exported or verified.

    The message names the file, the faulty value, the expectation and the remedy.
    """


def listing(names: Iterable[str], limit: int = 8) -> str:
    """The first names, and the number of further ones."""
    names = list(names)
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"

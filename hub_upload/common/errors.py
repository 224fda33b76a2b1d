"""The one exception of this package, and the lists of names in its messages."""

from collections.abc import Iterable


class CheckpointError(ValueError):
    """A checkpoint cannot be read, converted, exported or verified.

    The message names the file and the value at fault, what was expected, and the remedy.
    """


def listing(names: Iterable[str], limit: int = 8) -> str:
    """The first names and how many more there are."""
    names = list(names)
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"

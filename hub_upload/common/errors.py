"""The exception of this package, and formatting of lists in messages."""

from collections.abc import Collection, Iterable


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, converted, exported or verified.

    The message names the file, the faulty value, the expectation and the remedy.
    """


def differences(expected: Collection[str], present: Collection[str], unused: str) -> str:
    """Names that are missing, and others (`unused` describes them), as one sentence; empty if there are none."""
    found = (("missing", set(expected) - set(present)), (unused, set(present) - set(expected)))
    return "; ".join(f"{what}: {listing(sorted(names))}" for what, names in found if names)


def listing(names: Iterable[str], limit: int = 8) -> str:
    """The first names, and the number of further ones."""
    names = list(names)
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"

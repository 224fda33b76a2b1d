"""The one exception of this package."""


class CheckpointError(ValueError):
    """A checkpoint cannot be read, converted, exported or verified.

    The message names the file and the value at fault, what was expected, and the remedy.
    """

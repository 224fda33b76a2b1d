"""Names of published originals, `elmo:small`, wherever a model is asked for."""

import os
from pathlib import Path
from typing import TypeVar

Place = TypeVar("Place")

PREFIX = "elmo:"


def resolve(place: Place) -> Place | str:
    """The kept folder of a published original, if `place` is the name of one; anything else as it is.

    An original that is not kept yet is fetched, converted and verified, after a question about its size and license. A
    file or folder of the very name is never shadowed.

    Raises:
        ValueError: no such original; or not kept, and nobody there to be asked.
        OSError: it cannot be fetched, or kept.
    """
    if not isinstance(place, str) or not place.startswith(PREFIX) or Path(place).exists():
        return place
    # Only here does this package ask for its converter, which is built on it.
    from hub_upload import kept

    return os.fspath(kept(place.removeprefix(PREFIX)))

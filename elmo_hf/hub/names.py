"""Names of published originals, such as `elmo:small`, accepted in place of a model."""

import os
from pathlib import Path
from typing import TypeVar

Place = TypeVar("Place")

PREFIX = "elmo:"


def resolve(place: Place) -> Place | str:
    """Resolve the name of a published original to its cached folder; return anything else unchanged.

    An original that is not cached yet is downloaded, converted and verified, after a prompt about its size and license.
    An existing file or folder of that name takes precedence.

    Raises:
        ValueError: no such original; or it is not cached and there is no terminal for the prompt.
        OSError: it cannot be downloaded or stored.
    """
    if not isinstance(place, str) or not place.startswith(PREFIX) or Path(place).exists():
        return place
    # Imported here because the converter itself depends on this package.
    from hub_upload import kept

    return os.fspath(kept(place.removeprefix(PREFIX)))

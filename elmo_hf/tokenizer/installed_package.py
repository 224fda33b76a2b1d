"""Files of the installed package `elmo_hf` that a tokenizer of a checkpoint asks for, too, and works without."""

import importlib
import importlib.util
import sys
from types import ModuleType


def package_part(name: str) -> ModuleType | None:
    """A file or folder of the installed package that stands alone; `None` without it, or in a version that lacks it.

    The package is not imported for it, because its import registers its classes with the Auto classes, and a copy of
    this file has to leave them as they are: its part is loaded under a name of its own, but where the package is
    imported already.
    """
    parent = "elmo_hf"
    if sys.modules.get(parent) is None:
        package = importlib.util.find_spec(parent)
        if package is None or package.submodule_search_locations is None:
            return None
        # A package of these folders, whose own file is not run; Python's locks of imports hold for its parts.
        parent = "elmo_hf_installed"
        holder = ModuleType(parent)
        holder.__path__ = package.submodule_search_locations
        sys.modules.setdefault(parent, holder)
    try:
        return importlib.import_module(f"{parent}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{parent}.{name}":
            raise
        return None

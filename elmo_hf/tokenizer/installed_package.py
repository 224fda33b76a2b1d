"""Access to optional parts of the installed package `elmo_hf` from a checkpoint's tokenizer, which works without."""

import importlib
import importlib.util
import sys
from types import ModuleType


def package_part(name: str) -> ModuleType | None:
    """Import a self-contained module of the installed package; `None` if the package or the module is missing.

    Does not import the package itself, whose import would register its classes with the Auto classes. Unless the
    package is already imported, the module is loaded under the parent name `elmo_hf_installed`.
    """
    parent = "elmo_hf"
    if sys.modules.get(parent) is None:
        package = importlib.util.find_spec(parent)
        if package is None or package.submodule_search_locations is None:
            return None
        # A package with the same folders, whose `__init__` is not run; Python's import locks apply to its modules.
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

"""Publishing models on the Hub: file selection, model cards, commits, and names of published originals.

Names are imported on first use. `elmo-hub push` and `elmo-hub card` are commands for the same functions.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .card import CardFacts, Result, SourceFile, add_facts, file_name_only, note_verification, write_card
    from .errors import HubError
    from .files import publishable, traveling_code
    from .names import PREFIX, resolve
    from .pushing import PushReport, push

# Where each public name lives.
_HOMES = {
    "card": ["CardFacts", "Result", "SourceFile", "add_facts", "file_name_only", "note_verification", "write_card"],
    "errors": ["HubError"],
    "files": ["publishable", "traveling_code"],
    "names": ["PREFIX", "resolve"],
    "pushing": ["PushReport", "push"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})

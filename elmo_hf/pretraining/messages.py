"""Log messages of a run: from the main process, with the process's number only if there are several."""

import logging
from collections.abc import MutableMapping
from typing import Any

from accelerate import PartialState
from accelerate.logging import MultiProcessAdapter


class RunLogger(MultiProcessAdapter):
    """Accelerate's logger, without `[RANK 0]` before each message of a single process."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        if PartialState().num_processes > 1:
            return super().process(msg, kwargs)
        kwargs.setdefault("stacklevel", 2)
        return msg, kwargs


def get_logger(name: str) -> RunLogger:
    """Return the logger of a module."""
    return RunLogger(logging.getLogger(name), {})

"""Several processes of one command, started by torchrun or `accelerate launch`."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed

Result = TypeVar("Result")

# Timeout for the slowest process, which may take days for a large corpus.
_PATIENCE = timedelta(days=60)


@dataclass
class Processes:
    """Process group of the command, seen from this process; small messages are exchanged by gloo.

    Attributes:
        rank, size: number of this process, and number of processes.
        local_rank: number of the process on this machine, and of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    _group: Any = None
    _began: bool = False

    @classmethod
    def from_environment(cls) -> "Processes":
        """Processes by the environment variables of the launchers; a single process without them."""
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size <= 1:
            return cls()
        self = cls(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_RANK", "0")))
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
            self._began = True
        else:
            self._group = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
        return self

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def from_first(self, call: Callable[[], Result]) -> Result:
        """Call `call` in the first process, and return its result, or raise its error, in every process."""
        if self.size == 1:
            return call()
        found: list[Any] = [None, None]
        if self.is_first:
            try:
                found[0] = call()
            except Exception as error:
                found[1] = error
        torch.distributed.broadcast_object_list(found, src=0, group=self._group)
        if found[1] is not None:
            raise found[1]
        return found[0]

    def check(self, error: Exception | None) -> None:
        """Wait for all processes; raise this process's error, or else one that names the failed process."""
        if self.size == 1:
            if error is not None:
                raise error
            return
        errors: list[str | None] = [None] * self.size
        mine = None if error is None else f"{type(error).__name__}: {error}"
        torch.distributed.all_gather_object(errors, mine, group=self._group)
        if error is not None:
            raise error
        for rank, message in enumerate(errors):
            if message is not None:
                raise RuntimeError(f"process {rank} of {self.size} failed: {message}")

    def leave(self) -> None:
        """Close the connection opened by `from_environment`."""
        if self._began:
            torch.distributed.destroy_process_group()
            self._began = False

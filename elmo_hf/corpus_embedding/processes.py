"""Several processes of one command, as torchrun and `accelerate launch` start them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed

Result = TypeVar("Result")

# Waiting for the slowest: of a large corpus, days.
_PATIENCE = timedelta(days=60)


@dataclass
class Processes:
    """This process among those of the command; they exchange little, by gloo.

    Attributes:
        rank, size: this one's number, and how many there are.
        local_rank: its number on this machine, and that of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    _group: Any = None
    _began: bool = False

    @classmethod
    def from_environment(cls) -> "Processes":
        """From the variables that the launchers set; a single process without them."""
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
        """What `call` returns, or raises, in the first process: the same in every one."""
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
        """Wait for all processes; raise this one's error, or else name the one that failed."""
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
        """End what `from_environment` began."""
        if self._began:
            torch.distributed.destroy_process_group()
            self._began = False

"""Prepared batches in order, made in this process or ahead of time by worker processes.

Each of n workers reads the whole text in order, like the processes of a distributed run, and makes every n-th batch.
Batches, position in the text and candidates are the same as without workers.
"""

import itertools
import pickle
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .objective import StreamingObjective
from .preparation import BatchPreparation, PreparedBatch
from .streams import SentenceStreams

# Prepared batches in the queue of each worker.
BATCHES_AHEAD = 2


@dataclass(frozen=True)
class _Made:
    """Message of a worker: a batch with the positions of text and sampler after it, or an error."""

    batch: PreparedBatch | None
    position: dict[str, Any]
    draws: dict[str, int] | None
    error: Exception | None = None

    def pin_memory(self) -> "_Made":
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


class _Worker(IterableDataset[_Made]):
    """Dataset of every n-th batch from `position` on, in a worker process."""

    def __init__(self, streams: SentenceStreams, position: dict[str, Any], preparation: BatchPreparation) -> None:
        self.streams, self.position, self.preparation = streams, position, preparation

    def __iter__(self) -> Iterator[_Made]:
        info = get_worker_info()
        assert info is not None
        # Opens the text again: a forked process would share the open file with its parent.
        self.streams.load_state_dict(self.position)
        for number in itertools.count():
            is_mine = number % info.num_workers == info.id
            try:
                if not is_mine:
                    self.streams.skip()
                    self.preparation.skip()
                    continue
                batch = self.preparation(next(self.streams))
            except StopIteration:
                return
            except Exception as error:
                if is_mine:
                    yield _Made(None, {}, None, _sendable(error))
                return
            sampler = self.preparation.sampler
            yield _Made(batch, self.streams.state_dict(), None if sampler is None else sampler.state_dict())


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _leave_signals_to_the_run(number: int) -> None:
    """Ignore SIGINT, which a terminal sends to all processes; the run ends its workers after its checkpoint."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)


def _as_it_is(made: _Made) -> _Made:
    return made


class PreparedBatches:
    """Iterator over the training batches of an objective; its position can be saved and restored exactly.

    Args:
        streams: the text.
        objective: the objective of the batches; its sampler is kept at the last batch returned.
        workers: processes that prepare batches ahead of time; 0 prepares each batch in this process on demand.
        pin: put the workers' batches into page-locked memory, for a GPU.
    """

    def __init__(
        self, streams: SentenceStreams, objective: StreamingObjective, *, workers: int = 0, pin: bool = False
    ) -> None:
        self._streams, self._objective = streams, objective
        self._workers, self._pin = workers, pin
        self._position = streams.state_dict()
        self._made: Iterator[_Made] | None = None

    def __iter__(self) -> Iterator[PreparedBatch]:
        return self

    def __next__(self) -> PreparedBatch:
        if not self._workers:
            return self._objective.preparation(next(self._streams))
        if self._made is None:
            self._made = self._start()
        made = next(self._made)
        if made.error is not None:
            raise made.error
        assert made.batch is not None
        self._position = made.position
        self._objective.load_sampler_state(made.draws)
        return made.batch

    def state_dict(self) -> dict[str, Any]:
        """The position before the next batch, as `SentenceStreams.state_dict`."""
        return self._position if self._workers else self._streams.state_dict()

    def load_state_dict(self, position: dict[str, Any]) -> None:
        """Continue with the batch after `state_dict`; errors as in `SentenceStreams`."""
        self.close()
        self._streams.load_state_dict(position)
        self._position = position

    def close(self) -> None:
        """End the workers."""
        self._made = None

    def _start(self) -> Iterator[_Made]:
        dataset = _Worker(self._streams, self._position, self._objective.preparation.without_weights())
        return iter(
            DataLoader(
                dataset,
                batch_size=None,
                num_workers=self._workers,
                prefetch_factor=BATCHES_AHEAD,
                pin_memory=self._pin,
                collate_fn=_as_it_is,  # type: ignore[arg-type]  # without batch_size it gets what the data set makes
                worker_init_fn=_leave_signals_to_the_run,
                # A separate generator: the default would draw from the one of dropout.
                generator=torch.Generator(),
            )
        )

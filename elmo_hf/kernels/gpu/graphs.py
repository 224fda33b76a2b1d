"""CUDA graphs of the steps, and ownership of the buffers over which they are captured.

An owner (`GraphedWorkspace`) holds the buffers of one shape on one stream and all graphs over them. Its graphs share a
memory pool and a capture stream that nothing else uses, and are destroyed together: PyTorch frees a stream's cuBLAS
workspace when any graph captured on it is destroyed (pytorch issue 193402). Calls on one stream run in order, so they
can share buffers.

During a capture, another thread that draws random numbers on the same GPU, for instance in a dropout, fails ("Offset
increment outside graph capture"). Start such threads after all shapes have been captured, or set `ELMO_HF_GPU=eager`.
"""

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .workspace import Shape, Workspace

# Numbers of rows of buffers. Several, so that small batches do not take the memory of large ones.
CAPACITIES = (32, 128, 512)
BYTES_KEPT = 2**30


def rounded_up(rows: int) -> int:
    """Number of rows of the graph used for `rows` rows. Up to about 64 rows, a step is bound by reading the weights."""
    return max(8, 1 << (rows - 1).bit_length()) if rows <= 64 else -(-rows // 64) * 64


class GraphedWorkspace(Workspace):
    """A workspace whose `run` replays a graph for each kind, number of rows and number of steps; on a GPU only.

    Attributes:
        lock: held by the caller from loading the inputs to reading the results.
    """

    def __init__(self, shape: Shape, device: torch.device, stream: "torch.cuda.Stream | None") -> None:
        super().__init__(shape, device)
        self.lock = threading.Lock()
        self.capture_stream = stream
        self._pool = None if stream is None else torch.cuda.graph_pool_handle()
        self._graphs: dict[tuple[str, int, int], Callable[[], None]] = {}
        self._captured: list[torch.cuda.CUDAGraph] = []

    def prepare(self, kind: str, rows: int, count: int) -> None:
        """Capture the graph that `run` will replay. Overwrites the buffers: a capture begins with a real run."""
        key = kind, rounded_up(rows), count
        if key in self._graphs:
            return

        def work() -> None:
            super(GraphedWorkspace, self).run(*key)

        with torch.inference_mode(False), torch.no_grad():
            # No row is active, and no tensors of an earlier call are accessed.
            self.lengths.zero_()
            self.point_to_nothing()
            if kind == "backward":
                self._gradients  # noqa: B018 - allocates the buffers before the capture
            if self.capture_stream is None:
                self._graphs[key] = work
            else:
                self._captured.append(_capture(work, self.capture_stream, self._pool))
                self._graphs[key] = self._captured[-1].replay

    def run(self, kind: str, rows: int, count: int) -> None:
        self._graphs[kind, rounded_up(rows), count]()

    def close(self) -> None:
        """Destroy all graphs after they have finished."""
        if self._captured:
            torch.cuda.synchronize(self.capture_stream.device if self.capture_stream is not None else None)
        for graph in self._captured:
            graph.reset()
        self._captured, self._graphs = [], {}


def _capture(work: Callable[[], None], stream: torch.cuda.Stream, pool: Any) -> torch.cuda.CUDAGraph:
    """Capture `work` on a stream of the current device."""
    # The first run compiles kernels and creates handles, which is not possible during a capture.
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Makes cuBLAS allocate its workspace in the graphs' pool; cleared again below, so that PyTorch does not reuse it.
    torch._C._cuda_clearCublasWorkspaces()
    with torch.cuda.stream(stream):
        # Other threads, such as one that pins memory, are not disturbed.
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            work()
        finally:
            graph.capture_end()
    torch._C._cuda_clearCublasWorkspaces()
    return graph


class Owners:
    """Cache of workspaces with a bounded number of bytes; the least recently used is closed first."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._lock = threading.RLock()
        self._kept: OrderedDict[Any, GraphedWorkspace] = OrderedDict()
        # Streams of closed owners, for reuse: PyTorch has only 32 per device and hands them out repeatedly.
        self._streams: dict[torch.device, list[torch.cuda.Stream]] = {}

    @contextmanager
    def workspace(self, shape: Shape, like: Tensor) -> Iterator[GraphedWorkspace]:
        """A workspace of at least `shape.rows` rows on the device and stream of `like`, locked for the caller."""
        shape = shape._replace(rows=next(rows for rows in CAPACITIES if rows >= shape.rows))
        device = like.device
        stream = torch.cuda.current_stream(device).cuda_stream if like.is_cuda else 0
        key = shape, device, stream
        with self._lock:
            space = self._kept.get(key)
            if space is None:
                # The buffers are used in other modes later.
                with torch.inference_mode(False), torch.no_grad():
                    space = self._kept[key] = GraphedWorkspace(shape, device, self._stream_for(device))
            self._kept.move_to_end(key)
            self._close_oldest()
            space.lock.acquire()
        try:
            yield space
        finally:
            space.lock.release()

    def clear(self) -> None:
        """Close all workspaces and free their memory."""
        with self._lock:
            while self._kept:
                self._close(next(iter(self._kept)))

    def __len__(self) -> int:
        return len(self._kept)

    def _close_oldest(self) -> None:
        while len(self._kept) > 1 and sum(space.nbytes for space in self._kept.values()) > self.most_bytes:
            self._close(next(iter(self._kept)))

    def _close(self, key: Any) -> None:
        space = self._kept.pop(key)
        with space.lock:
            space.close()
            if space.capture_stream is not None:
                self._streams.setdefault(space.capture_stream.device, []).append(space.capture_stream)

    def _stream_for(self, device: torch.device) -> "torch.cuda.Stream | None":
        if device.type != "cuda":
            return None
        free = self._streams.get(device, [])
        return free.pop() if free else torch.cuda.Stream(device)


owners = Owners(BYTES_KEPT)


class Captures:
    """Use of CUDA graphs in this process; the first failed capture ends it with a warning."""

    def __init__(self) -> None:
        self.failed = False

    def end(self, error: Exception) -> None:
        """Disable graphs for the rest of this process."""
        if not self.failed:
            warnings.warn(
                f"CUDA graphs cannot be captured ({type(error).__name__}: {error}); the biLSTM runs without them, "
                "which is slower. Set ELMO_HF_GPU=eager to silence this",
                RuntimeWarning,
                stacklevel=2,
            )
        self.failed = True

    def work(self, device: torch.device) -> bool:
        """True if graphs can be captured on this device and stream now."""
        return not self.failed and device.type == "cuda" and not torch.cuda.is_current_stream_capturing()


captures = Captures()

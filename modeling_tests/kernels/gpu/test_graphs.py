"""Ownership of buffers and graphs, their streams, and the order of capture."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from elmo_hf.kernels.gpu import graphs
from elmo_hf.kernels.gpu.graphs import GraphedWorkspace, Owners, rounded_up
from elmo_hf.kernels.gpu.workspace import LstmConstants, Shape

HERE = torch.device("cpu")


def shape_of(rows: int, size: int = 2) -> Shape:
    return Shape(rows, size, size, False, torch.float32, LstmConstants(None, None, 1.0), False)


class Stream:
    """Stand-in for a stream on which graphs are captured."""

    device = HERE


class Graph:
    """Stand-in for a CUDA graph; `alive` holds those not destroyed, with their stream and pool."""

    alive: list["Graph"]

    def __init__(self, work: Callable[[], None], stream: Stream, pool: Any) -> None:
        self.replay, self.stream, self.pool = work, stream, pool
        Graph.alive.append(self)

    def reset(self) -> None:
        Graph.alive.remove(self)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """CUDA graphs emulated without a GPU."""
    if device == "cuda":
        pytest.skip("this test emulates CUDA graphs")
    Graph.alive = []
    pools = iter(range(100))
    monkeypatch.setattr(graphs, "_capture", Graph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(pools))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream())
    monkeypatch.setattr(Owners, "_stream_for", lambda owners, device: take(owners))

    def take(owners: Owners) -> Stream:
        free = owners._streams.get(HERE, [])
        return free.pop() if free else Stream()


@pytest.mark.usefixtures("captured")
class TestOwners:
    def use(self, owners: Owners, size: int) -> GraphedWorkspace:
        with owners.workspace(shape_of(3, size), torch.zeros(1)) as space:
            for count in (1, 2):
                space.prepare("infer", 3, count)
                space.prepare("infer", 4, count)  # of the same rows as 3
        return space

    def test_each_workspace_has_its_stream_and_pool(self) -> None:
        owners = Owners(2**30)
        spaces = [self.use(owners, size) for size in (2, 3, 2)]
        assert spaces[0] is spaces[2] and len(owners) == 2
        assert len(Graph.alive) == 4
        for one, other in ((space, graph) for space in spaces for graph in Graph.alive):
            assert (one.capture_stream is other.stream) == (one._pool == other.pool)
        assert len({id(graph.stream) for graph in Graph.alive}) == 2

    def test_byte_budget_and_joint_eviction_of_graphs(self) -> None:
        owners = Owners(1)
        first = self.use(owners, 2)
        other = self.use(owners, 3)
        assert len(owners) == 1
        assert {graph.pool for graph in Graph.alive} == {other._pool} != {first._pool}
        owners.most_bytes = 2 * other.nbytes
        third = self.use(owners, 2)
        # The stream of the destroyed graph is reused.
        assert third.capture_stream is first.capture_stream
        assert len(owners) == 2
        owners.clear()
        assert not Graph.alive and not len(owners)

    def test_bytes(self) -> None:
        space = GraphedWorkspace(shape_of(4), HERE, None)
        before = space.nbytes
        assert before >= sum(each.nbytes for each in (space.hidden, space.cell, space.gates, space.hidden_weight))
        assert space.hidden_gradient.nbytes + space.cell_gradient.nbytes < space.nbytes - before

    def test_small_batches_take_small_buffers(self) -> None:
        owners = Owners(2**30)
        for rows, room in ((1, 32), (32, 32), (33, 128), (512, 512)):
            with owners.workspace(shape_of(rows), torch.zeros(1)) as space:
                assert space.shape.rows == room >= rounded_up(rows)
        assert len(owners) == 3

    def test_capture_does_not_use_tensors_of_an_earlier_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first run is eager."""
        seen = []
        monkeypatch.setattr(GraphedWorkspace, "point_to_nothing", lambda space: seen.append(space.lengths.tolist()))
        owners = Owners(2**30)
        with owners.workspace(shape_of(2), torch.zeros(1)) as space:
            space.lengths.fill_(7)
            space.prepare("infer", 2, 1)
            assert seen[-1] == [0] * 32


def test_order_of_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture follows an eager run and the clearing of cuBLAS workspaces, so that it allocates its own."""
    events: list[str] = []

    class Recorded:
        def capture_begin(self, pool: Any, capture_error_mode: str) -> None:
            events.append(f"begin in {pool}, {capture_error_mode}")

        def capture_end(self) -> None:
            events.append("end")

    class Waits(Stream):
        def wait_stream(self, other: Any) -> None:
            events.append("wait")

        def __enter__(self) -> None:
            pass

        def __exit__(self, *error: Any) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "current_stream", Waits)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: events.append("clear"), raising=False)
    graphs._capture(lambda: events.append("work"), Waits(), "its pool")
    assert events == ["wait", "work", "wait", "clear", "begin in its pool, thread_local", "work", "end", "clear"]


def test_rounded_up() -> None:
    assert [rounded_up(rows) for rows in (1, 8, 9, 64, 65, 512)] == [8, 8, 16, 64, 128, 512]

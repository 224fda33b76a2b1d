"""The recurrence and its gradients, compared with the reference, with single launches and static buffers."""

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from elmo_hf.kernels.gpu import graphs, passes, workspace
from elmo_hf.kernels.gpu.autograd import packed_lstm
from modeling_tests.kernels.gpu.problems import WIDTH, Problem, assert_close, drawn_like, error


def check(problem: Problem, found: Any, bound: float = 2e-6) -> None:
    """Compare results and all gradients with the reference."""
    expected = problem.expected()
    assert_close(found, expected, bound)
    upstream = drawn_like(expected)
    assert_close(problem.gradients(found, upstream), problem.gradients(expected, upstream), 5 * bound)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "rows", "clips", "projected", "fuses"),
    [
        ([2, 1, 1], 3, (0.4, 0.3), True, False),  # rows stop early, the last one has no words
        ([2, 1, 1], 3, (0.4, 0.3), True, True),
        ([2, 2], 2, (None, None), True, False),
        ([1, 1], 1, (None, None), True, True),
        ([2, 1], 2, (None, 0.1), False, False),  # without projection, the output is not clipped
        ([2, 1], 2, (None, 0.1), False, True),
        ([2, 1], 2, (0.0, 3.0), True, False),
    ],
)
@pytest.mark.usefixtures("poisoned", "in_float32")
def test_outputs_and_gradients(
    sizes: list[int], rows: int, clips: tuple[float | None, float | None], projected: bool, fuses: bool, device: str
) -> None:
    problem = Problem(sizes, rows, clips, projected, device=device)
    check(problem, packed_lstm(*problem.arguments(), graphs=False, fuses=fuses))
    with torch.no_grad():
        assert_close(packed_lstm(*problem.arguments(), graphs=False, fuses=fuses), problem.expected(), 2e-6)


@pytest.mark.usefixtures("as_if_graphed", "poisoned")
class TestStaticBuffers:
    """Buffers are reused between calls, while the input tensors have other addresses."""

    @pytest.fixture(autouse=True)
    def short_graphs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(passes, "LARGEST_GRAPH", 2)

    @pytest.mark.slow
    @pytest.mark.parametrize(("projected", "fuses"), [(True, False), (False, False), (True, True)])
    @pytest.mark.usefixtures("in_float32")
    def test_outputs_and_gradients(self, projected: bool, fuses: bool, device: str) -> None:
        problem = Problem([2, 1, 1], 2 + projected, projected=projected, device=device)
        check(problem, packed_lstm(*problem.arguments(), fuses=fuses))
        with torch.no_grad():
            found = packed_lstm(*problem.arguments(), fuses=fuses)
        assert_close(found, problem.expected(), 2e-6)
        assert len(graphs.owners) == 1

    @pytest.mark.slow
    def test_buffers_forget_the_last_batch(self, device: str) -> None:
        """Other lengths, fewer rows, other weights, and buffers that held NaN."""
        broken, problem, other = (Problem(sizes, 2, device=device) for sizes in ([2, 1], [1], [1, 1]))
        with torch.no_grad():
            broken.tensors[0].fill_(float("nan"))
            broken.tensors[3].fill_(float("nan"))
        packed_lstm(*broken.arguments())[0].sum().backward()
        for each in (problem, other):
            check(each, packed_lstm(*each.arguments()))
        assert len(graphs.owners) == 1

    @pytest.mark.slow
    def test_calls_between_forward_and_backward_pass(self, device: str) -> None:
        problems = [Problem([1, 1], 1, device=device) for _ in range(2)]
        found = [packed_lstm(*problem.arguments()) for problem in problems]
        for problem, results in zip(problems, found, strict=True):
            check(problem, results)

    def test_retain_graph(self, device: str) -> None:
        problem = Problem([1], 1, device=device)
        results = packed_lstm(*problem.arguments())
        upstream = drawn_like(problem.expected())
        first = torch.autograd.grad(results, problem.tensors, upstream, retain_graph=True)
        packed_lstm(*Problem([1], 1, device=device).arguments())
        assert_close(problem.gradients(results, upstream), first, 0)

    def test_gradients_are_not_the_buffers(self, device: str) -> None:
        problem = Problem([1], 1, device=device)
        upstream = drawn_like(problem.expected())
        kept = []
        for _ in range(2):
            kept.append(problem.gradients(packed_lstm(*problem.arguments()), upstream))
            with torch.no_grad():
                for tensor in problem.tensors:
                    tensor.mul_(0.5)
        assert all(not torch.equal(one, other) for one, other in zip(*kept, strict=True))

    def test_weights_changed_through_data(self, device: str) -> None:
        problem = Problem([1, 1], 1, device=device)
        with torch.no_grad():
            packed_lstm(*problem.arguments())
            for tensor in problem.tensors[4:]:
                tensor.data += 1
            assert_close(packed_lstm(*problem.arguments()), problem.expected(), 2e-6)

    def test_inference_mode_before_and_after(self, device: str) -> None:
        problem = Problem([1, 1], 1, device=device)
        with torch.inference_mode():
            packed_lstm(*problem.arguments())
        with torch.no_grad():
            found = packed_lstm(*problem.arguments())
        assert_close(found, problem.expected(), 2e-6)
        with torch.inference_mode():
            assert_close(packed_lstm(*problem.arguments()), found, 0)

    @pytest.mark.slow
    @pytest.mark.parametrize("fuses", [False, True])
    @pytest.mark.usefixtures("in_float32")
    def test_lengths_on_the_device(self, fuses: bool, device: str) -> None:
        problem, lengths = Problem([3] * 3, 3, device=device), [2, 0, 3]
        with torch.no_grad():
            on_device = torch.tensor(lengths, device=device)
            found = packed_lstm(*problem.arguments(), lengths=on_device, fuses=fuses)
        inputs, _, hidden, cell, *_ = problem.arguments()
        for row, length in enumerate(lengths):
            one = [
                *(part.view(3, 3, -1)[:length, row] for part in inputs),
                *(part[:, row : row + 1] for part in (hidden, cell)),
                *problem.tensors[4:],
            ]
            problem.sizes = [1] * length
            expected = problem.expected(one)
            outputs = [part.reshape(3, 3, -1)[:, row] for part in found[:2]]
            for output, other in zip(outputs, expected, strict=False):
                assert length == 0 or error(output[:length], other) <= 2e-6
                assert not output[length:].any()
            assert_close([part[:, row : row + 1] for part in found[2:]], expected[2:], 2e-6)

    def test_capture_fails(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A failed capture is tried once, with one warning; then kernels are launched one by one."""
        tries = []

        def fail(*args: Any) -> None:
            tries.append(args)
            raise RuntimeError("operation not permitted when stream is capturing")

        monkeypatch.setattr(graphs.GraphedWorkspace, "prepare", fail)
        problem = Problem([1, 1], 1, device=device)
        with pytest.warns(RuntimeWarning, match="not permitted when stream is capturing") as record:
            found = packed_lstm(*problem.arguments())
        check(problem, found)
        with torch.no_grad():
            assert_close(packed_lstm(*problem.arguments()), found, 2e-6)
        assert (len(tries), len(record), len(graphs.owners)) == (1, 1, 0)

    def test_no_memory_for_graphs(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only this call runs without graphs."""
        problem = Problem([1, 1], 1, device=device)
        with monkeypatch.context() as full, torch.no_grad():
            full.setattr(graphs.GraphedWorkspace, "prepare", mock.Mock(side_effect=torch.OutOfMemoryError("full")))
            assert_close(packed_lstm(*problem.arguments()), problem.expected(), 2e-6)
        assert not len(graphs.owners)
        with torch.no_grad():
            assert_close(packed_lstm(*problem.arguments()), problem.expected(), 2e-6)
        assert len(graphs.owners) == 1


def in_other_strides(tensor: Tensor) -> Tensor:
    """The same values with the first two axes swapped in memory, or every other one of twice as many."""
    if tensor.dim() == 1:
        return torch.stack([tensor, tensor], dim=1)[:, 0]
    return tensor.transpose(0, 1).contiguous().transpose(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("graphed", "fuses"), [(False, False), (True, False), (True, True)])
@pytest.mark.usefixtures("in_float32")
def test_any_strides(graphed: bool, fuses: bool, device: str, request: pytest.FixtureRequest) -> None:
    """Kernels read contiguous rows, so transposed and expanded tensors are copied first."""
    if graphed:
        request.getfixturevalue("as_if_graphed")
    problem = Problem([2, 1], 3, device=device)
    expected = problem.expected()
    upstream = [in_other_strides(part) for part in drawn_like(expected)]
    wanted = problem.gradients(expected, upstream)
    given = [in_other_strides(tensor.detach()).requires_grad_() for tensor in problem.tensors]
    assert not any(tensor.is_contiguous() for tensor in (*given, *upstream))
    with torch.no_grad():
        assert_close(packed_lstm(*problem.arguments(given), fuses=fuses), expected, 2e-6)
    found = packed_lstm(*problem.arguments(given), fuses=fuses)
    assert_close(found, expected, 2e-6)
    assert_close(problem.gradients(found, upstream, given), wanted, 1e-5)
    # The gradient of a sum is one number in all places, strides zero.
    sums = [sum(part.sum() for part in results) for results in (packed_lstm(*problem.arguments()), problem.expected())]
    assert_close(*(torch.autograd.grad(total, problem.tensors) for total in sums), 1e-5)


def test_matmuls_in_parts(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over parts of the inner dimension, 5 and 20 long here."""
    monkeypatch.setattr(workspace, "splits_of", lambda rows, inner, width: 5)
    problem = Problem([2, 1], 2, device=device)
    check(problem, packed_lstm(*problem.arguments(), graphs=False))


def test_how_many_parts() -> None:
    """The inner dimension is divided so that all multiprocessors have work, but parts are not too short."""
    assert [workspace.splits_of(rows, 4096, 512) for rows in (32, 128, 512)] == [8, 8, 4]
    assert [workspace.splits_of(rows, 4 * 4096, 512) for rows in (32, 128, 512)] == [16, 16, 4]
    assert workspace.splits_of(32, 512, 128) == 1


def test_input_terms_in_several_matmuls(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "WORDS_AT_ONCE", 3)
    problem = Problem([2, 2, 1], 2, device=device)
    with torch.no_grad():
        assert_close(packed_lstm(*problem.arguments()), problem.expected(), 2e-6)


def test_chunks() -> None:
    """Steps in powers of two; the rows are those active at the first step."""
    assert passes.chunks_of([5] * 20 + [3] * 7) == [(0, 16, 5), (16, 8, 5), (24, 2, 3), (26, 1, 3)]
    assert passes.chunks_of([5, 5, 3, 3, 1], most_words=10) == [(0, 2, 5), (2, 2, 3), (4, 1, 1)]
    assert passes.chunks_of([5, 5], most_words=3) == [(0, 1, 5), (1, 1, 5)]


@pytest.mark.slow
def test_frozen_weights_and_unused_results(device: str) -> None:
    """Frozen weights get no gradient, and unused results require none."""
    problem = Problem([1, 1], 1, device=device)
    for place in (1, 2, 4, 5, 8):
        problem.tensors[place].requires_grad_(False)
    live = [tensor for tensor in problem.tensors if tensor.requires_grad]
    for chosen in (0, 3):
        gradients = [
            torch.autograd.grad(results[chosen].sum(), live, allow_unused=True)
            for results in (packed_lstm(*problem.arguments()), problem.expected())
        ]
        for one, other in zip(*gradients, strict=True):
            if one is None:
                assert other is None or not other.any()
            else:
                assert error(one, torch.zeros_like(one) if other is None else other) <= 1e-5
    packed_lstm(*problem.arguments())[0].sum().backward()
    learnt = [tensor.grad is not None for tensor in problem.tensors]
    assert learnt == [tensor.requires_grad for tensor in problem.tensors]


def test_gradient_at_the_very_bound_passes(device: str) -> None:
    """As in `clamp`: a cell value exactly at the clip passes its gradient."""
    problem = Problem([1], 1, (1.0, None), device=device)
    with torch.no_grad():
        for tensor in problem.tensors:
            tensor.zero_()
        problem.tensors[3].fill_(1.0)
        for bias in problem.tensors[6:8]:
            bias[5:10] = 1e9
        for projection in problem.tensors[10:]:
            projection.fill_(1.0)
    cell = problem.tensors[3]
    found, expected = (
        torch.autograd.grad(results[0].sum(), cell)[0]
        for results in (packed_lstm(*problem.arguments()), problem.expected())
    )
    assert expected[0].min() > 0.2
    assert error(found, expected) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "splits", "fuses"),
    [(torch.bfloat16, 5, False), (torch.float16, 1, False), (torch.bfloat16, 1, True), (torch.float16, 5, True)],
)
def test_half_precision(
    dtype: torch.dtype, splits: int, fuses: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """About as close to float64 as the reference in that dtype; the cell is float32."""
    monkeypatch.setattr(workspace, "splits_of", lambda rows, inner, width: splits)
    problem = Problem([2, 1], 2, (3.0, 3.0), dtype=dtype, device=device)
    exact = [tensor.detach().double().requires_grad_() for tensor in problem.tensors]
    truth, plain, found = problem.expected(exact), problem.expected(), packed_lstm(*problem.arguments(), fuses=fuses)
    assert [part.dtype for part in found] == [dtype, dtype, dtype, torch.float32]
    upstream = drawn_like(list(found))
    gradients = [
        problem.gradients(results, upstream, tensors)
        for results, tensors in ((truth, exact), (plain, problem.tensors), (found, problem.tensors))
    ]
    rounding = torch.finfo(dtype).eps
    for true, usual, ours in (*zip(truth, plain, found, strict=True), *zip(*gradients, strict=True)):
        # An error of two roundings of the largest value is within the tolerance.
        assert error(ours, true) <= 1.5 * error(usual, true) + 2 * rounding
    assert [gradient.dtype for gradient in gradients[2]] == [tensor.dtype for tensor in problem.tensors]


def test_saved_tensor_hooks(device: str) -> None:
    """Saved tensors go through autograd's hooks, as for checkpointing and offloading, in any layout."""
    problem, seen = Problem([1, 1], 1, device=device), []

    def pack(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return in_other_strides(tensor) if len(seen) % 2 else torch.cat([tensor.new_zeros(1), tensor.flatten()])

    def unpack(packed: Tensor) -> Tensor:
        shape = seen[len(unpacked)].shape
        unpacked.append(packed)
        return packed if packed.shape == shape else packed[1:].view(shape)

    unpacked: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        found = packed_lstm(*problem.arguments())
    upstream = drawn_like(problem.expected())
    expected = problem.gradients(problem.expected(), upstream)
    for tensor in seen:
        if not any(tensor is each for each in problem.tensors):
            tensor.detach().fill_(float("nan"))
    assert_close(problem.gradients(found, upstream), expected, 1e-5)
    assert len(unpacked) == len(seen) > 10


def test_default_dtype(device: str) -> None:
    """As during the loading of a checkpoint."""
    before = torch.get_default_dtype()
    problem = Problem([1, 1], 1, device=device)
    try:
        torch.set_default_dtype(torch.bfloat16)
        found = packed_lstm(*problem.arguments())
    finally:
        torch.set_default_dtype(before)
    assert_close(found, problem.expected(), 2e-6)


@pytest.mark.slow
def test_default_device(device: str) -> None:
    """Host tensors stay on the host, whatever the default device is."""
    problem = Problem([2, 1], 2, device=device)
    expected = problem.expected()
    workspace.rounded.cache_clear()
    with torch.device("meta"):
        found = packed_lstm(*problem.arguments())
        torch.autograd.grad([part.sum() for part in found], problem.tensors)
    assert_close(found, expected, 2e-6)


def test_device_lengths_with_gradients_are_refused(device: str) -> None:
    problem = Problem([WIDTH, WIDTH], WIDTH, device=device)
    with pytest.raises(ValueError, match="^lengths "):
        packed_lstm(*problem.arguments(), lengths=torch.tensor([1, 2, 2], device=device))

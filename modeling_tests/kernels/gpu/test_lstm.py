"""The GPU's recurrence against the reference: on processor tensors under Triton's interpreter, and on a GPU if any."""

import ast
import gc
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.dynamic_module_utils import get_imports

from elmo_hf import ElmoConfig, ElmoModel
from elmo_hf.kernels.gpu import lstm
from elmo_hf.kernels.gpu.lstm import (
    BidirectionalWeights,
    LstmConstants,
    gpu_lstm,
    packed_lstm,
    release_buffers,
    replayed_lstm,
    serves,
)
from elmo_hf.model import operators
from elmo_hf.model.bilstm import ElmoEncoder, ElmoLstm
from elmo_hf.model.operators import bidirectional_lstm, reference_lstm
from elmo_hf.model.packing import PaddedSizes
from elmo_hf.model.state import ElmoState
from modeling_tests.tiny import batch_of, tiny_config, with_large_weights

WIDTH = 3
KERNELS = "elmo_hf.kernels.gpu.step_kernels"
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")),
]

pytest.importorskip("triton", reason="Triton is not installed (there is none for this system?)")


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Tensors of the interpreter's kernels, or of a GPU's."""
    monkeypatch.setenv("TRITON_INTERPRET", str(int(request.param == "cpu")))
    monkeypatch.delitem(sys.modules, KERNELS, raising=False)
    importlib.import_module(KERNELS)  # `triton.jit` looks at the environment when a kernel is defined
    release_buffers()
    yield request.param
    release_buffers()
    sys.modules.pop(KERNELS, None)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is never written must not be read."""
    empty = torch.empty
    nan = float("nan")
    monkeypatch.setattr(torch, "empty", lambda *args, **settings: empty(*args, **settings).fill_(nan))
    monkeypatch.setattr(torch, "empty_like", lambda tensor: torch.full_like(tensor, nan))
    monkeypatch.setattr(Tensor, "new_empty", lambda tensor, *shape, **kw: tensor.new_zeros(*shape, **kw).fill_(nan))


class Problem:
    """Random inputs of `sizes`, a state of `rows` rows and weights, all of which learn."""

    def __init__(
        self,
        sizes: list[int],
        rows: int,
        clips: tuple[float | None, float | None] = (0.4, 0.3),
        projected: bool = True,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        size = 5 if projected else WIDTH
        shapes = [(sum(sizes), 4)] * 2 + [(2, rows, WIDTH), (2, rows, size)]
        shapes += [(4 * size, 4)] * 2 + [(4 * size,)] * 2 + [(4 * size, WIDTH)] * 2
        shapes += [(WIDTH, size)] * 2 if projected else []
        tensors = [
            torch.randn(shape).to(device, torch.float32 if at == 3 else dtype) for at, shape in enumerate(shapes)
        ]
        self.tensors = [tensor.requires_grad_() for tensor in tensors]
        self.sizes, self.constants = sizes, LstmConstants(*clips, forget_bias=1.0)

    def arguments(self, tensors: list[Tensor] | None = None) -> tuple[Any, ...]:
        tensors = self.tensors if tensors is None else tensors
        pairs = [tuple(tensors[place : place + 2]) for place in range(4, len(tensors), 2)]
        weights = BidirectionalWeights(*pairs[:3], pairs[3] if len(pairs) == 4 else None)
        return tuple(tensors[:2]), self.sizes, tensors[2], tensors[3], weights, self.constants

    def expected(self, tensors: list[Tensor] | None = None) -> list[Tensor]:
        inputs, sizes, hidden, cell, weights, constants = self.arguments(tensors)
        outputs, finals = [], []
        for way in range(2):
            w, b, u = (pair[way] for pair in weights[:3])
            p = None if weights.output_weights is None else weights.output_weights[way]
            output, *final = reference_lstm(
                inputs[way], sizes, hidden[way], cell[way],
                lambda x, w=w, b=b: functional.linear(x, w, b),
                lambda h, u=u: functional.linear(h, u),
                None if p is None else lambda o, p=p: functional.linear(o, p),
                **constants._asdict(),
            )  # fmt: skip
            outputs.append(output)
            finals.append(final)
        return [*outputs, *(torch.stack(pair) for pair in zip(*finals, strict=True))]


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest value."""
    assert found.shape == expected.shape
    difference = (found.double() - expected.double()).abs().max()
    return float(difference.detach() / expected.detach().double().abs().max().clamp(min=1e-9))


def assert_close(found: Any, expected: Any, bound: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert error(one, other) <= bound


@pytest.mark.parametrize(
    ("sizes", "rows", "clips", "projected"),
    [
        ([3, 2, 2, 1], 4, (0.4, 0.3), True),  # rows stop early, the last one has no words
        ([2, 2], 2, (None, None), True),
        ([2, 1], 2, (None, 0.1), False),  # without projection nothing is clipped behind it
        ([2, 1], 2, (0.0, 3.0), True),
    ],
)
@pytest.mark.usefixtures("poisoned")
def test_outputs_and_gradients(
    sizes: list[int], rows: int, clips: tuple[float | None, float | None], projected: bool, device: str
) -> None:
    problem = Problem(sizes, rows, clips, projected, device=device)
    expected = problem.expected()
    found = packed_lstm(*problem.arguments())
    assert_close(found, expected, 2e-6)
    upstream = [torch.randn_like(part) for part in expected]
    gradients = [
        torch.autograd.grad(results, problem.tensors, upstream, allow_unused=True) for results in (found, expected)
    ]
    for one, other in zip(*gradients, strict=True):
        assert error(one, torch.zeros_like(one) if other is None else other) <= 1e-5
    with torch.no_grad():
        assert_close(packed_lstm(*problem.arguments()), expected, 2e-6)


def test_input_terms_in_several_products(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lstm, "WORDS_AT_ONCE", 3)
    problem = Problem([2, 2, 1], 2, device=device)
    with torch.no_grad():
        assert_close(packed_lstm(*problem.arguments()), problem.expected(), 2e-6)


def test_gradients_of_some(device: str) -> None:
    """Frozen parts get none, and results that the loss does not read ask for none."""
    problem = Problem([2, 1], 2, device=device)
    for place in (1, 2, 4, 5, 8):
        problem.tensors[place].requires_grad_(False)
    live = [tensor for tensor in problem.tensors if tensor.requires_grad]
    for chosen in (0, 3):
        gradients = [
            torch.autograd.grad(results[chosen].sum(), live, allow_unused=True)
            for results in (packed_lstm(*problem.arguments()), problem.expected())
        ]
        for one, other in zip(*gradients, strict=True):
            if one is not None:
                assert error(one, torch.zeros_like(one) if other is None else other) <= 1e-5
    packed_lstm(*problem.arguments())[0].sum().backward()
    learnt = [tensor.grad is not None for tensor in problem.tensors]
    assert learnt == [tensor.requires_grad for tensor in problem.tensors]


def test_gradient_at_the_very_bound_passes(device: str) -> None:
    """As through `clamp`: a cell that is exactly at the clip still learns."""
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


def test_pointwise_functions_everywhere(device: str) -> None:
    """Relative to each value, not to the largest: near zero and where they saturate."""
    values = torch.cat([torch.logspace(-7, 2, 40), torch.tensor([0.0, 0.6249, 0.625, 0.6251])])
    values = torch.cat([values, -values])
    size = len(values)
    gates = torch.zeros(2, 1, 4, size)
    gates[:, :, 0] = gates[:, :, 3] = 100.0  # open
    gates[:, :, 1] = -100.0  # shut
    gates[:, :, 2] = values
    cell, exposed = torch.ones(2, 1, size, device=device), torch.empty(2, 1, size, device=device)
    gates = gates.view(2, 1, -1).to(device)
    nothing = torch.zeros_like(gates)
    lstm._cell_forward(gates, nothing, nothing, cell, exposed, LstmConstants(None, None, 0.0))
    expected = values.double().tanh()
    torch.testing.assert_close(cell[1, 0].cpu().double(), expected, rtol=5e-7, atol=0)
    torch.testing.assert_close(exposed[0, 0].cpu().double(), expected.tanh(), rtol=8e-7, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, device: str) -> None:
    """As near to float64 as the reference in that dtype, and within 2 % of the largest value; the cell is float32."""
    problem = Problem([3, 2, 1], 3, (3.0, 3.0), dtype=dtype, device=device)
    exact = [tensor.detach().double().requires_grad_() for tensor in problem.tensors]
    truth, plain, found = problem.expected(exact), problem.expected(), packed_lstm(*problem.arguments())
    assert [part.dtype for part in found] == [dtype, dtype, dtype, torch.float32]
    upstream = [torch.randn_like(part) for part in found]
    gradients = []
    for results, tensors in ((truth, exact), (plain, problem.tensors), (found, problem.tensors)):
        given = [part.to(result.dtype) for part, result in zip(upstream, results, strict=True)]
        gradients.append(torch.autograd.grad(results, tensors, given))
    scale = 1.0 if dtype == torch.bfloat16 else 1 / 8
    for true, usual, ours in (*zip(truth, plain, found, strict=True), *zip(*gradients, strict=True)):
        assert error(ours, true) <= max(1.5 * error(usual, true), 0.015 * scale)
        assert error(ours, true) <= 0.02 * scale
    assert [gradient.dtype for gradient in gradients[2]] == [tensor.dtype for tensor in problem.tensors]


class TestReplay:
    """Inference on static buffers, with finished rows masked."""

    @pytest.fixture(autouse=True)
    def short_graphs(self, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
        monkeypatch.setattr(lstm, "LARGEST_GRAPH", 2)
        if device == "cpu":
            monkeypatch.setattr(lstm, "_rounded_up", lambda rows: rows + 1)

    @pytest.mark.parametrize("projected", [True, False])
    def test_unequal_lengths(self, projected: bool, device: str) -> None:
        problem = Problem([3, 2, 1], 4, projected=projected, device=device)
        found = replayed_lstm(*problem.arguments())
        assert_close(found, problem.expected(), 2e-6)
        assert not any(part.requires_grad for part in found)

    def test_buffers_forget_the_last_batch(self, device: str) -> None:
        """Other lengths, fewer rows, other weights, and NaN before."""
        broken, problem, other = (Problem(sizes, 2, device=device) for sizes in ([2, 2, 1], [2, 1], [2, 2, 2, 1]))
        with torch.no_grad():
            broken.tensors[0].fill_(float("nan"))
            broken.tensors[3].fill_(float("nan"))
        replayed_lstm(*broken.arguments())
        for each in (problem, other, problem):
            assert_close(replayed_lstm(*each.arguments()), each.expected(), 2e-6)
        assert len(lstm._replays) == 1

    def test_weights_changed_behind_autograd_s_back(self, device: str) -> None:
        problem = Problem([2, 1], 2, device=device)
        replayed_lstm(*problem.arguments())
        for tensor in problem.tensors[4:]:
            tensor.data += 1
        assert_close(replayed_lstm(*problem.arguments()), problem.expected(), 2e-6)

    def test_inference_mode_before_and_after(self, device: str) -> None:
        problem = Problem([2, 1], 2, device=device)
        with torch.inference_mode():
            replayed_lstm(*problem.arguments())
        found = replayed_lstm(*problem.arguments(), graphs=False)
        assert_close(found, problem.expected(), 2e-6)
        with torch.inference_mode():
            assert_close(replayed_lstm(*problem.arguments()), found, 0)

    def test_lengths_that_only_the_device_knows(self, device: str) -> None:
        problem = Problem([3] * 3, 3, device=device)
        lengths = [2, 0, 3]
        inputs, _, hidden, cell, weights, constants = problem.arguments()
        sizes = PaddedSizes(3, torch.tensor(lengths, device=device))
        found = replayed_lstm(inputs, sizes, hidden, cell, weights, constants)
        for row, length in enumerate(lengths):
            one = [
                *(part.view(3, 3, -1)[:length, row] for part in inputs),
                *(part[:, row : row + 1] for part in (hidden, cell)),
                *problem.tensors[4:],
            ]
            problem.sizes = [1] * length
            expected = problem.expected(one)
            outputs = [part.view(3, 3, -1)[:, row] for part in found[:2]]
            for output, other in zip(outputs, expected, strict=False):
                assert length == 0 or error(output[:length], other) <= 2e-6
                assert not output[length:].any()
            assert_close([part[:, row : row + 1] for part in found[2:]], expected[2:], 2e-6)

    def test_bounded(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lstm._replays, "most", 1)
        for rows in (1, 2):
            problem = Problem([rows], rows, device=device)
            assert_close(replayed_lstm(*problem.arguments()), problem.expected(), 2e-6)
            assert len(lstm._replays) == 1

    def test_rows_and_steps(self) -> None:
        assert lstm._powers(27, 16) == [16, 8, 2, 1]
        assert lstm._powers(5, 2) == [2, 2, 1]
        assert lstm._powers(0, 2) == []


class TestTrainingGraphs:
    """Both passes replayed on static buffers; on a processor without graphs, the buffers and who has them alike."""

    @pytest.fixture(autouse=True)
    def at_once(self, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
        monkeypatch.setattr(lstm, "_captures", lambda device: True)
        monkeypatch.setattr(lstm, "MEETINGS_BEFORE_CAPTURE", 0)

    def free(self) -> list[int]:
        return [len(shelf.free) for shelf in lstm._trainings._kept.values()]

    def gradients(self, problem: Problem, results: Any, upstream: list[Tensor], **settings: Any) -> Any:
        return torch.autograd.grad(results, problem.tensors, upstream, **settings)

    def test_several_calls_in_flight(self, device: str) -> None:
        problems = [Problem([1, 1], 1, device=device) for _ in range(2)]
        upstream = [torch.randn_like(part) for part in problems[0].expected()]
        for _ in range(2):
            found = [packed_lstm(*problem.arguments()) for problem in problems]
            for problem, results in zip(problems, found, strict=True):
                assert_close(results, problem.expected(), 2e-6)
                expected = self.gradients(problem, problem.expected(), upstream)
                assert_close(self.gradients(problem, results, upstream), expected, 1e-5)
        assert self.free() == [2]

    def test_gradients_are_not_the_buffers(self, device: str) -> None:
        problem = Problem([1, 1], 1, device=device)
        upstream = [torch.randn_like(part) for part in problem.expected()]
        kept = []
        for _ in range(2):
            kept.append(self.gradients(problem, packed_lstm(*problem.arguments()), upstream))
            with torch.no_grad():
                for tensor in problem.tensors:
                    tensor.mul_(0.5)
        assert all(not torch.equal(one, other) for one, other in zip(*kept, strict=True))

    def test_retained(self, device: str) -> None:
        problem = Problem([1, 1], 1, device=device)
        upstream = [torch.randn_like(part) for part in problem.expected()]
        results = packed_lstm(*problem.arguments())
        first = self.gradients(problem, results, upstream, retain_graph=True)
        packed_lstm(*Problem([1, 1], 1, device=device).arguments())
        assert_close(self.gradients(problem, results, upstream), first, 0)
        with pytest.raises(RuntimeError, match="retain_graph=True"):
            self.gradients(problem, results, upstream)

    def test_given_back_without_a_backward_pass(self, device: str) -> None:
        results = packed_lstm(*Problem([1, 1], 1, device=device).arguments())
        assert self.free() == [0]
        del results
        gc.collect()
        assert self.free() == [1]

    def test_none_for_what_does_not_recur_or_is_handled(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        problem = Problem([1, 1], 1, device=device)
        with torch.autograd.graph.save_on_cpu():
            results = packed_lstm(*problem.arguments())
        upstream = [torch.randn_like(part) for part in results]
        expected = self.gradients(problem, problem.expected(), upstream)
        assert_close(self.gradients(problem, results, upstream), expected, 1e-5)
        monkeypatch.setattr(lstm, "MEETINGS_BEFORE_CAPTURE", 1)
        packed_lstm(*problem.arguments())
        packed_lstm(*Problem([2, 1], 3, device=device).arguments())
        assert self.free() == [0]
        results = packed_lstm(*problem.arguments())
        assert_close(results, problem.expected(), 2e-6)
        del results
        gc.collect()
        assert self.free() == [1]


def small_config(**settings: Any) -> ElmoConfig:
    return tiny_config(**{"projection_size": WIDTH, "cell_size": 5, **settings})


class TestChoice:
    """Plain layers on a GPU with Triton; the processor plays the GPU here."""

    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lstm, "has_kernels", lambda device: device.type == "cpu")

    @pytest.fixture
    def layers(self) -> list[Any]:
        return [with_large_weights(ElmoLstm(small_config())) for _ in range(2)]

    def serves(self, layers: list[Any], dtype: torch.dtype = torch.float32) -> bool:
        words, cell = torch.zeros(4, WIDTH, dtype=dtype), torch.zeros(2, 2, 5)
        return serves((words, words), cell.to(torch.promote_types(dtype, torch.float32)), *layers)

    def test_plain(self, layers: list[Any]) -> None:
        assert self.serves(layers)
        assert not self.serves(layers, torch.bfloat16)
        assert self.serves([layer.bfloat16() for layer in layers], torch.bfloat16)
        assert not self.serves([layer.double() for layer in layers], torch.float64)

    def test_autocast(self, layers: list[Any]) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            assert self.serves(layers)
            assert self.serves(layers, torch.bfloat16)

    @pytest.mark.parametrize("way", [0, 1])
    def test_anything_attached(self, way: int, layers: list[Any]) -> None:
        for module in (layers[way], layers[way].hidden_proj):
            handle = module.register_forward_hook(lambda module, args, output: None)
            assert not self.serves(layers)
            handle.remove()
            module.forward = module.forward  # as offloading replaces it
            assert not self.serves(layers)
            del module.forward
        layers[way].output_proj = nn.Sequential(layers[way].output_proj)
        assert not self.serves(layers)

    def test_two_sorts_of_directions(self, layers: list[Any]) -> None:
        layers[0].cell_clip = None
        assert not self.serves(layers)
        layers[1].cell_clip = None
        assert self.serves(layers)
        layers[1].output_proj = None
        assert not self.serves(layers)

    def test_compilers_and_transforms(self, layers: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        found = []

        def loss(inputs: Tensor) -> Tensor:
            found.append(serves((inputs, inputs), torch.zeros(2, 2, 5), *layers))
            return inputs.sum()

        torch.func.grad(loss)(torch.zeros(4, WIDTH))
        torch.jit.trace(loss, torch.zeros(4, WIDTH), check_trace=False)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        loss(torch.zeros(4, WIDTH))
        assert found == [False] * 3

    def test_the_layer_asks(self, layers: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        monkeypatch.setattr(operators, "gpu_lstm", lambda *args: calls.append(args))
        words = torch.zeros(4, WIDTH)
        bidirectional_lstm((words, words), [2, 2], torch.zeros(2, 2, WIDTH), torch.zeros(2, 2, 5), *layers)
        assert len(calls) == 1


class NothingWaits(TorchDispatchMode):
    """Fails at operators whose result, or its size, the host has to have."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "equal")

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert operator.overloadpacket.__name__ not in self.WAITING, f"the host waits for {operator}"
        indices = args[1] if operator.overloadpacket.__name__ == "index" else ()
        assert not any(index is not None and index.dtype == torch.bool for index in indices), "indexed by a mask"
        return operator(*args, **(kwargs or {}))


class TestEncoder:
    """The whole stack, on a GPU or a processor that plays one."""

    @pytest.fixture(autouse=True)
    def gpu(self, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
        if device == "cpu":
            monkeypatch.setattr(lstm, "has_kernels", lambda device: True)
            monkeypatch.setattr(lstm, "_captures", lambda device: True)
            monkeypatch.setattr(lstm, "_rounded_up", lambda rows: rows)

    def both(self, run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
        found = run()
        with monkeypatch.context() as plain:
            plain.setattr(lstm, "has_kernels", lambda device: False)
            return found, run()

    @pytest.mark.parametrize("context_word_layer", [False, True])
    def test_padding_anywhere_and_a_state(
        self, context_word_layer: bool, device: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoder = with_large_weights(ElmoEncoder(small_config(context_word_layer=context_word_layer))).to(device)
        mask = torch.tensor([[0, 1], [1, 1], [0, 0]], device=device).bool()
        words = torch.randn(3, 2, WIDTH, device=device) * mask[:, :, None]
        state = ElmoState(torch.randn(2, 2, 4, WIDTH, device=device), torch.randn(2, 2, 4, 5, device=device))
        with torch.no_grad():
            (layers, carried), (other, other_carried) = self.both(lambda: encoder(words, mask, state), monkeypatch)
        assert_close(layers, other, 2e-6)
        assert_close(carried, other_carried, 2e-6)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_whole_model(self, side: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where words that recur are known to the first layer by an index."""
        model = with_large_weights(ElmoModel(tiny_config())).to(device).eval()
        batch = {name: part.to(device) for name, part in batch_of(["a b a", "b"], side).items()}
        with torch.no_grad():
            found, expected = self.both(lambda: model(**batch, output_hidden_states=True).hidden_states, monkeypatch)
        assert_close(found, expected, 2e-6)

    def test_nothing_waits_for_the_gpu(self, device: str) -> None:
        encoder = with_large_weights(ElmoEncoder(small_config())).to(device)
        mask = torch.tensor([[0, 1], [1, 1]], device=device).bool()
        words = torch.randn(2, 2, WIDTH, device=device) * mask[:, :, None]
        with torch.no_grad():
            if device == "cuda":
                encoder(words, mask)  # what is made once may wait
                torch.cuda.set_sync_debug_mode("error")
                try:
                    encoder(words, mask)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            else:
                with pytest.MonkeyPatch.context() as patch:
                    # The interpreter itself reads values.
                    patch.setattr(lstm, "_cell_forward", lambda *args, **settings: None)
                    patch.setattr(lstm, "_output_forward", lambda *args, **settings: None)
                    with NothingWaits():
                        encoder(words, mask)

    def test_training(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = with_large_weights(ElmoEncoder(small_config())).to(device)
        mask = torch.tensor([[1, 0], [1, 1]], device=device).bool()
        words = (torch.randn(2, 2, WIDTH, device=device) * mask[:, :, None]).requires_grad_()

        def run() -> tuple[Tensor, ...]:
            layers, state = encoder(words, mask)
            loss = sum((layer**2).sum() for layer in layers) + state.cell.sum()
            return torch.autograd.grad(loss, [words, *encoder.parameters()])

        assert_close(*self.both(run, monkeypatch), 1e-5)

    def test_autocast(self, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """As the reference: products and outputs in bfloat16, weights and their gradients in float32."""
        monkeypatch.setattr(operators, "trainable_weights", lambda *args: None)
        lstms = [
            with_large_weights(ElmoLstm(small_config(cell_clip=3.0, projection_clip=3.0))).to(device) for _ in range(2)
        ]
        words = torch.randn(2, 3, WIDTH, device=device).requires_grad_()
        parameters = [weight for lstm in lstms for weight in lstm.parameters()]
        state = torch.zeros(2, 2, WIDTH, device=device), torch.zeros(2, 2, 5, device=device)

        def run() -> tuple[Tensor, ...]:
            with torch.autocast(device, torch.bfloat16):
                results = bidirectional_lstm((words[0], words[1]), [2, 1], *state, *lstms)
            gradients = torch.autograd.grad([part.float().sum() for part in results], [words, *parameters])
            return *results, *gradients

        found, expected = self.both(run, monkeypatch)
        assert [part.dtype for part in found] == [part.dtype for part in expected]
        assert_close(found, expected, 0.03)

    def test_words_by_index(self, device: str) -> None:
        lstms = [with_large_weights(ElmoLstm(small_config())).to(device) for _ in range(2)]
        words = torch.randn(2, WIDTH, device=device)
        index = torch.tensor([1, 0, 1], device=device), torch.tensor([0, 0, 1], device=device)
        state = torch.zeros(2, 2, WIDTH, device=device), torch.zeros(2, 2, 5, device=device)
        with torch.no_grad():
            found = gpu_lstm((words, words), [2, 1], *state, *lstms, indices=index)
            expected = gpu_lstm((words[index[0]], words[index[1]]), [2, 1], *state, *lstms)
        assert_close(found, expected, 0)


class TestWithoutTriton:
    def test_a_checkpoint_s_code_does_not_demand_it(self) -> None:
        folder = Path(lstm.__file__).parent
        for name in ("lstm.py", "step_kernels.py"):
            assert "triton" not in get_imports(folder / name)

    def test_imported_by_what_runs_it_alone(self) -> None:
        """The kernels' file needs Triton, so nothing imports it when it is itself imported."""
        for path in Path(lstm.__file__).parent.glob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            within = {
                node
                for function in ast.walk(tree)
                if isinstance(function, ast.FunctionDef)
                for node in ast.walk(function)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module == "step_kernels":
                    assert node in within, path.name

    def test_absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "triton", None)
        monkeypatch.delitem(sys.modules, KERNELS, raising=False)
        with pytest.raises(ImportError, match=r"pip install 'elmo-hf\[gpu\]'"):
            importlib.import_module(KERNELS)
        assert not lstm.has_kernels.__wrapped__(torch.device("cuda"))


HOPPER = """
import sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from elmo_hf.kernels.gpu import step_kernels as kernels

FLAGS = {"CLIPS": 1, "SAVES": 1, "MASKED": 1, "CLIPS_BEFORE": 1, "BLOCK": 512}
WIDE = ("cell", "raw_cells", "before", "cell_gradient")
for kernel in (kernels.cell_forward, kernels.output_forward, kernels.output_backward, kernels.cell_backward):
    signature = {}
    for name in kernel.arg_names:
        if name in FLAGS:
            signature[name] = "constexpr"
        elif name == "remaining":
            signature[name] = "*i32"
        elif name in ("step", "size", "following_rows") or name.endswith("_direction"):
            signature[name] = "i32"
        elif name.endswith(("_clip", "_bias")):
            signature[name] = "fp32"
        else:
            signature[name] = "*fp32" if name in WIDE else "*" + sys.argv[1]
    constants = {(kernel.arg_names.index(name),): value for name, value in FLAGS.items() if name in kernel.arg_names}
    compiled = compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
    assert len(compiled.asm["cubin"]) > 1000
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_kernels_compile_for_a_gpu_that_is_not_there(dtype: str, tmp_path: Path) -> None:
    """Down to machine code of compute capability 9.0: what the interpreter lets through may not compile."""
    environment = {"PATH": "/usr/bin:/bin", "TRITON_CACHE_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    root = Path(lstm.__file__).parents[3]
    subprocess.run([sys.executable, "-c", HOPPER, dtype], check=True, cwd=root, env=environment, timeout=280)

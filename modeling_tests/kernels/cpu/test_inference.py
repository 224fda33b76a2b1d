"""Inference kernels in C and PyTorch, compared with the reference, and their selection."""

import copy
import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from elmo_hf import ElmoModel
from elmo_hf.kernels import precision
from elmo_hf.kernels.cpu.inference import (
    MatmulRecurrence,
    native_projected_lstm,
    torch_projected_lstm,
)
from elmo_hf.kernels.cpu.native_lstm import NativeRecurrence, native_works
from elmo_hf.kernels.prepared_weights import release
from elmo_hf.model import operators
from elmo_hf.model.operators import linear_map, projected_lstm, reference_lstm
from modeling_tests.tiny import batch_of, tiny_config, with_large_weights

ROWS, WIDTH, CELL = 6, 32, 96
SETTINGS = {"cell_clip": 0.9, "projection_clip": 0.5, "forget_bias": 1.0}


@pytest.fixture(params=["native", "products"], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run every test with and without the compiled code."""
    if request.param == "products":
        monkeypatch.setenv("ELMO_HF_KERNELS", "torch")
    else:
        monkeypatch.setenv("ELMO_HF_KERNELS", "native")
    if request.param == "native" and not native_works(torch.float32):
        pytest.skip("no C compiler at hand, or ELMO_HF_NATIVE=0")
    return request.param


def layers_of(projected: bool = True, dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, nn.Linear, Any]:
    size = CELL if projected else WIDTH
    shapes = [(WIDTH, 4 * size, True), (WIDTH, 4 * size, False), (size, WIDTH, False)][: 3 if projected else 2]
    made = [nn.Linear(i, o, bias=bias) for i, o, bias in shapes]
    for layer in made:
        nn.init.normal_(layer.weight, std=1.0 / layer.in_features**0.5)
        if layer.bias is not None:
            nn.init.normal_(layer.bias)
    made = [layer.to(dtype) for layer in made]
    return made[0], made[1], made[2] if projected else None


def close(found: Tensor, expected: Tensor, bound: float = 2e-6) -> None:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    difference = (found.double() - expected.double()).abs().max() if found.numel() else torch.tensor(0.0)
    scale = expected.double().abs().max() if found.numel() else torch.tensor(1.0)
    assert difference <= bound * scale.clamp(min=1e-3), f"{difference / scale:.1e}"


def exact(inputs: Tensor, sizes: list[int], hidden: Tensor, cell: Tensor, layers: Any, **settings: Any) -> list[Tensor]:
    """The reference in float64 over the same weights, in the dtypes of a call with `inputs`."""
    products = [
        None
        if layer is None
        else lambda x, layer=layer: functional.linear(
            x, layer.weight.double(), None if layer.bias is None else layer.bias.double()
        )
        for layer in layers
    ]
    results = reference_lstm(inputs.double(), sizes, hidden.double(), cell.double(), *products, **settings)
    return [part.to(dtype) for part, dtype in zip(results, (inputs.dtype, inputs.dtype, cell.dtype), strict=True)]


def run(
    inputs: Tensor,
    sizes: list[int],
    hidden: Tensor,
    cell: Tensor,
    layers: Any,
    index: Tensor | None = None,
    **settings: Any,
) -> Any:
    found = served(inputs, sizes, hidden, cell, layers, index=index, **settings)
    assert found is not None
    return found


def served(inputs: Tensor, sizes: list[int], hidden: Tensor, cell: Tensor, layers: Any, **settings: Any) -> Any:
    """Results of the kernel under test; `None` if it declines."""
    maps = [None if layer is None else linear_map(layer) for layer in layers]
    if any(found is None for found, layer in zip(maps, layers, strict=True) if layer is not None):
        return None
    kernel = native_projected_lstm if os.environ["ELMO_HF_KERNELS"] == "native" else torch_projected_lstm
    found = kernel(inputs, sizes, hidden, cell, *maps, **settings)
    return None if isinstance(found, str) else found


@torch.no_grad()
@pytest.mark.parametrize("projected", [True, False])
@pytest.mark.parametrize("clips", [(None, None), (0.4, 0.3), (0.0, 3.0)])
@pytest.mark.parametrize("sizes", [[6, 6, 6], [6, 4, 4, 1], [1, 1, 1]])
@pytest.mark.parametrize("start", ["zero", "hidden", "cell", "both"])
@pytest.mark.parametrize("indexed", [True, False])
def test_equals_the_reference(
    projected: bool, clips: tuple[float | None, float | None], sizes: list[int], start: str, indexed: bool
) -> None:
    """Also rows beyond the batch, which keep their state, and rows that read the same for some steps."""
    settings = {"cell_clip": clips[0], "projection_clip": clips[1], "forget_bias": 1.0}
    layers = layers_of(projected)
    hidden = torch.randn(ROWS, WIDTH) if start in ("hidden", "both") else torch.zeros(ROWS, WIDTH)
    size = CELL if projected else WIDTH
    cell = torch.randn(ROWS, size) if start in ("cell", "both") else torch.zeros(ROWS, size)
    # Rows beyond the batch are not zero.
    hidden[sizes[0] :], cell[sizes[0] :] = 0.3, -0.2
    vectors = torch.randn(4, WIDTH)
    # Step 0 is the same word everywhere, step 1 one of two, then anything.
    index = torch.cat([torch.randint(0, 1 + min(step, 3), (running,)) for step, running in enumerate(sizes)])
    inputs, keywords = (vectors, {"index": index}) if indexed else (vectors[index], {})
    found = run(inputs, sizes, hidden, cell, layers, **settings, **keywords)
    expected = exact(vectors[index], sizes, hidden, cell, layers, **settings)
    for one, other in zip(found, expected, strict=True):
        close(one, other)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("indexed", [True, False])
def test_many_random_texts(indexed: bool) -> None:
    """Few words and long rows, so that rows share states, diverge and end at all positions."""
    layers = layers_of()
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        lengths = sorted(torch.randint(1, 9, (ROWS,), generator=generator).tolist(), reverse=True)
        sizes = [sum(length > step for length in lengths) for step in range(lengths[0])]
        vectors = torch.randn(2, WIDTH, generator=generator)
        index = torch.randint(0, 2, (sum(sizes),), generator=generator)
        hidden, cell = torch.zeros(ROWS, WIDTH), torch.zeros(ROWS, CELL)
        inputs, keywords = (vectors, {"index": index}) if indexed else (vectors[index], {})
        found = run(inputs, sizes, hidden, cell, layers, **SETTINGS, **keywords)
        for one, other in zip(found, exact(vectors[index], sizes, hidden, cell, layers, **SETTINGS), strict=True):
            close(one, other)


@torch.no_grad()
def test_same_texts_are_computed_once() -> None:
    layers = layers_of()

    def rows(inputs: Tensor, start: float, index: Tensor | None) -> list[int]:
        hidden, cell = torch.full((4, WIDTH), start), torch.zeros(4, CELL)
        read: list[int] = []
        kind = NativeRecurrence if os.environ["ELMO_HF_KERNELS"] == "native" else MatmulRecurrence
        plain = kind.run
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "run", lambda *args: read.extend(args[4]) or plain(*args))
            run(inputs, [4, 4, 4], hidden, cell, layers, index=index, **SETTINGS)
        return read

    inputs = torch.randn(3, WIDTH)
    index = torch.tensor([0, 0, 0, 0, 1, 1, 2, 1, 1, 2, 0, 0])
    assert rows(inputs, 0.0, index) == [1, 2, 4]
    assert rows(inputs[index], 0.0, None) == [1, 2, 4]
    assert rows(inputs, 1.0, index) == [4, 4, 4]


@torch.no_grad()
def test_words_with_colliding_hashes_stay_distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two vectors with the same hash stay two words."""
    layers = layers_of()
    unique = torch.unique
    inputs = torch.randn(4, WIDTH)
    monkeypatch.setattr(torch, "unique", lambda keys, **keywords: unique(torch.zeros_like(keys), **keywords))
    found = run(inputs, [2, 2], torch.zeros(2, WIDTH), torch.zeros(2, CELL), layers, **SETTINGS)
    monkeypatch.undo()
    close(found[0], exact(inputs, [2, 2], torch.zeros(2, WIDTH), torch.zeros(2, CELL), layers, **SETTINGS)[0])


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[1, 1, 1, 1, 1], [6, 5, 5, 2, 1]])
@pytest.mark.parametrize("start", [0.0, 0.5])
def test_bfloat16(sizes: list[int], start: float) -> None:
    """Matmuls in bfloat16 (or better) and the cell in float32; relative error and direction against float64."""
    layers = layers_of(dtype=torch.bfloat16)
    inputs = torch.randn(sum(sizes), WIDTH).bfloat16()
    hidden, cell = torch.full((ROWS, WIDTH), start).bfloat16(), torch.full((ROWS, CELL), start)
    found = run(inputs, sizes, hidden, cell, layers, **SETTINGS)
    expected = exact(inputs, sizes, hidden, cell, layers, **SETTINGS)
    assert found[0].dtype == found[1].dtype == torch.bfloat16 and found[2].dtype == torch.float32
    for one, other in zip(found, expected, strict=True):
        close(one, other, 1.2e-2)
        cosine = functional.cosine_similarity(one[: sizes[0]].double(), other[: sizes[0]].double(), dim=-1)
        assert cosine.min() > 0.9998


@torch.no_grad()
def test_arguments_are_unchanged() -> None:
    layers = layers_of()
    arguments = [torch.randn(5, WIDTH), torch.randn(3, WIDTH), torch.randn(3, CELL)]
    before = [value.clone() for value in arguments]
    run(arguments[0], [2, 2, 1], *arguments[1:], layers, **SETTINGS)
    for value, old in zip(arguments, before, strict=True):
        assert torch.equal(value, old)


def middling_model() -> ElmoModel:
    """Large enough for statistics, with gates and clips that matter."""
    config = tiny_config(
        character_filters=[[1, 16], [2, 16], [3, 32]],
        character_embedding_size=8,
        projection_size=32,
        cell_size=128,
        cell_clip=1.0,
        projection_clip=1.0,
    )
    return with_large_weights(ElmoModel(config), 0.15).eval()


TEXTS = ["a cat sat on the mat .", "the cat ran .", "the cat sat .", ".", "a dog", "what did the dogs do at once ?"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_model_with_and_without_gradients(side: str) -> None:
    """All layers and the carried state, over two batches."""
    model = middling_model()
    states: list[Any] = [None, None]
    for texts in (TEXTS, TEXTS[1:4], TEXTS[::-1]):
        batch = batch_of(texts, side)
        plain = model(**batch, initial_state=states[0], return_state=True, output_hidden_states=True)
        assert plain.last_hidden_state.requires_grad
        with torch.no_grad():
            fast = model(**batch, initial_state=states[1], return_state=True, output_hidden_states=True)
        states = [plain.state.detach(), fast.state]
        for one, other in zip(
            (*fast.hidden_states, fast.last_hidden_state, *fast.state),
            (*plain.hidden_states, plain.last_hidden_state, *plain.state),
            strict=True,
        ):
            close(one, other.detach())


@torch.no_grad()
def test_a_bfloat16_model() -> None:
    """Every layer against float32."""
    model = middling_model()
    half = copy.deepcopy(model).bfloat16()
    batch = batch_of(TEXTS)
    real = batch["attention_mask"].bool()
    expected = model(**batch, output_hidden_states=True, return_state=True)
    found = half(**batch, output_hidden_states=True, return_state=True)
    assert found.state.cell.dtype == torch.float32
    for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert one.dtype == torch.bfloat16
        close(one.float(), other, 1.5e-2)
        assert functional.cosine_similarity(one[real].float(), other[real], dim=-1).min() > 0.9999


class TestChoice:
    """`projected_lstm` chooses it without gradients, on a CPU, for plain and int8 layers."""

    def serves(self, layers: Any, dtype: torch.dtype = torch.float32, words: int = 4) -> bool:
        cell = torch.zeros(2, CELL, dtype=torch.promote_types(dtype, torch.float32))
        hidden = torch.zeros(2, WIDTH, dtype=dtype)
        inputs = torch.zeros(words, WIDTH, dtype=dtype)
        return served(inputs, [1] * words, hidden, cell, layers, **SETTINGS) is not None

    @torch.no_grad()
    def test_chosen_by_projected_lstm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(operators, "reference_lstm", None)
        arguments = (torch.zeros(4, WIDTH), [2, 2], torch.zeros(2, WIDTH), torch.zeros(2, CELL))
        projected_lstm(*arguments, *layers_of(), **SETTINGS, index=torch.zeros(4, dtype=torch.int64))

    def test_gradients(self) -> None:
        layers = layers_of()
        assert not self.serves(layers)
        with torch.no_grad():
            assert self.serves(layers)
        for layer in layers:
            layer.requires_grad_(False)
        assert self.serves(layers)
        for wanted in range(3):
            values = [torch.zeros(4, WIDTH), torch.zeros(2, WIDTH), torch.zeros(2, CELL)]
            values[wanted].requires_grad_()
            assert served(values[0], [2, 2], *values[1:], layers, **SETTINGS) is None

    @torch.no_grad()
    def test_other_dtypes_and_devices(self) -> None:
        assert not self.serves([layer.double() for layer in layers_of()], torch.float64)
        assert self.serves(layers_of(dtype=torch.bfloat16), torch.bfloat16)
        meta = [layer.to("meta") for layer in layers_of()]
        inputs, cell = torch.zeros(4, WIDTH, device="meta"), torch.zeros(2, CELL, device="meta")
        assert served(inputs, [2, 2], torch.zeros(2, WIDTH, device="meta"), cell, meta, **SETTINGS) is None

    @torch.no_grad()
    @pytest.mark.parametrize("can_multiply", [True, False])
    def test_autocast(self, can_multiply: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Autocast lowers matmuls only on CPUs with bfloat16 matmuls; on others it would slow them down."""
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: can_multiply)
        layers, inputs = layers_of(), torch.randn(4, WIDTH)
        states = torch.zeros(2, WIDTH), torch.zeros(2, CELL)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert self.serves(layers) is not can_multiply
            found = projected_lstm(inputs, [2, 2], *states, *layers, **SETTINGS)
        expected = projected_lstm(inputs, [2, 2], *states, *layers, **SETTINGS)
        close(found[0].float(), expected[0], 2e-2 if can_multiply else 2e-6)
        with torch.autocast("cpu", dtype=torch.float16):
            assert not self.serves(layers)

    @torch.no_grad()
    def test_hooks_and_wrappers(self) -> None:
        layers = layers_of()
        handle = layers[1].register_forward_hook(lambda *_: None)
        assert not self.serves(layers)
        handle.remove()
        assert self.serves(layers)
        assert not self.serves([layers[0], nn.Sequential(layers[1]), layers[2]])

    @torch.no_grad()
    def test_changed_weights_are_seen(self) -> None:
        layers = layers_of()
        inputs, hidden, cell = torch.randn(7, WIDTH), torch.randn(3, WIDTH), torch.randn(3, CELL)
        run(inputs, [3, 3, 1], hidden, cell, layers, **SETTINGS)
        for layer in layers:
            layer.weight *= -0.5
        layers[0].bias += 1.0
        found = run(inputs, [3, 3, 1], hidden, cell, layers, **SETTINGS)
        for one, other in zip(found, exact(inputs, [3, 3, 1], hidden, cell, layers, **SETTINGS), strict=True):
            close(one, other)
        for layer in layers:
            release(layer)

"""Packed matmuls, compared with plain ones; repacked after changes of a weight, released in training."""

import copy
import gc
import io
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

from elmo_hf import ElmoModel
from elmo_hf.kernels import prepared_weights
from elmo_hf.kernels.cpu import memory_pages, onednn
from elmo_hf.kernels.cpu.onednn import PackedLinear, matmul_dtype, packing_works
from elmo_hf.kernels.precision import multiplies_bfloat16
from elmo_hf.kernels.prepared_weights import release
from elmo_hf.model.operators import fast_linear
from modeling_tests.tiny import batch_of, tiny_config, with_large_weights

pytestmark = pytest.mark.skipif(not packing_works(torch.float32), reason="this build of PyTorch has no packed matmul")


def linear(width=17, outputs=33, bias=True, dtype=torch.float32):
    return nn.Linear(width, outputs, bias=bias).to(dtype)


def expected(layer, inputs):
    bias = None if layer.bias is None else layer.bias.double()
    return functional.linear(inputs.double(), layer.weight.double(), bias)


def close(found, exact, bound=2e-6):
    assert found.shape == exact.shape
    assert (found.double() - exact).abs().max() <= bound * exact.abs().max()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, 7, 32, 130])
@pytest.mark.parametrize("shape", [(1, 1), (17, 33), (64, 256), (100, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_layer(rows, shape, bias, dtype):
    layer = linear(*shape, bias, dtype)
    inputs = torch.randn(rows, shape[0]).to(dtype)
    product = fast_linear(layer)
    assert isinstance(product, PackedLinear)
    bound = 2e-6 if dtype == torch.float32 else 1e-2
    found = product(inputs)
    assert found.dtype == product.dtype == matmul_dtype(dtype)
    close(found, expected(layer, inputs), bound)
    if not bias:
        addend = torch.randn(rows, shape[1]).to(product.dtype)
        before = addend.clone()
        close(product.plus(inputs, addend), expected(layer, inputs) + before.double(), bound)
        assert torch.equal(addend, before)


@torch.no_grad()
def test_strided_rows():
    layer = linear(bias=False)
    inputs, addend = torch.randn(9, 40)[2:7, 3:20], torch.randn(9, 70)[1:6, 4:37]
    close(fast_linear(layer)(inputs), expected(layer, inputs))
    close(fast_linear(layer).plus(inputs, addend), expected(layer, inputs) + addend.double())


CHANGES = {
    "in place": lambda layer: layer.weight.mul_(2),
    "loaded": lambda layer: layer.load_state_dict({name: value * -1 for name, value in layer.state_dict().items()}),
    "assigned": lambda layer: layer.load_state_dict(
        {name: value + 1 for name, value in layer.state_dict().items()}, assign=True
    ),
    "data written": lambda layer: layer.weight.data.normal_(),
    "data replaced": lambda layer: setattr(layer.weight, "data", torch.randn_like(layer.weight)),
    "replaced": lambda layer: setattr(layer, "weight", nn.Parameter(torch.randn_like(layer.weight))),
    "bias": lambda layer: layer.bias.add_(3),
    "half": lambda layer: layer.bfloat16().float(),
}


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_weight_is_packed_again(change):
    layer, inputs = linear(), torch.randn(5, 17)
    before = fast_linear(layer)(inputs)
    change(layer)
    after = fast_linear(layer)(inputs)
    close(after, expected(layer, inputs))
    assert not torch.equal(after, before)


LARGE_CHANGES = {
    "copy_": lambda layer: layer.weight.copy_(-layer.weight),
    "set_": lambda layer: layer.weight.set_(torch.randn_like(layer.weight)),
    "moving average through .data": lambda layer: layer.weight.data.lerp_(torch.randn_like(layer.weight), 0.01),
    "pruning": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
}


def run(layer, inputs):
    product = fast_linear(layer)
    return layer(inputs) if product is None else product(inputs)


@torch.no_grad()
@pytest.mark.parametrize("change", LARGE_CHANGES.values(), ids=LARGE_CHANGES)
def test_changes_of_a_weight_that_is_sampled(change):
    layer, inputs = linear(512, 256), torch.randn(5, 512)
    assert layer.weight.numel() > prepared_weights.COMPARED_IN_FULL
    before = run(layer, inputs)
    change(layer)
    close(run(layer, inputs), expected(layer, inputs))
    assert not torch.equal(run(layer, inputs), before)


@torch.no_grad()
def test_weights_of_functional_call():
    """Used in the call only; afterwards the layer's own weights are packed again."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = linear(512, 256)

        def forward(self, inputs):
            return run(self.layer, inputs)

    model, inputs = Model(), torch.randn(5, 512)
    own = model(inputs)
    other = torch.func.functional_call(model, {"layer.weight": -model.layer.weight}, (inputs,))
    close(other, functional.linear(inputs.double(), -model.layer.weight.double(), model.layer.bias.double()))
    assert torch.equal(model(inputs), own)


@torch.no_grad()
def test_several_threads_see_a_change():
    layer, inputs = linear(512, 256), torch.randn(5, 512)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for found in pool.map(lambda _: run(layer, inputs), range(8)):
                close(found, expected(layer, inputs))
            layer.weight.mul_(-0.5)


def test_a_step_of_an_optimizer():
    for optimizer in (torch.optim.SGD, torch.optim.AdamW):
        for fused in (False, True):
            layer, inputs = linear(), torch.randn(5, 17)
            steps = optimizer(layer.parameters(), lr=0.1, fused=fused)
            for _ in range(2):
                with torch.no_grad():
                    close(fast_linear(layer)(inputs), expected(layer, inputs))
                layer(inputs).square().sum().backward()
                steps.step()


@torch.no_grad()
def test_an_unchanged_weight_is_packed_once(monkeypatch):
    packed = []
    reorder = onednn._reorder
    monkeypatch.setattr(onednn, "_reorder", lambda weight: packed.append(1) or reorder(weight))
    layer = linear()
    layer.weight[0, 0] = float("nan")
    for _ in range(3):
        fast_linear(layer)(torch.randn(2, 17))
    assert packed == [1]


def test_training_goes_through_the_layer():
    layer = linear()
    with torch.no_grad():
        assert isinstance(fast_linear(layer), PackedLinear)
    assert layer in prepared_weights._prepared
    assert fast_linear(layer) is None and layer not in prepared_weights._prepared
    layer.requires_grad_(False)
    product, inputs = fast_linear(layer), torch.randn(3, 17, requires_grad=True)
    assert isinstance(product, PackedLinear)
    # A frozen layer passes gradients on.
    (gradient,) = torch.autograd.grad(product(inputs).sum(), inputs)
    close(gradient, layer.weight.double().sum(0).expand(3, 17))


@torch.no_grad()
def test_unsupported_layers_are_not_served():
    class Other(nn.Linear):
        pass

    hooked = linear()
    hooked.register_forward_hook(lambda *_: None)
    offloaded = linear()
    offloaded.forward = offloaded.forward
    turned = linear()
    turned.weight = nn.Parameter(torch.randn(17, 33).T)
    with torch.inference_mode():
        inference = linear()
    layers = [Other(3, 2), hooked, offloaded, turned, inference, nn.Identity(), linear().double(), linear().half()]
    layers += [nn.Linear(3, 2, device="meta"), nn.utils.parametrizations.weight_norm(linear())]
    assert [layer for layer in layers if fast_linear(layer) is not None] == []
    layer = linear()
    with torch.autocast("cpu", dtype=torch.float16):
        assert fast_linear(layer) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (fast_linear(layer) is None) is multiplies_bfloat16()
    with torch.backends.mkldnn.flags(enabled=False):
        assert fast_linear(layer) is None
    torch.func.vmap(lambda row: [row.sum(), pytest.fail("packed") if fast_linear(layer) is not None else 0][0])(
        torch.zeros(2, 17)
    )


@torch.no_grad()
def test_a_build_without_the_operator(monkeypatch):
    def missing(*_):
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_reorder_linear_weight'")

    monkeypatch.setattr(onednn, "_reorder", missing)
    packing_works.cache_clear()
    try:
        layer = linear()
        assert fast_linear(layer) is None
    finally:
        monkeypatch.undo()
        packing_works.cache_clear()


@torch.no_grad()
def test_wrong_results_are_detected(monkeypatch):
    monkeypatch.setattr(onednn, "_linear", lambda inputs, packed, bias: inputs.new_zeros(3, 5))
    packing_works.cache_clear()
    try:
        assert not packing_works(torch.float32)
    finally:
        monkeypatch.undo()
        packing_works.cache_clear()


@torch.no_grad()
def test_bfloat16_on_a_cpu_without_support(monkeypatch):
    monkeypatch.setattr(onednn, "packing_works", lambda dtype: dtype == torch.float32)
    layer, inputs = linear(dtype=torch.bfloat16), torch.randn(5, 17).bfloat16()
    found = fast_linear(layer)(inputs)
    assert found.dtype == torch.float32
    close(found, expected(layer, inputs))


@torch.no_grad()
def test_copies_and_pickles():
    layer, inputs = linear(), torch.randn(4, 17)
    fast_linear(layer)(inputs)
    plain = io.BytesIO()
    torch.save(linear(), plain)
    other = copy.deepcopy(layer)
    assert other not in prepared_weights._prepared
    other.weight.zero_()
    close(fast_linear(layer)(inputs), expected(layer, inputs))
    assert torch.equal(fast_linear(other)(inputs), other.bias.expand(4, 33))
    stored = io.BytesIO()
    torch.save(layer, stored)
    assert len(stored.getvalue()) == len(plain.getvalue())
    close(fast_linear(pickle.loads(pickle.dumps(layer)))(inputs), expected(layer, inputs))
    assert list(layer.state_dict()) == ["weight", "bias"]


@torch.no_grad()
def test_packed_weights_are_freed_with_their_layer():
    layer = linear()
    fast_linear(layer)(torch.randn(2, 17))
    kept = weakref.ref(layer), weakref.ref(prepared_weights._prepared[layer])
    gc.disable()
    try:
        del layer
        assert kept[0]() is kept[1]() is None
    finally:
        gc.enable()


def held(model):
    return sum(module in prepared_weights._prepared for module in model.modules())


def test_a_model_packs_and_releases():
    model = with_large_weights(ElmoModel(tiny_config())).eval()
    batch = batch_of(["a cat sat", "a dog"])
    with torch.no_grad():
        fast = model(**batch).last_hidden_state
    # Four directions of three maps, two highways of two, one projection, the tables of characters.
    assert held(model) == 18
    plain = model(**batch).last_hidden_state
    assert plain.requires_grad and held(model) == 0
    close(fast, plain.double())
    with torch.no_grad():
        model(**batch)
    model.train()
    assert held(model) == 0
    with torch.no_grad():
        model(**batch)
        copied = copy.deepcopy(model)
        assert held(copied) == 0
        close(copied.eval()(**batch).last_hidden_state, fast.double())
        assert held(model.double()) == 0
        model(**batch)
        release(model)
    assert held(model) == 0


@pytest.mark.skipif(not hasattr(memory_pages.mmap, "MAP_PRIVATE"), reason="needs memory-mapped files")
@torch.no_grad()
def test_dropped_pages_are_read_again(tmp_path):
    """Values of the file, and values that were written after mapping."""
    weight = torch.randn(512, 512)
    path = tmp_path / "weights"
    path.write_bytes(weight.numpy().tobytes())
    mapped = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=weight.nbytes)
    layer = nn.Linear(512, 512, bias=False)
    layer.weight = nn.Parameter(torch.empty(0).set_(mapped, 0, (512, 512)))
    layer.weight[100:200] = 2.0
    weight[100:200] = 2.0
    inputs = torch.randn(3, 512)
    close(fast_linear(layer)(inputs), functional.linear(inputs.double(), weight.double()))
    assert memory_pages._is_mapped_file(layer.weight.data_ptr(), layer.weight.data_ptr() + 4 * 512 * 512)
    assert torch.equal(layer.weight, weight)
    assert path.read_bytes() != weight.numpy().tobytes()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_default_dtype(dtype):
    packing_works.cache_clear()
    torch.set_default_dtype(dtype)
    try:
        assert packing_works(torch.float32)
    finally:
        torch.set_default_dtype(torch.float32)
        packing_works.cache_clear()


def test_a_frozen_bilm_keeps_its_packs_while_a_task_trains():
    model = ElmoModel(tiny_config()).eval().requires_grad_(False)
    batch = batch_of(["a cat sat", "a dog"])
    model(**batch)
    kept = {layer: pack for layer, pack in prepared_weights._prepared.items() if layer in set(model.modules())}
    assert kept
    model.train()
    model(**batch)
    assert all(prepared_weights._prepared[layer] is pack for layer, pack in kept.items())
    model.half()
    assert not any(layer in prepared_weights._prepared for layer in model.modules())


@torch.no_grad()
def test_an_adapter_merged_into_bfloat16_is_seen():
    layer = linear(64, 256, bias=False, dtype=torch.bfloat16)
    fast_linear(layer)
    before, weight = prepared_weights._prepared[layer], layer.weight.clone()
    # A change so small that most values round to their old value.
    layer.weight.data += (3e-3 * weight.float() * torch.randn(256, 64)).to(torch.bfloat16)
    assert 0.02 < layer.weight.ne(weight).float().mean() < 0.5
    fast_linear(layer)
    assert prepared_weights._prepared[layer] is not before

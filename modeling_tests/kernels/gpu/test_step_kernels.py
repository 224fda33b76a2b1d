"""The Triton kernels: their results everywhere, and compilation for GPUs that are not present."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers.dynamic_module_utils import get_imports

from elmo_hf.kernels.gpu import workspace
from elmo_hf.kernels.gpu.workspace import LstmConstants, Shape, Words, Workspace
from modeling_tests.kernels.gpu.conftest import KERNELS

FOLDER = Path(workspace.__file__).parent


def test_pointwise_functions_over_their_whole_range(device: str) -> None:
    """Relative to each value, not to the largest: near zero and where they saturate."""
    values = torch.cat([torch.logspace(-7, 2, 40), torch.tensor([0.0, 0.6249, 0.625, 0.6251])])
    values = torch.cat([values, -values])
    size = len(values)
    gates = torch.zeros(1, 2, 4, size)
    gates[:, :, 0] = gates[:, :, 3] = 100.0  # open
    gates[:, :, 1] = -100.0  # shut
    gates[:, :, 2] = values
    shape = Shape(1, size, size, False, torch.float32, LstmConstants(None, None, 0.0), False)
    space = Workspace(shape, torch.device(device))
    for tensor in (space.gates, space.bias):
        tensor.zero_()
    space.cell.fill_(1.0)
    space.lengths.fill_(1)
    offsets = torch.tensor([0, 1], device=device)
    space.point_to(Words(offsets, gates.view(1, 2, -1).to(device)))
    workspace.cell_forward(space, 1, 0, saves=False)
    expected = values.double().tanh()
    torch.testing.assert_close(space.cell[0, 1].cpu().double(), expected, rtol=5e-7, atol=0)
    torch.testing.assert_close(space.exposed[0, 0].cpu().double(), expected.tanh(), rtol=8e-7, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "saves", "dtype"), [(3, False, torch.float32), (3, True, torch.float16), (70, True, torch.bfloat16)]
)
@pytest.mark.usefixtures("poisoned")
def test_fused_cell(rows: int, saves: bool, dtype: torch.dtype, device: str) -> None:
    """Both row blocks, more cells and a wider state than a block, ended rows, and unused rows."""
    if device == "cuda" and dtype == torch.float32:
        pytest.skip("float32 is not fused on a GPU")
    size, width, step = 72, 80, 1
    lengths = torch.randint(1, 3, (rows,)).sort(descending=True).values
    going = int((lengths > step).sum())
    offsets = torch.tensor([0, rows, rows + going])
    hidden, cell = torch.randn(rows, 2, width).to(dtype), torch.randn(rows, 2, size) * 2
    weight, bias = torch.randn(2, 4 * size, width).to(dtype) / 9, torch.randn(2, 4 * size).to(dtype)
    terms = torch.randn(rows + going, 2, 4 * size).to(dtype)
    # The definition, in float64; the sums are rounded as they are kept.
    recurrent = torch.einsum("rdw,dgw->rdg", hidden.double(), weight.double())[:going]
    sums = (terms[rows:].double() + recurrent + bias.double()).to(dtype)
    gates = sums.double().unflatten(2, (4, size)).unbind(2)
    raw = torch.sigmoid(gates[1] + 1) * cell[:going] + torch.sigmoid(gates[0]) * gates[2].tanh()
    after = raw.clamp(-1, 1)

    shape = Shape(rows + 2, width, size, True, dtype, LstmConstants(1.0, None, 1.0), True)
    space = Workspace(shape, torch.device(device))
    space.clock.fill_(step - saves)  # as the second of two steps, or as the first of a chunk
    space.lengths[:rows].copy_(lengths)
    space.hidden[:rows].copy_(hidden)
    space.cell.fill_(7.0)[:rows].copy_(cell)
    space.hidden_weight.copy_(weight)
    space.bias.copy_(bias)
    kept = (terms if saves else terms[rows:]).to(device, copy=True)
    raw_cells = torch.zeros(rows + going, 2, size, device=device)
    space.point_to(Words(offsets.to(device), kept, raw_cells=raw_cells))
    workspace.fused_cell_forward(space, rows, int(saves), saves)

    bound = 1e-5 if dtype == torch.float32 else 2 * torch.finfo(dtype).eps

    def assert_close(found: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(found.cpu().double(), expected.double(), rtol=bound, atol=bound)

    assert_close(space.cell, torch.cat([after, cell[going:], torch.full((2, 2, size), 7.0)]))
    assert_close(space.exposed[:going], torch.sigmoid(gates[3]) * after.tanh())
    assert_close(kept, torch.cat([terms[:rows], sums]) if saves else terms[rows:])
    assert_close(raw_cells, torch.cat([torch.zeros(rows, 2, size), raw]) if saves else torch.zeros_like(raw_cells))


def test_other_strides_are_refused(device: str) -> None:
    shape = Shape(1, 2, 2, False, torch.float32, LstmConstants(None, None, 0.0), False)
    space = Workspace(shape, torch.device(device))
    with pytest.raises(ValueError, match=r"strides \(1, 8\)"):
        space.point_to(Words(space.clock, torch.zeros(2, 8, device=device).T))


class TestWithoutTriton:
    def test_remote_code_does_not_require_it(self) -> None:
        paths = list(FOLDER.glob("*.py"))
        assert len(paths) > 2
        for path in paths:
            assert "triton" not in get_imports(path)

    def test_kernels_are_imported_inside_functions_only(self) -> None:
        """The file of kernels needs Triton, so no module imports it at import time."""
        importers = set()
        for path in FOLDER.glob("*.py"):
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
                    importers.add(path.stem)
        assert importers

    def test_import_error_names_the_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "triton", None)
        monkeypatch.delitem(sys.modules, KERNELS, raising=False)
        with pytest.raises(ImportError, match=r"'elmo-hf\[gpu\]'"):
            importlib.import_module(KERNELS)


COMPILED = """
import re, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from elmo_hf.kernels.gpu import step_kernels as kernels
from elmo_hf.kernels.gpu.workspace import SHARED_MEMORY

dtype, capability = sys.argv[1], int(sys.argv[2])
FLAGS = {"CLIPS": 1, "SAVES": 1, "SPLITS": 4, "BLOCK": 512}
# As `workspace.fused_cell_forward` launches it.
SMALL = {"WIDTH": 512, "ROWS": 64, "COLUMNS": 32, "INNER": 64}
LARGE = {**SMALL, "ROWS": 128, "COLUMNS": 64}
KINDS = {"table": "*i64", "clock": "*i64", "lengths": "*i32", "position": "i32"}
WIDE = ("cell", "initial_cell", "cell_gradient")


def compiled(kernel, flags, **options):
    signature, aligned = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in flags:
            signature[name] = "constexpr"
        elif name in KINDS:
            signature[name] = KINDS[name]
        elif name in ("size", "rows"):
            signature[name] = "i32"
        elif name.endswith(("_clip", "_bias")):
            signature[name] = "fp32"
        else:
            signature[name] = "*fp32" if name in WIDE else "*" + dtype
        if signature[name].startswith("*") or name == "size":
            aligned[(place,)] = [["tt.divisibility", 16]]  # as the launcher finds tensors and sizes
    constants = {(kernel.arg_names.index(name),): value for name, value in flags.items() if name in kernel.arg_names}
    source = ASTSource(kernel, signature, constants, aligned)
    result = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert len(result.asm["cubin"]) > 1000
    return result


def moved(result):
    return [line for line in result.asm["ptx"].splitlines() if re.search(r"(ld|st)[.]global", line)]


for kernel in (kernels.cell_forward, kernels.output_forward, kernels.output_backward, kernels.cell_backward):
    lines = moved(compiled(kernel, FLAGS))
    # What a program reads of the table of addresses, the clock and the lengths; all else is 8 or 16 bytes wide.
    single = [line for line in lines if not re.search(r"[.]v[248]|global[.]b(32|64) ", line)]
    assert not single, (kernel.fn.__name__, single)
    assert len([line for line in lines if ".v" in line]) >= 5
compiled(kernels.write_addresses, FLAGS)
if dtype != "fp32":
    for flags, settings in ((SMALL, dict(num_warps=4, num_stages=4)), (LARGE, dict(num_warps=8, num_stages=3))):
        result = compiled(kernels.fused_cell_forward, {**FLAGS, **flags}, **settings)
        assert result.metadata.shared <= SHARED_MEMORY
        ptx = result.asm["ptx"]
        # Both factors are loaded ahead, 16 bytes at a time; the cell, 4 gates, their sums and the rest, likewise.
        assert "cp.async.cg.shared.global" in ptx
        assert not [line for line in moved(result) if re.search(r"global[.](b|u)(8|16) ", line)]
        assert len([line for line in moved(result) if ".v4" in line]) >= 5 + 7
        # The widest matmul of a tensor core: all four gates are sums of one.
        wide = f"wgmma.mma_async.sync.aligned.m64n{4 * flags['COLUMNS']}k16"
        assert (wide if capability == 90 else "mma.sync.aligned.m16n8k16") in ptx
"""


@pytest.mark.slow
@pytest.mark.parametrize("capability", [90, 80])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_kernels_compile_for_a_gpu_that_is_not_there(dtype: str, capability: int, tmp_path: Path) -> None:
    """Compiled to machine code of a compute capability: what the interpreter accepts may not compile.

    Memory is moved several elements at a time, also behind the addresses that are read from a table.
    """
    environment = {"PATH": "/usr/bin:/bin", "TRITON_CACHE_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    root = FOLDER.parents[2]
    command = [sys.executable, "-c", COMPILED, dtype, str(capability)]
    subprocess.run(command, check=True, cwd=root, env=environment, timeout=280)

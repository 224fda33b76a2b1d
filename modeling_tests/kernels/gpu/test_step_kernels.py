"""The Triton kernels themselves: their functions everywhere, and machine code for a GPU that need not be there."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers.dynamic_module_utils import get_imports

from elmo_hf.kernels.gpu import workspace
from elmo_hf.kernels.gpu.workspace import LstmConstants, Shape, Words, Workspace
from modeling_tests.kernels.gpu.conftest import KERNELS

FOLDER = Path(workspace.__file__).parent


def test_pointwise_functions_everywhere(device: str) -> None:
    """Relative to each value, not to the largest: near zero and where they saturate."""
    values = torch.cat([torch.logspace(-7, 2, 40), torch.tensor([0.0, 0.6249, 0.625, 0.6251])])
    values = torch.cat([values, -values])
    size = len(values)
    gates = torch.zeros(1, 2, 4, size)
    gates[:, :, 0] = gates[:, :, 3] = 100.0  # open
    gates[:, :, 1] = -100.0  # shut
    gates[:, :, 2] = values
    space = Workspace(Shape(1, size, size, False, torch.float32, LstmConstants(None, None, 0.0)), torch.device(device))
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


def test_other_strides_are_refused(device: str) -> None:
    space = Workspace(Shape(1, 2, 2, False, torch.float32, LstmConstants(None, None, 0.0)), torch.device(device))
    with pytest.raises(ValueError, match="contiguous"):
        space.point_to(Words(space.clock, torch.zeros(2, 8, device=device).T))


class TestWithoutTriton:
    def test_a_checkpoint_s_code_does_not_demand_it(self) -> None:
        for path in FOLDER.glob("*.py"):
            assert "triton" not in get_imports(path)

    def test_imported_by_what_runs_it_alone(self) -> None:
        """The kernels' file needs Triton, so nothing imports it when it is itself imported."""
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

    def test_absent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "triton", None)
        monkeypatch.delitem(sys.modules, KERNELS, raising=False)
        with pytest.raises(ImportError, match=r"pip install 'elmo-hf\[gpu\]'"):
            importlib.import_module(KERNELS)


HOPPER = """
import re, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from elmo_hf.kernels.gpu import step_kernels as kernels

FLAGS = {"CLIPS": 1, "SAVES": 1, "SPLITS": 4, "BLOCK": 512}
KINDS = {"table": "*i64", "clock": "*i64", "lengths": "*i32", "position": "i32", "size": "i32"}
WIDE = ("cell", "initial_cell", "cell_gradient")
for kernel in (
    kernels.cell_forward, kernels.output_forward, kernels.output_backward, kernels.cell_backward,
    kernels.write_addresses,
):
    signature, aligned = {}, {}
    for place, name in enumerate(kernel.arg_names):
        if name in FLAGS:
            signature[name] = "constexpr"
        elif name in KINDS:
            signature[name] = KINDS[name]
        elif name.endswith(("_clip", "_bias")):
            signature[name] = "fp32"
        else:
            signature[name] = "*fp32" if name in WIDE else "*" + sys.argv[1]
        if signature[name].startswith("*") or name == "size":
            aligned[(place,)] = [["tt.divisibility", 16]]  # as the launcher finds tensors and sizes
    constants = {(kernel.arg_names.index(name),): value for name, value in FLAGS.items() if name in kernel.arg_names}
    compiled = compile(ASTSource(kernel, signature, constants, aligned), target=GPUTarget("cuda", 90, 32))
    assert len(compiled.asm["cubin"]) > 1000
    moved = [line for line in compiled.asm["ptx"].splitlines() if re.search(r"(ld|st)[.]global", line)]
    if kernel is not kernels.write_addresses:
        # What a program reads of the table of addresses, the clock and the lengths; all else is 8 or 16 bytes wide.
        single = [line for line in moved if not re.search(r"[.]v[248]|global[.]b(32|64) ", line)]
        assert not single, (kernel.fn.__name__, single)
        assert len([line for line in moved if ".v" in line]) >= 5
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_kernels_compile_for_a_gpu_that_is_not_there(dtype: str, tmp_path: Path) -> None:
    """Down to machine code of compute capability 9.0: what the interpreter lets through may not compile.

    Memory is moved several elements at a time, also behind the addresses that are read from a table.
    """
    environment = {"PATH": "/usr/bin:/bin", "TRITON_CACHE_DIR": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    root = FOLDER.parents[2]
    subprocess.run([sys.executable, "-c", HOPPER, dtype], check=True, cwd=root, env=environment, timeout=280)

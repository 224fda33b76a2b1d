"""Compilation of the C code: folder, compiler, and fallback if it fails."""

import copy
import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from elmo_hf.inference.quantization import quantized
from elmo_hf.kernels.cpu import builder, compiling, native_lstm
from elmo_hf.kernels.cpu.builder import native_library
from elmo_hf.kernels.cpu.int8 import LEVELS, REDUCED_LEVELS
from elmo_hf.kernels.cpu.native_lstm import NativeRecurrence
from elmo_hf.model.operators import linear_map, reference_lstm
from elmo_hf.model.quantized_linear import quantized_linear

needs_compiler = pytest.mark.skipif(builder.find_compiler() is None, reason="no C compiler at hand")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder, independent of the library that the process has loaded."""
    monkeypatch.setattr(builder, "native_library", native_library.__wrapped__)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ELMO_HF_NATIVE", raising=False)
    monkeypatch.setattr(builder, "BUILT_FOLDER", tmp_path / "built")
    return tmp_path / "elmo_hf"


@pytest.mark.slow
@needs_compiler
def test_compiled_once_and_kept(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = builder.native_library()
    assert library is not None and library.elmo_panel() in (8, 16, 32)
    kept = sorted(fresh.iterdir())
    assert [path.suffix for path in kept] == [".sha256", ".so"]
    assert fresh.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert builder.native_library() is not None
    assert sorted(fresh.iterdir()) == kept


@needs_compiler
@pytest.mark.parametrize("name", ["panels.c", "blocking.h"])
def test_changed_code_changes_the_fingerprint(
    fresh: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = builder._fingerprint([sys.executable], builder._sources())
    changed = tmp_path / "csrc"
    shutil.copytree(builder.SOURCE_FOLDER, changed)
    with open(changed / name, "a", encoding="utf-8") as file:
        file.write("/* changed */\n")
    monkeypatch.setattr(builder, "SOURCE_FOLDER", changed)
    assert builder._fingerprint([sys.executable], builder._sources()) != before


@pytest.fixture
def unoptimized(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without optimization, in a fifth of the time."""
    flags = ["-O0", *compiling.FLAGS[1:]]
    assert compiling.FLAGS[0] == "-O3"
    for module in (builder, compiling):
        monkeypatch.setattr(module, "FLAGS", flags)


@pytest.mark.slow
@needs_compiler
@pytest.mark.usefixtures("unoptimized")
@pytest.mark.parametrize("damage", ["cut", "empty", "no digest"])
def test_a_damaged_library_is_made_again(fresh: Path, damage: str, tmp_path: Path) -> None:
    """Loading a truncated library would crash the process."""
    builder.native_library()
    (library,) = fresh.glob("*.so")
    whole = library.read_bytes()
    # The file is replaced; the loaded library does not change.
    broken = tmp_path / "broken"
    broken.write_bytes(whole if damage == "no digest" else whole[: len(whole) // 2] if damage == "cut" else b"")
    os.replace(broken, library)
    if damage == "no digest":
        library.with_suffix(".sha256").unlink()
    assert builder.native_library() is not None
    assert builder._is_whole(library) and len(library.read_bytes()) == len(whole)


@needs_compiler
def test_foreign_library_is_rejected(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "_sources", lambda: {"other.c": "int something_else(void) { return 1; }\n"})
    assert builder.native_library() is None


def test_installed_without_its_c_files(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(builder, "SOURCE_FOLDER", tmp_path)
    monkeypatch.setattr(builder, "find_compiler", lambda: [sys.executable])
    assert builder.native_library() is None
    assert str(tmp_path) in caplog.text


@pytest.mark.parametrize("value", ["0", "false", "OFF"])
def test_disabled_by_the_environment(fresh: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ELMO_HF_NATIVE", value)
    assert builder.native_library() is None
    assert not fresh.exists()


def test_malformed_compiler_command(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", 'gcc "')
    assert builder.native_library() is None


def test_no_compiler(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(fresh))
    monkeypatch.setenv("CC", "a-compiler-that-nobody-has -O9")
    assert builder.native_library() is None


def test_a_compiler_that_fails(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", f"{sys.executable} -c 'raise SystemExit(\"no\")'")
    assert builder.native_library() is None
    assert list(fresh.iterdir()) == []


@needs_compiler
def test_a_folder_that_others_can_write_to_is_not_trusted(fresh: Path) -> None:
    fresh.mkdir()
    fresh.chmod(0o777)
    assert builder.native_library() is None


@needs_compiler
def test_no_home_directory(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nobody)
    assert builder.native_library() is None


@pytest.mark.samples(1)
@pytest.mark.parametrize(
    ("compiler", "target"),
    [
        ("gcc", "-march=x86-64-v4"),
        ("clang", "-march=x86-64"),
        ("gcc", "-march=x86-64"),
        ("gcc", "-march=x86-64-v3"),
        ("gcc", "-march=alderlake"),  # AVX-VNNI
        ("gcc", "-march=cooperlake"),  # AVX-512 VNNI and bf16
        ("clang", "-march=x86-64-v3"),
        ("clang", "-march=x86-64-v4"),
        ("clang", "-march=alderlake"),
        ("clang", "-march=cooperlake"),
    ],
)
def test_compiles_for_every_register_width(compiler: str, target: str, tmp_path: Path) -> None:
    """No warnings, also for wider registers than this CPU's."""
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed")
    units = map(str, sorted(builder.SOURCE_FOLDER.glob("*.c")))
    command = [compiler, target, "-Wall", "-Wextra", *builder.FLAGS, "-O1", *units, "-o", str(tmp_path / "a")]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if "march" in answer.stderr and answer.returncode:
        pytest.skip(f"the compiler does not know {target}")
    assert answer.returncode == 0 and not answer.stderr, answer.stderr


@pytest.mark.slow
@needs_compiler
@pytest.mark.usefixtures("unoptimized")
def test_a_wheel_brings_the_library(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best library that the CPU supports, without a compiler; never one built from other sources."""
    if not compiling.kinds():
        pytest.skip("no wheel ships compiled libraries for this architecture")
    paths = compiling.build_portable(builder.BUILT_FOLDER)
    assert [path.name.partition("-")[0] for path in paths] == [kind.lower() for kind in compiling.kinds()]
    monkeypatch.setattr(builder, "find_compiler", lambda: None)
    own = builder.cpu_kind()
    if own in compiling.kinds():
        library = builder.native_library()
        assert library is not None and Path(library._name).name.partition("-")[0] == own.lower()
        assert not fresh.exists()
    for kind in compiling.kinds():
        monkeypatch.setattr(builder, "cpu_kind", lambda kind=kind: kind)
        found = builder._brought_library(builder._sources())
        assert found is not None and found.name.partition("-")[0] == kind.lower()
    paths[0].unlink()
    monkeypatch.setattr(builder, "cpu_kind", lambda: next(iter(compiling.kinds())))
    found = builder._brought_library(builder._sources())
    assert found == (paths[1] if paths[1:] else None)
    assert builder._brought_library({"other.c": ""}) is None


@pytest.mark.parametrize(
    ("capability", "instructions", "kind"),
    [
        ("AVX2", ["vnni", "avx512_bf16"], "AVX2"),  # limited by ATEN_CPU_CAPABILITY
        ("AVX512", [], "AVX512"),
        ("AVX512", ["vnni"], "AVX512_VNNI"),
        ("AVX512", ["avx512_bf16"], "AVX512"),
        ("AVX512", ["vnni", "avx512_bf16"], "AVX512_BF16"),
    ],
)
def test_kind_of_the_cpu(capability: str, instructions: list[str], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(builder, "cpu_supports", instructions.__contains__)
    assert builder.cpu_kind() == kind


def test_instructions_that_pytorch_does_not_know() -> None:
    assert not builder.cpu_supports("something_else")
    assert builder.cpu_supports("avx2") == torch.cpu._is_avx2_supported()


# Instruction sets of x86-64: flags, whether this CPU has them, outputs of a panel, bits of int8 sums, and whether
# bfloat16 is multiplied. Code for CPUs with 128-bit registers runs on wider ones, too.
INSTRUCTIONS = [
    (["-march=x86-64"], lambda: True, 8, 0, 0),
    (["-march=x86-64-v3"], partial(builder.cpu_supports, "avx2"), 16, 16, 0),
    *(
        (compiling.PORTABLE["x86_64"][kind], partial(builder.cpu_supports, instructions), 32, bits, multiplies)
        for kind, instructions, bits, multiplies in (
            ("AVX512", "avx512", 16, 0),
            ("AVX512_VNNI", "vnni", 32, 0),
            ("AVX512_BF16", "avx512_bf16", 32, 1),
        )
    ),
]


@pytest.mark.slow
@needs_compiler
@pytest.mark.usefixtures("unoptimized")
@pytest.mark.parametrize(
    ("flags", "is_supported", "panel", "bits", "multiplies"),
    INSTRUCTIONS,
    ids=["SSE2", "AVX2", "AVX-512", "AVX-512 VNNI", "AVX-512 bf16"],
)
@torch.no_grad()
def test_every_instruction_set_computes_the_same(
    fresh: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    is_supported: Callable[[], bool],
    panel: int,
    bits: int,
    multiplies: int,
) -> None:
    """Every kind of weights, as in `test_native_lstm`, which tests only the best instructions of this CPU."""
    if os.uname().machine != "x86_64" or not is_supported():
        pytest.skip("this CPU has other instructions")
    monkeypatch.setattr(builder, "TARGET_FLAGS", (flags,))
    library = builder.native_library()
    assert library is not None
    assert library.elmo_panel() == panel
    assert (library.elmo_int8_sum_bits(), library.elmo_multiplies_bfloat16()) == (bits, multiplies)
    monkeypatch.setattr(native_lstm, "native_library", lambda: library)
    monkeypatch.setattr(native_lstm, "signed_levels", lambda: REDUCED_LEVELS if bits == 16 else LEVELS)
    settings = {"cell_clip": 3.0, "projection_clip": 3.0, "forget_bias": 1.0}
    inputs, hidden, cell = torch.randn(13, 64), torch.randn(7, 64), torch.randn(7, 96)

    def errors(dtype: torch.dtype) -> tuple[float, float]:
        """Largest error of the hidden states and of the cells, relative to one."""
        layers: list[Any] = [
            torch.nn.Linear(64, 4 * 96),
            torch.nn.Linear(64, 4 * 96, bias=False),
            torch.nn.Linear(96, 64, bias=False),
        ]
        if dtype == torch.int8:
            layers = [quantized(layer) for layer in layers]
            plain = [
                partial(
                    quantized_linear, weight=layer.quantized_weight, weight_scale=layer.weight_scale, bias=layer.bias
                )
                for layer in layers
            ]
            reference = [partial(each, signed_levels=native_lstm.signed_levels()) for each in plain]
        else:
            layers = [layer.to(dtype) for layer in layers]
            reference = [layer.double() for layer in copy.deepcopy(layers)]
        recurrence = NativeRecurrence(*map(linear_map, layers), **settings)
        found_cell = cell.clone()
        found = recurrence.run(recurrence.input_gates(inputs), 0, None, [7, 6], hidden, found_cell)
        kind = torch.float32 if dtype == torch.int8 else torch.float64
        expected = reference_lstm(*(inputs.to(kind), [7, 6], hidden.to(kind), cell.to(kind)), *reference, **settings)
        return float((found - expected[0]).abs().max()), float((found_cell - expected[2]).abs().max())

    assert max(errors(torch.float32)) < 2e-6
    # Rounded rows: a bfloat16 has 8 bits.
    assert max(errors(torch.bfloat16)) < (1e-2 if multiplies else 2e-6)
    # A value between two integers may be rounded to either.
    assert not bits or max(errors(torch.int8)) < 1e-2


@needs_compiler
def test_threads_are_those_of_torch() -> None:
    """The library uses the OpenMP of PyTorch's builds; otherwise it starts its own threads."""
    library = native_library()
    if library is None:
        pytest.skip("ELMO_HF_NATIVE=0")
    if not hasattr(ctypes.CDLL(torch._C.__file__), "GOMP_parallel"):
        pytest.skip("this build of PyTorch has another OpenMP")
    assert ctypes.c_void_p.in_dll(library, "open_mp_parallel").value


def test_structures_are_those_of_the_c_code() -> None:
    """The fields match in order and type, since ctypes cannot see the C declarations."""
    text = "".join(path.read_text(encoding="utf-8") for path in builder.SOURCE_FOLDER.glob("*.h"))
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    for structure in (builder.Weight, builder.InputMatmul, builder.Recurrence):
        (fields,) = re.findall(r"typedef struct \{([^}]*)\} " + structure.__name__ + ";", text)
        names = re.findall(r"(\w+)\s*[,;]", fields)
        assert [name for name, *_ in structure._fields_] == names

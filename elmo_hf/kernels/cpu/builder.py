"""The compiled C code of `csrc/`: a library shipped in the wheel for this CPU, or one compiled at first use.

The library is optional. Without a shipped one and without a C compiler, PyTorch's slower matmuls are used. Compiling
takes some seconds, once: the library is cached in the user's cache folder, under a name that changes with the code, the
compiler and the CPU. Set `ELMO_HF_NATIVE=0` in the environment to turn it off.
"""

import contextlib
import ctypes
import functools
import hashlib
import itertools
import logging
import os
import platform
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .compiling import (
    BUILT_FOLDER,
    FLAGS,
    SOURCE_FOLDER,
    TARGET_FLAGS,
    built_name,
    compile_library,
    find_compiler,
    kinds,
    read_sources,
)

logger = logging.getLogger("elmo_hf.kernels.cpu.builder")


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


_pointers, _integers = partial(_fields, ctypes.c_void_p), partial(_fields, ctypes.c_int64)
_floats = partial(_fields, ctypes.c_float)


class Weight(ctypes.Structure):
    """The C structure `Weight` of `csrc/panels.h`; the other structures are declared in `csrc/library.h`."""

    _fields_ = [*_pointers("panels scale sums"), *_integers("kind outputs inputs signed_levels")]


class InputMatmul(ctypes.Structure):
    _fields_ = [*_pointers("inputs"), *_integers("rows"), ("weight", Weight), *_pointers("bias gates")]


class Recurrence(ctypes.Structure):
    _fields_ = [
        *_integers("steps"),
        *_pointers("running gates"),
        *_integers("words"),
        *_pointers("index hidden cell outputs"),
        ("hidden_weight", Weight),
        ("output_weight", Weight),
        *_floats("cell_clip projection_clip"),
    ]


class TrainingForward(ctypes.Structure):
    _fields_ = [
        *_integers("steps"),
        *_pointers("running"),
        *_integers("input_width width size"),
        *_pointers("inputs hidden cell input_weight bias hidden_weight output_weight"),
        *_floats("cell_clip projection_clip forget_bias"),
        *_pointers("gates raw_cells cell_outputs raw_outputs outputs final_hidden final_cell"),
    ]


class TrainingBackward(ctypes.Structure):
    _fields_ = [
        ("forward", TrainingForward),
        *_pointers("output_gradient hidden_gradient cell_gradient input_gradient"),
        *_pointers("input_weight_gradient bias_gradient hidden_weight_gradient output_weight_gradient"),
    ]


class SoftmaxLoss(ctypes.Structure):
    _fields_ = [
        *_integers("words columns width"),
        *_pointers("hidden weight bias true_logits targets"),
        *_pointers("shares nll hidden_gradient weight_gradient bias_gradient true_logit_gradient"),
    ]


class CharacterTables(ctypes.Structure):
    _fields_ = [
        *_integers("words characters table_rows tables"),
        *_pointers("rows widths filters products maxima positions"),
    ]


@functools.cache
def native_library() -> ctypes.CDLL | None:
    """Load the library, compiling it if necessary; `None` if that fails or is turned off."""
    if os.environ.get("ELMO_HF_NATIVE", "1").lower() in ("0", "false", "off"):
        return None
    if sys.byteorder != "little" or os.name != "posix":
        return None
    try:
        sources = _sources()
        brought = _brought_library(sources)
        if brought is not None:
            return _load(brought)
        compiler = find_compiler()
        if compiler is None:
            return None
        path = _cache_folder() / f"lstm-{_fingerprint(compiler, sources)}.so"
        if not _is_whole(path):
            _compile(compiler, sources, path)
        return _load(path)
    # RuntimeError: no home folder; ValueError: unbalanced quotes in CC; AttributeError: not our library.
    except (OSError, RuntimeError, ValueError, AttributeError, subprocess.SubprocessError) as error:
        # Logged once, because the result is cached.
        logger.warning("compiled biLSTM kernel unavailable (%s); falling back to PyTorch", error)
        return None


def origin() -> str | None:
    """Readable origin of the library; `None` if there is none."""
    library = native_library()
    if library is None:
        return None
    path = Path(library._name)
    if path.parent == BUILT_FOLDER:
        return f"of the wheel, {path.name.partition('-')[0].upper()}"
    return "compiled for this CPU"


def cpu_kind() -> str:
    """The kind of this CPU, as in `compiling.PORTABLE`: PyTorch's name, or that of an extension of AVX-512."""
    kind = torch.backends.cpu.get_cpu_capability()
    if kind != "AVX512" or not cpu_supports("vnni"):
        return kind
    return "AVX512_BF16" if cpu_supports("avx512_bf16") else "AVX512_VNNI"


def cpu_supports(instructions: str) -> bool:
    """True if PyTorch knows that this CPU has some instructions. Its functions for that are private."""
    question = getattr(torch.cpu, f"_is_{instructions}_supported", None)
    return question is not None and bool(question())


def _brought_library(sources: dict[str, str]) -> Path | None:
    """The wheel's library for this CPU and exactly this code; `None` if there is none."""
    own, names = cpu_kind(), list(kinds())
    # Every CPU of an architecture runs DEFAULT, even if PyTorch names a more capable kind.
    for kind in names[names.index(own) :] if own in names else [name for name in names if name == "DEFAULT"]:
        path = BUILT_FOLDER / built_name(kind, sources)
        if path.is_file():
            return path
    return None


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for question in (library.elmo_panel, library.elmo_int8_sum_bits, library.elmo_multiplies_bfloat16):
        question.restype = ctypes.c_int64
    for function, argument in (
        (library.elmo_input_matmul, InputMatmul),
        (library.elmo_recurrence, Recurrence),
        (library.elmo_training_forward, TrainingForward),
        (library.elmo_training_backward, TrainingBackward),
        (library.elmo_softmax_loss, SoftmaxLoss),
        (library.elmo_character_maxima, CharacterTables),
        (library.elmo_character_gradients, CharacterTables),
    ):
        function.argtypes = [ctypes.POINTER(argument), ctypes.c_int64]
        function.restype = ctypes.c_int
    _share_threads(library)
    return library


def _share_threads(library: ctypes.CDLL) -> None:
    """Let the library use PyTorch's OpenMP threads, which wait busily for some milliseconds after each operator."""
    try:
        torch_library = ctypes.CDLL(torch._C.__file__)  # symbols of its dependencies are found too
        parallel, number = torch_library.GOMP_parallel, torch_library.omp_get_num_threads
    except (OSError, AttributeError):
        return  # another OpenMP: the library starts its own threads
    library.elmo_use_open_mp.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    # A forked process has none of these threads, and OpenMP would wait for them.
    os.register_at_fork(after_in_child=functools.partial(library.elmo_use_open_mp, None, None))
    library.elmo_use_open_mp(*(ctypes.cast(function, ctypes.c_void_p) for function in (parallel, number)))


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "elmo_hf"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise OSError(f"{folder} is writable by other users, and its files are run as code: chmod go-w it")
    return folder


def _sources() -> dict[str, str]:
    return read_sources(SOURCE_FOLDER)


def _fingerprint(compiler: list[str], sources: dict[str, str]) -> str:
    """Hash of everything the library depends on, including the CPU: several machines may share a home folder."""
    parts = [
        *itertools.chain(*sources.items()),
        " ".join(FLAGS + compiler),
        str(os.stat(compiler[0]).st_mtime_ns),
        platform.machine(),
        sys.platform,
    ]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        for start in ("model name", "flags", "Features", "CPU part"):
            parts += [line for line in lines if line.startswith(start)][:1]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _is_whole(path: Path) -> bool:
    """True if the library exists and is complete. Loading a truncated one would crash the process."""
    try:
        return _digest(path) == path.with_suffix(".sha256").read_text(encoding="ascii")
    except (OSError, ValueError):
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compile(compiler: list[str], sources: dict[str, str], path: Path) -> None:
    """Compile next to `path`, then move the library into place, since several processes may compile at once."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built, digest = Path(folder) / "lstm.so", Path(folder) / "digest"
        compile_library(compiler, sources, built, TARGET_FLAGS)
        digest.write_text(_digest(built), encoding="ascii")
        os.replace(built, path)
        os.replace(digest, path.with_suffix(".sha256"))

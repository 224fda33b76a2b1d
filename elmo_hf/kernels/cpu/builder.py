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
from pathlib import Path

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


class Weight(ctypes.Structure):
    """The C structure `Weight` of `csrc/panels.h`; the other structures are declared in `csrc/library.h`."""

    _fields_ = [
        ("panels", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("sums", ctypes.c_void_p),
        ("kind", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("signed_levels", ctypes.c_int64),
    ]


class InputMatmul(ctypes.Structure):
    _fields_ = [
        ("inputs", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("weight", Weight),
        ("bias", ctypes.c_void_p),
        ("gates", ctypes.c_void_p),
    ]


class Recurrence(ctypes.Structure):
    _fields_ = [
        ("steps", ctypes.c_int64),
        ("running", ctypes.c_void_p),
        ("gates", ctypes.c_void_p),
        ("words", ctypes.c_int64),
        ("index", ctypes.c_void_p),
        ("hidden", ctypes.c_void_p),
        ("cell", ctypes.c_void_p),
        ("outputs", ctypes.c_void_p),
        ("hidden_weight", Weight),
        ("output_weight", Weight),
        ("cell_clip", ctypes.c_float),
        ("projection_clip", ctypes.c_float),
    ]


class TrainingForward(ctypes.Structure):
    _fields_ = [
        ("steps", ctypes.c_int64),
        ("running", ctypes.c_void_p),
        ("input_width", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("inputs", ctypes.c_void_p),
        ("hidden", ctypes.c_void_p),
        ("cell", ctypes.c_void_p),
        ("input_weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("hidden_weight", ctypes.c_void_p),
        ("output_weight", ctypes.c_void_p),
        ("cell_clip", ctypes.c_float),
        ("projection_clip", ctypes.c_float),
        ("forget_bias", ctypes.c_float),
        ("gates", ctypes.c_void_p),
        ("raw_cells", ctypes.c_void_p),
        ("cell_outputs", ctypes.c_void_p),
        ("raw_outputs", ctypes.c_void_p),
        ("outputs", ctypes.c_void_p),
        ("final_hidden", ctypes.c_void_p),
        ("final_cell", ctypes.c_void_p),
    ]


class TrainingBackward(ctypes.Structure):
    _fields_ = [
        ("forward", TrainingForward),
        ("output_gradient", ctypes.c_void_p),
        ("hidden_gradient", ctypes.c_void_p),
        ("cell_gradient", ctypes.c_void_p),
        ("input_gradient", ctypes.c_void_p),
        ("input_weight_gradient", ctypes.c_void_p),
        ("bias_gradient", ctypes.c_void_p),
        ("hidden_weight_gradient", ctypes.c_void_p),
        ("output_weight_gradient", ctypes.c_void_p),
    ]


class SoftmaxLoss(ctypes.Structure):
    _fields_ = [
        ("words", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("hidden", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("true_logits", ctypes.c_void_p),
        ("targets", ctypes.c_void_p),
        ("shares", ctypes.c_void_p),
        ("nll", ctypes.c_void_p),
        ("hidden_gradient", ctypes.c_void_p),
        ("weight_gradient", ctypes.c_void_p),
        ("bias_gradient", ctypes.c_void_p),
        ("true_logit_gradient", ctypes.c_void_p),
    ]


class CharacterTables(ctypes.Structure):
    _fields_ = [
        ("words", ctypes.c_int64),
        ("characters", ctypes.c_int64),
        ("table_rows", ctypes.c_int64),
        ("tables", ctypes.c_int64),
        ("rows", ctypes.c_void_p),
        ("widths", ctypes.c_void_p),
        ("filters", ctypes.c_void_p),
        ("products", ctypes.c_void_p),
        ("maxima", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
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


def _brought_library(sources: dict[str, str]) -> Path | None:
    """The wheel's library for this CPU and exactly this code; `None` if there is none."""
    own = torch.backends.cpu.get_cpu_capability()
    names = list(kinds())
    # Every CPU of an architecture runs DEFAULT, even if PyTorch names a more capable kind.
    for kind in names[names.index(own) :] if own in names else [name for name in names if name == "DEFAULT"]:
        path = BUILT_FOLDER / built_name(kind, sources)
        if path.is_file():
            return path
    return None


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for question in (library.elmo_panel, library.elmo_has_integers):
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

"""The C code of `source`, compiled for the processor at hand when it is first wanted.

Nothing has to be installed for it: where there is no C compiler, the products of PyTorch do the work, more slowly.
Compiling takes some seconds, once: the library is kept in the user's cache folder, under a name that changes with the
code, the compiler and the processor. `ELMO_HF_NATIVE=0` in the environment turns it off.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from .source import SOURCE

logger = logging.getLogger(__name__)

# The processor's own instructions, as GCC and Clang call them on different processors.
PROCESSOR_FLAGS = (["-march=native"], ["-mcpu=native"])
FLAGS = ["-O3", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fPIC", "-shared", "-pthread"]
COMPILE_SECONDS = 120


class Weight(ctypes.Structure):
    """As in the C code, like the other structures."""

    _fields_ = [
        ("panels", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("kind", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("signed_levels", ctypes.c_int64),
    ]


class InputProduct(ctypes.Structure):
    _fields_ = [
        ("inputs", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("weight", Weight),
        ("bias", ctypes.c_void_p),
        ("gates", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("units", ctypes.c_void_p),
        ("sizes", ctypes.c_void_p),
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
        ("exposed", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("units", ctypes.c_void_p),
        ("sizes", ctypes.c_void_p),
    ]


@functools.cache
def native_library() -> ctypes.CDLL | None:
    """The library, compiled now if need be; `None` where that cannot be done or is turned off."""
    if os.environ.get("ELMO_HF_NATIVE", "1").lower() in ("0", "false", "off"):
        return None
    if sys.byteorder != "little" or os.name != "posix":
        return None
    try:
        compiler = _compiler()
        if compiler is None:
            return None
        path = _cache_folder() / f"lstm-{_fingerprint(compiler)}.so"
        if not _is_whole(path):
            _compile(compiler, path)
        return _load(path)
    # RuntimeError: a user without a home; ValueError: quotes in CC; AttributeError: a library of something else.
    except (OSError, RuntimeError, ValueError, AttributeError, subprocess.SubprocessError) as error:
        logger.warning(f"the C code of the biLSTM cannot be used, PyTorch's slower products are: {error}")
        return None


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for question in (library.elmo_panel, library.elmo_has_integers):
        question.restype = ctypes.c_int64
    for function, argument in ((library.elmo_input_product, InputProduct), (library.elmo_recurrence, Recurrence)):
        function.argtypes = [ctypes.POINTER(argument), ctypes.c_int64]
        function.restype = ctypes.c_int
    _share_threads(library)
    return library


def _share_threads(library: ctypes.CDLL) -> None:
    """Let the code use PyTorch's own OpenMP threads: they wait busily for some milliseconds after each operator."""
    try:
        torch_library = ctypes.CDLL(torch._C.__file__)  # a symbol is looked up in all that it depends on
        parallel, number = torch_library.GOMP_parallel, torch_library.omp_get_num_threads
    except (OSError, AttributeError):
        return  # another OpenMP: the code starts threads of its own
    library.elmo_use_open_mp.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    # A forked process has none of these threads, and OpenMP waits for them.
    os.register_at_fork(after_in_child=functools.partial(library.elmo_use_open_mp, None, None))
    library.elmo_use_open_mp(*(ctypes.cast(function, ctypes.c_void_p) for function in (parallel, number)))


def _compiler() -> list[str] | None:
    """The command of a C compiler: `CC`, as everywhere, or a usual one."""
    chosen = shlex.split(os.environ.get("CC", ""))
    for command in ([chosen] if chosen else []) + [["cc"], ["gcc"], ["clang"]]:
        path = shutil.which(command[0])
        if path is not None:
            return [path, *command[1:]]
    return None


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "elmo_hf"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise OSError(f"{folder} can be written by others than you: what lies in it would be run as code")
    return folder


def _fingerprint(compiler: list[str]) -> str:
    """What the compiled library depends on; a home folder may be shared by several machines."""
    parts = [
        SOURCE,
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
    """Whether a library is there and is what was compiled: one that was cut off would crash the process."""
    try:
        return _digest(path) == path.with_suffix(".sha256").read_text(encoding="ascii")
    except (OSError, ValueError):
        return False


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _compile(compiler: list[str], path: Path) -> None:
    """Beside its place, then moved into it: several processes may do so at once, and make the same."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source, made = Path(folder) / "lstm.c", Path(folder) / "lstm.so"
        source.write_text(SOURCE, encoding="utf-8")
        for flags in PROCESSOR_FLAGS:
            command = [*compiler, *flags, *FLAGS, str(source), "-o", str(made)]
            answer = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=COMPILE_SECONDS, check=False
            )
            if answer.returncode == 0:
                digest = Path(folder) / "digest"
                digest.write_text(_digest(made), encoding="ascii")
                os.replace(made, path)
                os.replace(digest, path.with_suffix(".sha256"))
                return
        raise OSError(f"{shlex.join(command)} failed: {answer.stderr.strip()[-500:]}")

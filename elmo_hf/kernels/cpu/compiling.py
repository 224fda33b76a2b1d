"""Compilation of the C code in `csrc/`: for this CPU at first use, or for several kinds of CPUs in a wheel build.

Uses the standard library only: `setup.py` loads this file by its path, where PyTorch is not installed.
"""

import hashlib
import itertools
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

SOURCE_FOLDER = Path(__file__).parent / "csrc"
BUILT_FOLDER = Path(__file__).parent / "built"  # filled by a wheel build
# Flags of GCC and Clang for all instructions of this CPU, by architecture.
TARGET_FLAGS = (["-march=native"], ["-mcpu=native"])
FLAGS = [
    *("-O3", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno"),
    *("-fPIC", "-shared", "-pthread", "-fvisibility=hidden"),
]
COMPILE_SECONDS = 120
# Kinds of CPUs that a wheel supports, by architecture, fastest first, named as by `builder.cpu_kind`. A CPU also runs
# the libraries of all kinds after its own.
PORTABLE: dict[str, dict[str, list[str]]] = {
    "x86_64": {
        "AVX512_BF16": ["-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16"],
        "AVX512_VNNI": ["-march=x86-64-v4", "-mavx512vnni"],
        "AVX512": ["-march=x86-64-v4"],
        "AVX2": ["-march=x86-64-v3"],
    },
    "arm64": {"DEFAULT": []},
}


def kinds() -> dict[str, list[str]]:
    """Compiler flags for each kind of CPU of this architecture that a wheel supports."""
    machine = platform.machine().lower()
    return PORTABLE.get({"amd64": "x86_64", "aarch64": "arm64"}.get(machine, machine), {})


def built_name(kind: str, sources: dict[str, str]) -> str:
    """File name of a wheel's library. It contains a hash of the code, so that a stale library is never loaded."""
    text = "\n".join([*itertools.chain(*sources.items()), *FLAGS])
    return f"{kind.lower()}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"


def find_compiler() -> list[str] | None:
    """The command of a C compiler: `CC`, or a usual name."""
    chosen = shlex.split(os.environ.get("CC", ""))
    for command in ([chosen] if chosen else []) + [["cc"], ["gcc"], ["clang"]]:
        path = shutil.which(command[0])
        if path is not None:
            return [path, *command[1:]]
    return None


def read_sources(folder: Path) -> dict[str, str]:
    """The C files of a folder by name.

    Raises:
        OSError: there are none: the package was installed without its data files.
    """
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.[ch]"))}
    if not sources:
        raise OSError(f"{folder} holds no C files: install the package again")
    return sources


def compile_library(
    compiler: list[str],
    sources: dict[str, str],
    path: Path,
    targets: Iterable[Sequence[str]],
    seconds: float | None = COMPILE_SECONDS,
) -> None:
    """Compile with the first target flags that the compiler knows; `path` appears when it is complete.

    Compiles `sources` as they were read, even if the files have changed since: the library's name is their hash.

    Raises:
        OSError: no target succeeds; the message ends with the compiler's output.
        subprocess.SubprocessError: the compiler takes longer than `seconds`; `None` waits for it.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / "lstm.so"
        for name, text in sources.items():
            (Path(folder) / name).write_text(text, encoding="utf-8")
        units = [str(Path(folder) / name) for name in sources if name.endswith(".c")]
        for flags in targets:
            command = [*compiler, *flags, *FLAGS, *units, "-o", str(built)]
            answer = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False
            )
            if answer.returncode == 0:
                os.replace(built, path)
                return
        raise OSError(f"{shlex.join(command)} failed: {answer.stderr.strip()[-500:]}")


def build_portable(folder: Path) -> list[Path]:
    """Compile a library for each kind of CPU of this architecture into a folder, which is created.

    Raises:
        OSError: no compiler, or it fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise OSError("no C compiler: install gcc or clang, or name one in CC")
    sources = read_sources(SOURCE_FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for kind, flags in kinds().items():
        found.append(folder / built_name(kind, sources))
        compile_library(compiler, sources, found[-1], [flags], seconds=None)
    return found

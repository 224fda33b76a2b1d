"""The compiled kernels on a CPU that is emulated: the tests of this folder run them against the same references.

`ELMO_EMULATED_CPU` names the architecture, as in `make arm64`: its C compiler and qemu's user mode have to be there.
"""

import ctypes
import functools
import gc
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elmo_hf.kernels.cpu.builder import CharacterTables
from elmo_hf.kernels.cpu.compiling import FLAGS, SOURCE_FOLDER

# By architecture: the compiler with the flags of a CPU, and the emulator.
CPUS = {
    "aarch64": (["aarch64-linux-gnu-gcc", "-march=armv8-a"], ["qemu-aarch64"]),
    "aarch64-dotprod": (["aarch64-linux-gnu-gcc", "-march=armv8.2-a+dotprod"], ["qemu-aarch64"]),
    "aarch64-clang": (["clang", "--target=aarch64-linux-gnu", "-march=armv8.2-a+dotprod"], ["qemu-aarch64"]),
}
FUNCTIONS = (
    "elmo_panel",
    "elmo_int8_sum_bits",
    "elmo_multiplies_bfloat16",
    "elmo_input_matmul",
    "elmo_recurrence",
    "elmo_training_forward",
    "elmo_training_backward",
    "elmo_softmax_loss",
    "elmo_character_maxima",
    "elmo_character_gradients",
)


def pointers_of(kind: type[ctypes.Structure], start: int = 0) -> list[int]:
    """Offsets of all pointers of a structure and of those in it."""
    found = []
    for name, of, *_ in kind._fields_:
        offset = start + getattr(kind, name).offset
        if of is ctypes.c_void_p:
            found.append(offset)
        elif issubclass(of, ctypes.Structure):
            found += pointers_of(of, offset)
    return found


class Blocks:
    """The memory that one call reads and writes: the job first, then every array once."""

    def __init__(self, job: ctypes.Structure | None) -> None:
        self._tensors = [(t.untyped_storage().data_ptr(), t.untyped_storage().nbytes()) for t in tensors()]
        self.ranges: list[tuple[int, int]] = []  # (address, bytes)
        self.pointers: list[tuple[int, int, int, int]] = []  # (block, offset) -> (block, offset)
        if job is None:
            return
        self.ranges.append((ctypes.addressof(job), ctypes.sizeof(job)))
        known = {}
        if isinstance(job, CharacterTables):
            known = dict.fromkeys((job.widths, job.filters, job.products), 8 * job.tables)
        for offset in pointers_of(type(job)):
            self._follow(0, offset, known)
        if isinstance(job, CharacterTables):
            block = next(b for b, (address, _) in enumerate(self.ranges) if address == job.products)
            for table in range(job.tables):
                self._follow(block, 8 * table, {})

    def _follow(self, block: int, offset: int, known: dict[int, int]) -> None:
        """Take what a pointer points to."""
        address = ctypes.c_void_p.from_address(self.ranges[block][0] + offset).value
        if address is None:
            return
        if address in known:
            found = (address, known[address])
        else:
            found = next((at, size) for at, size in self._tensors if at <= address < at + size)
        if found not in self.ranges:
            self.ranges.append(found)
        self.pointers.append((block, offset, self.ranges.index(found), address - found[0]))

    def message(self) -> bytes:
        parts = [struct.pack("<q", len(self.ranges))]
        for address, size in self.ranges:
            parts += [struct.pack("<q", size), ctypes.string_at(address, size)]
        parts.append(struct.pack("<q", len(self.pointers)))
        return b"".join([*parts, *(struct.pack("<4q", *pointer) for pointer in self.pointers)])


def tensors() -> list[Tensor]:
    """All tensors on the CPU that there are."""
    found = [each for each in gc.get_objects() if isinstance(each, Tensor)]
    return [each for each in found if each.device.type == "cpu" and each.layout == torch.strided]


class EmulatedLibrary:
    """The functions of `csrc/library.h`, called in an emulated process."""

    def __init__(self, cpu: str) -> None:
        compiler, emulator = CPUS[cpu]
        self._folder = tempfile.TemporaryDirectory()
        program = Path(self._folder.name) / "calls"
        sources = [*sorted(SOURCE_FOLDER.glob("*.c")), Path(__file__).parent / "calls.c"]
        flags = [flag for flag in FLAGS if flag not in ("-shared", "-fPIC", "-fvisibility=hidden")]
        command = [*compiler, *flags, "-static", "-Wall", f"-I{SOURCE_FOLDER}"]
        subprocess.run([*command, *map(str, sources), "-o", str(program), "-lm"], check=True)
        gc.freeze()  # what is there by now is no argument of a call: `tensors` has less to look through
        self._process = subprocess.Popen([*emulator, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __getattr__(self, name: str) -> Any:
        if name not in FUNCTIONS:
            raise AttributeError(name)
        return functools.partial(self._call, FUNCTIONS.index(name))

    def _call(self, function: int, reference: Any = None, threads: int = 1) -> int:
        blocks = Blocks(None if reference is None else reference._obj)
        source, target = self._process.stdout, self._process.stdin
        assert source is not None and target is not None
        target.write(struct.pack("<2q", function, threads) + blocks.message())
        target.flush()
        (result,) = struct.unpack("<q", source.read(8))
        for address, size in blocks.ranges[1:]:
            ctypes.memmove(address, source.read(size), size)
        return int(result)

"""The tests of this folder on a CPU that is emulated, where `ELMO_EMULATED_CPU` names one (`make arm64`)."""

import functools
import os

from elmo_hf.kernels.cpu import builder

from .emulation.library import EmulatedLibrary

if cpu := os.environ.get("ELMO_EMULATED_CPU"):
    # Before the modules that look it up are imported.
    builder.native_library = functools.cache(lambda: EmulatedLibrary(cpu))  # type: ignore[assignment]

"""The tests of this folder on a CPU that is emulated, where `ELMO_EMULATED_CPU` names one (`make arm64`)."""

import functools
import os

import torch

from elmo_hf.kernels.cpu import builder, onednn

from .emulation.library import EmulatedLibrary

if cpu := os.environ.get("ELMO_EMULATED_CPU"):
    # Before the modules that look it up are imported.
    builder.native_library = functools.cache(lambda: EmulatedLibrary(cpu))  # type: ignore[assignment]
    # What this machine's CPU multiplies says nothing about the emulated one.
    onednn.packing_works = functools.cache(lambda dtype: dtype == torch.float32)

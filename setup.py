"""Wheels bring the C kernels compiled, one library for each kind of CPU; everything else is in pyproject.toml.

`ELMO_HF_BUILD=require` fails where they cannot be compiled, `ELMO_HF_BUILD=skip` leaves them out; by default a wheel
built without a compiler is one for every system, whose kernels are compiled at first use.
"""

import importlib.util
import os
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
FOLDER = Path("elmo_hf") / "kernels" / "cpu"


def _compiling():
    """`elmo_hf/kernels/cpu/compiling.py`, without the package above it, which needs PyTorch."""
    spec = importlib.util.spec_from_file_location("compiling", HERE / FOLDER / "compiling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildKernels(build_py):
    """Compile the kernels beside the Python files."""

    def run(self):
        super().run()
        wish = os.environ.get("ELMO_HF_BUILD", "")
        self.distribution.has_kernels = False
        if wish == "skip" or self.editable_mode or os.name != "posix":
            return
        try:
            built = _compiling().build_portable(Path(self.build_lib) / FOLDER / "built")
        except OSError as error:
            if wish == "require":
                raise
            print(f"kernels are left out and compiled at first use: {error}", file=sys.stderr)
            return
        self.distribution.has_kernels = bool(built)


class Wheel(bdist_wheel):
    """A wheel for any Python 3; for one system where it brings kernels."""

    def run(self):
        self.run_command("build_py")
        has_kernels = self.distribution.has_kernels
        self.root_is_pure = not has_kernels
        self.distribution.has_ext_modules = lambda: has_kernels  # installed where a system's own files are
        super().run()

    def get_tag(self):
        if self.root_is_pure:
            return "py3", "none", "any"
        return "py3", "none", super().get_tag()[2]


setup(cmdclass={"build_py": BuildKernels, "bdist_wheel": Wheel})

"""Test of the installed package, run by `make install-test` with the Python of a fresh environment.

Both packages import from where they are installed; the commands run; the shipped model answers; a model is saved,
described and read; the wheel's kernels serve without a compiler, where it brings some.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import elmo_hf
import hub_upload
from elmo_hf.kernels.cpu import builder, compiling


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    for package in (elmo_hf, hub_upload):
        assert Path(sys.prefix) in Path(package.__file__).parents, f"{package.__file__}: not the installed one"
    assert shutil.which("cc") is None and compiling.find_compiler() is None, "a compiler is in PATH"
    assert elmo_hf.__version__ in run("elmo-hf", "--version")
    assert "convert" in run("elmo-hub") and "pretrain" in run(sys.executable, "-m", "elmo_hf")

    built = list(builder.BUILT_FOLDER.glob("*.so"))
    origin = builder.origin()
    if built and builder.cpu_kind() in compiling.kinds():
        assert origin is not None and origin.startswith("of the wheel"), origin

    (array,) = elmo_hf.embed(["The cat sat ."])
    assert array.shape == (4, 256) and np.isfinite(array).all()
    best = json.loads(run("elmo-hf", "fill", "she opened the <mask> and went out .", "--json"))["gaps"][0][0]
    assert best["word"] == "door", best

    with tempfile.TemporaryDirectory() as folder:
        config = elmo_hf.ElmoConfig(projection_size=32, cell_size=64, character_filters=[[1, 16], [2, 16], [3, 32]])
        elmo_hf.ElmoModel(config).save_pretrained(folder)
        elmo_hf.ElmoTokenizer().save_pretrained(folder)
        assert json.loads(run("elmo-hf", "info", folder, "--json"))["shape"]["vector_size"] == 64
        (array,) = elmo_hf.embed(["The cat sat ."], folder)
        assert array.shape == (4, 64) and np.isfinite(array).all()
    print(f"elmo_hf {elmo_hf.__version__} on {sys.platform}, Python {sys.version.split()[0]}: CPU kernels {origin}")


main()

"""Modules loaded by `import elmo_hf` and by a command's help: neither torch nor Transformers."""

import subprocess
import sys

import pytest

from elmo_hf.cli import COMMANDS
from modeling_tests.forking import run_python

HELP = """
import sys
from elmo_hf.cli import main
for arguments in [["--version"], ["--help"], *([name, "--help"] for name in sys.argv[1:])]:
    try:
        main(arguments)
    except SystemExit as stop:
        assert stop.code == 0, arguments
    heavy = {"torch", "transformers", "numpy", "datasets"} & set(sys.modules)
    assert not heavy, (arguments, heavy)
"""

PACKAGE = """
import sys
import elmo_hf
assert not {"torch", "transformers", "numpy"} & set(sys.modules)
assert not [name for name in sys.modules if name.startswith("elmo_hf.") and name not in
            ("elmo_hf.registration", "elmo_hf.requirements", "elmo_hf.version")]
assert set(elmo_hf.__all__) <= set(dir(elmo_hf))
import transformers.modeling_layers
from transformers import AutoModel, PreTrainedModel
before = set(sys.modules)
elmo_hf.ElmoModel
# What a model adds to that of Transformers: this package's files and the Auto classes' own.
added = {name for name in set(sys.modules) - before if not name.startswith(("elmo_hf", "transformers"))}
assert len(added) <= 10, added
missing = [name for name in elmo_hf.__all__ if not hasattr(elmo_hf, name)]
assert not missing, missing
import elmo_hf.pretraining as pretraining
missing = [name for name in pretraining.__all__ if not hasattr(pretraining, name)]
assert not missing, missing
"""

ORDER = """
import elmo_hf.model.bilstm as first  # a model's file before the Auto classes
from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer
import elmo_hf
assert sys.modules["elmo_hf.model.bilstm"] is first
assert AutoModel._model_mapping[elmo_hf.ElmoConfig] is elmo_hf.ElmoModel
"""

THREADS = """
import sys, threading
import transformers.utils  # threads that import Transformers itself at once have trouble of its own
import elmo_hf

def auto():
    from transformers import AutoModel
    found.append(AutoModel)

def elmo():
    found.append(elmo_hf.ElmoModel)

found = []
threads = [threading.Thread(target=each, daemon=True) for each in (auto, elmo)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(150)
assert len(found) == 2, "two threads that import wait for each other"
"""


def run(code: str, *arguments: str) -> None:
    """Run code in a new Python process."""
    process = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_help_needs_no_torch() -> None:
    run(HELP, *COMMANDS)


@pytest.mark.slow
def test_names_load_on_first_use() -> None:
    run(PACKAGE)


@pytest.mark.slow
def test_registration_in_any_order() -> None:
    for first in (
        "import sys",
        "import transformers.modeling_utils, elmo_hf, sys",
        "import sys, elmo_hf, transformers.modeling_utils",
        "import sys, elmo_hf\nfrom transformers import BertModel",
    ):
        process = run_python("-c", f"{first}\n{ORDER}")
        assert process.returncode == 0, process.stderr


@pytest.mark.slow
def test_two_threads_import_at_once() -> None:
    run(THREADS)

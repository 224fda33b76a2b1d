"""Libraries outside of their supported range are refused in one line."""

import inspect
import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import elmo_hf
from elmo_hf import requirements

from .forking import run_python

ROOT = Path(__file__).resolve().parent.parent
STATED = ["transformers<6,>=5.17", "torch<3,>=2.11", "huggingface_hub<3,>=1.0", "onnx>=1.18; extra == 'onnx'"]


@pytest.mark.parametrize(
    ("library", "version"),
    [("transformers", "4.56.2"), ("transformers", "6.0.1"), ("torch", "2.10.0+cpu"), ("huggingface_hub", "0.36.0")],
)
def test_unsupported_version_gives_a_one_line_error(library, version, monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: STATED)
    installed = {"transformers": "5.24.0.dev0", "torch": "2.13.0+cpu", "huggingface_hub": "2.4.0"}
    monkeypatch.setattr(metadata, "version", installed.__getitem__)
    requirements.check()  # a development version within the range is supported
    installed[library] = version
    with pytest.raises(ImportError, match=rf"needs {library}.*{version[:4]}.*pip install '{library}") as error:
        requirements.check()
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("version", ["4.56.2", "5.16.1", "6.0.0"])
def test_unsupported_version_in_remote_code(version):
    """The check runs before imports of names that older versions lack."""
    code = f"import transformers; transformers.__version__ = '{version}'; import elmo_hf.model.configuration_elmo"
    process = run_python("-c", code)
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == (
        f"ImportError: ELMo needs transformers>=5.17,<6, and {version} is installed: "
        "pip install 'transformers>=5.17,<6'"
    )


def test_version_ranges_are_consistent():
    project = (ROOT / "pyproject.toml").read_text()
    (stated,) = re.findall(r'^    "(transformers\b.*)",$', project, re.M)
    assert stated in (ROOT / "elmo_hf" / "model" / "configuration_elmo.py").read_text()
    assert Requirement(stated).specifier.contains(metadata.version("transformers"), prereleases=True)


def test_private_hooks_match_the_documented_table():
    """Methods of Transformers' own that the package overrides; few, because any release may change them."""
    found = set()
    for kind in filter(inspect.isclass, (getattr(elmo_hf, name) for name in elmo_hf.__all__)):
        theirs = [base for base in kind.__mro__ if base.__module__.startswith("transformers.")]
        for base in kind.__mro__:
            if base.__module__.startswith("elmo_hf."):
                found |= {
                    name
                    for name, value in vars(base).items()
                    if re.match("_[a-z]", name)
                    and (callable(value) or isinstance(value, classmethod))
                    and any(name in vars(other) for other in theirs)
                }
    table = (ROOT / "docs" / "transformers.md").read_text().partition("| hook | reason |")[2].partition("\n\n")[0]
    told = {name for row in table.splitlines() for name in re.findall(r"`(?:\w+\.)?(_\w+)`", row.partition(" | ")[0])}
    assert found == told

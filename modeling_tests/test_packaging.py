"""Facts stated in several files agree: versions, Pythons, make targets, the kernels in wheels."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from elmo_hf.version import __version__

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def steps(path: Path) -> list[dict]:
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
    return [step for job in jobs for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_make_alone(path: Path) -> None:
    """So that whatever runs there runs anywhere."""
    targets = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE).group(1).split())
    commands = [step["run"] for step in steps(path) if "run" in step]
    assert commands
    for command in commands:
        named = re.fullmatch(r"make (\$\{\{ matrix\.end \}\}|[\w-]+)( PYTHON=python)?", command)
        assert named, command
        assert named[1] in targets or named[1].startswith("${{"), command


def test_one_range_of_pythons() -> None:
    stated = PROJECT["project"]["requires-python"]
    oldest = tuple(map(int, re.fullmatch(r">=(\d+)\.(\d+)", stated).groups()))
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert tuple(map(int, named[0].split("."))) == oldest
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]["test"]["strategy"]
    assert matrix["matrix"]["python"] == named
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{oldest[0]}{oldest[1]}"
    assert f"(>= {oldest[0]}.{oldest[1]})" in MAKEFILE and f"< ({oldest[0]}, {oldest[1]})" in MAKEFILE


def test_one_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == __version__
    assert f"\n## {__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    pinned = re.search(r"^ruff==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE).group(1)
    assert hooks[0]["rev"] == f"v{pinned}"


def test_compiling_module_imports_no_dependencies() -> None:
    """`setup.py` loads this file where nothing is installed."""
    text = (ROOT / "elmo_hf/kernels/cpu/compiling.py").read_text(encoding="utf-8")
    assert not re.search(r"^\s*(from|import) (torch|elmo_hf|\.)", text, re.MULTILINE)

"""Imports between the folders of `hub_upload`: common <- formats' folders <- formats <- verbs <- command line."""

import ast
from pathlib import Path

import pytest

import hub_upload
from hub_upload.formats import EXPORTS, FORMATS

ROOT = Path(hub_upload.__file__).parent
ROOMS = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"common"}
VERBS = {"convert", "verify", "export"}
# What each part imports besides itself.
ARROWS = {
    "common": set(),
    **{room: {"common"} for room in ROOMS},
    "formats": {"common", *ROOMS},
    "detect": {"common", "formats"},
    **{verb: {"common", "formats", "detect"} for verb in VERBS},
    "catalog": {"common"},
    "download": {"common", "catalog", "convert"},
    "release": {"common", "catalog", "download", "formats", "convert", "verify"},
    "cli": {"common", "release", *VERBS},
    "__init__": {"common", "release", *VERBS},
    "__main__": {"cli"},
}
# Exceptions, each with its reason.
ACROSS = {
    ("allennlp", "bilm_tf"): "AllenNLP's `Elmo` reads bilm-tf's options.json.",
    ("transformer_lm", "allennlp"): "Language models lie in AllenNLP's archives too.",
    ("allennlp_task", "allennlp"): "A task model has an `Elmo` inside.",
    ("detect", "allennlp"): "An archive is unpacked before a room can look into it: which of its members are wanted,",
    ("detect", "bilm_tf"): "and which paths are prefixes of a checkpoint.",
}


def part_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path):
    """Parts of `hub_upload` that a file imports: rooms by their name, other modules by theirs."""
    package = ("hub_upload", *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            parts = [name for name in base if name]
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.module.startswith("hub_upload"), f"{path}: imports of the package are relative"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_along_the_arrows(path):
    part = part_of(path)
    across = {to for origin, to in ACROSS if origin == part}
    assert set(imports_of(path)) <= {part} | ARROWS[part] | across


def test_every_listed_cross_import_is_used():
    found = {(part_of(path), to) for path in ROOT.rglob("*.py") for to in imports_of(path)}
    assert set(ACROSS) <= found


def test_every_room_is_in_the_table():
    assert len(FORMATS) == len(ROOMS)
    # No export to AllenNLP's biLM and task archives: AllenNLP reads bilm-tf's files.
    assert len(EXPORTS) == len(ROOMS) - 2


def test_no_verb_compares_layouts():
    for name in ("detect", "cli", *VERBS):
        tree = ast.parse((ROOT / f"{name}.py").read_text(encoding="utf-8"))
        compared = [part for node in ast.walk(tree) if isinstance(node, ast.Compare) for part in ast.walk(node)]
        assert not any(isinstance(part, ast.Attribute) and part.attr == "layout" for part in compared)

"""Allowed imports between folders, and rules for the files saved with checkpoints."""

import ast
import importlib
import io
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "elmo_hf"
TRAVELING = ("model", "tokenizer")

# Each room, and the rooms or files that it may import beside itself. Data flows one way: no room imports one below it.
MAY_IMPORT: dict[str, set[str]] = {
    "version": set(),
    "requirements": set(),
    "endings": set(),
    "fields": set(),
    "checks": set(),
    "folders": set(),
    "old_code": set(),
    "tokenizer": set(),
    "model": set(),
    "kernels": set(),
    "atomic": {"tokenizer"},
    "corpus": {"tokenizer", "atomic", "checks"},
    "hub": {"model", "atomic", "version", "old_code", "folders"},
    "inference": {"model", "tokenizer", "corpus", "atomic", "version", "hub", "folders", "checks"},
    "collators": set(),
    "metrics": {"inference"},
    "alignment": {"model", "tokenizer", "corpus", "inference", "atomic", "checks"},
    "word_vectors": {"model", "tokenizer", "corpus", "inference", "atomic"},
    "exporting": {"hub", "model", "tokenizer", "inference", "atomic", "version"},
    "corpus_embedding": {"model", "tokenizer", "corpus", "inference", "atomic", "checks"},
    "finetuning": {
        "folders",
        "hub",
        "version",
        "model",
        "tokenizer",
        "corpus",
        "inference",
        "atomic",
        "metrics",
        "word_vectors",
        "endings",
        "fields",
    },
    "compat": {"hub", "model", "tokenizer", "corpus", "inference", "atomic"},
    "pretraining": {
        "hub",
        "model",
        "tokenizer",
        "corpus",
        "inference",
        "atomic",
        "version",
        "kernels",
        "fields",
        "checks",
        "folders",
    },
}
# Entry points, which may import every folder.
FREE = {"__init__", "__main__", "registration", "cli"}
# Lazy imports of the converter, which depends on this package: for old files, and for names of published originals.
CONVERTER_IS_ASKED_BY = {"compat/loading.py", "hub/names.py"}
# Lazy imports of remote code by `package_part`: the importing file, the part, and the names used.
ASKED_AT_HOME = {
    "operators": {"kernels": {"VERSION", "ask", "keeper", "kept_vectors", "register", "release", "signed_levels"}},
    "configuration_elmo": {"folders": {"damage_named"}},
    "encoder_decoder": {"folders": {"damage_named"}},
    "pretrained": {"folders": {"reading_model"}, "old_code": {"remove_old_code"}},
    "tokenization_elmo": {"folders": {"damage_named"}, "old_code": {"remove_old_code"}},
}
# One per folder, because neither finds the other's files in a checkpoint.
ASKING = ("installed", "installed_package")


def modules(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imports_of(path: Path) -> list[tuple[int, str, list[str]]]:
    """(level, module, names) of every import statement of a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", [alias.name for alias in node.names]))
        elif isinstance(node, ast.Import):
            found += [(0, alias.name, []) for alias in node.names]
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.mark.parametrize("path", modules(PACKAGE), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_along_the_arrows(path: Path) -> None:
    room = room_of(path)
    if room in FREE:
        return
    assert room in MAY_IMPORT, f"{room} has no place in the table of arrows"
    for level, module, names in imports_of(path):
        if level:
            # Siblings, within the room.
            assert level <= len(path.relative_to(PACKAGE).parts) - 1, f"{path.name} imports from above its room"
            continue
        if module.split(".")[0] not in ("elmo_hf", "hub_upload"):
            continue
        if module == "hub_upload" and str(path.relative_to(PACKAGE)) in CONVERTER_IS_ASKED_BY:
            assert "\nfrom hub_upload" not in path.read_text(encoding="utf-8"), "taken on import"
            continue
        assert module.startswith("elmo_hf."), f"{path.name} imports {module}: name the room and the file"
        target = module.split(".")[1]
        assert target == room or target in MAY_IMPORT[room], f"{room} must not import {target} ({names})"


@pytest.mark.parametrize("folder", ["hub_upload", "examples", "benchmarks"])
def test_other_folders_use_the_public_interface(folder: str) -> None:
    """`elmo_hf` itself, one of its public rooms, or the module for exporting; never a module that holds internals."""
    rooms = ("cli", "exporting", "finetuning", "hub", "metrics", "pretraining")
    public = {f"elmo_hf.{room}" for room in rooms} | {"elmo_hf"}
    for path in modules(ROOT / folder):
        for level, module, _ in imports_of(path):
            if level == 0 and module.split(".")[0] == "elmo_hf":
                assert module in public, f"{path.relative_to(ROOT)} imports {module}"


TRAVELERS = [path for room in TRAVELING for path in modules(PACKAGE / room) if path.stem != "__init__"]


def test_traveling_files_have_names_of_their_own() -> None:
    """They are saved into one folder."""
    names = [path.name for path in TRAVELERS]
    assert len(set(names)) == len(names)
    assert all(path.parent.parent == PACKAGE for path in TRAVELERS)  # flat


@pytest.mark.parametrize("path", TRAVELERS, ids=lambda path: path.stem)
def test_traveling_files_can_be_audited(path: Path) -> None:
    """No compiler, foreign library, network or pickle; siblings imported as Transformers copies them."""
    forbidden = {
        "ctypes", "subprocess", "socket", "urllib", "http", "requests", "pickle", "marshal", "shelve", "triton",
        "multiprocessing", "elmo_hf",
    }  # fmt: skip
    for level, module, names in imports_of(path):
        assert level <= 1, f"{path.name} imports from above its folder"
        assert level == 0 or (module and "." not in module), f"{path.name}: only `from .sibling import name` is copied"
        assert level or module.split(".")[0] not in forbidden, f"{path.name} imports {module} ({names})"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile", "__import__"), f"{path.name} calls {node.func.id}"
        if isinstance(node, ast.Attribute) and node.attr in ("system", "popen", "load"):
            assert ast.unparse(node) not in ("os.system", "os.popen", "torch.load")


def test_each_traveling_room_has_one_writer() -> None:
    """Each folder of remote code has one file that writes, into the folder it is given."""
    writes = {"write_text", "write_bytes", "replace", "unlink", "mkdir", "rename", "rmdir", "TemporaryDirectory"}
    writers: dict[str, set[str]] = {room: set() for room in TRAVELING}
    for path in TRAVELERS:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = ast.unparse(node.func.value)
            # What `complete_files.appearing` yields may be written to.
            if (owner, node.func.attr) == ("aside", "write_text"):
                continue
            if node.func.attr in writes and owner in ("os", "path", "aside", "folder", "tempfile", "temporary"):
                writers[path.parent.name].add(path.stem)
    assert writers == {"model": {"pretrained"}, "tokenizer": {"complete_files"}}


def code_lines(path: Path) -> int:
    """Lines that hold code: no comments, no docstrings, no blank lines."""
    lines: set[int] = set()
    previous = tokenize.INDENT
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        skipped = token.type in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
        docstring = token.type == tokenize.STRING and previous in (tokenize.INDENT, tokenize.NEWLINE, tokenize.NL)
        if not skipped and not docstring:
            lines.update(range(token.start[0], token.end[0] + 1))
        if token.type not in (tokenize.COMMENT, tokenize.NL) or previous == tokenize.INDENT:
            previous = token.type
    return len(lines)


def test_traveling_files_are_small() -> None:
    """The remote code is small enough to review."""
    assert sum(map(code_lines, TRAVELERS)) <= 5800


def test_kernels_import_nothing_but_torch_and_numpy() -> None:
    allowed = {"torch", "numpy", "triton"}
    for path in modules(PACKAGE / "kernels"):
        for level, module, _ in imports_of(path):
            if level == 0:
                top = module.split(".")[0]
                assert top in allowed or top in sys.stdlib_module_names, f"{path.relative_to(PACKAGE)} imports {module}"


def names_looked_up(tree: ast.AST) -> dict[str, set[str]]:
    """Names that a file reads of the package by `getattr` or as attributes, by module."""
    asked: dict[str, set[str]] = {}

    def part_of(node: ast.AST) -> str | None:
        is_call = isinstance(node, ast.Call) and ast.unparse(node.func) == "package_part"
        return ast.literal_eval(node.args[0]) if is_call else None

    holders: dict[str, str] = {}
    for node in ast.walk(tree):
        part = part_of(node.value) if isinstance(node, ast.Assign) else part_of(node)
        if part is not None:
            asked.setdefault(part, set())
            if isinstance(node, ast.Assign):
                holders[ast.unparse(node.targets[0])] = part
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            part = part_of(node.args[0]) or holders.get(ast.unparse(node.args[0]))
            if part is not None:
                asked[part].add(ast.literal_eval(node.args[1]))
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in holders:
            asked[holders[ast.unparse(node.value)]].add(node.attr)
    return asked


def test_traveling_files_look_up_few_names_of_the_package() -> None:
    """Each name looked up in `elmo_hf` by files that do not import it exists there; all use the same lookup."""
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in TRAVELERS}
    asked = {stem: found for stem, tree in trees.items() if (found := names_looked_up(tree))}
    assert asked == ASKED_AT_HOME
    for part, name in {(part, name) for found in asked.values() for part, names in found.items() for name in names}:
        assert hasattr(importlib.import_module(f"elmo_hf.{part}"), name)
        assert not MAY_IMPORT[part]
    first, second = (ast.dump(ast.Module(trees[stem].body[1:], [])) for stem in ASKING)
    assert first == second
    texts = {path.stem: path.read_text(encoding="utf-8") for path in TRAVELERS}
    assert {stem for stem, text in texts.items() if "import_module" in text or "find_spec" in text} == set(ASKING)
    assert not any("sys.modules" in text for stem, text in texts.items() if stem not in ASKING)

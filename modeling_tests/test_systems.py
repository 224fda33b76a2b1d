"""Statements of `docs/systems.md` about other systems that can be checked in the source."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(path for room in ("elmo_hf", "hub_upload", "examples") for path in (ROOT / room).rglob("*.py"))
POSIX = {"fcntl", "resource", "pwd", "grp", "termios", "posix", "readline", "syslog", "tty", "pty", "curses"}
POSIX_CALLS = {"os.getuid", "os.geteuid", "os.fork", "os.register_at_fork", "os.uname", "os.sched_getaffinity",
               "os.killpg", "os.getpgid", "os.statvfs", "os.mkfifo", "signal.SIGKILL", "signal.SIGHUP"}  # fmt: skip


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def at_import(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """Statements executed at import, except under a condition or `try`."""
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            yield from at_import(statement.body)
        elif not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.If | ast.Try):
            yield from ast.walk(statement)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_needs_posix_to_be_imported(path: Path) -> None:
    for node in at_import(tree(path).body):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not POSIX & {name.split(".")[0] for name in names}, f"{path.name} imports {names}"
        assert not (isinstance(node, ast.Attribute) and ast.unparse(node) in POSIX_CALLS), ast.unparse(node)


# Files with POSIX-only calls, and the check of the system that guards them.
ASKED = {"elmo_hf/kernels/cpu/builder.py": 'os.name != "posix"', "elmo_hf/cli/pretrain.py": "hasattr(os, "}


def test_posix_only_calls_are_guarded_by_a_system_check() -> None:
    asked_for = {"kill", *(call.partition(".")[2] for call in POSIX_CALLS)}
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        attributes = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)]
        calls = {ast.unparse(node) for node in attributes if node.attr in asked_for}
        if calls & POSIX_CALLS:
            question = ASKED.get(path.relative_to(ROOT).as_posix())
            assert question is not None and question in text, path
        # On Windows, `os.kill` with signal 0 ends the process.
        assert "os.kill" not in calls or "os.name" in text, path


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_has_its_encoding(path: Path) -> None:
    """The system's default encoding is not always UTF-8."""
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {keyword.arg for keyword in node.keywords}
        if name in ("read_text", "write_text") and isinstance(node.func, ast.Attribute):
            assert "encoding" in given or len(node.args) >= (1 if name == "read_text" else 2), ast.unparse(node)
        if isinstance(node.func, ast.Name) and name == "open":
            mode = next((arg.value for arg in node.args[1:2] if isinstance(arg, ast.Constant)), "r")
            assert "b" in mode or "encoding" in given, f"{path.name}: {ast.unparse(node)}"

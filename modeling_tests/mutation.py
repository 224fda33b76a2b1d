"""Mutation testing: random places of the code are changed, one at a time, and the tests run.

    python -m modeling_tests.mutation --count 200 --seed 0 --output outputs/mutants.jsonl

Each change (a comparison, an operator, a constant, `and` and `or`, `not`, or what is returned) is made in a copy of
the working tree, where the quick tests of that file run until one fails. Changes that none of them noticed are tried
again with its slow tests and with the quick tests of the six files that name the changed function or class most often.
Each trial is a line of the output. The same command again goes on where it stopped, and tries unnoticed changes once
more. The last lines printed are the changes that no test noticed.
"""

import argparse
import ast
import importlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What the tests import, for all forks.
LIBRARIES = ("torch._dynamo", "transformers.trainer_seq2seq", "transformers.pipelines", "datasets", "safetensors.torch")
# Files of many minutes, which start programs.
LONG = ("test_demo.py", "test_gpu.py", "test_documents.py", "test_stock_scripts.py", "test_exporting.py")
ROOMS = ("model", "tokenizer", "inference", "pretraining")
FLIPPED: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Add: ast.Sub, ast.Sub: ast.Add,
    ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A change of one expression of a file, between the byte offsets `start` and `end`."""

    file: str
    line: int
    start: int
    end: int
    old: str
    new: str


def changed(node: ast.AST) -> ast.expr | None:
    """Return another expression for this one, or `None`."""
    match node:
        case ast.Compare(left, [operator], right) if type(operator) in FLIPPED:
            return ast.Compare(left, [FLIPPED[type(operator)]()], right)
        case ast.BinOp(left, operator, right) if type(operator) in FLIPPED:
            is_text = any(
                isinstance(side, ast.Constant | ast.JoinedStr) and not _is_number(side) for side in (left, right)
            )
            return None if is_text else ast.BinOp(left, FLIPPED[type(operator)](), right)
        case ast.BoolOp(operator, values):
            return ast.BoolOp(FLIPPED[type(operator)](), values)
        case ast.UnaryOp(ast.Not(), operand):
            return operand
        case ast.Constant(bool() as value):
            return ast.Constant(not value)
        case ast.Constant(value) if _is_number(node):
            return ast.Constant(value + 1)
    return None


def _is_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def mutants(path: Path) -> Iterator[Mutant]:
    """All possible changes of a file, except in annotations and strings."""
    source = path.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def place(node: ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    def visit(node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, ast.JoinedStr):
            return
        new = changed(node)
        if isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
            node, new = node.value, ast.Constant(None)
        if new is not None:
            assert isinstance(node, ast.expr)
            start, end = place(node)
            yield Mutant(
                str(path.relative_to(ROOT)),
                node.lineno,
                start,
                end,
                source[start:end].decode(),
                f"({ast.unparse(new)})",
            )
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from visit(child)

    yield from visit(ast.parse(source))


def tests_of(path: Path) -> list[Path]:
    """The mirroring test file; without one, the tests of the folder that name the file, or all of the folder."""
    folder = ROOT / "modeling_tests" / path.parent.name
    mirrored = folder / f"test_{path.stem}.py"
    if mirrored.is_file():
        return [mirrored]
    tests = sorted(folder.glob("test_*.py"))
    return [test for test in tests if path.stem in test.read_text(encoding="utf-8")] or tests


def tests_that_name(path: Path, line: int) -> list[Path]:
    """The six test files that name the function or class of a line most often."""
    around = [
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.lineno <= line <= (node.end_lineno or 0)
    ]
    pattern = re.compile(rf"\b({'|'.join([path.stem, *around])})\b")
    counts = {
        test: len(pattern.findall(test.read_text(encoding="utf-8")))
        for test in sorted((ROOT / "modeling_tests").rglob("test_*.py"))
    }
    named = [test for test in counts if counts[test] and test.name not in LONG]
    return sorted(named, key=lambda test: -counts[test])[:6]


def is_noticed(copy: Path, test: Path, seconds: int, *, slow: bool) -> bool:
    """True if a test of the file fails or times out.

    It runs in a fork of this process, which has imported the libraries and forgets this package.
    """
    child = os.fork()
    if child:
        passed = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) not in passed
    status = 1
    try:
        for name in [name for name in sys.modules if name.partition(".")[0] in ("elmo_hf", "modeling_tests")]:
            del sys.modules[name]
        sys.path.insert(0, str(copy))
        os.chdir(copy)
        silence = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(silence, number)
        options = ["-x", "-q", "-p", "no:cacheprovider", f"--timeout={seconds}", *([] if slow else ["-m", "not slow"])]
        status = int(pytest.main([*options, str(test.relative_to(ROOT))]))
    finally:
        os._exit(status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", nargs="+", default=list(ROOMS))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=120, help="that a test may take")
    options = parser.parse_args()
    paths = [path for room in options.rooms for path in sorted((ROOT / "elmo_hf" / room).glob("*.py"))]
    everything = [mutant for path in paths if tests_of(path) for mutant in mutants(path)]
    chosen = random.Random(options.seed).sample(everything, min(options.count, len(everything)))
    lines = options.output.read_text(encoding="utf-8").splitlines() if options.output.exists() else []
    results = {Mutant(**row["mutant"]): row["noticed"] for row in map(json.loads, lines)}
    for name in LIBRARIES:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        left_out = shutil.ignore_patterns(".*", "__pycache__", "outputs", "build", "dist", "*.egg-info")
        shutil.copytree(ROOT, folder, ignore=left_out, dirs_exist_ok=True)
        for wide in (False, True):
            for number, mutant in enumerate(chosen, 1):
                if results.get(mutant) or (mutant in results and not wide):
                    continue
                path, inside = ROOT / mutant.file, Path(folder) / mutant.file
                original = path.read_bytes()
                inside.write_bytes(original[: mutant.start] + mutant.new.encode() + original[mutant.end :])
                mine = tests_of(path)
                tests = [*mine, *(tests_that_name(path, mutant.line) if wide else [])]
                results[mutant] = any(
                    is_noticed(Path(folder), test, options.seconds, slow=wide and test in mine)
                    for test in dict.fromkeys(tests)
                )
                inside.write_bytes(original)
                with options.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"mutant": asdict(mutant), "noticed": results[mutant]}) + "\n")
                told = "noticed" if results[mutant] else "NOT noticed"
                print(f"[{number}/{len(chosen)}] {mutant.file}:{mutant.line} {told}", flush=True)
    survivors = [mutant for mutant in chosen if not results[mutant]]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} changes noticed")
    for mutant in survivors:
        print(f"{mutant.file}:{mutant.line}: {mutant.old} -> {mutant.new}")


if __name__ == "__main__":
    main()

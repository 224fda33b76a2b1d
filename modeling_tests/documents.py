"""The blocks of a page of documentation, and what its command lines ask of the parsers.

A fence's first word is the language; a second one tells how a block is tested, as in Rust's documentation:

- none: it is run;
- `slow`: it is run by the tests marked slow, and otherwise checked as the next;
- `no_run`: commands are parsed, Python is compiled and what it imports of this project is imported.
"""

import argparse
import ast
import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import elmo_hf.cli
import hub_upload.cli

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = {"elmo-hf": elmo_hf.cli.PROGRAM, "elmo-hub": hub_upload.cli.PROGRAM}
FENCE = re.compile(r"^(?P<indent> *)```(?P<words>.*)\n(?P<text>(?:.*\n)*?)(?P=indent)```$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: its language, how it is tested, its text, and the line it begins in."""

    language: str
    test: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    content = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(content):
        language, _, test = match["words"].partition(" ")
        text = re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        found.append(Block(language, test, text, content.count("\n", 0, match.start()) + 1))
    return found


def commands(text: str) -> list[list[str]]:
    """The words of each command in a shell block; a pipe separates commands."""
    found, begun = [], ""
    for line in text.replace("\\\n", " ").splitlines():
        begun += line + "\n"
        try:
            words = shlex.split(begun, comments=True)
        except ValueError:  # a quoted string continues on the next line
            continue
        begun = ""
        while "|" in words:
            found.append(words[: words.index("|")])
            words = words[words.index("|") + 1 :]
        if words:
            found.append(words)
    assert not begun, f"a quotation without end: {begun}"
    return found


def inline_commands(page: Path) -> list[list[str]]:
    """Commands within a sentence, which may omit required options."""
    spans = re.findall(r"`(elmo-(?:hf|hub) [^`]+)`", FENCE.sub("", page.read_text(encoding="utf-8")))
    return [[*shlex.split(span), "..."] for span in spans]


def run_commands(text: str) -> None:
    for words in commands(text):
        if words[0] in PROGRAMS:
            assert PROGRAMS[words[0]].main(words[1:]) == 0, words
        else:
            assert words[0] == "python", f"neither a command of this project nor Python: {words}"
            path = os.pathsep.join([str(ROOT), *sys.path])
            subprocess.run([sys.executable, *words[1:]], env={**os.environ, "PYTHONPATH": path}, check=True)


def run_python(block: Block, page: str, names: dict[str, Any]) -> None:
    exec(compile("\n" * block.line + block.text, page, "exec"), names)


def check_python(text: str) -> None:
    """Compile a block, and check that the names it imports from this project exist."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "elmo_hf":
            assert hasattr(elmo_hf, node.attr), ast.unparse(node)


def check_command(words: list[str]) -> None:
    """Parse a command line; `...` stands for what it leaves out.

    Raises:
        AssertionError: an option is unknown, was renamed or lacks its value, or an argument is missing.
    """
    while re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    line = shlex.join(words)
    if words[0] in ("torchrun", "accelerate"):
        assert "-m" in words, f"a launcher without -m: {line}"
        words = ["python", *words[words.index("-m") :]]
    if words[:3] == ["python", "-m", "elmo_hf.cli"]:
        words = ["elmo-hf", *words[3:]]
    program, arguments = words[0], words[1:]
    if program in PROGRAMS:
        _check_program(program, arguments)
    elif program == "python":
        script = ROOT / arguments[0]
        assert script.is_file(), f"no such script: {line}"
        _check_script(script, arguments[1:])
    elif program == "make":
        targets = re.findall(r"^([\w -]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert set(arguments) <= set(" ".join(targets).split()), f"no such target: {line}"
    elif program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        asked = set(",".join(re.findall(r"\[([\w,-]+)\]", line)).split(",")) - {""}
        assert asked <= set(project["optional-dependencies"]), f"no such extra: {line}"
    else:
        assert program == "echo", f"not a command of this project: {line}"


def _check_program(name: str, arguments: list[str]) -> None:
    named = next((each for each in arguments if each in PROGRAMS[name].commands), None)
    assert named or arguments[0].startswith(("-", "COMMAND")), f"no such command: {name} {shlex.join(arguments)}"
    if named is None:
        return
    parser = PROGRAMS[name].parser(named)
    (choices,) = (each.choices for each in parser._actions if isinstance(each, argparse._SubParsersAction))
    rest = arguments[arguments.index(named) + 1 :]
    with mock.patch("elmo_hf.cli.options.say", side_effect=AssertionError):  # says that an option was renamed
        options = vars(_parsed(choices[named], choices[named].parse_known_args, rest))
    if "..." not in rest:
        assert not options.get("places"), f"a former form: {name} {shlex.join(arguments)}"
        if named in ("embed", "convert", "export"):
            assert options["output"], f"without --output: {name} {shlex.join(arguments)}"


class _Accepted(BaseException):
    """The end of a script whose arguments have been parsed."""


def _check_script(path: Path, arguments: list[str]) -> None:
    parse = argparse.ArgumentParser.parse_known_args

    def accept(self: Any, args: Any = None, namespace: Any = None) -> Any:
        _parsed(self, lambda words: parse(self, words, namespace), sys.argv[1:] if args is None else list(args))
        raise _Accepted

    changed = [
        mock.patch.object(sys, "argv", [str(path), *arguments]),
        mock.patch.object(sys, "path", [str(path.parent), *sys.path]),  # as Python does for a script
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", accept),
    ]
    with changed[0], changed[1], changed[2]:
        try:
            runpy.run_path(str(path), run_name="__main__")
        except _Accepted:
            return
    raise AssertionError(f"{path} has parsed nothing")


def _parsed(parser: argparse.ArgumentParser, parse: Callable[[list[str]], Any], arguments: list[str]) -> Any:
    """Result of parsing a command line, in which `...` stands for omitted arguments."""
    parser.allow_abbrev = False  # abbreviated names are errors
    if "..." in arguments:
        arguments = [each for each in arguments if each.startswith("-") or each != "..."]
        for action in parser._actions:
            action.required = False
            if not action.option_strings and action.nargs != argparse.REMAINDER:
                action.nargs = "*"
                action.type = action.choices = None
        for group in parser._mutually_exclusive_groups:
            group.required = False
    try:
        options, rest = parse([each for each in arguments if each not in ("--help", "--help_all")])
    except SystemExit as error:
        raise AssertionError(f"{parser.prog} refuses {shlex.join(arguments)}") from error
    rest = [each for each in rest if each.startswith("-")]
    assert not rest, f"{parser.prog} knows no {rest}: {shlex.join(arguments)}"
    return options

"""Argument parsers with one screen of help and optional options from a dataclass's fields.

Nothing heavy is imported, so that help is fast; `HfArgumentParser` would import Transformers.
"""

import argparse
import copy
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints


class UsageError(ValueError):
    """Invalid arguments that a parser cannot detect itself; exit status 2, like a parser's errors."""


class Formatter(argparse.HelpFormatter):
    """Help formatter that shows one spelling per option, informative defaults, and the example verbatim."""

    def __init__(self, prog: str, **keywords: Any) -> None:
        super().__init__(prog, max_help_position=28, **keywords)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = copy.copy(action)
        shown.option_strings = list(action.option_strings)[:1]
        return super()._format_action_invocation(shown)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        tells = action.default not in (None, False, "", argparse.SUPPRESS) and action.option_strings
        return f"{text} (default: %(default)s)" if text and tells and "(default" not in text else text

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith("Example:") else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """`ArgumentParser` with a one-screen `--help` and a complete `--help_all`.

    Options of several words are shown with underscores and may be written with dashes.

    Args:
        dataclass_types: a dataclass whose fields become options, as in `HfArgumentParser`. The help of a field is
            `metadata["help"]`.
        groups: names of the fields shown by `--help`, by title.
        further_groups: names of the other fields, shown only by `--help_all`, by title.
        renamed: former names of options with their current names. Former names still work, with a note.
        example: a command line, shown at the end of the help.
    """

    def __init__(
        self,
        *args: Any,
        dataclass_types: Any = (),
        groups: Mapping[str, Sequence[str]] | None = None,
        further_groups: Mapping[str, Sequence[str]] | None = None,
        renamed: Mapping[str, str] | None = None,
        example: str | None = None,
        **keywords: Any,
    ) -> None:
        keywords.setdefault("formatter_class", Formatter)
        keywords |= {"epilog": f"Example:\n  {example}" if example else None, "add_help": False}
        super().__init__(*args, **keywords)
        self._optionals.title = "options"
        self._further: list[Any] = []
        self._renamed = dict(renamed or {})
        self._intermixes = False
        self.add_argument("--help", "-h", action="help", help="show this and exit")
        self.add_argument("--help_all", action=_HelpAll, nargs=0, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if dataclass_types:
            self._add_fields(dataclass_types, groups or {}, further_groups or {})

    def further_group(self, title: str) -> Any:
        """Add a group of options that only `--help_all` shows."""
        group = self.add_argument_group(title)
        self._further.append(group)
        return group

    def format_help(self, everything: bool = False) -> str:
        """Format the help of all options, or of the common ones."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        hidden = [] if everything else self._further
        for group in self._action_groups:
            if group not in hidden:
                formatter.start_section(group.title)
                formatter.add_text(group.description)
                formatter.add_arguments(group._group_actions)
                formatter.end_section()
        if hidden:
            titles = ", ".join(str(group.title) for group in hidden)
            formatter.add_text(f"Further options ({titles}): {self.prog} --help_all")
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def error(self, message: str) -> NoReturn:
        """Exit with two lines instead of the whole usage: the error, and how to get help."""
        self.exit(2, f"{self.prog}: {message}\n{self.prog} --help lists the arguments\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments; unlike the base class, allow options between the values of a multiple argument."""
        kinds = {action.nargs for action in self._get_positional_actions()}
        if self._intermixes or kinds & {argparse.PARSER, argparse.REMAINDER}:
            return super().parse_known_args(args, namespace)
        self._intermixes = True  # parse_known_intermixed_args calls this method again
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixes = False

    def _parse_optional(self, arg_string: str) -> Any:
        name, equals, value = arg_string.partition("=")
        if name.startswith("--") and name not in self._option_string_actions:
            spelled = "--" + name[2:].replace("-", "_")
            if spelled in self._renamed:
                say(f"{self.prog}: note: {spelled} is {self._renamed[spelled]} now")
                spelled = self._renamed[spelled]
            arg_string = spelled + equals + value
        return super()._parse_optional(arg_string)

    def _add_fields(self, kind: Any, groups: Mapping[str, Sequence[str]], further: Mapping[str, Sequence[str]]) -> None:
        hints = get_type_hints(kind)
        fields = {field.name: field for field in dataclasses.fields(kind)}
        for titled, add_group in ((groups, self.add_argument_group), (further, self.further_group)):
            for title, names in titled.items():
                group = add_group(title)
                for name in names:
                    self._add_field(group, fields.pop(name), hints[name])
        group = self.further_group("more") if fields and groups else self
        for name, field in fields.items():
            self._add_field(group, field, hints[name])

    def _add_field(self, group: Any, field: Any, kind: Any) -> None:
        name = f"--{field.name}"
        options: dict[str, Any] = {"dest": field.name, "help": field.metadata.get("help")}
        if field.default is not dataclasses.MISSING:
            options["default"] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            options["default"] = field.default_factory()
        elif kind is bool:
            options["default"] = False
        else:
            options["required"] = True
        name = self._renamed.get(name, name)
        if get_origin(kind) in (Union, UnionType):
            kind = next(each for each in get_args(kind) if each is not type(None))
        if kind is bool:
            options["help"] = f"{options['help']} (default: {'yes' if options['default'] else 'no'})"
            group.add_argument(name, type=_truth, nargs="?", const=True, metavar="yes|no", **options)
            if field.default is True:
                group.add_argument(f"--no_{field.name}", dest=field.name, action="store_false", help=argparse.SUPPRESS)
        elif get_origin(kind) is Literal:
            group.add_argument(name, type=type(get_args(kind)[0]), choices=get_args(kind), **options)
        elif get_origin(kind) is list:
            group.add_argument(name, nargs="+", type=get_args(kind)[0], metavar=_METAVARS[get_args(kind)[0]], **options)
        else:
            group.add_argument(name, type=kind, metavar=_METAVARS[kind], **options)


_METAVARS = {str: "TEXT", int: "N", float: "X"}


class _HelpAll(argparse.Action):
    def __call__(self, parser: Any, *_: Any) -> None:
        print(parser.format_help(everything=True), end="")
        parser.exit()


def add_flag(group: Any, name: str, help: str) -> None:
    """Add an option without value."""
    group.add_argument(name, action="store_true", help=help)


def add_number(group: Any, name: str, help: str, default: int | None = None) -> None:
    """Add an option with an integer."""
    group.add_argument(name, type=int, default=default, metavar="N", help=help)


def say(message: str) -> None:
    """Print a line on stderr."""
    print(message, file=sys.stderr)


def _truth(text: str) -> bool:
    """Parse a truth value of the command line."""
    values = {"yes": True, "true": True, "t": True, "y": True, "1": True}
    values |= {"no": False, "false": False, "f": False, "n": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r}: expected true or false")
    return values[text.lower()]

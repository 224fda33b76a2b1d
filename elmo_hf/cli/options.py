"""Parsers whose options may be the fields of a dataclass, without importing Transformers for `HfArgumentParser`."""

import argparse
import dataclasses
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class Parser(argparse.ArgumentParser):
    """`ArgumentParser` with an option for each field of `dataclass_types`, as `HfArgumentParser` adds them.

    Every option of several words is spelled with underscores and with dashes. The help of a field is
    `metadata["help"]`.

    Attributes:
        intermixed: whether arguments stand in any place among the options, which those that may be left out need.
    """

    def __init__(self, *args: Any, dataclass_types: Any = (), **keywords: Any) -> None:
        self.intermixed = False
        keywords.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter if dataclass_types else _PLAIN)
        super().__init__(*args, **keywords)
        if dataclass_types:
            kinds = get_type_hints(dataclass_types)
            for field in dataclasses.fields(dataclass_types):
                self._add_field(field, kinds[field.name])

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As of `ArgumentParser`, which also calls it of a command."""
        if not self.intermixed:
            return super().parse_known_args(args, namespace)
        self.intermixed = False  # it calls this function for the options, and once more for the arguments
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self.intermixed = True

    def _add_field(self, field: Any, kind: Any) -> None:
        names = list(dict.fromkeys((f"--{field.name}", f"--{field.name.replace('_', '-')}")))
        options: dict[str, Any] = {"dest": field.name, "help": field.metadata.get("help")}
        if field.default is not dataclasses.MISSING:
            options["default"] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            options["default"] = field.default_factory()
        elif kind is bool:
            options["default"] = False
        else:
            options["required"] = True
        if get_origin(kind) in (Union, UnionType):
            kind = next(each for each in get_args(kind) if each is not type(None))
        if kind is bool:
            self.add_argument(*names, type=_truth, nargs="?", const=True, **options)
            if field.default is True:
                off = list(dict.fromkeys((f"--no_{field.name}", f"--no-{field.name.replace('_', '-')}")))
                self.add_argument(*off, dest=field.name, action="store_false", help=argparse.SUPPRESS)
        elif get_origin(kind) is Literal:
            self.add_argument(*names, type=type(get_args(kind)[0]), choices=get_args(kind), **options)
        elif get_origin(kind) is list:
            self.add_argument(*names, nargs="+", type=get_args(kind)[0], **options)
        else:
            self.add_argument(*names, type=kind, **options)


_PLAIN = argparse.HelpFormatter


def _truth(text: str) -> bool:
    """A truth value as it is written on a command line."""
    values = {"yes": True, "true": True, "t": True, "y": True, "1": True}
    values |= {"no": False, "false": False, "f": False, "n": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r}: expected true or false")
    return values[text.lower()]

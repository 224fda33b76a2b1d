"""Programs with subcommands, from command line to exit status, shared by `elmo-hf` and `elmo-hub`."""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from elmo_hf.endings import ending, leave_the_pipe
from elmo_hf.version import __version__

from .options import Parser, UsageError, say


class Program:
    """A program whose commands are in separate files, each imported when it runs.

    Args:
        name: name of the program.
        description: one sentence.
        adder: returns, for a command's name, the function that makes its parser by the one it is given, which
            knows name and help. The parser sets the defaults `run` and, optionally, `after_stop`, a message for Ctrl-C.
        groups: commands with one-line descriptions, by title.
        closing: lines below the overview.
    """

    def __init__(
        self,
        name: str,
        description: str,
        adder: Callable[[str], Callable[[Any], None]],
        groups: Mapping[str, Mapping[str, str]],
        closing: Sequence[str],
    ) -> None:
        self.name, self.description, self.adder, self.groups, self.closing = name, description, adder, groups, closing
        self.commands = {command: text for group in groups.values() for command, text in group.items()}

    def overview(self) -> str:
        """Overview of the commands."""
        width = max(map(len, self.groups))
        lines = [f"{self.name} {__version__}: {self.description}", ""]
        lines += [f"  {title:<{width}}  {', '.join(commands)}" for title, commands in self.groups.items()]
        return "\n".join([*lines, "", *self.closing])

    def parser(self, *commands: str | None) -> Parser:
        """The parser of the command line, with the options of the given commands and the names of all."""
        main_parser = Parser(
            prog=self.name,
            usage=f"{self.name} COMMAND ...",
            description=self.description,
            example="\n  ".join(line.strip() for line in self.closing[:1]),
        )
        main_parser.add_argument("--version", action="version", version=__version__, help="show the version and exit")
        found = main_parser.add_subparsers(
            dest="command", required=True, parser_class=Parser, metavar="COMMAND", title="commands", prog=self.name
        )
        for name, text in self.commands.items():
            add_command = partial(found.add_parser, name, help=text)
            if name in commands:
                self.adder(name)(add_command)
            else:
                add_command()
        return main_parser

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run a command.

        Args:
            arguments: by default those of the command line.

        Returns:
            The exit status, as described in `elmo_hf/endings.py`.
        """
        given = list(sys.argv[1:] if arguments is None else arguments)
        if arguments is None:
            _adapt_to_the_terminal()
        named = next((each for each in given if each in self.commands), None)
        try:
            if given:
                options = vars(self.parser(named).parse_args(given))
                status = self._run(options)
            else:
                print(self.overview())
                status = 0
            sys.stdout.flush()  # raises here at the latest if the pipe is closed
            return status
        except (BrokenPipeError, KeyboardInterrupt) as error:
            return self._end(error, self.name)

    def _run(self, options: dict[str, Any]) -> int:
        name, run = options.pop("command"), options.pop("run")
        after_stop = options.pop("after_stop", "nothing was written")
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        for ours in ("elmo_hf", "hub_upload"):
            logging.getLogger(ours).setLevel(logging.INFO)
        try:
            return run(options)
        except UsageError as error:
            say(f"{self.name} {name}: {error}\n{self.name} {name} --help lists the arguments")
            return 2
        except BaseException as error:
            return self._end(error, f"{self.name} {name}", f"; {after_stop}")

    def _end(self, error: BaseException, place: str, after_stop: str = "") -> int:
        """Print the error and return the exit status; re-raise errors that are bugs of this package."""
        known = ending(error)
        if known is None:
            raise error
        status, line = known
        if isinstance(error, BrokenPipeError):
            leave_the_pipe()
        if line:
            say(f"{place}: {line}{after_stop if isinstance(error, KeyboardInterrupt) else ''}")
        return status


def _adapt_to_the_terminal() -> None:
    """Turn off all tqdm progress bars, of any library, unless stderr is a terminal."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

"""A program of commands: from its command line to its exit status, the same for `elmo-hf` and `elmo-hub`.

Exit statuses: 0 done; 1 refused or failed, with one line on stderr that says how to mend it; 2 usage; and, as shells
have it, 128 plus the signal's number where Ctrl-C (130) or a closed pipe (141) ended a command.
"""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from elmo_hf.version import __version__

from .options import Parser, UsageError, say

# By extra: the modules that it brings.
EXTRAS = {
    "train": "accelerate datasets evaluate pyarrow rouge_score sacrebleu sklearn seqeval tensorboard",
    "plots": "matplotlib",
    "onnx": "onnx onnxruntime onnxscript",
    "tensorflow": "tensorflow",
    "peft": "peft",
    "gpu": "triton",
    "completion": "shtab",
}
# What a user may mend; other errors are this package's, and show where they come from.
REFUSALS = (ValueError, OSError, ImportError, RuntimeError, EOFError)


class Program:
    """A program whose commands lie in files of their own, imported when one is run.

    Args:
        name: of the program.
        description: a sentence.
        adder: for a command's name, the function that adds its parser to argparse's subparsers. The parser's defaults
            are `run`, and `after_stop`, what to say after Ctrl-C.
        groups: commands by title, each with what it does in a line.
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
        """What the program can do, at a glance."""
        width = max(map(len, self.groups))
        lines = [f"{self.name} {__version__}: {self.description}", ""]
        lines += [f"  {title:<{width}}  {', '.join(commands)}" for title, commands in self.groups.items()]
        return "\n".join([*lines, "", *self.closing])

    def parser(self, *commands: str | None) -> Parser:
        """The parser of the command line, with the options of these commands and the names of all."""
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
            if name in commands:
                self.adder(name)(found)
            else:
                found.add_parser(name, help=text)
        return main_parser

    def main(self, arguments: Sequence[str] | None = None) -> int:
        """Run a command.

        Args:
            arguments: those of the command line by default.

        Returns:
            The exit status.
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
            sys.stdout.flush()  # a closed pipe shows itself here at the latest
            return status
        except BrokenPipeError:
            # Python flushes once more at its end, where nobody reads.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except KeyboardInterrupt:
            say(f"{self.name}: stopped")
            return 130

    def _run(self, options: dict[str, Any]) -> int:
        name, run = options.pop("command"), options.pop("run")
        after_stop = options.pop("after_stop", "nothing was written")
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        for ours in ("elmo_hf", "hub_upload"):
            logging.getLogger(ours).setLevel(logging.INFO)
        try:
            return run(options)
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            say(f"{self.name} {name}: stopped; {after_stop}")
            return 130
        except UsageError as error:
            say(f"{self.name} {name}: {error}\n{self.name} {name} --help shows what it takes")
            return 2
        except ModuleNotFoundError as error:
            extra = extra_of(error.name)
            remedy = f"needs {error.name}, which is not installed: pip install 'elmo-hf[{extra}]'" if extra else error
            say(f"{self.name} {name}: {remedy}")
        except Exception as error:
            if not _is_refusal(error):
                raise
            say(f"{self.name} {name}: {error or type(error).__name__}")
        return 1


def extra_of(module: str | None) -> str | None:
    """The extra of this package that brings a module."""
    top = (module or "").partition(".")[0]
    return next((extra for extra, modules in EXTRAS.items() if top in modules.split()), None)


def _is_refusal(error: Exception) -> bool:
    """True for what the user can mend; errors of libraries only where the library is loaded anyway."""
    others = {"safetensors": "SafetensorError", "huggingface_hub.errors": "StrictDataclassError", "lzma": "LZMAError"}
    others |= {"zlib": "error", "zipfile": "BadZipFile", "tarfile": "TarError"}
    found = [getattr(sys.modules[module], name) for module, name in others.items() if module in sys.modules]
    return isinstance(error, (*REFUSALS, *found))


def _adapt_to_the_terminal() -> None:
    """No bars where nobody watches: in pipes and log files, where tqdm of every library reads this."""
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

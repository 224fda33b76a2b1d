"""The command line `elmo-hf`: parse, call, print. Every command lies in a file of its own, imported when it is run."""

import logging
import sys
from collections.abc import Sequence
from importlib import import_module

from elmo_hf.version import __version__

from .options import Parser

# Each command, in the file of its name, and what it does.
COMMANDS = {
    "build-vocab": "make a vocabulary from text: words by falling frequency, with their counts",
    "build-characters": "make a dictionary of characters from text, for models over Unicode code points",
    "pretrain": "pretrain a biLM; the same command again continues a run that was interrupted",
    "save-model": "make the model folder of a pretraining run that was interrupted, as it stands",
    "perplexity": "perplexity of a text, each direction for itself, with the full softmax",
    "minimal-pairs": "accuracy on minimal pairs, such as BLiMP, by kind, phenomenon and in all",
    "embed": "write the contextual vectors of a whole corpus",
    "align": "map a model's layers into the space of another model's",
    "tag": "label the words of a text with a trained tagger",
    "card": "write a folder's model card, or add facts to it",
    "export-onnx": "write a model as an ONNX file",
    "run": "run a script of Transformers, with ELMo registered",
}


def parser(command: str | None) -> Parser:
    """The parser of the command line, with the options of one command and the names of all."""
    main_parser = Parser(prog="elmo-hf", description="Pretrain ELMo's language models, and read texts with them.")
    main_parser.add_argument("--version", action="version", version=__version__)
    commands = main_parser.add_subparsers(dest="command", required=True, parser_class=Parser, metavar="COMMAND")
    for name, help in COMMANDS.items():
        if name == command:
            import_module(f"{__name__}.{name.replace('-', '_')}").add_parser(commands)
        else:
            commands.add_parser(name, help=help)
    return main_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those of the command line by default.

    Returns:
        The exit status: 0, or 1 for what the user can remedy, then with one line on stderr that says how; 128 plus the
        signal's number for a run that a signal asked to leave.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = vars(parser(next((each for each in given if each in COMMANDS), None)).parse_args(given))
    name, run = options.pop("command"), options.pop("run")

    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return run(options)
    except (ValueError, OSError, ImportError, RuntimeError, StrictDataclassError, SafetensorError) as error:
        print(f"elmo-hf {name}: {error}", file=sys.stderr)
        return 1

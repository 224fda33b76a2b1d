"""The command line `elmo-hf`: parse, call, print. Every command lies in a file of its own."""

import logging
import sys
from collections.abc import Sequence

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import HfArgumentParser

from elmo_hf import __version__
from elmo_hf.cli import align, build_characters, build_vocab, embed, export_onnx, perplexity, pretrain, run, tag

COMMANDS = (build_vocab, build_characters, pretrain, perplexity, embed, align, tag, export_onnx, run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those of the command line by default.

    Returns:
        The exit status: 0, or 1 for what the user can remedy, then with one line on stderr that says how; 128 plus the
        signal's number for a run that a signal asked to leave.
    """
    parser = HfArgumentParser(
        [], prog="elmo-hf", description="Pretrain ELMo's language models, and read texts with them."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=HfArgumentParser)
    for command in COMMANDS:
        command.add_parser(commands)
    options = vars(parser.parse_args(arguments))
    name, run = options.pop("command"), options.pop("run")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return run(options)
    except (ValueError, OSError, ImportError, RuntimeError, StrictDataclassError, SafetensorError) as error:
        print(f"elmo-hf {name}: {error}", file=sys.stderr)
        return 1

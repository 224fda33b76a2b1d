"""The command line `elmo-hf`: parse, call, print. Every command has its own file, which is imported when it runs."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from .options import Parser, UsageError, add_flag
from .output import add_json, tell
from .program import Program

__all__ = ["COMMANDS", "PROGRAM", "Parser", "Program", "UsageError", "add_flag", "add_json", "main", "tell"]


def _adder(command: str) -> Callable[[Any], None]:
    return import_module(f"{__name__}.{command.replace('-', '_')}").add_parser


PROGRAM = Program(
    "elmo-hf",
    "ELMo's contextual word vectors and language models",
    _adder,
    {
        "look": {"info": "describe a model's folder, and the kernels available here"},
        "ask": {
            "fill": "fill the gaps of a sentence",
            "neighbours": "find the words of a corpus that mean the same as a word in a sentence",
            "senses": "cluster a word's usages into senses, and measure change between corpora",
            "answer": "answer a question from a text",
            "translate": "translate or summarize texts",
        },
        "read": {
            "embed": "write the contextual vectors of a whole corpus",
            "tag": "label the words of a text with a trained tagger",
            "perplexity": "measure how well a model predicts a text",
            "minimal-pairs": "measure accuracy on minimal pairs, such as BLiMP, by kind, phenomenon and overall",
        },
        "train": {
            "build-vocab": "build a vocabulary from text: words by decreasing frequency, with their counts",
            "build-characters": "build a character dictionary from text, for models over Unicode code points",
            "pretrain": "pretrain a biLM; the same command again continues an interrupted run",
            "save-model": "save the model of an unfinished pretraining run",
            "run": "run a script of Transformers, with ELMo registered",
        },
        "change": {
            "align": "map a model's layers into the space of another model's",
            "export-onnx": "write a model as an ONNX file",
            "card": "write a folder's model card, or add facts to it",
            "completion": "print the completion script of a shell",
        },
    },
    [
        '  elmo-hf fill "The <mask> sat on the mat ." --model FOLDER',
        "  elmo-hf COMMAND --help lists its options; elmo-hub converts the original checkpoints.",
    ],
)
# Commands with a one-line description; each is in the file of its name.
COMMANDS = PROGRAM.commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of `elmo-hf`, as [`Program.main`]."""
    return PROGRAM.main(arguments)

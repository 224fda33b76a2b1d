"""The model of a command: `--model`, or formerly an argument before the texts."""

from pathlib import Path
from typing import Any

from .options import UsageError, say

SHIPPED = " (default: the shipped English model)"


def add_model(parser: Any, help: str = "folder of a model and its tokenizer" + SHIPPED) -> None:
    """Add the option."""
    parser.add_argument("--model", metavar="FOLDER", help=help)
    parser.add_argument("--device", help="such as cuda (default: the GPU if there is one)")


def chosen_model(options: dict[str, Any], places: str | None = None, *, fewest: int = 2, shipped: bool = True) -> str:
    """The model named by the options.

    Args:
        options: `model`, and the list of arguments `places`.
        places: name of the arguments whose first was formerly the model; a model found there is removed from them.
        fewest: minimum number of arguments for the first to be a model.
        shipped: use the model shipped with the package by default.

    Raises:
        UsageError: no model is named, and no shipped model can be used.
    """
    model: str | None = options["model"]
    if model is not None:
        return model
    arguments = options[places] if places is not None else []
    if len(arguments) >= fewest and (Path(arguments[0]).is_dir() or not Path(arguments[0]).exists()):
        model = options["model"] = str(arguments.pop(0))
        say(f"note: the model is now given by --model {model}")
        return model
    if shipped:
        from elmo_hf import default_model

        return default_model()
    raise UsageError("--model is missing: give the folder of a model")


def chosen_output(options: dict[str, Any], places: str | None = None, *, fewest: int = 2) -> str:
    """The output named by the options; formerly the last of the arguments `places`, from which it is removed.

    Raises:
        UsageError: no output is named.
    """
    if options["output"] is None:
        arguments = options[places] if places is not None else []
        if len(arguments) < fewest:
            raise UsageError("--output is missing: say where to write")
        options["output"] = arguments.pop()
        say(f"note: the output is now given by --output {options['output']}")
    return options["output"]

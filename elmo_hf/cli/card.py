"""`elmo-hf card` and `elmo-hub card`: a folder's model card, written or completed."""

from pathlib import Path
from typing import Any

from .output import add_json, tell


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="%(prog)s FOLDER [options]",
        description="Write the model card (README.md) of a folder, or add facts to an existing card without changing "
        "its text; print the card. `elmo-hub push` publishes the folder.",
        example="%(prog)s run/model --license apache-2.0 --language en",
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder of a model")
    parser.add_argument("--license", metavar="NAME", help="the Hub's identifier: apache-2.0, cc-by-4.0, other, ...")
    parser.add_argument("--license_name", metavar="NAME", help="name of the license, with --license other")
    parser.add_argument("--language", nargs="+", default=[], metavar="CODE", help="codes such as en")
    parser.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="Hub names of the training data")
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Add the facts and print the card."""
    from elmo_hf.hub import add_facts

    facts = {name: options[name] for name in ("license", "license_name", "language", "datasets")}
    card = add_facts(Path(options["folder"]), **facts)
    tell(options, {"folder": options["folder"], "card": str(card)}, str(card))
    return 0

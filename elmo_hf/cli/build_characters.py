"""`elmo-hf build-characters`: the characters of a text by decreasing frequency."""

from typing import Any

from .options import add_number
from .output import add_json, tell
from .text import TEXT_HELP, add_text_options, open_text


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf build-characters TEXT ... --output FILE [options]",
        description="Count the characters of a text and write a dictionary of them, for a model that reads Unicode "
        "code points by a dictionary (elmo-hf pretrain --character_dictionary), as ELMoForManyLangs does.",
        example="elmo-hf build-characters corpus/*.txt --output characters.json --min_count 3",
    )
    parser.add_argument("text", nargs="+", help=TEXT_HELP)
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON file of characters and ids to write")
    add_number(parser, "--min_count", "leave out rarer characters", 1)
    add_number(parser, "--max_size", "maximum number of symbols, including the six marks")
    add_number(parser, "--num_processes", "processes that count", 1)
    add_json(parser)
    add_text_options(parser, has_model=False)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`build_character_dictionary`] and save the dictionary."""
    from elmo_hf.pretraining import build_character_dictionary

    dictionary, coverage = build_character_dictionary(
        open_text(options),
        **{name: options[name] for name in ("pre_tokenization", "min_count", "max_size", "num_processes")},
    )
    dictionary.save(options["output"])
    tell(
        options,
        {"output": options["output"], "symbols": len(dictionary.ids), "coverage": coverage},
        f"{options['output']}: {len(dictionary.ids):,} symbols cover {coverage:.2%} of the running characters",
    )
    return 0

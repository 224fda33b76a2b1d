"""`elmo-hf build-characters`: the characters of a text by decreasing frequency."""

from typing import Any

from .output import add_json, tell
from .text import TEXT_HELP, add_text_options, open_text


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "build-characters",
        usage="elmo-hf build-characters TEXT ... --output FILE [options]",
        help="count the characters of a text and write a dictionary of them",
        description="Count the characters of a text and write a dictionary of them, for a model that reads Unicode "
        "code points by a dictionary (elmo-hf pretrain --character_dictionary), as ELMoForManyLangs does.",
        example="elmo-hf build-characters corpus/*.txt --output characters.json --min_count 3",
    )
    parser.add_argument("text", nargs="+", help=TEXT_HELP)
    parser.add_argument("--output", required=True, metavar="FILE", help="JSON file of characters and ids to write")
    parser.add_argument("--min_count", type=int, default=1, metavar="N", help="leave out rarer characters")
    parser.add_argument("--max_size", type=int, metavar="N", help="maximum number of symbols, including the six marks")
    parser.add_argument("--num_processes", type=int, default=1, metavar="N", help="processes that count")
    add_json(parser)
    add_text_options(parser, has_model=False)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`build_character_dictionary`] and save the dictionary."""
    from elmo_hf.pretraining import build_character_dictionary

    dictionary, coverage = build_character_dictionary(
        open_text(options),
        pre_tokenization=options["pre_tokenization"],
        min_count=options["min_count"],
        max_size=options["max_size"],
        num_processes=options["num_processes"],
    )
    dictionary.save(options["output"])
    tell(
        options,
        {"output": options["output"], "symbols": len(dictionary.ids), "coverage": coverage},
        f"{options['output']}: {len(dictionary.ids):,} symbols cover {coverage:.2%} of the running characters",
    )
    return 0

"""`elmo-hf build-characters`: the characters of a text by falling frequency."""

from typing import Any

from .text import add_text_options, open_text


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "build-characters",
        dataclass_types=[],
        help="count the characters of a text and write a dictionary of them",
        description="Count the characters of a text and write a dictionary of them, for a model that reads Unicode "
        "code points by a dictionary of its own (elmo-hf pretrain --character_dictionary), as ELMoForManyLangs does.",
    )
    parser.add_argument("text", nargs="+", help="files, globs, or the name of a data set")
    parser.add_argument("--output", required=True, help="dictionary to write: JSON of characters and their ids")
    parser.add_argument("--min_count", "--min-count", type=int, default=1, help="leave out rarer ones (default 1)")
    parser.add_argument("--max_size", "--max-size", type=int, help="symbols at most, the six marks included")
    parser.add_argument(
        "--num_processes", "--num-processes", type=int, default=1, help="processes that count (default 1)"
    )
    add_text_options(parser, has_model=False)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`build_character_dictionary`] and save what it finds."""
    from elmo_hf.pretraining import build_character_dictionary

    dictionary, coverage = build_character_dictionary(
        open_text(options),
        pre_tokenization=options["pre_tokenization"],
        min_count=options["min_count"],
        max_size=options["max_size"],
        num_processes=options["num_processes"],
    )
    dictionary.save(options["output"])
    print(f"{options['output']}: {len(dictionary.ids):,} symbols cover {coverage:.2%} of the running characters")
    return 0

"""`elmo-hf build-vocab`: the words of a text by falling frequency."""

from typing import Any

from .text import add_text_options, open_text


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "build-vocab",
        dataclass_types=[],
        help="count the words of a text and write a vocabulary file",
        description="Count the words of a text and write a vocabulary file, and their counts beside it.",
    )
    parser.add_argument("text", nargs="+", help="files, globs, or the name of a data set")
    parser.add_argument("--output", required=True, help="vocabulary file to write; <name>.counts.tsv stands beside it")
    parser.add_argument("--min_count", "--min-count", type=int, default=1, help="leave out rarer words (default 1)")
    parser.add_argument("--max_size", "--max-size", type=int, help="words at most, <S>, </S> and <UNK> included")
    parser.add_argument(
        "--num_processes", "--num-processes", type=int, default=1, help="processes that count (default 1)"
    )
    add_text_options(parser, has_model=False)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`build_vocabulary`] and save what it finds."""
    from elmo_hf.pretraining import build_vocabulary

    vocabulary = build_vocabulary(
        open_text(options),
        pre_tokenization=options["pre_tokenization"],
        min_count=options["min_count"],
        max_size=options["max_size"],
        num_processes=options["num_processes"],
    )
    vocabulary.save(options["output"])
    print(
        f"{options['output']}: {len(vocabulary.words):,} words cover {vocabulary.coverage:.2%} of "
        f"{vocabulary.running_words:,} running words in {vocabulary.sentences:,} sentences"
    )
    return 0

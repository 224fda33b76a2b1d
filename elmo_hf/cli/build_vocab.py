"""`elmo-hf build-vocab`: the words of a text by decreasing frequency."""

from typing import Any

from .output import add_json, tell, written
from .text import TEXT_HELP, add_text_options, open_text


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "build-vocab",
        usage="elmo-hf build-vocab TEXT ... --output FILE [options]",
        help="count the words of a text and write a vocabulary file",
        description="Count the words of a text, and write a vocabulary file and a file of counts.",
        example="elmo-hf build-vocab corpus/*.txt --output vocab.txt --max_size 50000",
    )
    parser.add_argument("text", nargs="+", help=TEXT_HELP)
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="vocabulary file to write, with <name>.counts.tsv; - for the words alone on stdout",
    )
    parser.add_argument("--min_count", type=int, default=1, metavar="N", help="leave out rarer words")
    parser.add_argument("--max_size", type=int, metavar="N", help="maximum number of words, with <S>, </S>, <UNK>")
    parser.add_argument("--num_processes", type=int, default=1, metavar="N", help="processes that count")
    add_json(parser)
    add_text_options(parser, has_model=False)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`build_vocabulary`] and save the vocabulary."""
    from elmo_hf.pretraining import build_vocabulary

    vocabulary = build_vocabulary(
        open_text(options),
        pre_tokenization=options["pre_tokenization"],
        min_count=options["min_count"],
        max_size=options["max_size"],
        num_processes=options["num_processes"],
    )
    to_stdout = options["output"] == "-"
    if to_stdout:
        with written("-") as file:
            assert file is not None
            file.writelines(f"{word}\n" for word in vocabulary.words)
    else:
        vocabulary.save(options["output"])
    tell(
        options,
        {
            "output": options["output"],
            "words": len(vocabulary.words),
            "coverage": vocabulary.coverage,
            "running_words": vocabulary.running_words,
            "sentences": vocabulary.sentences,
        },
        f"{options['output']}: {len(vocabulary.words):,} words cover {vocabulary.coverage:.2%} of "
        f"{vocabulary.running_words:,} running words in {vocabulary.sentences:,} sentences",
        beside=to_stdout,
    )
    return 0

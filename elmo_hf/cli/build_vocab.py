"""`elmo-hf build-vocab`: the words of a text by decreasing frequency."""

from typing import Any

from .options import add_number
from .output import add_json, tell, written
from .text import TEXT_HELP, add_text_options, open_text


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf build-vocab TEXT ... --output FILE [options]",
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
    add_number(parser, "--min_count", "leave out rarer words", 1)
    add_number(parser, "--max_size", "maximum number of words, with <S>, </S>, <UNK>")
    add_number(parser, "--num_processes", "processes that count", 1)
    add_json(parser)
    add_text_options(parser, has_model=False)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`build_vocabulary`] and save the vocabulary."""
    from elmo_hf.pretraining import build_vocabulary

    vocabulary = build_vocabulary(
        open_text(options),
        **{name: options[name] for name in ("pre_tokenization", "min_count", "max_size", "num_processes")},
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

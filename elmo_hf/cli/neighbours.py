"""`elmo-hf neighbours`: nearest neighbors of a word in a sentence among the words of a corpus."""

from typing import Any

from .models import add_model, chosen_model
from .options import add_flag, add_number
from .output import add_json, tell
from .text import TEXT_HELP, add_batch_words, add_layers, add_text_options, words_of_lines


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf neighbours WORD TEXT ... --in SENTENCE --model FOLDER [options]",
        description="Print the words of a corpus whose contextual vectors are nearest to that of a word in a sentence, "
        "by cosine, each with its nearest occurrence.",
        example="elmo-hf neighbours bank corpus.txt --in 'He sat on the bank of the river .' --model elmo-folder",
    )
    parser.add_argument("word", help="a word of the sentence")
    parser.add_argument("text", nargs="+", help=TEXT_HELP)
    parser.add_argument("--in", dest="sentence", required=True, metavar="SENTENCE", help="the sentence with the word")
    add_model(parser)
    add_number(parser, "--count", "number of neighbors", 10)
    add_flag(parser, "--each_usage", "every occurrence, not each word once")
    add_layers(parser)
    add_batch_words(parser)
    add_json(parser)
    add_text_options(parser)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`neighbors`] and print the words."""
    folder = chosen_model(options)

    from elmo_hf import neighbors
    from elmo_hf.inference.loading import load_tokenizer

    tokenizer = load_tokenizer(None, folder)
    found = neighbors(
        options["word"],
        options["sentence"],
        words_of_lines(options, tokenizer),
        folder,
        tokenizer,
        count=options["count"],
        layers=options["layers"],
        each_usage=options["each_usage"],
        batch_words=options["batch_words"],
        device=options["device"],
    )
    if not found:
        raise ValueError(f"{' '.join(options['text'])} has no sentence")
    width = max(len(usage.word) for usage in found)
    lines = [f"{usage.similarity:.3f}  {usage.word:<{width}}  {usage.marked()}" for usage in found]
    tell(options, {"word": options["word"], "neighbours": [usage._asdict() for usage in found]}, "\n".join(lines))
    return 0

"""`elmo-hf tag`: label the words of a text with a tagger, for example with POS tags for pretraining."""

import json
from typing import Any

from .models import add_model, chosen_model
from .text import TEXT_HELP, add_batch_words, add_text_options, words_of_lines


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf tag TEXT ... --model FOLDER [--output FILE] [options]",
        description="Label the words of a text with a trained tagger, and write the words and tags of each sentence as "
        "JSON lines. elmo-hf pretrain and perplexity read them with --text_column words --pos_column tags.",
        example="echo 'Marie Curie worked in Paris .' | elmo-hf tag - --model tagger",
    )
    parser.add_argument("text", nargs="+", help=TEXT_HELP)
    add_model(parser, "folder of a tagger (ElmoForTokenClassification) and its tokenizer")
    parser.add_argument("--output", default="-", metavar="FILE", help="JSON lines to write; - for stdout")
    add_batch_words(parser)
    add_text_options(parser)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`tag_iter`] and write the tagged sentences."""
    folder = chosen_model(options, "text", shipped=False)

    from elmo_hf.inference.loading import load_tokenizer
    from elmo_hf.inference.tagging import tag_iter

    from .output import written

    tokenizer = load_tokenizer(None, folder)
    words = words_of_lines(options, tokenizer)
    batch_words, device = options["batch_words"], options["device"]
    with written(options["output"]) as file:
        for sentence in tag_iter(words, folder, tokenizer, batch_words=batch_words, device=device):
            assert file is not None  # there is always an output
            record = {"words": list(sentence.words), "tags": list(sentence.tags)}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return 0

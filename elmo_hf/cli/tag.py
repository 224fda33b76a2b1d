"""`elmo-hf tag`: the words of a text with a tagger's labels, for instance parts of speech to pretrain with."""

import json
from typing import Any

from .output import written
from .text import add_text_options, words_of_lines


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "tag",
        dataclass_types=[],
        help="label the words of a text with a trained tagger",
        description="Label the words of a text with a trained tagger and write JSON lines, each the words of a "
        "sentence and their tags: text for elmo-hf pretrain and perplexity with --text_column words --pos_column tags.",
    )
    parser.add_argument("model", help="folder of a tagger (ElmoForTokenClassification) and its tokenizer")
    parser.add_argument("text", nargs="+", help="files, globs, or the name of a data set")
    parser.add_argument("--output", required=True, help="file of JSON lines to write; - for stdout")
    parser.add_argument(
        "--batch_words", "--batch-words", type=int, default=2048, help="words read at a time (default 2048)"
    )
    parser.add_argument("--device", help="such as cuda (default: the GPU if there is one)")
    add_text_options(parser)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`tag_iter`] and write what it finds."""
    from elmo_hf.inference.loading import load_tokenizer
    from elmo_hf.inference.tagging import tag_iter

    tokenizer = load_tokenizer(None, options["model"])
    words = words_of_lines(options, tokenizer)
    batch_words, device = options["batch_words"], options["device"]
    with written(options["output"]) as file:
        for sentence in tag_iter(words, options["model"], tokenizer, batch_words=batch_words, device=device):
            assert file is not None  # there is always an output
            record = {"words": list(sentence.words), "tags": list(sentence.tags)}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    return 0

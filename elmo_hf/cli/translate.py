"""`elmo-hf translate`: translate or summarize texts."""

from collections.abc import Iterable
from typing import Any

from .models import add_model, chosen_model
from .text import TEXT_HELP, add_text_options


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "translate",
        usage="elmo-hf translate TEXT ... --model FOLDER [--output FILE] [options]",
        help="translate or summarize texts",
        description="Write the translation or summary of each line of a text, by a model trained with "
        "examples/run_translation.py.",
        example="echo 'A dog is running.' | elmo-hf translate - --model translator",
    )
    parser.add_argument("text", nargs="+", help=TEXT_HELP)
    add_model(parser, "folder of a translator (ElmoEncoderDecoderModel) with its two tokenizers")
    parser.add_argument("--output", default="-", metavar="FILE", help="text to write; - for stdout")
    parser.add_argument("--num_beams", type=int, metavar="N", help="beam size (default: the model's)")
    parser.add_argument("--batch_words", type=int, default=1024, metavar="N", help="words per batch")
    add_text_options(parser)
    parser.set_defaults(run=run, blank_lines="keep")  # one output line per input line


def run(options: dict[str, Any]) -> int:
    """Call [`translate_iter`] and write the translations."""
    folder = chosen_model(options, shipped=False)

    from elmo_hf import translate_iter

    from .output import written
    from .text import open_text

    lines: Iterable[Any] = open_text(options)
    texts = (line if isinstance(line, str) else " ".join(getattr(line, "words", line)) for line in lines)
    names = ("batch_words", "num_beams", "device")
    with written(options["output"]) as file:
        assert file is not None  # there is always an output
        for text in translate_iter(texts, folder, **{name: options[name] for name in names}):
            file.write(" ".join(text.split()) + "\n")
    return 0

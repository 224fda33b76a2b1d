"""`elmo-hf translate`: translate or summarize texts."""

from collections.abc import Iterable
from typing import Any

from .models import add_model, chosen_model
from .options import add_number
from .text import TEXT_HELP, add_text_options


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf translate TEXT ... --model FOLDER [--output FILE] [options]",
        description="Write the translation or summary of each line of a text, by a model trained with "
        "examples/run_translation.py.",
        example="echo 'A dog is running.' | elmo-hf translate - --model translator",
    )
    parser.add_argument("text", nargs="+", help=TEXT_HELP)
    add_model(parser, "folder of a translator (ElmoEncoderDecoderModel) with its two tokenizers")
    parser.add_argument("--output", default="-", metavar="FILE", help="text to write; - for stdout")
    add_number(parser, "--num_beams", "beam size (default: the model's)")
    add_number(parser, "--batch_words", "words per batch", 1024)
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

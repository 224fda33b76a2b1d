"""`elmo-hf fill`: words for the gaps of a sentence."""

from typing import Any

from .models import SHIPPED, add_model, chosen_model
from .options import add_number
from .output import add_json, tell


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf fill SENTENCE --model FOLDER [options]",
        description="Print the most probable words for each <mask> of a sentence, given both sides of it, with their "
        "probabilities. Several gaps are filled independently.",
        example="elmo-hf fill 'The <mask> sat on the mat .' --model run/model",
    )
    parser.add_argument("sentence", nargs="+", help="sentences with <mask>, each one argument; - for lines of stdin")
    add_model(parser, "folder of a language model and its tokenizer" + SHIPPED)
    add_number(parser, "--count", "number of words per gap", 5)
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Run Transformers' fill-mask pipeline and print its results."""
    folder = chosen_model(options)
    if options["count"] < 1:
        raise ValueError(f"count={options['count']}: expected at least 1")

    import sys

    from transformers import pipeline

    from elmo_hf import ElmoForMaskedLM
    from elmo_hf.inference.loading import check_mask, load_model, load_tokenizer

    tokenizer = load_tokenizer(None, folder)
    mask: Any = tokenizer.mask_token
    if mask is None:
        raise ValueError(f"{folder}: its tokenizer has no vocabulary, from which words could fill a gap")
    model = load_model(folder, ElmoForMaskedLM, device=options["device"])
    check_mask(model.config, tokenizer)
    fill = pipeline("fill-mask", model=model, tokenizer=tokenizer, device=model.device)
    sentences = [line for each in options["sentence"] for line in (sys.stdin if each == "-" else [each])]
    for sentence in map(str.strip, sentences):
        gaps = sentence.count(mask)
        if not gaps:
            raise ValueError(f"{sentence!r} has no gap: write {mask} where a word is missing")
        found: Any = fill(sentence, top_k=options["count"])
        answers = [[(each["score"], each["token_str"]) for each in gap] for gap in (found if gaps > 1 else [found])]
        lines = [sentence] if len(sentences) > 1 else []
        for number, gap in enumerate(answers, 1):
            lines += [f"gap {number}"] if gaps > 1 else []
            lines += [f"{score:.3f}  {word}" for score, word in gap]
        words = [[{"probability": score, "word": word} for score, word in gap] for gap in answers]
        tell(options, {"sentence": sentence, "gaps": words}, "\n".join(lines))
    return 0

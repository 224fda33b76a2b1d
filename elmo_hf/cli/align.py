"""`elmo-hf align`: a model mapped into the space of another language's model, by a dictionary."""

from itertools import islice
from typing import Any

from .options import add_flag, add_number
from .output import add_json, tell
from .text import add_batch_words, add_text_options, words_of_lines


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf align SOURCE TARGET --dictionary FILE --source_text TEXT ... --target_text TEXT ... "
        "--output FOLDER [options]",
        description="Fit an orthogonal map of every layer on a bilingual dictionary (Schuster et al. 2019) and save "
        "the biLM with it: its vectors are then comparable with those of the target model. The two texts need not be "
        "translations of each other.",
        renamed={"--output_dir": "--output"},
        example="elmo-hf align elmo-de elmo-en --dictionary de-en.txt --source_text de.txt --target_text en.txt "
        "--output elmo-de-in-en",
    )
    parser.add_argument("source", help="folder of the model to align, and its tokenizer")
    parser.add_argument(
        "target",
        nargs="?",
        help="folder of the model whose space is kept, and its tokenizer (default: the shipped English model)",
    )
    parser.add_argument(
        "--dictionary",
        required=True,
        metavar="FILE",
        help="dictionary with a source word and its translation per line, as in MUSE",
    )
    for side in ("source", "target"):
        parser.add_argument(
            f"--{side}_text", nargs="+", required=True, metavar="TEXT", help="files, globs, or the name of a data set"
        )
    parser.add_argument("--output", required=True, metavar="FOLDER", help="folder for the aligned biLM")
    parser.add_argument(
        "--test_dictionary",
        metavar="FILE",
        help="dictionary on which to measure how many words are nearest to one of their translations",
    )
    add_flag(parser, "--lowercase", "also count words for their lower-cased forms in the dictionary")
    add_flag(parser, "--match_lengths", "also scale each layer to the mean vector length of the target model")
    add_number(parser, "--max_sentences", "read at most N sentences of each text")
    add_batch_words(parser)
    parser.add_argument("--device", help="such as cuda (default: the GPU if there is one)")
    add_json(parser)
    add_text_options(parser)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Fit and save the alignment, and print its quality."""
    import torch

    from elmo_hf import ElmoModel, ElmoTokenizer
    from elmo_hf.alignment import anchors, fit_alignment, read_dictionary, set_alignment, translation_precision
    from elmo_hf.inference.loading import load_model, named

    options |= {name: named(options[name]) for name in ("source", "target")}
    pairs = read_dictionary(options["dictionary"])
    test_pairs = read_dictionary(options["test_dictionary"]) if options["test_dictionary"] else []
    if options["max_sentences"] is not None and options["max_sentences"] < 1:
        raise ValueError(f"max_sentences={options['max_sentences']}: expected at least 1")
    device = torch.device(options["device"] or ("cuda" if torch.cuda.is_available() else "cpu"))
    found = []
    source = None
    for side, name in enumerate(("source", "target")):
        model = load_model(options[name], ElmoModel, device=device)
        if side == 0:
            source = model
            if model.config.aligned:
                raise ValueError(f"{options[name]} is aligned already: give the model it was made of")
        tokenizer = ElmoTokenizer.from_pretrained(options[name])
        sentences = words_of_lines({**options, "text": options[f"{name}_text"]}, tokenizer)
        found.append(
            anchors(
                islice(sentences, options["max_sentences"]),
                model,
                tokenizer,
                words=(pair[side] for pair in (*pairs, *test_pairs)),
                lowercase=options["lowercase"],
                batch_words=options["batch_words"],
            )
        )
    ours, theirs = found
    alignment = fit_alignment(ours, theirs, pairs, match_lengths=options["match_lengths"])
    assert source is not None
    set_alignment(source, alignment.maps)
    source.save_pretrained(options["output"])
    ElmoTokenizer.from_pretrained(options["source"]).save_pretrained(options["output"])
    record: dict[str, Any] = {
        "output": options["output"],
        "pairs": len(alignment.pairs),
        "cosine_before": list(alignment.before),
        "cosine_after": list(alignment.after),
    }
    lines = [f"{options['output']}: {alignment}"]
    if test_pairs:
        precision = translation_precision(alignment.apply(ours), theirs, test_pairs)
        record["precision"] = {"words": precision.words, "cosine": list(precision.cosine), "csls": list(precision.csls)}
        lines.append(str(precision))
    tell(options, record, "\n".join(lines))
    return 0

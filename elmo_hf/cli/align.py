"""`elmo-hf align`: a model mapped into the space of another language's model, by a dictionary."""

from itertools import islice
from typing import Any

from .text import add_text_options, words_of_lines


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "align",
        dataclass_types=[],
        help="map a model's layers into the space of another language's model",
        description="Fit an orthogonal map of every layer on a bilingual dictionary (Schuster et al. 2019) and save "
        "the biLM with it: its vectors are then comparable with those of the target model. The two texts need not be "
        "translations of each other.",
    )
    parser.add_argument("source", help="folder of the model to align, and its tokenizer")
    parser.intermixed = True
    parser.add_argument(
        "target",
        nargs="?",
        help="folder of the model whose space is kept, and its tokenizer (default: the shipped English model)",
    )
    parser.add_argument(
        "--dictionary", required=True, help="a source word and its translation a line, as MUSE's dictionaries"
    )
    parser.add_argument(
        "--source_text", "--source-text", nargs="+", required=True, help="files, globs, or the name of a data set"
    )
    parser.add_argument(
        "--target_text", "--target-text", nargs="+", required=True, help="files, globs, or the name of a data set"
    )
    parser.add_argument("--output_dir", "--output-dir", required=True, help="folder for the aligned biLM")
    parser.add_argument(
        "--test_dictionary",
        "--test-dictionary",
        help="a dictionary to measure on how many words are nearest to a translation of theirs",
    )
    parser.add_argument(
        "--lowercase", action="store_true", help="count a word for its lower-cased form where a dictionary has that"
    )
    parser.add_argument(
        "--match_lengths",
        "--match-lengths",
        action="store_true",
        help="also scale each layer to the mean vector length of the target model",
    )
    parser.add_argument(
        "--max_sentences", "--max-sentences", type=int, help="read no more than so many sentences of each text"
    )
    parser.add_argument(
        "--batch_words", "--batch-words", type=int, default=2048, help="words read at a time (default 2048)"
    )
    parser.add_argument("--device", help="such as cuda (default: the GPU if there is one)")
    add_text_options(parser)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Fit, save, and print what was found."""
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
    source.save_pretrained(options["output_dir"])
    ElmoTokenizer.from_pretrained(options["source"]).save_pretrained(options["output_dir"])
    print(f"{options['output_dir']}: {alignment}")
    if test_pairs:
        print(translation_precision(alignment.apply(ours), theirs, test_pairs))
    return 0

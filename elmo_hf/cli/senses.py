"""`elmo-hf senses`: cluster a word's usages into senses, and measure change between corpora."""

import dataclasses
from pathlib import Path
from typing import Any

from .models import add_model, chosen_model
from .options import UsageError, add_flag, add_number
from .output import add_json, tell
from .text import TEXT_HELP, add_batch_words, add_layers, add_text_options, files_of, words_of_lines


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf senses WORD CORPUS ... --model FOLDER [options]",
        description="Cluster the usages of a word by their contextual vectors. Each argument is a corpus; between "
        "every two corpora, measure the average pairwise distance and the prototype distance of the usages.",
        example="elmo-hf senses cell 1900.txt 2000.txt --model elmo-folder --plot cell.png",
    )
    parser.add_argument("word", help="a word's form")
    parser.add_argument("text", nargs="+", metavar="CORPUS", help=TEXT_HELP)
    add_model(parser)
    add_number(parser, "--count", "number of senses (default: by silhouette)")
    add_number(parser, "--most", "maximum number of senses without --count", 6)
    add_number(parser, "--max_usages", "maximum usages per corpus, sampled", 1000)
    add_flag(parser, "--match_case", "distinguish upper and lower case")
    parser.add_argument("--plot", metavar="FILE", help="plot the usages into a .png, .svg or .pdf file")
    add_layers(parser)
    add_batch_words(parser)
    add_number(parser, "--seed", "seed of sampling and clustering", 0)
    add_json(parser)
    add_text_options(parser)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`senses`], and print and plot the result."""
    folder = chosen_model(options)
    if options["plot"] and Path(options["plot"]).suffix not in (".png", ".svg", ".pdf"):
        raise UsageError(f"--plot {options['plot']}: expected a name that ends in .png, .svg or .pdf")

    from elmo_hf import draw_senses, senses
    from elmo_hf.inference.loading import load_tokenizer

    tokenizer = load_tokenizer(None, folder)
    names = list(dict.fromkeys(options["text"]))
    files = files_of(names)
    found = senses(
        options["word"],
        {name: words_of_lines({**options, "text": [file]}, tokenizer) for name, file in zip(names, files, strict=True)},
        folder,
        tokenizer,
        device=options["device"],
        **{name: options[name] for name in "count most max_usages match_case layers seed batch_words".split()},
    )
    silhouette = "" if found.silhouette is None else f", silhouette {found.silhouette:.2f}"
    several = "s" * (len(found.senses) != 1)
    lines = [f"{found.word}: {len(found.labels):,} usages, {len(found.senses)} sense{several}{silhouette}"]
    for number, sense in enumerate(found.senses, 1):
        counts = ", ".join(f"{name} {count}" for name, count in sense.counts.items())
        lines += [f"sense {number}: {counts}", *(f"    {example}" for example in sense.examples)]
    lines += [
        f"{change.first} to {change.second}: average pairwise distance {change.average_pairwise_distance:.3f}, "
        f"prototype distance {change.prototype_distance:.3f}"
        for change in found.changes
    ]
    if options["plot"]:
        draw_senses(found, options["plot"])
        lines.append(f"wrote {options['plot']}")
    record = {"word": found.word, "usages": len(found.labels), "silhouette": found.silhouette}
    record |= {"senses": [dataclasses.asdict(sense) for sense in found.senses]}
    tell(options, {**record, "changes": [dataclasses.asdict(change) for change in found.changes]}, "\n".join(lines))
    return 0

"""`elmo-hf minimal-pairs`: how often a language model prefers the acceptable sentence of a pair."""

import json
from typing import Any

from .models import SHIPPED, add_model, chosen_model
from .options import add_number
from .output import written


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf minimal-pairs FILE ... [options]",
        description="Score both sentences of minimal pairs, such as BLiMP, and report how often the acceptable one is "
        "more probable: forward, backward and by both; ties are incorrect. Files are JSON lines with good, bad, uid "
        "and phenomenon, or BLiMP's own.",
        example="elmo-hf minimal-pairs blimp/*.jsonl --limit 100",
    )
    parser.add_argument("text", nargs="+", metavar="FILE", help="JSON lines, globs")
    add_model(parser, "folder of a language model and its tokenizer" + SHIPPED)
    add_number(parser, "--limit", "read the first N pairs of each kind (default: all)")
    parser.add_argument("--published", metavar="TSV", help="accuracies of other models by uid, to show too")
    parser.add_argument("--json", metavar="FILE", help="write all numbers as JSON; - for stdout")
    parser.add_argument("--table", metavar="FILE", help="write the table to a file instead of stdout")
    parser.add_argument("--picture", metavar="FILE", help="write a PNG")
    parser.add_argument("--batch_size", type=int, default=32, help="sentences per batch (default 32)")
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Read, score and report."""
    from elmo_hf.inference import minimal_pairs as pairs
    from elmo_hf.inference import minimal_pairs_report as report

    name, files = chosen_model(options, "text"), options["text"]
    published = report.read_published(options["published"]) if options["published"] else None
    given = pairs.read_minimal_pairs(files, options["limit"])
    scores = pairs.score_minimal_pairs(given, name, batch_size=options["batch_size"], device=options["device"])
    rows = pairs.pair_accuracies(scores)
    # The table goes to stdout unless the JSON does.
    with written(options["table"] or (None if options["json"] == "-" else "-")) as file:
        if file is not None:
            cost = pairs.cost_of_unknown_words(rows)
            note = f"\nUnknown words cost {100 * cost:.1f} points, within kinds.\n" if cost == cost else ""
            file.write(report.pair_table(rows, published) + note)
    with written(options["json"]) as file:
        if file is not None:
            file.write(json.dumps(report.pair_report(rows), indent=1) + "\n")
    if options["picture"]:
        report.write_pairs_picture(rows, options["picture"])
    return 0

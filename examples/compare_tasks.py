"""Run variants of an example script with several seeds and shares of the data, and tabulate a metric.

    python examples/compare_tasks.py --script examples/run_ner.py --metric test_f1 --scale 100 --output_dir compared \\
        --bilm elmo-folder --word_vectors word2vec.txt --shares 0.01 0.1 1 --grid 'learning_rate=5e-4 1e-3 2e-3' \\
        -- --train_file train.conll --validation_file dev.conll --test_file test.conll --task_lstm_size 128 --use_crf \\
        --num_train_epochs 50 --early_stopping_patience 5 --do_train --do_eval --do_predict

measures the benefit of ELMo for a task, as the paper does. It compares word and character embeddings learned from
scratch, the same initialized from word vectors, and these combined with ELMo: with random weights, frozen, and
fine-tuned. `--variant NAME=ARGUMENTS` adds other rows, in addition to or instead of these.

Arguments after `--` are passed to every run. Running the same command again runs only what is missing: a finished run
is read from its `all_results.json`, an interrupted one continues from its last checkpoint. The table is `results.md`,
its numbers and commands `results.json`, and the picture `results.png`.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from elmo_hf.finetuning import Comparison, folder_name, run


def standard_variants(bilm: str, word_vectors: str | None, size: int) -> dict[str, list[str]]:
    """The variants that measure the benefit of ELMo; all have the task's own word and character embeddings."""
    characters = ["--task_character_size", "16"]
    learned = ["--word_vector_size", str(size), *characters]
    started = ["--word_vectors", word_vectors, *characters] if word_vectors else learned
    elmo = ["--model_name_or_path", bilm]
    rows = {
        "words and characters": ["--without_elmo", *learned],
        "started from word vectors": ["--without_elmo", *started],
        "and random biLM": [*elmo, *started, "--random_weights", "--freeze_bilm", "--cache_layers", "4"],
        "and frozen biLM": [*elmo, *started, "--freeze_bilm", "--cache_layers", "4"],
        "and fine-tuned biLM": [*elmo, *started, "--bilm_learning_rate", "3e-4"],
    }
    return rows if word_vectors else {name: row for name, row in rows.items() if "started" not in name}


def parse(argv: Sequence[str]) -> Comparison:
    """Parse the options; arguments after `--` are passed to every run."""
    parser = argparse.ArgumentParser(description="Compare variants of one example: mean and deviation over seeds.")
    parser.add_argument("--script", required=True, help="the example to run, such as examples/run_ner.py")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the runs and the table")
    parser.add_argument("--metric", required=True, help="a name in all_results.json, such as test_f1")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the metric in the table, such as 100")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[1.0], help="shares of the training data, such as 0.01 0.1 1"
    )
    parser.add_argument("--jobs", type=int, default=1, help="number of parallel runs")
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME=ARGUMENTS",
        help="a row of the table and its arguments, quoted as in a shell; repeat for each row",
    )
    parser.add_argument("--bilm", help="a pretrained biLM: adds the rows that measure its benefit")
    parser.add_argument("--word_vectors", help="for these rows, a file of initial word vectors")
    parser.add_argument("--word_vector_size", type=int, default=100, help="size of randomly initialized word vectors")
    parser.add_argument(
        "--grid",
        action="append",
        default=[],
        metavar="[VARIANT:]OPTION=VALUES",
        help="values of an option to choose from, by the validation result of the first seed; for all rows, or for one",
    )
    parser.add_argument("--choose_by", help="that result (default: the metric with eval_ instead of test_)")
    parser.add_argument("--lower_is_better", action="store_true", help="lower is better for that result, as for a loss")
    argv, common = list(argv), []
    if "--" in argv:
        argv, common = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    args = parser.parse_args(argv)
    for name, values in (("jobs", [args.jobs]), ("shares", args.shares)):
        if min(values) <= 0 or (name == "shares" and max(values) > 1):
            parser.error(
                f"--{name} {' '.join(map(str, values))}: expected numbers above 0"
                + " and at most 1" * (name == "shares")
            )
    own = {name: shlex.split(rest) for name, _, rest in (text.partition("=") for text in args.variant)}
    if any("=" not in text for text in args.variant) or len({folder_name(name) for name in own}) < len(args.variant):
        parser.error("--variant: expected NAME=ARGUMENTS, each name once")
    variants = standard_variants(args.bilm, args.word_vectors, args.word_vector_size) if args.bilm else {}
    variants |= own
    if not variants:
        parser.error("nothing to compare: give --variant, or --bilm")
    grids: dict[str, dict[str, list[str]]] = {}
    for text in args.grid:
        name, equals, values = text.partition("=")
        if not (name and equals and values.split()):
            parser.error(f"--grid {text}: expected OPTION=VALUES, such as 'learning_rate=1e-3 2e-3'")
        variant, _, option = name.rpartition(":")
        grids.setdefault(variant, {})[option] = values.split()
    options = (args.seeds, args.shares, grids, args.choose_by, args.lower_is_better, args.jobs, args.scale)
    return Comparison(args.script, variants, common, args.output_dir, args.metric, *options)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the tables; return 1 if a run failed."""
    return 1 if parse(sys.argv[1:] if argv is None else argv).compare() else 0


if __name__ == "__main__":
    run(main)

"""Run one example script in several variants and with several seeds, and tabulate a metric: mean and deviation.

    python examples/compare_tasks.py --script examples/run_ner.py --metric test_f1 --scale 100 --output_dir compared \\
        --variant 'without ELMo=--without_elmo --word_vector_size 100' \\
        --variant 'frozen biLM=--model_name_or_path elmo-folder --freeze_bilm' \\
        --variant 'fine-tuned biLM=--model_name_or_path elmo-folder --bilm_learning_rate 1e-4' \\
        -- --train_file train.conll --validation_file dev.conll --test_file test.conll --task_lstm_size 100 \\
        --do_train --do_eval --do_predict

What stands behind `--` goes to every run. The same command again runs only what is missing: a finished run is read from
its `all_results.json`, an interrupted one continues from its last checkpoint. The table is `results.md`, its numbers
with the command of each run `results.json`.
"""

import argparse
import json
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from task_training import write_atomically


@dataclass(frozen=True)
class Run:
    """One variant with one seed; its folder holds the example's own output, the command and the log."""

    variant: str
    seed: int
    folder: Path
    command: tuple[str, ...]

    @property
    def results_file(self) -> Path:
        return self.folder / "all_results.json"

    def results(self, metric: str) -> dict[str, float] | None:
        """All metrics, if the run got as far as this one.

        Raises:
            ValueError: the folder holds a run of another command.
        """
        recorded = self.folder / "command.json"
        if not recorded.is_file():
            return None
        if json.loads(recorded.read_text(encoding="utf-8")) != list(self.command):
            raise ValueError(
                f"{self.folder} holds a run of another command (see {recorded}): remove it, or choose another "
                "--output_dir"
            )
        results = json.loads(self.results_file.read_text(encoding="utf-8")) if self.results_file.is_file() else {}
        return results if metric in results else None

    def run(self, metric: str) -> dict[str, float]:
        """Run the command.

        Raises:
            RuntimeError: it failed, or has no such metric; the message says why.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "command.json", [json.dumps(self.command)])
        log = self.folder / "log.txt"
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run([sys.executable, *self.command], stdout=file, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
            raise RuntimeError(f"ended with status {done.returncode}, see {log}:\n{tail}")
        results = self.results(metric)
        if results is None:
            found = sorted(json.loads(self.results_file.read_text(encoding="utf-8")))
            raise RuntimeError(f"has no {metric}; expected one of {', '.join(found)}")
        return results


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options, and the arguments of every run, which stand behind `--`."""
    parser = argparse.ArgumentParser(description="Compare variants of one example: mean and deviation over seeds.")
    parser.add_argument("--script", required=True, help="the example to run, such as examples/run_ner.py")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the runs and the table")
    parser.add_argument("--metric", required=True, help="a name in all_results.json, such as test_f1")
    parser.add_argument("--scale", type=float, default=1.0, help="the table shows the metric times this, such as 100")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument(
        "--variant",
        action="append",
        required=True,
        metavar="NAME=ARGUMENTS",
        help="a row of the table and the arguments that make it, quoted as in a shell; repeat it for each row",
    )
    argv, common = list(argv), []
    if "--" in argv:
        argv, common = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs {args.jobs}: expected 1 or more")
    names = [text.partition("=")[0] for text in args.variant]
    if any("=" not in text for text in args.variant) or len({folder_name(name) for name in names}) < len(names):
        parser.error("--variant: expected NAME=ARGUMENTS, each name once")
    return args, common


def folder_name(variant: str) -> str:
    return re.sub(r"\W+", "-", variant.lower()).strip("-")


def all_runs(args: argparse.Namespace, common: Sequence[str]) -> list[Run]:
    """Seeds first: after a third of the time every variant has a number."""
    runs = []
    for seed in args.seeds:
        for text in args.variant:
            variant, _, extra = text.partition("=")
            folder = args.output_dir / folder_name(variant) / f"seed-{seed}"
            arguments = [*common, *shlex.split(extra), "--seed", str(seed), "--output_dir", str(folder)]
            runs.append(Run(variant, seed, folder, (args.script, *arguments)))
    return runs


def tabulate(args: argparse.Namespace, runs: Sequence[Run], results: dict[Run, dict[str, float]]) -> dict[str, Any]:
    """What `results.json` holds: each variant's values by seed, their mean and sample deviation, time and commands."""
    rows = {}
    for variant in dict.fromkeys(run.variant for run in runs):
        finished = [run for run in runs if run.variant == variant and run in results]
        values = [results[run][args.metric] for run in finished]
        seconds = [results[run]["train_runtime"] for run in finished if "train_runtime" in results[run]]
        rows[variant] = {
            "values": {str(run.seed): value for run, value in zip(finished, values, strict=True)},
            "mean": statistics.mean(values) if values else None,
            "deviation": statistics.stdev(values) if len(values) > 1 else None,
            "train_runtime": statistics.mean(seconds) if seconds else None,
            "commands": [shlex.join(["python", *run.command]) for run in finished],
        }
    return {"metric": args.metric, "variants": rows}


def markdown(table: dict[str, Any], scale: float) -> str:
    """The table, values times `scale`."""
    lines = [f"| model | {table['metric']} | deviation | by seed | training, s |", "|---|---|---|---|---|"]
    for variant, row in table["variants"].items():

        def shown(value: float | None, digits: int = 2, scale: float = scale) -> str:
            return "-" if value is None else f"{value * scale:.{digits}f}"

        seeds = ", ".join(shown(value) for value in row["values"].values())
        time = shown(row["train_runtime"], 0, 1)
        lines.append(f"| {variant} | {shown(row['mean'])} | {shown(row['deviation'])} | {seeds or '-'} | {time} |")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing and write the tables; returns 1 if a run failed."""
    args, common = parse(sys.argv[1:] if argv is None else argv)
    runs = all_runs(args, common)
    try:
        results = {run: found for run in runs if (found := run.results(args.metric)) is not None}
    except ValueError as error:
        sys.exit(f"error: {error}")
    missing = [run for run in runs if run not in results]
    print(f"{len(runs)} runs, {len(results)} of them finished before", flush=True)
    start, failed = time.monotonic(), 0
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = {pool.submit(run.run, args.metric): run for run in missing}
        for number, future in enumerate(as_completed(futures), start=1):
            run = futures[future]
            place = f"[{len(runs) - len(missing) + number}/{len(runs)}] {run.variant}, seed {run.seed}"
            try:
                found = future.result()
            except RuntimeError as error:
                failed += 1
                print(f"{place}: {error}", flush=True)
                continue
            results[run] = found
            left = (time.monotonic() - start) / number * (len(missing) - number)
            print(f"{place}: {args.metric} {found[args.metric]:.4f}; about {left:.0f} s left", flush=True)
            write_tables(args, runs, results)
    print(write_tables(args, runs, results), end="", flush=True)
    return 1 if failed else 0


def write_tables(args: argparse.Namespace, runs: Sequence[Run], results: dict[Run, dict[str, float]]) -> str:
    """Write `results.json` and `results.md`, as far as there are results; returns the latter."""
    table = tabulate(args, runs, results)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(args.output_dir / "results.json", [json.dumps(table, indent=2) + "\n"])
    text = markdown(table, args.scale)
    write_atomically(args.output_dir / "results.md", [text])
    return text


if __name__ == "__main__":
    sys.exit(main())

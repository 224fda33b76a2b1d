"""Measure pretraining and fine-tuning in words/s with two checkouts of the package, in turn.

    python benchmarks/versions.py OLD NEW --books 'books-*.txt.xz' --vocabulary vocab.txt --tags train.conll \\
        --model FOLDER --threads 1 2 --rounds 2

Every row runs a program from the command line: `elmo-hf pretrain` with the shape `mini` (128 rows of 20 words, 2,048
samples, Adagrad), and `examples/run_ner.py` for three epochs with the biLM frozen, frozen with cached layers, and
fine-tuned, with the largest number of threads. Pretraining is timed over the second half of its steps, fine-tuning
over the third epoch. `--processes` adds pretraining by several processes of one thread each, in the second checkout.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

MINI = (
    '{"character_filters": [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256]], "cell_size": 512, "projection_size": 128}'
)
FINE_TUNING = {
    "frozen": ["--freeze_bilm"],
    "frozen, cached layers": ["--freeze_bilm", "--cache_layers", "8"],
    "fine-tuned": [],
}


def run(checkout: Path, threads: int, command: Sequence[str]) -> None:
    """Run a Python program with the package of a checkout."""
    paths = os.pathsep.join([str(checkout), str(checkout / "examples")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)}
    # -P: the package in the working directory would come before that of the checkout.
    done = subprocess.run(
        [sys.executable, "-P", *command], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\nfailed in {checkout}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def pretraining(args: argparse.Namespace, checkout: Path, threads: int, processes: int = 1) -> float:
    """Words/s of the second half of `--steps` training steps."""
    rows = 128 // processes
    with tempfile.TemporaryDirectory() as folder:
        options = [
            *("--train_data", *args.books, "--vocabulary", args.vocabulary, "--output_dir", folder),
            *("--preset", "small", "--config_overrides", MINI, "--rows", str(rows), "--unroll_steps", "20"),
            *("--num_samples", "2048", "--max_steps", str(args.steps), "--log_every", str(args.steps // 2)),
            *(["--processes", str(processes)] if processes > 1 else []),
        ]
        run(checkout, threads, ["-m", "elmo_hf.cli", "pretrain", *options])
        lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    speeds = [each["words_per_second"] for each in map(json.loads, lines) if "words_per_second" in each]
    return float(speeds[-1])


def fine_tuning(args: argparse.Namespace, checkout: Path, threads: int, way: str) -> float:
    """Words/s of the third epoch of `run_ner.py`, by the times of its checkpoints."""
    with tempfile.TemporaryDirectory() as folder:
        options = [
            *("--train_file", args.tags, "--task", "pos", "--model_name_or_path", args.model),
            *("--task_lstm_size", "128", "--per_device_train_batch_size", "32", "--learning_rate", "2e-3"),
            *("--num_train_epochs", "3", "--save_strategy", "epoch", "--save_total_limit", "3"),
            *("--do_train", "--output_dir", folder),
            *("--eval_strategy", "no", "--load_best_model_at_end", "false"),
        ]
        run(checkout, threads, [str(checkout / "examples" / "run_ner.py"), *options, *FINE_TUNING[way]])
        saved = sorted(each.stat().st_mtime for each in Path(folder).glob("checkpoint-*/trainer_state.json"))
    if len(saved) != 3:
        raise SystemExit(f"expected 3 checkpoints of run_ner.py in {checkout}, found {len(saved)}")
    lines = Path(args.tags).read_text(encoding="utf-8").splitlines()
    words = sum(bool(line.strip()) and not line.startswith("#") for line in lines)
    return words / (saved[2] - saved[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--books", nargs="+", required=True, help="text for pretraining")
    parser.add_argument("--vocabulary", required=True)
    parser.add_argument("--tags", required=True, help="training file of run_ner.py, one word and tag per line")
    parser.add_argument("--model", required=True, help="the biLM of the fine-tuning, which both versions can read")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--processes", type=int, nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    checkouts = args.old.resolve(), args.new.resolve()
    print(f"{'':34}{'threads':>9}{'old':>9}{'new':>9}{'new / old, by round':>24}")

    def row(name: str, threads: int, speeds: list[tuple[float, float]]) -> None:
        old, new = (statistics.median(side) for side in zip(*speeds, strict=True))
        ratios = "  ".join(f"{two / one:.2f}" for one, two in speeds)
        print(f"{name:34}{threads:>9}{old:>9,.0f}{new:>9,.0f}{ratios:>24}", flush=True)

    for threads in args.threads:
        speeds = [tuple(pretraining(args, each, threads) for each in checkouts) for _ in range(args.rounds)]
        row("pretraining", threads, [(old, new) for old, new in speeds])
    for processes in args.processes:
        found = [
            (pretraining(args, checkouts[1], processes), pretraining(args, checkouts[1], 1, processes))
            for _ in range(args.rounds)
        ]
        row(f"one process, {processes} of one thread", processes, found)
    threads = max(args.threads)
    for way in FINE_TUNING:
        speeds = [tuple(fine_tuning(args, each, threads, way) for each in checkouts) for _ in range(args.rounds)]
        row(f"run_ner.py, {way}", threads, [(old, new) for old, new in speeds])


if __name__ == "__main__":
    main()

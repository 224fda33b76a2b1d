"""Comparison of variants of a script over seeds and shares of training data: runs, grid search, table and picture."""

import json
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from elmo_hf.corpus.records import read_object

from .files import write_lines
from .report import write_figure


@dataclass(frozen=True)
class Run:
    """A run of one variant with one seed on one share of the data. Its folder holds the output, command and log.

    Attributes:
        choice: grid options of this run, as arguments; empty without a grid.
    """

    variant: str
    seed: int
    share: float
    choice: tuple[str, ...]
    folder: Path
    command: tuple[str, ...]

    def results(self, *metrics: str) -> dict[str, float] | None:
        """All metrics of the run if it has produced the given ones, else `None`.

        Raises:
            ValueError: the folder holds a run of another command.
        """
        recorded, found = self.folder / "command.json", self.folder / "all_results.json"
        if not recorded.is_file():
            return None
        try:
            command = json.loads(recorded.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            command = None
        if command != list(self.command):
            raise ValueError(
                f"{self.folder} holds a run of another command (see {recorded}): remove it, or choose another "
                "--output_dir"
            )
        results = read_object(found, "the results of a run. Remove it to run again") if found.is_file() else {}
        return results if set(metrics) <= set(results) else None

    def run(self, *metrics: str) -> dict[str, float]:
        """Run the command.

        Raises:
            RuntimeError: it failed, or has no such metrics; the message gives the reason.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_lines(self.folder / "command.json", [json.dumps(self.command)])
        log = self.folder / "log.txt"
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run([sys.executable, *self.command], stdout=file, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:])
            raise RuntimeError(f"ended with status {done.returncode}, see {log}:\n{tail}")
        results = self.results(*metrics)
        if results is None:
            found = sorted(read_object(self.folder / "all_results.json", "the results of a run"))
            raise RuntimeError(f"has no {' or no '.join(metrics)}; expected one of {', '.join(found)}")
        return results


@dataclass
class Comparison:
    """A comparison of variants of a script.

    The results of finished runs are reused.

    Args:
        script: the script to run. It must write `all_results.json` into its `--output_dir` and accept `--seed`, and
            `--train_share` for shares below 1.
        variants: arguments of each variant, by name.
        common: arguments of all variants.
        output_dir: folder for the runs and the table.
        metric: name of the result to compare.
        seeds, shares: seeds and shares of the training data of each variant's runs.
        grids: values to try for options, by option and by the variant's name, or `""` for all variants. For each
            variant and share, the values with the best validation result of the first seed are used for the others.
        choose_by: that validation result (default: the metric's).
        lower_is_better: True if lower values of `choose_by` are better.
        jobs: number of parallel runs.
        scale: factor of the metric in the table and the picture.
    """

    script: str
    variants: Mapping[str, Sequence[str]]
    common: Sequence[str]
    output_dir: Path
    metric: str
    seeds: Sequence[int] = (1, 2, 3)
    shares: Sequence[float] = (1.0,)
    grids: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    choose_by: str | None = None
    lower_is_better: bool = False
    jobs: int = 1
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.choose_by is None:
            self.choose_by = self.metric.replace("test_", "eval_", 1)
        for name in self.grids:
            if name and name not in self.variants:
                raise ValueError(f"grid of {name!r}: expected a variant among {', '.join(self.variants)}")
        self.found: dict[Run, dict[str, float]] = {}
        self.failures = 0

    def compare(self) -> int:
        """Run what is missing, write the table after each run, and print it; return the number of failed runs.

        Raises:
            ValueError: a folder holds a run of another command.
        """
        self._run_all([run for share in self.shares for run in self._runs(share, self.seeds[:1])])
        # Other seeds come later, so that every variant has a result after the first round.
        self._run_all([run for seed in self.seeds[1:] for share in self.shares for run in self._runs(share, [seed])])
        print(self.write_tables(), end="", flush=True)
        return self.failures

    def _choices(self, variant: str) -> list[tuple[str, ...]]:
        """All combinations of a variant's grid, as arguments."""
        grid = {**self.grids.get("", {}), **self.grids.get(variant, {})}
        return [
            tuple(part for n, v in zip(grid, values, strict=True) for part in (f"--{n}", v))
            for values in product(*grid.values())
        ]

    def _best_choice(self, variant: str, share: float) -> tuple[str, ...] | None:
        """The combination chosen by the first seed; `None` if none has been tried."""
        tried = [run for run in self.found if (run.variant, run.share, run.seed) == (variant, share, self.seeds[0])]
        if not tried:
            return None
        if len(tried) == 1:
            return tried[0].choice
        sign = -1 if self.lower_is_better else 1
        return max(tried, key=lambda run: sign * self.found[run][str(self.choose_by)]).choice

    def _runs(self, share: float, seeds: Iterable[int]) -> list[Run]:
        runs = []
        for seed in seeds:
            for variant in self.variants:
                choices = self._choices(variant)
                if seed != self.seeds[0]:
                    best = self._best_choice(variant, share)
                    choices = [] if best is None else [best]
                runs += [self._run_of(variant, seed, share, choice) for choice in choices]
        return runs

    def _run_of(self, variant: str, seed: int, share: float, choice: tuple[str, ...]) -> Run:
        parts = [folder_name(variant)]
        if share != 1:
            parts.append(f"share-{share:g}")
        if choice:
            pairs = zip(choice[::2], choice[1::2], strict=True)
            parts.append(",".join(f"{option[2:]}={value}" for option, value in pairs).replace("/", "_"))
        folder = self.output_dir.joinpath(*parts, f"seed-{seed}")
        arguments = [*self.common, *self.variants[variant], *choice]
        if share != 1:
            arguments += ["--train_share", f"{share:g}"]
        arguments += ["--seed", str(seed), "--output_dir", str(folder)]
        return Run(variant, seed, share, choice, folder, (self.script, *arguments))

    def _run_all(self, runs: Sequence[Run]) -> None:
        # Without a grid, a run needs no validation result.
        metrics = {
            run: (self.metric, str(self.choose_by)) if len(self._choices(run.variant)) > 1 else (self.metric,)
            for run in runs
        }
        missing = []
        for run in runs:
            results = run.results(*metrics[run])
            if results is None:
                missing.append(run)
            else:
                self.found[run] = results
        print(f"{len(runs)} runs, {len(runs) - len(missing)} of them finished before", flush=True)
        start = time.monotonic()
        with ThreadPoolExecutor(self.jobs) as pool:
            futures = {pool.submit(run.run, *metrics[run]): run for run in missing}
            for number, future in enumerate(as_completed(futures), start=1):
                run = futures[future]
                place = f"[{len(runs) - len(missing) + number}/{len(runs)}] {self._name_of(run)}"
                try:
                    self.found[run] = future.result()
                except RuntimeError as error:
                    self.failures += 1
                    print(f"{place}: {error}", flush=True)
                    continue
                left = (time.monotonic() - start) / number * (len(missing) - number)
                value = self.found[run][self.metric]
                print(f"{place}: {self.metric} {value:.4f}; about {left:.0f} s left", flush=True)
                self.write_tables()

    def _name_of(self, run: Run) -> str:
        share = "" if run.share == 1 else f", {percent(run.share)}"
        return f"{run.variant}{share}, seed {run.seed}{''.join(' ' + part for part in run.choice)}"

    def tabulate(self, share: float) -> dict[str, Any]:
        """Values by seed, mean, sample standard deviation, time, commands and grid choices, for each variant."""
        rows: dict[str, dict[str, Any]] = {}
        for variant in self.variants:
            best = self._best_choice(variant, share)
            finished = [r for r in self.found if (r.variant, r.share, r.choice) == (variant, share, best)]
            finished.sort(key=lambda run: self.seeds.index(run.seed))
            values = [self.found[run][self.metric] for run in finished]
            seconds = [self.found[run]["train_runtime"] for run in finished if "train_runtime" in self.found[run]]
            rows[variant] = {
                "values": {str(run.seed): value for run, value in zip(finished, values, strict=True)},
                "mean": statistics.mean(values) if values else None,
                "deviation": statistics.stdev(values) if len(values) > 1 else None,
                "train_runtime": statistics.mean(seconds) if seconds else None,
                "commands": [shlex.join(["python", *run.command]) for run in finished],
            }
            if best:
                rows[variant]["chosen"] = shlex.join(best)
        return rows

    def write_tables(self) -> str:
        """Write `results.json`, `results.md` and `results.png` from the results so far; return the second's text."""
        tables = {share: self.tabulate(share) for share in self.shares}
        self.output_dir.mkdir(parents=True, exist_ok=True)
        content: dict[str, Any] = {"metric": self.metric}
        if len(tables) == 1:
            content["variants"] = next(iter(tables.values()))
        else:
            content["shares"] = {f"{share:g}": {"variants": rows} for share, rows in tables.items()}
        write_lines(self.output_dir / "results.json", [json.dumps(content, indent=2) + "\n"])
        text = one_table(tables, self) if len(tables) == 1 else table_of_shares(tables, self)
        write_lines(self.output_dir / "results.md", [text])
        if any(row["values"] for rows in tables.values() for row in rows.values()):
            write_figure(draw(tables, self), self.output_dir / "results.png")
        return text


def folder_name(variant: str) -> str:
    """Folder name of a variant."""
    return re.sub(r"\W+", "-", variant.lower()).strip("-")


def percent(share: float) -> str:
    """Format a share for the table."""
    return f"{100 * share:g} %"


Tables = Mapping[float, Mapping[str, Mapping[str, Any]]]


def _shown(value: float | None, scale: float, digits: int = 2) -> str:
    return "-" if value is None else f"{value * scale:.{digits}f}"


def one_table(tables: Tables, comparison: Comparison) -> str:
    """A Markdown table of one share: mean, standard deviation, each seed's value, time, and grid choice."""
    rows, scale = next(iter(tables.values())), comparison.scale
    chosen = any("chosen" in row for row in rows.values())
    head = [comparison.metric, "deviation", "by seed", "training, s", *(["chosen"] if chosen else [])]
    lines = [f"| model | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for variant, row in rows.items():
        seeds = ", ".join(_shown(value, scale) for value in row["values"].values())
        cells = [_shown(row["mean"], scale), _shown(row["deviation"], scale), seeds or "-"]
        cells.append(_shown(row["train_runtime"], 1, 0))
        if chosen:
            cells.append(f"`{row['chosen']}`" if "chosen" in row else "-")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def table_of_shares(tables: Tables, comparison: Comparison) -> str:
    """A Markdown table with one column per share."""
    scale = comparison.scale
    head = [f"{comparison.metric}, {percent(share)}" for share in tables]
    lines = [f"| model | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for variant in comparison.variants:
        rows = [rows[variant] for rows in tables.values()]
        cells = [f"{_shown(row['mean'], scale)} ± {_shown(row['deviation'], scale)}" for row in rows]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(tables: Tables, comparison: Comparison) -> Figure:
    """Plot means with standard deviations: bars for one share, or one line per variant over several."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for number, variant in enumerate(comparison.variants):
        shares = [share for share, rows in tables.items() if rows[variant]["values"]]
        means = [tables[share][variant]["mean"] * comparison.scale for share in shares]
        errors = [(tables[share][variant]["deviation"] or 0.0) * comparison.scale for share in shares]
        if len(tables) > 1:
            axes.errorbar([100 * share for share in shares], means, errors, label=variant, marker=".", capsize=3)
        elif means:
            axes.bar([number], means, yerr=errors, capsize=3)
    if len(tables) > 1:
        axes.set(xscale="log", xlabel="training data, %")
        axes.legend(frameon=False)
    else:
        axes.set_xticks(range(len(comparison.variants)), list(comparison.variants), rotation=20, ha="right")
    axes.set_ylabel(comparison.metric)
    axes.grid(axis="y", alpha=0.3)
    return figure

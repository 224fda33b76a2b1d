"""Make the page of results from the output of `results.py`, `ngram_perplexity.py` and `elmo-hf minimal-pairs`.

    python benchmarks/results_page.py outputs/results --output docs/results.md

This reads those of `cells.jsonl`, `perplexity.jsonl` and `minimal_pairs.md` that are in the folder, and the cells of
biLMs adapted to a task's domain in `domain/cells.jsonl`. It writes tables with means and sample standard deviations
over seeds, error reductions of the better ELMo variant against the best baseline, the commands, and a picture of
scores by share of the training data.
"""

import argparse
import json
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from results import TASKS, VARIANTS, read_cells
from robustness import KINDS

from elmo_hf.finetuning import write_figure, write_lines

Cells = Sequence[Mapping[str, Any]]
BASELINES, ELMOS = ("w", "a", "b"), ("d", "e")


def percent(score: float, metric: str) -> float:
    """A score in percent, as in tables; BLEU already is."""
    return score if metric == "bleu" else 100 * score


def chosen(cells: Cells, task: str, variant: str, share: float) -> list[Mapping[str, Any]]:
    """Runs of a variant with the rate chosen by the validation result of the first seed on all training data."""
    mine = [cell for cell in cells if (cell["task"], cell["variant"]) == (task, variant)]
    whole = [cell for cell in mine if cell["share"] == 1]
    if not whole:
        return []
    first = min(cell["seed"] for cell in whole)
    rate = max((cell["validation"], cell["rate"]) for cell in whole if cell["seed"] == first)[1]
    return sorted((c for c in mine if c["share"] == share and c["rate"] == rate), key=lambda cell: cell["seed"])


def rate_table(cells: Cells) -> list[str]:
    """Table of the validation scores, in percent, by which a learning rate was chosen; the chosen one is in bold."""
    lines = ["| | learning rate: validation score of the first seed |", "|---|---|"]
    for task in TASKS:
        for variant in VARIANTS:
            used = chosen(cells, task, variant, 1.0)
            tried = [
                cell
                for cell in cells
                if (cell["task"], cell["variant"], cell["share"]) == (task, variant, 1)
                and cell["seed"] == used[0]["seed"]
            ]
            if len(tried) > 1:
                shown = []
                for cell in sorted(tried, key=lambda cell: float(cell["rate"])):
                    text = f"{cell['rate']}: {percent(cell['validation'], cell['metric']):.1f}"
                    shown.append(f"**{text}**" if cell["rate"] == used[0]["rate"] else text)
                lines.append(f"| {task}, ({variant}) | {', '.join(shown)} |")
    return lines if len(lines) > 2 else []


def mean_and_deviation(values: Sequence[float]) -> str:
    """Format `mean ± deviation (runs)`, without deviation for a single run."""
    if not values:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.1f} (1)"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} ({len(values)})"


def scores_of(cells: Cells, task: str, variant: str, share: float = 1.0) -> list[float]:
    """Test scores by seed, in percent."""
    return [percent(cell["test"], cell["metric"]) for cell in chosen(cells, task, variant, share)]


def fewer_errors(cells: Cells, task: str, share: float = 1.0) -> float | None:
    """Error reduction in percent, by means: the better of (d) and (e) against the best without a biLM."""
    best = []
    for variants in (BASELINES, ELMOS):
        means = [statistics.mean(s) for variant in variants if (s := scores_of(cells, task, variant, share))]
        if not means:
            return None
        best.append(max(means))
    baseline, elmo = best
    return 100 * (elmo - baseline) / (100 - baseline)


def task_table(cells: Cells, share: float) -> list[str]:
    """Table with one row per task and one column per variant that was run."""
    tasks = [task for task in TASKS if any(scores_of(cells, task, variant, share) for variant in VARIANTS)]
    variants = [variant for variant in VARIANTS if any(scores_of(cells, task, variant, share) for task in tasks)]
    lines = [f"| | {' | '.join(f'({variant}) {VARIANTS[variant]}' for variant in variants)} | fewer errors |"]
    lines.append("|---" * (len(variants) + 2) + "|")
    for task in tasks:
        values = [mean_and_deviation(scores_of(cells, task, variant, share)) for variant in variants]
        gain = fewer_errors(cells, task, share)
        shown = "–" if gain is None else f"{gain:+.1f} %"
        lines.append(f"| {task}, {TASKS[task].metric} | {' | '.join(values)} | {shown} |")
    return lines


def typo_table(cells: Cells) -> list[str]:
    """Table with one row per task and variant tested with typing errors, and one column per kind of error."""
    lines = [f"| | as it is | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 2) + "|"]
    for task in TASKS:
        for variant, name in VARIANTS.items():
            runs = [cell for cell in chosen(cells, task, variant, 1.0) if cell.get("typos")]
            if runs:
                columns = [[percent(run["test"], run["metric"]) for run in runs]]
                columns += [
                    [percent(r["typos"][kind], r["metric"]) for r in runs if kind in r["typos"]] for kind in KINDS
                ]
                lines.append(f"| {task}, ({variant}) {name} | {' | '.join(map(mean_and_deviation, columns))} |")
    return lines if len(lines) > 2 else []


def domain_table(cells: Cells, adapted: Cells) -> list[str]:
    """Table of scores with the shipped biLM and with one adapted to the task's domain."""
    lines = ["| | shipped biLM | adapted |", "|---|---|---|"]
    for task in TASKS:
        for variant in VARIANTS:
            if after := scores_of(adapted, task, variant):
                before = mean_and_deviation(scores_of(cells, task, variant))
                lines.append(f"| {task}, {TASKS[task].metric}, ({variant}) | {before} | {mean_and_deviation(after)} |")
    return lines


def draw_shares(cells: Cells, path: Path) -> bool:
    """Plot scores by share of the training data: one panel per task with several shares, one line per variant.

    Returns:
        Whether there is such a task.
    """
    from matplotlib.figure import Figure

    shares = sorted({cell["share"] for cell in cells})
    tasks = [task for task in TASKS if len({cell["share"] for cell in cells if cell["task"] == task}) > 1]
    if not tasks:
        return False
    figure = Figure(figsize=(4 * len(tasks), 3.5), layout="constrained")
    for panel, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for variant in VARIANTS:
            found = [(share, s) for share in shares if (s := scores_of(cells, task, variant, share))]
            if found:
                means = [statistics.mean(s) for _, s in found]
                errors = [statistics.stdev(s) if len(s) > 1 else 0.0 for _, s in found]
                panel.errorbar([100 * share for share, _ in found], means, errors, marker=".", capsize=3, label=variant)
        panel.set(xscale="log", xlabel="training data, %", title=f"{task}, {TASKS[task].metric}")
        panel.grid(alpha=0.3)
        panel.legend(frameon=False)
    write_figure(figure, path)
    return True


def perplexity_table(path: Path) -> list[str]:
    """Table with one row per model and text; the last measurement counts."""
    rows = {(row["model"], row["text"]): row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    lines = ["| text | model | forward | backward | both | predictions | unknown words |", "|---" * 7 + "|"]
    for (model, text), row in sorted(rows.items(), key=lambda item: item[0][::-1]):
        numbers = " | ".join("–" if row.get(n) is None else f"{row[n]:.1f}" for n in ("forward", "backward", "both"))
        unknown = f"{100 * row['unknown'] / row['words']:.1f} %" if row.get("unknown") is not None else "–"
        lines.append(f"| {text} | {model} | {numbers} | {row['targets']:,} | {unknown} |")
    return lines


def phenomena(path: Path) -> list[str]:
    """The table of `elmo-hf minimal-pairs` without the rows of single paradigms; it sets the others in bold."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.replace("**", "") for line in lines if line.startswith(("|  |", "|---", "| **"))]


def commands_of(cells: Cells) -> list[str]:
    """The command of each task and variant, from its first run on all training data; `DATA` is the data's folder."""
    lines = ["```sh no_run"]
    for task in TASKS:
        for variant in VARIANTS:
            runs = chosen(cells, task, variant, 1.0)
            if runs:
                lines += [f"# {task}, ({variant})", f"python examples/{shlex.join(runs[0]['command'])}"]
    return [*lines, "```"]


def page(folder: Path, output: Path) -> list[str]:
    """Lines of the page; also writes its picture."""
    cells = read_cells(folder / "cells.jsonl")
    made = "Made by `benchmarks/results_page.py` from the runs of `benchmarks/results.py`; the commands are at the end."
    lines = ["# Results", "", made, ""]
    if cells:
        lines += [
            "## Tasks",
            "",
            "Test scores of the best validation epoch: mean, sample deviation and, in parentheses, the runs.",
            "The learning rate of each variant is the one with the best validation result of the first seed. The last",
            "column is the relative reduction of errors, from the best mean without a biLM to that of (d) and (e).",
            "",
        ]
        for share in sorted({cell["share"] for cell in cells}, reverse=True):
            lines += [f"With {100 * share:g} % of the training data:", "", *task_table(cells, share), ""]
        picture = output.with_name(output.stem + "_shares.png")
        if draw_shares(cells, picture):
            lines += [f"![Scores over shares of the training data]({picture.name})", ""]
        if rates := rate_table(cells):
            lines += ["Learning rates tried, where more than one was:", "", *rates, ""]
        if adapted := read_cells(folder / "domain" / "cells.jsonl"):
            lines += [
                "## Domain",
                "",
                "The biLM was first trained further on a million words of the task's kind of text.",
            ]
            lines += ["", *domain_table(cells, adapted), "", *commands_of(adapted), ""]
        if typos := typo_table(cells):
            lines += [
                "## Typing errors",
                "",
                "About a third of the test words with an error (`benchmarks/robustness.py`):",
            ]
            lines += ["", *typos, ""]
    if (path := folder / "perplexity.jsonl").is_file():
        lines += ["## Perplexity", "", "With the full softmax; unknown words count as `<UNK>`.", ""]
        lines += [*perplexity_table(path), ""]
    if (path := folder / "minimal_pairs.md").is_file():
        lines += [
            "## BLiMP",
            "",
            "Accuracy in percent, by phenomenon; ties count as incorrect.",
            "",
            *phenomena(path),
            "",
        ]
    if cells:
        lines += ["## Commands", "", *commands_of(cells), ""]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the output_dir of results.py")
    parser.add_argument("--output", type=Path, required=True, help="the page, such as docs/results.md")
    args = parser.parse_args()
    write_lines(args.output, (line + "\n" for line in page(args.folder, args.output)))
    print(args.output)


if __name__ == "__main__":
    main()

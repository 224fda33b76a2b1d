"""Reports of accuracies on minimal pairs: table, JSON and picture, with those of other models for comparison."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elmo_hf.atomic import appearing

from .minimal_pairs import DIRECTIONS, TIE, PairAccuracy, cost_of_unknown_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pair_table(rows: Sequence[PairAccuracy], published: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """A Markdown table, in percent: all pairs, then phenomena, then kinds.

    Args:
        rows: result of `pair_accuracies`.
        published: accuracies of other models by kind, shown in further columns; for phenomena and all pairs, means over
            kinds.
    """
    others = _published_of(rows, published or {})
    names = list(next(iter(others.values()), {}))
    titles = ["", "pairs", "forward", "backward", "both", "ties", "with unknown words", "of those", "of the others"]
    lines = ["| " + " | ".join([*titles, *names]) + " |", "|" + "---|" * (len(titles) + len(names))]
    for level in ("all", "phenomenon", "kind"):
        for row in rows:
            if row.level != level:
                continue
            shares = (row.forward, row.backward, row.both, row.ties, row.with_unknown, row.unknown, row.known)
            beside = [others.get(row.name, {}).get(name, float("nan")) for name in names]
            name = f"**{row.name}**" if level != "kind" else row.name
            lines.append("| " + " | ".join([name, f"{row.pairs:,}", *map(_percent, (*shares, *beside))]) + " |")
    return "\n".join(lines) + "\n"


def _percent(share: float) -> str:
    return "–" if share != share else f"{100 * share:.1f}"


def _published_of(
    rows: Iterable[PairAccuracy], published: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """Accuracies of other models by row name; for groups, the mean over the kinds they contain."""
    kinds = [row for row in rows if row.level == "kind" and row.name in published]
    found = {row.name: dict(published[row.name]) for row in kinds}
    groups = {"all": kinds} | {
        row.phenomenon: [each for each in kinds if each.phenomenon == row.phenomenon] for row in kinds
    }
    for name, members in groups.items():
        if members and name:
            models = published[members[0].name]
            found[name] = {each: sum(published[row.name][each] for row in members) / len(members) for each in models}
    return found


def read_published(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """Read accuracies of other models by kind: tab-separated columns `uid`, optional `phenomenon`, and one per model.

    Raises:
        ValueError: a missing column, or a value that is not a number; the message names the line.
    """
    header: list[str] = []
    found: dict[str, dict[str, float]] = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        values = line.split("\t")
        if not header:
            header = values
            if "uid" not in header:
                raise ValueError(f"{path}, line 1: columns {header}: expected uid among them, and one of each model")
            continue
        try:
            row = dict(zip(header, values, strict=True))
            found[row["uid"]] = {
                name: float(row[name]) for name in header if name not in ("uid", "phenomenon", "field")
            }
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}: expected a number in each column of a model") from error
    return found


def pair_report(rows: Sequence[PairAccuracy]) -> dict[str, Any]:
    """All rows and the cost of unknown words for JSON, with `null` instead of NaN."""
    values = [{name: None if value != value else value for name, value in vars(row).items()} for row in rows]
    cost = cost_of_unknown_words(rows)
    return {"tie": TIE, "cost_of_unknown_words": None if cost != cost else cost, "accuracies": values}


def draw_pairs(rows: Sequence[PairAccuracy]) -> "Figure":
    """Draw bars by phenomenon (or kind, if there are none) and for all pairs, by direction, with the level of chance.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("a picture needs matplotlib: pip install 'elmo-hf[train]'") from error
    level = "phenomenon" if any(row.level == "phenomenon" for row in rows) else "kind"
    shown = [*sorted((row for row in rows if row.level == level), key=lambda row: row.forward), rows[-1]]
    figure = Figure(figsize=(8, 1.5 + 0.45 * len(shown)), layout="constrained")
    axes = figure.add_subplot(xlabel="right pairs (%)", xlim=(0, 100))
    for shift, direction, color in zip((0.25, 0, -0.25), DIRECTIONS, ("tab:blue", "tab:orange", "tab:green")):
        lengths = [100 * getattr(row, direction) for row in shown]
        if lengths[-1] == lengths[-1]:
            axes.barh([y + shift for y in range(len(shown))], lengths, 0.25, color=color, label=direction)
    axes.axvline(50, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(shown)), [row.name.replace("_", " ") for row in shown])
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def write_pairs_picture(rows: Sequence[PairAccuracy], path: str | os.PathLike[str]) -> None:
    """Write `draw_pairs` as a PNG; on failure no file is left."""
    with appearing(path) as aside:
        draw_pairs(rows).savefig(aside, format="png", dpi=120)

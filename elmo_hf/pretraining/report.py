"""Reports of a run: the log of its losses, curves, the closing line and a model card."""

import json
import platform
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import accelerate
import torch
import transformers

from elmo_hf.atomic import appearing, write_text
from elmo_hf.corpus.records import parse_json
from elmo_hf.hub.card import CardFacts, Result, file_name_only, hub_names, json_settings
from elmo_hf.hub.card import write_card as write_model_card
from elmo_hf.inference.perplexity import perplexity_of
from elmo_hf.version import __version__

from .settings import PretrainingSettings

# Points of one curve: more than the pixels of a figure; without a limit memory would grow with the run.
POINTS = 1000


@dataclass(frozen=True)
class RunSummary:
    """Summary of a run.

    Attributes:
        step, words: optimizer steps, and words predicted in each direction by all processes.
        seconds: time of the training steps, without evaluations and checkpoints, including earlier parts of the run.
        forward_loss, backward_loss: nats per word on the held-out text with the full softmax; `None` without such text.
        peak_memory: peak memory of the main process in bytes: on the GPU if there is one, otherwise in main memory.
        model_folder: the Transformers folder of the final model; `None` while the run is not finished.
        checkpoint: the newest checkpoint.
        signal: number of the signal that stopped the run; `None` if there was none.
    """

    step: int
    words: int
    seconds: float
    forward_loss: float | None
    backward_loss: float | None
    peak_memory: int | None = None
    model_folder: Path | None = None
    checkpoint: Path | None = None
    signal: int | None = None

    @property
    def words_per_second(self) -> float:
        return self.words / self.seconds if self.seconds else 0.0

    @property
    def held_out_perplexity(self) -> float | None:
        """exp of the mean of both directions' losses, as bilm-tf reports it."""
        if self.forward_loss is None or self.backward_loss is None:
            return None
        return perplexity_of((self.forward_loss + self.backward_loss) / 2)

    def line(self) -> str:
        """The run's closing line."""
        if self.model_folder is None:
            left = f"left at step {self.step:,}; the same command continues from {self.checkpoint}"
            if self.checkpoint is None:
                return left
            run = self.checkpoint.parent.parent
            return f"{left}. To use the model as it stands:\n  elmo-hf save-model {shlex.quote(str(run))}"
        parts = [
            f"{self.words:,} words seen",
            f"{timedelta(seconds=round(self.seconds))}",
            f"{self.words_per_second:,.0f} words/s",
        ]
        if self.forward_loss is not None and self.backward_loss is not None:
            parts.append(
                f"held-out perplexity {self.held_out_perplexity:.2f} "
                f"(forward {perplexity_of(self.forward_loss):.2f}, backward {perplexity_of(self.backward_loss):.2f})"
            )
        else:
            parts.append("no held-out text")
        return " | ".join(parts)


def peak_memory(device: torch.device) -> int | None:
    """Peak memory of this process in bytes, on the GPU or in main memory; `None` if the system does not count it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class MetricsLog:
    """The run's records, one JSON object per line in `metrics.jsonl`; floats keep every bit.

    A record holds `kind` ("train" or "held_out"), `step`, `words` and its numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: dict[str, Any]) -> None:
        """Add one record at the end."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def records(self) -> Iterator[dict[str, Any]]:
        """All records in order, one at a time. An incomplete last line, left by a killed run, is skipped."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                if line.endswith("\n"):
                    yield parse_json(
                        line, lambda: f"{self.path}: a line", "one record per line, as pretrain writes them"
                    )

    def keep(self, count: int) -> None:
        """Keep only the first `count` records: a resumed run writes the later ones again."""
        if self.path.exists():
            write_text(self.path, "".join(json.dumps(record) + "\n" for record in islice(self.records(), count)))


@dataclass
class Curve:
    """Points of one curve, thinned as they are added: at most `POINTS`, each the mean of equally many points."""

    def __post_init__(self) -> None:
        self.points: list[tuple[float, ...]] = []
        self.share = 1
        self.pending: list[tuple[float, ...]] = []

    def add(self, *point: float) -> None:
        """Add one point: x, then any number of values."""
        self.pending.append(point)
        if len(self.pending) == self.share:
            self.points.append(mean(self.pending))
            self.pending = []
            if len(self.points) == POINTS:
                self.points = [mean(self.points[i : i + 2]) for i in range(0, POINTS, 2)]
                self.share *= 2

    def columns(self) -> list[tuple[float, ...]]:
        """The x values, then each row of values."""
        points = self.points + ([mean(self.pending)] if self.pending else [])
        return list(zip(*points, strict=True))


def mean(points: list[tuple[float, ...]]) -> tuple[float, ...]:
    """Element-wise mean."""
    return tuple(sum(values) / len(points) for values in zip(*points, strict=True))


def draw_curves(log: MetricsLog, path: Path, title: str, loss: str) -> None:
    """Draw perplexity and speed over the words seen, as a PNG.

    Args:
        loss: kind of the trained softmax, for the label: perplexities of sampled and full softmax are not comparable.
    """
    from matplotlib.figure import Figure  # here: half a second that only the end of a run needs

    train, held_out = Curve(), Curve()
    for record in log.records():
        millions = record["words"] / 1e6
        if record["kind"] == "train":
            train.add(millions, record["forward_loss"], record["backward_loss"], record["words_per_second"])
        else:
            held_out.add(millions, record["forward_loss"], record["backward_loss"])
    figure = Figure(figsize=(8, 7), layout="constrained")
    losses, speed = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    if columns := train.columns():
        for values, color, direction in zip(columns[1:3], ("tab:blue", "tab:orange"), ("forward", "backward")):
            label = f"{direction}, training ({loss} softmax)"
            losses.plot(columns[0], [perplexity_of(value) for value in values], color=color, alpha=0.5, label=label)
        speed.plot(columns[0], columns[3], color="tab:green")
    if columns := held_out.columns():
        for values, color, direction in zip(columns[1:3], ("tab:blue", "tab:orange"), ("forward", "backward")):
            style = {"color": color, "marker": "o", "linestyle": "--", "label": f"{direction}, held-out"}
            losses.plot(columns[0], [perplexity_of(value) for value in values], **style)
    losses.set(yscale="log", ylabel="perplexity", title=title)
    if losses.has_data():
        losses.legend()
    losses.grid(alpha=0.3, which="both")
    speed.set(xlabel="words seen (millions)", ylabel="words/s", ylim=(0, None))
    speed.grid(alpha=0.3)
    with appearing(path) as aside:
        figure.savefig(aside, format="png", dpi=120)


def write_card(
    folder: Path, summary: RunSummary, settings: PretrainingSettings, *, processes: int, curves: str | None
) -> None:
    """Write the card of the model in `folder`, from the run and the folder alone.

    Args:
        curves: file name of the figure in `folder`.
    """
    training = {
        "words seen, in each direction": f"{summary.words:,}",
        "optimizer steps": f"{summary.step:,}",
        "time of the steps": str(timedelta(seconds=round(summary.seconds))),
        "words/s": f"{summary.words_per_second:,.0f}",
        "processes": str(processes),
        "text": ", ".join(file_name_only(settings.train_data)),
    }
    if summary.peak_memory:
        training["peak memory of a process"] = f"{summary.peak_memory / 2**30:.2f} GiB"
    results: list[Result] = []
    notes: list[str] = []
    if summary.forward_loss is not None and summary.backward_loss is not None:
        text = ", ".join(file_name_only(settings.held_out_data or []))
        scores = {
            "perplexity": ("perplexity", summary.held_out_perplexity or 0.0),
            "perplexity_forward": ("perplexity, forward", perplexity_of(summary.forward_loss)),
            "perplexity_backward": ("perplexity, backward", perplexity_of(summary.backward_loss)),
        }
        results = [Result(name, value, text, "held-out", shown) for name, (shown, value) in scores.items()]
        notes = [
            "Perplexity is that of the full softmax; sentence boundaries are predicted too. Without a direction it is "
            "exp of the mean of both directions' losses."
        ]
    versions = {"elmo_hf": __version__}
    versions |= {module.__name__: module.__version__ for module in (torch, transformers, accelerate)}
    left_out = {"output_dir", "license", "language"}
    settings_shown = {key: value for key, value in settings.to_dict().items() if value is not None}
    write_model_card(
        folder,
        CardFacts(
            name=settings.run_name,
            summary="A bidirectional language model of the ELMo family (Peters et al. 2018), pretrained with "
            "`elmo-hf pretrain`.",
            place="model",
            license=settings.license,
            language=settings.language or [],
            datasets=hub_names(settings.train_data),
            tags=["bilm"],
            training=training,
            results=results,
            notes=notes,
            settings=json_settings({key: value for key, value in settings_shown.items() if key not in left_out}),
            curves=curves,
            versions=", ".join(
                [f"Python {platform.python_version()}", *(f"{name} {number}" for name, number in versions.items())]
            ),
        ),
    )

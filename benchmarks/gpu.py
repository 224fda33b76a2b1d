#!/usr/bin/env python3
"""Speed of ELMo on a GPU: one command, the whole table.

    python benchmarks/gpu.py --output outputs/gpu
    python benchmarks/gpu.py --allennlp /path/to/allennlp-environment/bin/python
    python benchmarks/gpu.py --device cpu --tiny          # whether the script runs, not a measurement

A model of the original size with random weights, all in turn in one process:

- *biLM*: the recurrent layers over word vectors, in inference. Beside a plain PyTorch loop (AllenNLP's: a step at a
  time, finished rows masked), beside AllenNLP itself if asked, and beside `torch.nn.LSTM(proj_size=...)`, which is
  cuDNN's: it clips nothing and knows no masks, so it is a bound and not an implementation.
- *whole*: character ids to representations.
- *biLM training*: forward and backward pass of the recurrent layers.
- *step*: a whole pretraining step with the sampled softmax (`pretraining_throughput.py`, in a process of its own).

*error* is the largest difference from the plain loop's result over its largest value; the script fails if one is above
its bound. *roofline* is the share of what the matrix products alone allow:
a step takes at least its operations over the matrix rate, and at least the recurrent weights over the memory bandwidth;
both are measured in the same run. Weights that stay in the cache between steps may pass it.
"""

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from elmo_hf import ElmoConfig, ElmoModel, __version__

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# The largest error against the plain loop, relative to the largest value: in inference, of gradients.
BOUNDS = {"bf16": (0.03, 0.06), "fp32": (1e-5, 1e-4)}
TINY = {
    "character_filters": [[1, 4], [2, 8]],
    "cell_size": 24,
    "projection_size": 8,
    "num_highway_layers": 1,
}


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def seconds_of(calls: dict[str, Callable[[], Any]], device: str, rounds: int) -> dict[str, float]:
    """The median seconds of each call, in turn, after it has run three times."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 3):
        for name, call in calls.items():
            synchronise(device)
            began = time.perf_counter()
            call()
            synchronise(device)
            if number >= 3:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def limits(device: str, dtype: torch.dtype, size: int) -> tuple[float, float]:
    """Operations/s of a large matrix product of random numbers, and bytes/s of a large copy (read and written)."""
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    source = torch.randn(size * size * 4, device=device)
    target = torch.empty_like(source)
    seconds = seconds_of({"product": lambda: one @ other, "copy": lambda: target.copy_(source)}, device, 10)
    return 2 * size**3 / seconds["product"], 2 * 4 * source.numel() / seconds["copy"]


class PlainLayers:
    """The recurrent layers of a model in the plainest code: a step at a time, rows of another length masked."""

    def __init__(self, model: ElmoModel) -> None:
        self.config, self.layers = model.config, model.encoder.layers

    def direction(self, lstm: Any, inputs: Tensor, mask: Tensor) -> Tensor:
        """(rows, words, P) in reading order; finished rows keep their state."""
        config = self.config
        hidden = inputs.new_zeros(len(inputs), config.projection_size)
        cell = torch.zeros(len(inputs), config.cell_size, device=inputs.device)
        outputs = []
        for step in range(inputs.shape[1]):
            gates = (lstm.input_proj(inputs[:, step]) + lstm.hidden_proj(hidden)).float()
            input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=-1)
            new_cell = torch.sigmoid(forget_gate + config.forget_bias) * cell
            new_cell = new_cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
            new_cell = new_cell.clamp(-config.cell_clip, config.cell_clip)
            exposed = (torch.sigmoid(output_gate) * torch.tanh(new_cell)).to(inputs.dtype)
            new_hidden = lstm.output_proj(exposed).clamp(-config.projection_clip, config.projection_clip)
            real = mask[:, step, None]
            cell, hidden = torch.where(real, new_cell, cell), torch.where(real, new_hidden, hidden)
            outputs.append(new_hidden * real)
        return torch.stack(outputs, dim=1)

    def __call__(self, words: Tensor, mask: Tensor) -> Tensor:
        """(rows, words, P), padded at the end -> the top layer, (rows, words, 2P)."""
        lengths = mask.sum(dim=1, keepdim=True)
        step = torch.arange(words.shape[1], device=words.device)
        mirrored = torch.where(step < lengths, lengths - 1 - step, step)[:, :, None].expand_as(words)
        directions = [words, words.gather(1, mirrored)]
        for layer in self.layers:
            lstms = layer.forward_lstm, layer.backward_lstm
            outputs = [self.direction(lstm, inputs, mask) for lstm, inputs in zip(lstms, directions, strict=True)]
            if layer.has_skip_connection:
                outputs = [output + inputs for output, inputs in zip(outputs, directions, strict=True)]
            directions = outputs
        return torch.cat([directions[0], directions[1].gather(1, mirrored)], dim=-1)


def unclipped(model: ElmoModel, device: str, dtype: torch.dtype) -> list[nn.LSTM]:
    """cuDNN's LSTM of the same size, one for each direction."""
    config = model.config
    return [
        nn.LSTM(
            config.projection_size, config.cell_size, config.num_hidden_layers, proj_size=config.projection_size
        ).to(device, dtype).eval()
        for _ in range(2)
    ]  # fmt: skip


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())


def operations(model: ElmoModel, words: int) -> int:
    """Of the matrix products of the recurrent layers, forward."""
    config = model.config
    weights = config.cell_size * (2 * 4 * config.projection_size + config.projection_size)
    return 2 * weights * 2 * config.num_hidden_layers * words


def roofline(model: ElmoModel, rows: int, words: int, dtype: torch.dtype, rates: tuple[float, float]) -> float:
    """Seconds below which the recurrent layers cannot be run forward, a step after the other."""
    config = model.config
    recurrent = config.cell_size * 5 * config.projection_size * 2 * config.num_hidden_layers * dtype.itemsize
    return words * max(operations(model, rows) / rates[0], recurrent / rates[1])


def random_characters(model: ElmoModel, rows: int, words: int) -> Tensor:
    """(rows, words, characters) ids of words of one to twelve letters, frequent ones often, as in text."""
    length = model.config.max_characters_per_word
    letters = torch.randint(98, 123, (4096, length))
    sizes = torch.randint(1, min(13, length - 1), (4096, 1))
    place = torch.arange(length)
    table = torch.where(
        place == 0, 259, torch.where(place <= sizes, letters, torch.where(place == sizes + 1, 260, 261))
    )
    drawn = torch.multinomial(1 / torch.arange(1.0, 4097), rows * words, replacement=True)
    return table[drawn].view(rows, words, length)


def measure_inference(
    model: ElmoModel, name: str, rows: int, options: argparse.Namespace, rates: tuple[float, float]
) -> dict[str, Any]:
    device, dtype, words = options.device, DTYPES[name], options.words
    inputs = torch.randn(rows, words, model.config.projection_size).to(device, dtype)
    mask = torch.ones(rows, words, dtype=torch.bool, device=device)
    uneven = torch.arange(words, device=device) < torch.randint(1, words + 1, (rows, 1), device=device)
    character_ids = random_characters(model, rows, words).to(device)
    plain, bound = PlainLayers(model), unclipped(model, device, dtype)
    time_major = inputs.transpose(0, 1).contiguous()
    with torch.no_grad():
        biggest = 0.0
        for real in (mask, uneven):
            given = inputs * real[:, :, None]
            found = model.encoder(given, real)[0][-1]
            biggest = max(biggest, error(found, plain(given, real)))
        calls: dict[str, Callable[[], Any]] = {
            "ours": lambda: model.encoder(inputs, mask),
            "plain": lambda: plain(inputs, mask),
            "unclipped": lambda: [lstm(time_major) for lstm in bound],
            "whole": lambda: model(character_ids=character_ids),
        }
        seconds = seconds_of(calls, device, options.rounds)
    least = roofline(model, rows, words, dtype, rates)
    more = {"roofline": least / seconds["ours"], "error": biggest, "bound": BOUNDS[name][0]}
    return speeds("biLM", name, rows, words, seconds, more)


def measure_training(
    model: ElmoModel, name: str, options: argparse.Namespace, rates: tuple[float, float]
) -> dict[str, Any]:
    """Forward and backward pass with the gradients of all weights."""
    rows, words, device, dtype = options.training_rows, options.unroll_steps, options.device, DTYPES[name]
    inputs = torch.randn(rows, words, model.config.projection_size).to(device, dtype)
    mask = torch.ones(rows, words, dtype=torch.bool, device=device)
    upstream = torch.randn(rows, words, 2 * model.config.projection_size).to(device, dtype)
    plain, weights = PlainLayers(model), list(model.encoder.parameters())

    def ours() -> list[Tensor]:
        return list(torch.autograd.grad(model.encoder(inputs, mask)[0][-1], weights, upstream))

    def of_plain() -> list[Tensor]:
        return list(torch.autograd.grad(plain(inputs, mask), weights, upstream))

    expected = of_plain()
    # Again and again: after the first calls of a shape, graphs are replayed.
    biggest = max(error(one, other) for _ in range(6) for one, other in zip(ours(), expected, strict=True))
    seconds = seconds_of({"ours": ours, "plain": of_plain}, device, options.rounds)
    # Backwards two products for each one forwards.
    least = 3 * roofline(model, rows, words, dtype, rates)
    more = {"roofline": least / seconds["ours"], "error": biggest, "bound": BOUNDS[name][1]}
    return speeds("biLM training", name, rows, words, seconds, more)


def speeds(
    work: str, precision: str, rows: int, words: int, seconds: dict[str, float], more: dict[str, float]
) -> dict[str, Any]:
    """A row of the table."""
    per_second = {name: rows * words / value for name, value in seconds.items()}
    return {"work": work, "precision": precision, "rows": rows, "words": words, **per_second, **more}


def attempt(work: str, precision: str, measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """A row of the table, of the failure if there is one: the other rows are wanted all the same."""
    try:
        return measure(*arguments)
    except RuntimeError as failure:
        return {"work": work, "precision": precision, "failed": str(failure).splitlines()[0]}


def measure_step(options: argparse.Namespace, precision: str) -> dict[str, Any]:
    """A pretraining step, ours and a plain one."""
    command = [sys.executable, str(Path(__file__).with_name("pretraining_throughput.py"))]
    command += ["--rows", str(options.training_rows), "--unroll_steps", str(options.unroll_steps)]
    command += ["--samples", str(options.samples), "--vocabulary", str(options.vocabulary)]
    command += ["--device", options.device, "--precision", {"bf16": "bf16", "fp32": "no"}[precision]]
    command += ["--steps", str(options.rounds)] + ([] if options.tiny else ["--preset", "original"])
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        return {"work": "step", "precision": precision, "failed": run.stderr.strip().splitlines()[-1]}
    found = json.loads(run.stdout[run.stdout.index("{") :])
    return {
        "work": "step",
        "precision": precision,
        "rows": options.training_rows,
        "words": options.unroll_steps,
        "ours": found["words_per_second"],
        "plain": found["words_per_second_plain"],
    }


def measure_allennlp(options: argparse.Namespace, model: ElmoModel, precision: str) -> dict[int, float]:
    """Words/s of AllenNLP's recurrent layers for each number of rows; float32 only: it cannot compute in bfloat16."""
    if options.allennlp is None or precision != "fp32":
        return {}
    command = [options.allennlp, str(Path(__file__).with_name("allennlp_lstm.py")), "--words", str(options.words)]
    command += ["--projection", str(model.config.projection_size), "--cell", str(model.config.cell_size)]
    command += ["--device", options.device, "--rows", *map(str, options.rows)]
    found = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()[-1])
    return {int(rows): int(rows) * options.words / seconds for rows, seconds in found.items()}


COLUMNS = ("ours", "plain", "allennlp", "unclipped", "whole")


def is_wrong(row: dict[str, Any]) -> bool:
    return "error" in row and not row["error"] <= row["bound"]


def table(results: list[dict[str, Any]]) -> str:
    """Words/s; a column that a row does not have stays empty."""
    lines = [
        f"{'work':<14}{'':<6}{'rows':>5}{'words':>6}" + "".join(f"{name:>12}" for name in COLUMNS)
        + f"{'ours/plain':>12}{'roofline':>10}{'error':>10}"
    ]  # fmt: skip
    for row in results:
        if "failed" in row:
            lines.append(f"{row['work']:<14}{row['precision']:<6}failed: {row['failed']}")
            continue
        values = "".join(f"{row[name]:>12,.0f}" if name in row else " " * 12 for name in COLUMNS)
        share = f"{row['roofline']:>10.0%}" if "roofline" in row else " " * 10
        difference = f"{row['error']:>10.0e}" if "error" in row else ""
        if is_wrong(row):
            difference += f" above {row['bound']:.0e}!"
        lines.append(
            f"{row['work']:<14}{row['precision']:<6}{row['rows']:>5}{row['words']:>6}{values}"
            f"{row['ours'] / row['plain']:>11.1f}x{share}{difference}"
        )
    return "\n".join(lines)


def picture(results: list[dict[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    precisions = sorted({row["precision"] for row in results})
    figure, axes = plt.subplots(1, len(precisions), figsize=(5 * len(precisions), 4), squeeze=False)
    for axis, precision in zip(axes[0], precisions, strict=True):
        rows = [row for row in results if row["work"] == "biLM" and row["precision"] == precision and "ours" in row]
        for name in COLUMNS:
            points = [(row["rows"], row[name]) for row in rows if name in row]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set(xscale="log", yscale="log", xlabel="sentences in a batch", ylabel="words/s", title=precision)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def describe(device: str) -> dict[str, str]:
    """What was measured where."""
    try:
        from triton import __version__ as triton
    except ImportError:
        triton = "none"
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "processor"
    return {"device": name, "torch": torch.__version__, "triton": triton, "elmo_hf": __version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, nargs="+", default=[32, 128, 512])
    parser.add_argument("--words", type=int, default=25, help="of a sentence")
    parser.add_argument("--precisions", nargs="+", choices=sorted(DTYPES), default=["bf16", "fp32"])
    parser.add_argument("--training_rows", type=int, default=128)
    parser.add_argument("--unroll_steps", type=int, default=20)
    parser.add_argument("--samples", type=int, default=8192, help="of the sampled softmax")
    parser.add_argument("--vocabulary", type=int, default=100_000, help="words of the made-up text of a training step")
    parser.add_argument("--rounds", type=int, default=20, help="measured calls of each; medians are taken")
    parser.add_argument("--allennlp", metavar="PYTHON", help="the interpreter of an environment with AllenNLP")
    parser.add_argument("--no_step", action="store_true", help="leave the whole pretraining step out")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: a test of this script")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu"), help="folder of gpu.json and gpu.png")
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("no GPU at hand: --device cpu --tiny tries the script out")
    if options.tiny:
        options.rows, options.words, options.rounds = [2, 3], 4, 3
        options.training_rows, options.unroll_steps, options.samples, options.vocabulary = 2, 3, 16, 200
    torch.manual_seed(0)
    # float32 is float32, also in cuDNN's LSTM.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    config = ElmoConfig.from_preset("original", **(TINY if options.tiny else {}))
    original = ElmoModel(config).eval()

    machine = describe(options.device)
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    results: list[dict[str, Any]] = []
    measured_limits = {}
    for precision in options.precisions:
        dtype = DTYPES[precision]
        rates = limits(options.device, dtype, 128 if options.tiny else 8192)
        measured_limits[precision] = {"operations_per_second": rates[0], "bytes_per_second": rates[1]}
        print(
            f"{precision}: matrix products {rates[0] / 1e12:.1f} TFLOP/s, memory {rates[1] / 1e12:.2f} TB/s", flush=True
        )
        model = copy.deepcopy(original).to(options.device, dtype)
        peers = measure_allennlp(options, model, precision)
        for rows in options.rows:
            result = attempt("biLM", precision, measure_inference, model, precision, rows, options, rates)
            results.append({**result, **({"allennlp": peers[rows]} if rows in peers else {})})
        results.append(attempt("biLM training", precision, measure_training, model, precision, options, rates))
        if not options.no_step:
            results.append(measure_step(options, precision))
    print(table(results))
    options.output.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine, "limits": measured_limits, "words_per_second": results}
    (options.output / "gpu.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    picture(results, options.output / "gpu.png")
    print(f"written to {options.output}")
    if any("failed" in row or is_wrong(row) for row in results):
        raise SystemExit("something failed, or differs from the plain loop: see the table")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measure the speed of ELMo on a GPU and print one table.

    python benchmarks/gpu.py --output outputs/gpu
    python benchmarks/gpu.py --allennlp /path/to/allennlp-environment/bin/python
    python benchmarks/gpu.py --device cpu --tiny          # a test of the script, not a measurement

The model has the original size and random weights. Each row of the table runs in its own process with a time limit, and
is printed and saved as soon as it is finished. The columns of a row alternate; if one fails, the others continue:

- *biLM*: the recurrent layers over word vectors, in inference. *ours*; *eager*, the same without CUDA graphs;
  *unfused*, with the gates' matmul by cuBLAS and the cell in a separate kernel; *plain*, a plain PyTorch loop (as
  AllenNLP's: step by step, with masks for finished rows); *allennlp* itself if requested; *unclipped*,
  `torch.nn.LSTM(proj_size=...)` by cuDNN, an upper bound without clipping and masks; *whole*, from character ids to
  representations; *quarters*, the same in four calls.
- *biLM training*: forward and backward pass of the recurrent layers; *uneven*, with sentences of 1 to all words.
- *projection*, *d_hidden*: the two matmuls of a step with the fewest outputs, as *one* call, and split along the inner
  dimension into *parts*, as a batched matmul. Microseconds, not words/s.
- *streams*: two layers of the same size over their own inputs, in sequence and in parallel on two streams: an upper
  bound of the gain of a wavefront over two layers. Microseconds.
- *step*: a whole pretraining step with the sampled softmax (`pretraining_throughput.py`).

*error* is the largest absolute difference from the plain loop's result, relative to its largest value; the script fails
if it exceeds a bound. *roofline* is the speed relative to an upper bound: a step takes at least its operations divided
by the matmul rate, and at least the recurrent weights divided by the memory bandwidth; both rates are measured first.
Weights that stay in the cache between steps may exceed it.

Below the rows, the table shows the measured value of each gain that docs/gpu.md estimates.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from elmo_hf import ElmoConfig, ElmoModel, __version__

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
# Bounds of the error relative to the plain loop: in inference, of gradients.
BOUNDS = {"bf16": (0.03, 0.06), "fp32": (1e-5, 1e-4)}
TINY = {
    "character_filters": [[1, 4], [2, 8]],
    "cell_size": 24,
    "projection_size": 8,
    "num_highway_layers": 1,
}
WARM_UPS = 3

Row = dict[str, Any]


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


class Columns:
    """Calls of a row, measured alternately; failures are recorded, and the other calls continue.

    After each round, the row so far is printed as a line of JSON, so that it is not lost if the process is killed.
    """

    def __init__(self, row: Row, device: str) -> None:
        self.row, self.device = row, device
        row.setdefault("failed", {})

    def attempt(self, name: str, call: Callable[[], Any]) -> Any:
        """Return the result of a call, or record its failure and return `None`."""
        try:
            result = call()
            synchronise(self.device)
            return result
        except Exception as failure:
            self.row["failed"][name] = f"{type(failure).__name__}: {failure}".splitlines()[0]
            return None

    def measure(self, calls: dict[str, Callable[[], Any]], rounds: int, worth: float) -> dict[str, float]:
        """Record `worth` divided by the median seconds of each call, and return these seconds."""
        times: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(rounds + WARM_UPS):
            for name, call in calls.items():
                if name in self.row["failed"]:
                    continue
                synchronise(self.device)
                began = time.perf_counter()
                self.attempt(name, call)
                if number >= WARM_UPS and name not in self.row["failed"]:
                    times[name].append(time.perf_counter() - began)
            seconds = {name: statistics.median(values) for name, values in times.items() if values}
            self.row.update({name: worth / value for name, value in seconds.items()})
            self.row["rounds"] = max(0, number + 1 - WARM_UPS)
            self.say()
        return seconds

    def say(self) -> None:
        print(json.dumps(self.row), flush=True)


@contextmanager
def switched(value: str) -> Iterator[None]:
    """Context manager that sets `ELMO_HF_GPU`, which is read at each call."""
    before = os.environ.get("ELMO_HF_GPU")
    os.environ["ELMO_HF_GPU"] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ["ELMO_HF_GPU"]
        else:
            os.environ["ELMO_HF_GPU"] = before


class PlainLayers:
    """Straightforward implementation of a model's recurrent layers: step by step, with masks for finished rows."""

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
    """cuDNN LSTMs of the same size, one for each direction."""
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
    """Floating-point operations of the forward matmuls of the recurrent layers."""
    config = model.config
    weights = config.cell_size * (2 * 4 * config.projection_size + config.projection_size)
    return 2 * weights * 2 * config.num_hidden_layers * words


def roofline(model: ElmoModel, rows: int, words: int, dtype: torch.dtype, rates: dict[str, float]) -> float:
    """Lower bound in seconds for a sequential forward pass of the recurrent layers."""
    config = model.config
    recurrent = config.cell_size * 5 * config.projection_size * 2 * config.num_hidden_layers * dtype.itemsize
    return words * max(operations(model, rows) / rates["operations"], recurrent / rates["bytes"])


def random_characters(model: ElmoModel, rows: int, words: int) -> Tensor:
    """Character ids (rows, words, characters) of random words of 1 to 12 letters, with a Zipf-like distribution."""
    length = model.config.max_characters_per_word
    letters = torch.randint(98, 123, (4096, length))
    sizes = torch.randint(1, min(13, length - 1), (4096, 1))
    place = torch.arange(length)
    table = torch.where(
        place == 0, 259, torch.where(place <= sizes, letters, torch.where(place == sizes + 1, 260, 261))
    )
    drawn = torch.multinomial(1 / torch.arange(1.0, 4097), rows * words, replacement=True)
    return table[drawn].view(rows, words, length)


def masks(rows: int, words: int, device: str) -> tuple[Tensor, Tensor]:
    """Two masks (rows, words), bool: all words, and a random number of words per row, drawn on the host."""
    uneven = torch.arange(words) < torch.randint(1, words + 1, (rows, 1))
    return torch.ones(rows, words, dtype=torch.bool, device=device), uneven.to(device)


def build(options: argparse.Namespace, **settings: Any) -> ElmoModel:
    torch.manual_seed(0)
    # No TF32, also in cuDNN's LSTM.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    config = ElmoConfig.from_preset("original", **(TINY if options.tiny else {}), **settings)
    return ElmoModel(config).eval().to(options.device, DTYPES[options.precisions[0]])


# ---------------------------------------------------------------------------------------------------- rows


def measure_limits(options: argparse.Namespace, precision: str, rows: int) -> None:
    """Measure operations/s of a large matmul and bytes/s of a large copy (reads plus writes)."""
    size, device = 128 if options.tiny else 8192, options.device
    one, other = (torch.randn(size, size).to(device, DTYPES[precision]) for _ in range(2))
    source = torch.randn(size * size * 4, device=device)
    target = torch.empty_like(source)
    columns = Columns({}, device)
    columns.measure({"operations": lambda: one @ other}, 10, 2 * size**3)
    columns.measure({"bytes": lambda: target.copy_(source)}, 10, 2 * 4 * source.numel())


def measure_inference(options: argparse.Namespace, precision: str, rows: int) -> None:
    model, device, dtype, words = build(options), options.device, DTYPES[precision], options.words
    inputs = torch.randn(rows, words, model.config.projection_size).to(device, dtype)
    mask, uneven = masks(rows, words, device)
    character_ids = random_characters(model, rows, words).to(device)
    plain, bound = PlainLayers(model), unclipped(model, device, dtype)
    time_major = inputs.transpose(0, 1).contiguous()
    columns = Columns({"rows": rows, "words": words, "bound": BOUNDS[precision][0]}, device)

    def otherwise(value: str) -> Tensor:
        with switched(value):
            return model.encoder(inputs, mask)[0][-1]

    with torch.no_grad():

        def biggest() -> float:
            given = [(inputs * real[:, :, None], real) for real in (mask, uneven)]
            ways = [model.encoder(*each)[0][-1] for each in given], [otherwise("unfused")]
            return max(error(one, plain(*each)) for way in ways for one, each in zip(way, given, strict=False))

        found = columns.attempt("error", biggest)
        columns.row.update({} if found is None else {"error": found})
        calls: dict[str, Callable[[], Any]] = {
            "ours": lambda: model.encoder(inputs, mask),
            "eager": lambda: otherwise("eager"),
            "unfused": lambda: otherwise("unfused"),
            "plain": lambda: plain(inputs, mask),
            "unclipped": lambda: [lstm(time_major) for lstm in bound],
            "whole": lambda: model(character_ids=character_ids),
            "quarters": lambda: [model(character_ids=part) for part in character_ids.chunk(4)],
        }
        seconds = columns.measure(calls, options.rounds, rows * words)
    if "ours" in seconds:
        columns.row["roofline"] = roofline(model, rows, words, dtype, options.rates) / seconds["ours"]
    columns.say()


def measure_training(options: argparse.Namespace, precision: str, rows: int) -> None:
    """Measure forward and backward pass with the gradients of all weights."""
    model, words, device, dtype = build(options), options.unroll_steps, options.device, DTYPES[precision]
    inputs = torch.randn(rows, words, model.config.projection_size).to(device, dtype)
    mask, uneven = masks(rows, words, device)
    upstream = torch.randn(rows, words, 2 * model.config.projection_size).to(device, dtype)
    plain, weights = PlainLayers(model), list(model.encoder.parameters())
    columns = Columns({"rows": rows, "words": words, "bound": BOUNDS[precision][1]}, device)

    def ours(real: Tensor = mask) -> list[Tensor]:
        given = inputs * real[:, :, None]
        return list(torch.autograd.grad(model.encoder(given, real)[0][-1], weights, upstream))

    def of_plain(real: Tensor = mask) -> list[Tensor]:
        return list(torch.autograd.grad(plain(inputs * real[:, :, None], real), weights, upstream))

    def otherwise(value: str) -> list[Tensor]:
        with switched(value):
            return ours()

    def biggest() -> float:
        pairs = [zip(ours(real), of_plain(real), strict=True) for real in (mask, uneven) for _ in range(2)]
        return max(error(one, other) for pair in pairs for one, other in pair)

    found = columns.attempt("error", biggest)
    columns.row.update({} if found is None else {"error": found})
    calls: dict[str, Callable[[], Any]] = {
        "ours": ours,
        "eager": lambda: otherwise("eager"),
        "unfused": lambda: otherwise("unfused"),
        "plain": of_plain,
    }
    seconds = columns.measure(calls, options.rounds, rows * words)
    columns.measure({"uneven": lambda: ours(uneven)}, options.rounds, int(uneven.sum()))
    if "ours" in seconds:
        # The backward pass has two matmuls for each one of the forward pass.
        columns.row["roofline"] = 3 * roofline(model, rows, words, dtype, options.rates) / seconds["ours"]
    columns.say()


def measure_matmul(options: argparse.Namespace, precision: str, rows: int, of_gates: bool) -> None:
    """Measure a matmul with few outputs, [2, rows, inner] by [2, inner, P], in one call and split."""
    config = ElmoConfig.from_preset("original", **(TINY if options.tiny else {}))
    inner, width = config.cell_size * (4 if of_gates else 1), config.projection_size
    left = torch.randn(rows, 2, inner).to(options.device, DTYPES[precision])
    right = torch.randn(2, inner, width).to(options.device, DTYPES[precision])
    columns = Columns({"rows": rows, "words": 1}, options.device)

    def parts_of(count: int) -> Callable[[], Tensor]:
        one = left.view(rows, 2 * count, inner // count).transpose(0, 1)
        other = right.view(2 * count, inner // count, width)
        out = left.new_empty(rows, 2 * count, width)
        return lambda: torch.bmm(one, other, out=out.transpose(0, 1))

    # Many per measurement, because a single call takes less time than reading the clock.
    calls = {f"parts_{count}": repeated(parts_of(count)) for count in (1, 2, 4, 8, 16) if inner % count == 0}
    seconds = columns.measure(calls, options.rounds, 1)
    columns.row["microseconds"] = {
        f"{name.removeprefix('parts_')} x": value * 1e6 / 100 for name, value in seconds.items()
    }
    columns.say()


def repeated(call: Callable[[], Any]) -> Callable[[], None]:
    def many() -> None:
        for _ in range(100):
            call()

    return many


def measure_projection(options: argparse.Namespace, precision: str, rows: int) -> None:
    measure_matmul(options, precision, rows, of_gates=False)


def measure_hidden_gradient(options: argparse.Namespace, precision: str, rows: int) -> None:
    measure_matmul(options, precision, rows, of_gates=True)


def measure_streams(options: argparse.Namespace, precision: str, rows: int) -> None:
    """Measure two independent layers in sequence and in parallel, as two steps of a wavefront."""
    # Enough words that the host launches ahead of the GPU.
    words, device = options.words * (1 if options.tiny else 16), options.device
    encoders = [build(options, num_hidden_layers=1).encoder for _ in range(2)]
    width = encoders[0].projection_size
    inputs = [torch.randn(rows, words, width).to(device, DTYPES[precision]) for _ in encoders]
    mask, _ = masks(rows, words, device)
    streams = [torch.cuda.Stream(device) if device.startswith("cuda") else None for _ in encoders]
    columns = Columns({"rows": rows, "words": words}, device)

    def in_turn() -> None:
        for encoder, given in zip(encoders, inputs, strict=True):
            encoder(given, mask)

    def side_by_side() -> None:
        for encoder, given, stream in zip(encoders, inputs, streams, strict=True):
            # `torch.cuda.stream(None)` does nothing on a CPU; each measured call is synchronized at start and end.
            with torch.cuda.stream(stream):
                encoder(given, mask)

    with torch.no_grad():
        seconds = columns.measure({"in_turn": in_turn, "side_by_side": side_by_side}, options.rounds, 2 * rows * words)
    columns.row["microseconds"] = {
        f"{name.replace('_', ' ')}, a step": value * 1e6 / words for name, value in seconds.items()
    }
    columns.say()


def measure_step(options: argparse.Namespace, precision: str, rows: int) -> None:
    """Measure a pretraining step of ours and of the plain loop."""
    command = [sys.executable, str(Path(__file__).with_name("pretraining_throughput.py"))]
    command += ["--rows", str(rows), "--unroll_steps", str(options.unroll_steps)]
    command += ["--samples", str(options.samples), "--vocabulary", str(options.vocabulary)]
    command += ["--device", options.device, "--precision", {"bf16": "bf16", "fp32": "no"}[precision]]
    command += ["--steps", str(options.rounds)] + ([] if options.tiny else ["--preset", "original"])
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    columns = Columns({"rows": rows, "words": options.unroll_steps}, "cpu")
    if run.returncode:
        columns.row["failed"]["ours"] = (run.stderr.strip().splitlines() or [f"exit status {run.returncode}"])[-1]
    else:
        found = json.loads(run.stdout[run.stdout.index("{") :])
        columns.row.update(ours=found["words_per_second"], plain=found["words_per_second_plain"], details=found)
    columns.say()


WORKS: dict[str, Callable[[argparse.Namespace, str, int], None]] = {
    "limits": measure_limits,
    "biLM": measure_inference,
    "biLM training": measure_training,
    "projection": measure_projection,
    "d_hidden": measure_hidden_gradient,
    "streams": measure_streams,
    "step": measure_step,
}


# ---------------------------------------------------------------------------------------------------- table


def run_row(options: argparse.Namespace, work: str, precision: str, rows: int, rates: dict[str, float]) -> Row:
    """Measure a row in a separate process, killed at the time limit; the last printed state of the row is kept."""
    command = [sys.executable, __file__, *sys.argv[1:], "--only", work, "--precisions", precision]
    command += ["--rows", str(rows), "--given_rates", json.dumps(rates)]
    row: Row = {"failed": {}}
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=said, stderr=errors, start_new_session=True)
        try:
            status: Any = process.wait(options.time_limit)
        except BaseException as reason:
            # With its child processes, which would disturb the next row.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(reason, subprocess.TimeoutExpired):
                raise
            status = f"killed after {options.time_limit:.0f} s"
        said.seek(0)
        lines = [line for line in said if line.startswith("{")]
        if lines:
            row = json.loads(lines[-1])
        if status:
            errors.seek(0)
            why = errors.read().strip().splitlines()
            row["failed"]["row"] = f"{status}: {why[-1]}" if isinstance(status, int) and why else str(status)
    return {"work": work, "precision": precision, "rows": rows, **row}


def measure_allennlp(options: argparse.Namespace, rows: int) -> dict[str, Any]:
    """Measure words/s of AllenNLP's recurrent layers, in float32, because it does not support bfloat16."""
    config = ElmoConfig.from_preset("original", **(TINY if options.tiny else {}))
    command = [options.allennlp, str(Path(__file__).with_name("allennlp_lstm.py")), "--words", str(options.words)]
    command += ["--projection", str(config.projection_size), "--cell", str(config.cell_size)]
    command += ["--device", options.device, "--rows", str(rows)]
    try:
        run = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=options.time_limit)
        found = json.loads(run.stdout.splitlines()[-1])
        return {"allennlp": rows * options.words / found[str(rows)]}
    except Exception as failure:
        return {"failed": {"allennlp": f"{type(failure).__name__}: {failure}".splitlines()[0]}}


COLUMNS = ("ours", "eager", "unfused", "plain", "allennlp", "unclipped", "whole", "quarters", "uneven")
HEADER = (
    f"{'work':<14}{'':<6}{'rows':>5}{'words':>6}" + "".join(f"{name:>12}" for name in COLUMNS)
    + f"{'ours/plain':>12}{'roofline':>10}{'error':>10}"
)  # fmt: skip


def is_wrong(row: Row) -> bool:
    return "error" in row and not row["error"] <= row["bound"]


def line_of(row: Row) -> str:
    """Format a row: words/s, with empty columns where nothing was measured; failures and verdicts below."""
    start = f"{row['work']:<14}{row['precision']:<6}{row['rows']:>5}"
    below = [f"\n    {name} failed: {why}" for name, why in row["failed"].items()]
    below += [f"\n    {line}" for line in row.get("verdicts", [])]
    if "microseconds" in row:
        times = "".join(f"  {name} {value:.1f} us" for name, value in row["microseconds"].items())
        return start + times + "".join(below)
    values = "".join(f"{row[name]:>12,.0f}" if name in row else " " * 12 for name in COLUMNS)
    gain = f"{row['ours'] / row['plain']:>11.1f}x" if "ours" in row and "plain" in row else " " * 12
    share = f"{row['roofline']:>10.0%}" if "roofline" in row else " " * 10
    difference = f"{row['error']:>10.0e}" if "error" in row else ""
    if is_wrong(row):
        difference += f" above {row['bound']:.0e}!"
    return f"{start}{row.get('words', ''):>6}{values}{gain}{share}{difference}" + "".join(below)


# Gains estimated without a GPU: column with the optimization, column without it, and smallest ratio worth keeping it.
GAINS = {
    "the cell fused into the gates' matmul": ("ours", "unfused", 1.03),
    "four batches joined to one": ("whole", "quarters", 1.1),
    "a wavefront of layers on two streams, at most": ("side_by_side", "in_turn", 1.2),
}


def verdicts(row: Row) -> list[str]:
    """Lines that say for each estimated gain measured in this row whether to keep it."""
    lines = []
    for name, (with_it, without, least) in GAINS.items():
        # There is no fused kernel in float32.
        if with_it in row and without in row and (row["precision"] != "fp32" or without != "unfused"):
            gain = row[with_it] / row[without]
            lines.append(f"{name}: {gain:.2f} x, {'keep (or build) it' if gain >= least else 'leave it out'}")
    return lines


def picture(results: list[Row], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    precisions = sorted({row["precision"] for row in results})
    figure, axes = plt.subplots(1, len(precisions), figsize=(5 * len(precisions), 4), squeeze=False)
    for axis, precision in zip(axes[0], precisions, strict=True):
        rows = [row for row in results if row["work"] == "biLM" and row["precision"] == precision]
        for name in COLUMNS:
            points = [(row["rows"], row[name]) for row in rows if name in row]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set(xscale="log", yscale="log", xlabel="sentences in a batch", ylabel="words/s", title=precision)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def describe(device: str) -> dict[str, str]:
    """Device and versions of the measurement."""
    try:
        from triton import __version__ as triton
    except ImportError:
        triton = "none"
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"
    return {"device": name, "torch": torch.__version__, "triton": triton, "elmo_hf": __version__}


def parse() -> argparse.Namespace:
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
    parser.add_argument("--time_limit", type=float, default=120, help="seconds of a row")
    parser.add_argument("--allennlp", metavar="PYTHON", help="the interpreter of an environment with AllenNLP")
    parser.add_argument("--no_step", action="store_true", help="leave the whole pretraining step out")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: a test of this script")
    parser.add_argument("--output", type=Path, default=Path("outputs/gpu"), help="folder of gpu.json and gpu.png")
    parser.add_argument("--only", choices=sorted(WORKS), help=argparse.SUPPRESS)  # one row, as lines of JSON
    parser.add_argument("--given_rates", type=json.loads, default={}, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("no GPU at hand: --device cpu --tiny tries the script out")
    if options.tiny:
        options.words, options.rounds, options.training_rows = 4, 3, 2
        options.unroll_steps, options.samples, options.vocabulary = 3, 16, 200
        options.rows = options.rows if options.only else [2, 3]
    options.rates = options.given_rates
    return options


def main() -> None:
    options = parse()
    if options.only:
        WORKS[options.only](options, options.precisions[0], options.rows[0])
        return
    report: dict[str, Any] = {"machine": describe(options.device), "limits": {}, "rows": []}
    print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
    options.output.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        aside = options.output / "gpu.json.part"
        aside.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        aside.replace(options.output / "gpu.json")

    for precision in options.precisions:
        rates = run_row(options, "limits", precision, 1, {})
        report["limits"][precision] = rates
        if rates["failed"]:
            print(line_of(rates), flush=True)
            rates.setdefault("operations", float("inf"))
            rates.setdefault("bytes", float("inf"))
        else:
            speed, bandwidth = rates["operations"] / 1e12, rates["bytes"] / 1e12
            print(f"{precision}: matmuls {speed:.1f} TFLOP/s, memory {bandwidth:.2f} TB/s")
        print(HEADER, flush=True)
        wanted = [("biLM", rows) for rows in options.rows] + [("biLM training", options.training_rows)]
        wanted += [(work, rows) for work in ("projection", "d_hidden", "streams") for rows in options.rows]
        wanted += [] if options.no_step else [("step", options.training_rows)]
        for work, rows in wanted:
            row = run_row(options, work, precision, rows, {name: rates[name] for name in ("operations", "bytes")})
            if work == "biLM" and precision == "fp32" and options.allennlp is not None:
                peer = measure_allennlp(options, rows)
                row["failed"].update(peer.pop("failed", {}))
                row.update(peer)
            row["verdicts"] = verdicts(row)
            report["rows"].append(row)
            print(line_of(row), flush=True)
            save()
    picture(report["rows"], options.output / "gpu.png")
    print(f"written to {options.output}")
    if any(row["failed"] or is_wrong(row) for row in report["rows"]):
        raise SystemExit("something failed, or differs from the plain loop: see the table")


if __name__ == "__main__":
    main()

"""Measure words/s of a pretraining step, compared with a plain autograd loop of the same model in one run.

    python benchmarks/pretraining_throughput.py --threads 2
    python benchmarks/pretraining_throughput.py --preset original --rows 128 --device cuda

*bf16* is ours under autocast to bfloat16, as with `elmo-hf pretrain --precision bf16`; on a GPU the plain loop has such
a column too. A CPU without bfloat16 instructions multiplies the recurrence in float32 instead, which the table notes.

*torch* is ours without compiled kernels (`ELMO_HF_KERNELS=torch`). The last column is the share of the best matmul: the
FLOP/s of a step's matmuls relative to PyTorch's fastest matmul, timed between the steps. `--parts` shows the parts of a
step according to PyTorch's profiler. `--cpu_time` measures CPU time instead of wall-clock time, for a busy machine; it
is meaningful for one thread only. Several values of `--vocabulary` and `--samples` are measured one after the other;
`--picture` draws words/s over the vocabulary.

*plain* is a straightforward implementation: the character CNN at full length for every word, masked LSTM steps, the
sampled softmax in ordinary autograd with gradients as large as the vocabulary, and `torch.optim.Adagrad`. It takes the
same optimization steps as ours, which is checked first. Both read the same batches; a step consists of loss, gradients,
clipping and update. On a CPU it also prepares the batch (`StreamingObjective.preparation`), as in training; for a GPU,
other processes do that in advance, and *data* is the speed of one of them.
"""

import argparse
import copy
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoState, ElmoTokenizer
from elmo_hf.pretraining import (
    Corpus,
    LogUniformSampler,
    OptimizerSettings,
    SentenceStreams,
    StreamBatch,
    StreamingObjective,
    build_optimizer,
    clip_gradients,
    log_expected_count,
    multiplies_bfloat16,
    open_corpus,
)

SMALL = {
    "character_filters": [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256]],
    "cell_size": 512,
    "projection_size": 128,
}


class PlainLoop(nn.Module):
    """A plain implementation of an `ElmoForPreTraining`, sharing its weights."""

    def __init__(self, model: ElmoForPreTraining, num_samples: int, seed: int) -> None:
        super().__init__()
        self.model = model
        self.sampler = LogUniformSampler(model.config.vocab_size - 2, num_samples, seed)

    def words(self, character_ids: Tensor) -> Tensor:
        """Encode words: (rows, steps, characters) -> (rows, steps, P)."""
        parts = self.model.elmo.embeddings
        rows, steps, length = character_ids.shape
        characters = parts.character_embeddings(character_ids.long().view(-1, length)).transpose(1, 2)
        words = torch.cat(
            [parts.activation(convolution(characters)).amax(dim=-1) for convolution in parts.convolutions], dim=-1
        )
        for highway in parts.highways:
            words = highway(words)
        return (words if parts.projection is None else parts.projection(words)).view(rows, steps, -1)

    def layer(self, lstm: nn.Module, inputs: Tensor, mask: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
        """Run one direction of one layer step by step; masked rows keep their state."""
        config, outputs = self.model.config, []
        for step in range(inputs.shape[1]):
            gates = lstm.input_proj(inputs[:, step]) + lstm.hidden_proj(hidden)
            input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=-1)
            new_cell = torch.sigmoid(forget_gate + config.forget_bias) * cell
            new_cell = new_cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
            new_cell = new_cell.clamp(-config.cell_clip, config.cell_clip)
            new_hidden = lstm.output_proj(torch.sigmoid(output_gate) * torch.tanh(new_cell))
            new_hidden = new_hidden.clamp(-config.projection_clip, config.projection_clip)
            real = mask[:, step, None]
            cell, hidden = torch.where(real, new_cell, cell), torch.where(real, new_hidden, hidden)
            outputs.append(new_hidden)
        return torch.stack(outputs, dim=1), hidden, cell

    def forward(self, batch: StreamBatch, state: ElmoState | None) -> tuple[Tensor, ElmoState]:
        encoder, softmax, sampler = self.model.elmo.encoder, self.model.softmax, self.sampler
        losses, finals = [], []
        for direction, (character_ids, labels) in enumerate(
            (
                (batch.forward_character_ids, batch.forward_labels),
                (batch.backward_character_ids, batch.backward_labels),
            )
        ):
            mask = character_ids.ne(0).any(dim=-1)
            inputs = self.words(character_ids)
            if state is None:
                state = encoder.state_for(len(labels), inputs, None)
            of_direction = []
            for number, layer in enumerate(encoder.layers):
                lstm = (layer.forward_lstm, layer.backward_lstm)[direction]
                outputs, *final = self.layer(
                    lstm, inputs, mask, state.hidden[number, direction], state.cell[number, direction]
                )
                inputs = outputs + inputs if layer.has_skip_connection else outputs
                of_direction.append(final)
            finals.append(of_direction)
            drawn = sampler.draw()
            targets, samples = labels.flatten(), drawn.ranks.to(labels.device) + 1
            top = inputs.flatten(0, 1)

            def log_count(ids: Tensor, tries: int = drawn.tries) -> Tensor:
                return log_expected_count(ids - 1, tries, sampler.num_samples, sampler.num_words).float()

            true = (top * softmax.weight[targets]).sum(dim=-1) + softmax.bias[targets] - log_count(targets)
            logits = functional.linear(top, softmax.weight[samples], softmax.bias[samples]) - log_count(samples)
            logits = logits.masked_fill(targets[:, None] == samples, float("-inf"))
            logits = torch.cat([true[:, None], logits], dim=1)
            losses.append(functional.cross_entropy(logits, torch.zeros_like(targets)))
        carried = (
            torch.stack(
                [torch.stack([finals[way][number][part] for way in range(2)]) for number in range(len(finals[0]))]
            )
            for part in range(2)
        )
        return sum(losses) / 2, ElmoState(*carried).detach()


def made_up_text(words: int, sentences: int) -> tuple[list[str], Corpus]:
    """A vocabulary by decreasing frequency, and sentences of about 20 words by Zipf's law, of English word lengths."""
    draw = random.Random(0)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    vocabulary: dict[str, None] = {}
    while len(vocabulary) < words:
        length = 1 + min(len(vocabulary) // 10, draw.randint(1, 11))
        vocabulary["".join(draw.choices(letters, range(26, 0, -1), k=length))] = None
    frequent = list(vocabulary)
    weights = [1 / (rank + 2) for rank in range(words)]
    totals = [0.0]
    for weight in weights:
        totals.append(totals[-1] + weight)
    lines = [" ".join(draw.choices(frequent, cum_weights=totals[1:], k=draw.randint(5, 35))) for _ in range(sentences)]
    return frequent, Corpus.from_sentences(lines)


def step_operations(model: ElmoForPreTraining, batch: StreamBatch, samples: int) -> dict[str, float]:
    """Floating-point operations of a step's matmuls, by part; the backward pass has twice as many as the forward pass.

    Character convolutions are table look-ups and not counted.
    """
    config = model.config
    size, width = config.cell_size, config.projection_size
    character_ids = torch.cat([batch.forward_character_ids, batch.backward_character_ids]).flatten(0, 1)
    words, distinct = len(character_ids), len(character_ids.unique(dim=0))
    filters = sum(count for _, count in config.character_filters)
    of_word = 2 * filters * (2 * filters * config.num_highway_layers + width)
    of_layer = 2 * (4 * size * 2 * width + size * width)
    return {
        "LSTM forward": float(config.num_hidden_layers * words * of_layer),
        "LSTM backward": 2.0 * config.num_hidden_layers * words * of_layer,
        "sampled softmax": 3.0 * words * 2 * width * samples,
        "highways, projection": 3.0 * distinct * of_word,
    }


def best_matmul(clock: Callable[[], float], device: str) -> float:
    """FLOP/s of a square matmul."""
    left, right, result = (torch.ones(1024, 1024, device=device) for _ in range(3))
    repeats = 4
    seconds = 0.0
    for _ in range(2):  # the first is a warm-up
        began = clock()
        for _ in range(repeats):
            torch.mm(left, right, out=result)
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds = clock() - began
    return repeats * 2 * 1024**3 / seconds


# Disjoint parts of a step, by names in PyTorch's profiler.
PARTS = {
    "LSTM forward": ("_NativeLstm", "_ProjectedLstm"),
    "LSTM backward": ("_NativeLstmBackward", "_ProjectedLstmBackward"),
    "sampled softmax": ("_ChunkedSoftmax", "_ChunkedSoftmaxBackward"),
    "highways, projection": ("aten::linear", "AddmmBackward0"),
    "characters": ("_LookedUpMaxima", "_LookedUpMaximaBackward"),
    "optimizer": ("Optimizer.step#AdamW.step", "Optimizer.step#Adagrad.step"),
}


def parts_of(way: "Way", batch: StreamBatch) -> dict[str, float]:
    """Share of a step's time spent in each part, and in the rest."""
    on_cpu = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])
    with on_cpu as profiler, torch.profiler.record_function("the whole step"):
        way.step(way.prepare(batch))
    times = {event.key: event.cpu_time_total for event in profiler.key_averages()}
    whole = times["the whole step"]
    shares = {part: sum(times.get(name, 0.0) for name in names) / whole for part, names in PARTS.items()}
    return {**shares, "the rest": 1.0 - sum(shares.values())}


class Way(NamedTuple):
    """A training method: preparation of a batch, and a step."""

    prepare: Callable[[StreamBatch], Any]
    step: Callable[[Any], Tensor]


def steps(model: ElmoForPreTraining, options: argparse.Namespace) -> dict[str, Way]:
    """The training methods, all starting from the same weights."""
    settings = OptimizerSettings(optimizer=options.optimizer)

    def ours(precision: str, kernels: str = "") -> Way:
        copied = copy.deepcopy(model)
        objective = StreamingObjective(
            copied, num_samples=options.samples, seed=0, sparse_gradients=options.optimizer == "adagrad"
        )
        optimizer, _ = build_optimizer(copied, settings)
        state: list[ElmoState | None] = [None]
        # The same decision as in `elmo-hf pretrain --precision bf16`.
        rounds = precision == "bf16" and (options.device != "cpu" or multiplies_bfloat16())

        def step(batch: Any) -> Tensor:
            os.environ["ELMO_HF_KERNELS"] = kernels
            with torch.autocast(options.device, torch.bfloat16, enabled=rounds):
                result = objective(batch.to(options.device, non_blocking=True), state[0])
            state[0] = result.state
            (result.loss * options.unroll_steps).backward()
            clip_gradients(copied.parameters(), 10.0)
            optimizer.step()
            optimizer.zero_grad()
            return result.loss.detach()

        def prepare(batch: StreamBatch) -> Any:
            prepared = objective.preparation(batch)
            return prepared.pin_memory() if on_gpu else prepared

        return Way(prepare, step)

    def plain(precision: str) -> Way:
        loop = PlainLoop(copy.deepcopy(model), options.samples, seed=0)
        learning = [weight for weight in loop.parameters() if weight.requires_grad]
        optimizer: torch.optim.Optimizer
        if options.optimizer == "adagrad":
            optimizer = torch.optim.Adagrad(learning, lr=0.2, initial_accumulator_value=1.0, eps=0.0)
        else:
            optimizer = build_optimizer(loop.model, settings)[0]
        state: list[ElmoState | None] = [None]

        def step(batch: Any) -> Tensor:
            with torch.autocast(options.device, torch.bfloat16, enabled=precision == "bf16"):
                loss, state[0] = loop(batch, state[0])
            (loss * options.unroll_steps).backward()
            nn.utils.clip_grad_norm_(learning, 10.0)
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        return Way(lambda batch: batch.to(options.device), step)

    on_gpu = options.device.startswith("cuda")
    ways = {}
    if "no" in options.precision or not on_gpu:
        ways["plain"] = plain("no")
    if "no" in options.precision:
        if not on_gpu:
            ways["torch"] = ours("no", "torch")
        ways["ours"] = ours("no")
    if "bf16" in options.precision:
        if on_gpu:
            ways["plain bf16"] = plain("bf16")
        ways["ours bf16"] = ours("bf16")
    return {name: way for name, way in ways.items() if name not in options.without}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default=None, help="a published shape (default: the 3 M parameter model)")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--unroll_steps", type=int, default=20)
    parser.add_argument("--samples", type=int, nargs="+", default=[4096], help="numbers of samples of the softmax")
    parser.add_argument(
        "--vocabulary", type=int, nargs="+", default=[50_000], help="numbers of words of the synthetic text"
    )
    parser.add_argument("--text", nargs="+", help="text files to read, with --vocab_file, instead of synthetic text")
    parser.add_argument("--vocab_file")
    parser.add_argument("--steps", type=int, default=12, help="measured steps of each; medians are compared")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", nargs="+", choices=("no", "bf16"), default=["no", "bf16"])
    parser.add_argument("--optimizer", default="adagrad", choices=("adagrad", "adamw"))
    parser.add_argument("--without", nargs="+", default=[], metavar="WAY", help="methods to leave out, such as plain")
    parser.add_argument("--parts", action="store_true", help="show the parts of our step, with and without kernels")
    parser.add_argument("--cpu_time", action="store_true", help="measure CPU time, on a busy machine")
    parser.add_argument("--output", type=Path, help="JSON file of the results")
    parser.add_argument("--picture", type=Path, help="image file: words/s over the vocabulary, by number of samples")
    options = parser.parse_args()
    lines = {
        samples: [
            measure(argparse.Namespace(**{**vars(options), "vocabulary": words, "samples": samples}))
            for words in options.vocabulary
        ]
        for samples in options.samples
    }
    if options.output is not None:
        results = [result for line in lines.values() for result in line]
        written = results[0] if len(results) == 1 else results
        options.output.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    if options.picture is not None:
        draw(lines, options.picture)


def draw(lines: dict[int, list[dict[str, Any]]], path: Path) -> None:
    """Draw words/s over the size of the vocabulary, a line for each number of samples."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for samples, line in lines.items():
        points = [(result["vocabulary"], result["words_per_second"]) for result in line]
        axes.plot(*zip(*points, strict=True), "o-", label=f"{samples:,} samples")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("words of the vocabulary")
    axes.set_ylabel("words/s")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Time all methods with one vocabulary and one number of samples; print and return the results."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    # Exact float32 in both: otherwise, only the plain convolutions would be rounded.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    if options.text:
        tokenizer, corpus = ElmoTokenizer(options.vocab_file), open_corpus(options.text)
    else:
        words, corpus = made_up_text(options.vocabulary, sentences=40 * options.rows)
        tokenizer = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", *words])
    # As in `elmo-hf pretrain`, at most half of the vocabulary is drawn.
    options.samples = min(options.samples, len(tokenizer) // 2)
    shape = SMALL if options.preset is None else {}
    config = ElmoConfig.from_preset(
        options.preset or "small",
        **{**shape, "vocab_size": len(tokenizer), "mask_token_id": tokenizer.mask_token_id},
    )
    model = ElmoForPreTraining(config).to(options.device).train()
    streams: Iterator[StreamBatch] = iter(
        SentenceStreams(
            corpus, tokenizer, options.rows, options.unroll_steps, epochs=None, pre_tokenization="whitespace"
        )
    )

    def synchronise() -> None:
        if options.device.startswith("cuda"):
            torch.cuda.synchronize()

    clock = time.process_time if options.cpu_time else time.perf_counter
    ways = steps(model, options)
    matmuls: list[float] = []
    operations: list[float] = []
    prepares_in_step = options.device == "cpu"
    times: dict[str, list[float]] = {name: [] for name in ("data", *ways)}
    for number in range(options.steps + 2):
        began = clock()
        batch = next(streams)
        times["data"].append(clock() - began)
        losses = {}
        for name, way in ways.items():
            began = clock()
            prepared = way.prepare(batch)
            preparation = clock() - began
            if name.startswith("ours") and name == list(ways)[-1]:
                times["data"][-1] += preparation
            synchronise()
            began = clock()
            losses[name] = float(way.step(prepared))
            synchronise()
            seconds = clock() - began
            times[name].append(seconds + (preparation if prepares_in_step else 0.0))
        matmuls.append(best_matmul(clock, options.device))
        operations.append(sum(step_operations(model, batch, options.samples).values()))
        for name, loss in losses.items():
            bound = 1e-4 if "bf16" not in name else 1e-2
            if number < 2 and abs(loss / next(iter(losses.values())) - 1) > bound:
                raise SystemExit(f"{name} does not take the same steps: losses {losses} at step {number + 1}")
    # The first two steps warm up caches and allocators.
    medians = {name: statistics.median(values[2:]) for name, values in times.items()}
    per_step = options.rows * options.unroll_steps
    speeds = {name: round(per_step / medians[name]) for name in ways}
    shares = {name: round(statistics.median(operations) / medians[name] / max(matmuls), 3) for name in ways}
    plain, ours = (
        [name for name in ways if name.startswith(kind)][-1 if "bf16" in options.precision else 0]
        for kind in (next(iter(ways)), "ours")
    )
    multiplies = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    result = {
        "parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "vocabulary": len(tokenizer),
        "rows": options.rows,
        "unroll_steps": options.unroll_steps,
        "samples": options.samples,
        "threads": options.threads,
        "device": options.device,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "processor_multiplies_bf16": bool(multiplies),
        "optimizer": options.optimizer,
        "clock": "CPU time" if options.cpu_time else "wall-clock time",
        "operations_per_step": statistics.median(operations),
        "best_matmul_per_second": max(matmuls),
        "shares_of_best_matmul": shares,
        "speeds": speeds,
        # Speed of the last requested precision.
        "words_per_second": speeds[ours],
        "words_per_second_plain": speeds[plain],
        "ratio": round(medians[plain] / medians[ours], 2),
        "words_per_second_of_data": round(per_step / medians["data"]),
    }
    print(
        f"{result['parameters'] / 1e6:.1f} M parameters, {result['vocabulary']:,} words, "
        f"{options.samples:,} samples, {options.rows} rows x {options.unroll_steps} steps, "
        f"{options.threads} threads, {options.device}, {result['cpu']}"
        + ("" if multiplies or options.device != "cpu" else ": no bfloat16 matmuls")
    )
    first = next(iter(ways))
    print(f"{'':12}{'words/s':>10}{f'x {first}':>14}{'share of the best matmul':>28}")
    for name, speed in speeds.items():
        # Ratios of pairs of steps, since the load of the machine may vary.
        ratio = statistics.median(one / other for one, other in zip(times[first][2:], times[name][2:], strict=True))
        print(f"{name:12}{speed:>10,}{ratio:>14.2f}{shares[name]:>28.0%}")
    if options.parts:
        batch = next(streams)
        found = {
            name: [parts_of(ways[name], batch) for _ in range(options.steps)]
            for name in ("torch", "ours")
            if name in ways
        }
        parts = {
            name: {part: statistics.median(each[part] for each in rounds) for part in rounds[0]}
            for name, rounds in found.items()
        }
        result["parts"] = parts
        counted = step_operations(model, batch, options.samples)
        print(f"{'part':22}{'GFLOP':>8}{'limit, ms':>12}" + "".join(f"{f'{name}, ms':>12}" for name in parts))
        for part in [*PARTS, "the rest"]:
            limit = counted.get(part, 0.0)
            milliseconds = "".join(f"{1e3 * medians[name] * parts[name][part]:>12.0f}" for name in parts)
            print(f"{part:22}{limit / 1e9:>8.1f}{1e3 * limit / max(matmuls):>12.0f}{milliseconds}")
    print(json.dumps(result), flush=True)
    return result


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measure words/s of embedding tokenized sentences on a CPU, from strings to vectors, compared with another program.

    python benchmarks/cpu_inference.py --model FOLDER --sentences FILE --output_dir OUT \\
        --peer 'PYTHON WORKER --sentences {sentences} --batch-size {batch_size} --threads {threads}'
    python benchmarks/cpu_inference.py --model FOLDER --sentences FILE --output_dir OUT --sweep

Three workloads are measured in float32, bfloat16 and int8: batches in file order, batches of sentences of similar
length, and single sentences. `--kinds fp32 int8 onnx onnx-int8` compares with ONNX Runtime on the exported model, in
float32 and with its dynamic int8. All configurations alternate round by round in separate processes, so that they see
the same machine. Also measured are the share of the CPU's best matmul, timed between the rounds, and memory. `--sweep`
measures words/s by sentence length, batch size and number of threads instead.

A peer, like each of our processes, is a worker. It prints a line that begins with `ready`; then, for each line `go` on
standard input, it does one round and prints one JSON line with `seconds`. `{sentences}` is a text file with one
sentence of space-separated words per line, in reading order. Words are counted without boundaries.
"""

import argparse
import json
import platform
import resource
import shlex
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
from transformers import AutoModel, AutoTokenizer

from elmo_hf import ElmoModel, quantize

Sentences = list[list[str]]
KINDS = ("fp32", "bf16", "int8")
ONNX_KINDS = ("onnx", "onnx-int8")
WORKS = ("file order", "bucketed", "one at a time")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a converted model and its tokenizer")
    parser.add_argument("--sentences", required=True, help="text, one sentence of space-separated words per line")
    parser.add_argument("--peer", default=None, help="command of the worker to compare with, with the three fields")
    parser.add_argument("--kinds", nargs="+", choices=KINDS + ONNX_KINDS, default=list(KINDS))
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--limit", type=int, default=256, help="sentences per round, in batches")
    parser.add_argument("--limit_single", type=int, default=48, help="sentences per round, one at a time")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds of each, after a warm-up round")
    parser.add_argument("--cache_megabytes", type=float, default=None, help="cache word vectors between batches")
    parser.add_argument("--sweep", action="store_true", help="sweep over length, batch size and threads")
    parser.add_argument("--output_dir", default=None, help="folder for results.json and a figure")
    parser.add_argument(
        "--worker", choices=KINDS + ONNX_KINDS, default=None, help="be a worker over all of --sentences"
    )
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    sentences = [line.split() for line in Path(args.sentences).read_text(encoding="utf-8").splitlines() if line.split()]
    results = sweep(args, sentences) if args.sweep else compare(args, sentences)
    if args.output_dir:
        folder = Path(args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name = "sweep" if args.sweep else "comparison"
        (folder / f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
        (draw_sweep if args.sweep else draw_comparison)(results, folder / f"{name}.png")
        print(f"\n{folder / name}.json, {folder / name}.png")


# Our side


def load(args: argparse.Namespace, kind: str) -> tuple[ElmoModel, Any]:
    """Load the model and its tokenizer."""
    dtype = torch.bfloat16 if kind == "bf16" else torch.float32
    model = AutoModel.from_pretrained(args.model, dtype=dtype).eval()
    if kind == "int8":
        model = quantize(model)
    if args.cache_megabytes:
        model.cache_word_vectors(args.cache_megabytes)
    return model, AutoTokenizer.from_pretrained(args.model)


@torch.no_grad()
def embed(model: ElmoModel, tokenizer: Any, batches: list[Sentences]) -> float:
    """Seconds for embedding the batches."""
    start = time.perf_counter()
    for batch in batches:
        model(**tokenizer(batch, is_split_into_words=True, padding=True, return_tensors="pt"))
    return time.perf_counter() - start


def embed_by_onnx(session: Any, tokenizer: Any, batches: list[Sentences]) -> float:
    """Seconds for embedding the batches with ONNX Runtime."""
    start = time.perf_counter()
    for batch in batches:
        session.run(None, dict(tokenizer(batch, is_split_into_words=True, padding=True, return_tensors="np")))
    return time.perf_counter() - start


def onnx_session(args: argparse.Namespace, kind: str) -> Any:
    """Export the model and open it in ONNX Runtime; the matmuls of `onnx-int8` are quantized dynamically."""
    import onnx
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    from elmo_hf.exporting import export_onnx

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = args.threads
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx(
            AutoModel.from_pretrained(args.model, dtype=torch.float32).eval(), Path(folder) / "model.onnx"
        )
        if kind == "onnx-int8":
            graph = onnx.load(path)
            # Shapes written by PyTorch's exporter contradict the quantizer's.
            for each in (graph.graph, *(a.g for node in graph.graph.node for a in node.attribute if a.HasField("g"))):
                del each.value_info[:]
            path = path.with_name("int8.onnx")
            quantize_dynamic(graph, path, extra_options={"EnableSubgraph": True})
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def resident_megabytes() -> float:
    """Peak resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Unlike `getrusage`, this does not include the parent process.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024e-6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def work(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    sentences = [line.split() for line in Path(args.sentences).read_text(encoding="utf-8").splitlines()]
    batches = [sentences[start : start + args.batch_size] for start in range(0, len(sentences), args.batch_size)]
    before = resident_megabytes()
    run: Callable[[Any, Any, list[Sentences]], float] = embed
    if args.worker in ONNX_KINDS:
        model, tokenizer, run = (
            onnx_session(args, args.worker),
            AutoTokenizer.from_pretrained(args.model),
            embed_by_onnx,
        )
    else:
        model, tokenizer = load(args, args.worker)
    words = sum(map(len, sentences))
    print(f"ready elmo_hf {args.worker} {len(sentences)} sentences {words} words", flush=True)
    for _ in sys.stdin:
        seconds = run(model, tokenizer, batches)
        answer = {"seconds": seconds, "words_per_second": words / seconds, "megabytes": resident_megabytes() - before}
        print(json.dumps(answer), flush=True)


# Alternating workers


class Worker:
    """A process that runs rounds on request."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        print("  " + self._read("ready"), file=sys.stderr)

    def _read(self, start: str) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(start):
                return line.strip()
        raise SystemExit(f"worker {shlex.join(self.process.args)} ended early with status {self.process.wait()}")  # type: ignore[arg-type]

    def round(self) -> dict[str, float]:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return json.loads(self._read("{"))

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


@contextmanager
def workers_for(args: argparse.Namespace, path: str, batch_size: int) -> Iterator[dict[str, Worker]]:
    found: dict[str, Worker] = {}
    try:
        if args.peer:
            fields = {"sentences": path, "batch_size": batch_size, "threads": args.threads}
            found["peer"] = Worker([part.format(**fields) for part in shlex.split(args.peer)])
        for kind in args.kinds:
            command = [sys.executable, __file__, "--worker", kind, "--model", args.model, "--sentences", path]
            command += ["--batch_size", str(batch_size), "--threads", str(args.threads)]
            if args.cache_megabytes:
                command += ["--cache_megabytes", str(args.cache_megabytes)]
            found[kind] = Worker(command)
        yield found
    finally:
        for worker in found.values():
            worker.stop()


def best_matmul(threads: int) -> float:
    """GFLOP/s of PyTorch's fastest float32 matmul of the original's shape, over several numbers of rows."""
    torch.set_num_threads(threads)
    weight = torch.randn(16384, 512)
    matmuls = [lambda rows: torch.mm(rows, weight.T)]
    if torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        matmuls.append(lambda rows: torch.ops.mkldnn._linear_pointwise(rows, packed, None, "none", [], ""))
    best = 0.0
    for count in (256, 1024):
        rows = torch.randn(count, 512)
        for matmul in matmuls:
            matmul(rows)
            for _ in range(5):
                start = time.perf_counter()
                matmul(rows)
                best = max(best, 2e-9 * count * weight.numel() / (time.perf_counter() - start))
    return best


def compare(args: argparse.Namespace, sentences: Sentences) -> dict[str, Any]:
    config = AutoModel.from_pretrained(args.model, device_map="meta").config
    width, cell = config.projection_size, config.cell_size
    flop = 4 * config.num_hidden_layers * (8 * cell * width + (cell * width if config.cell_projection else 0))
    results: dict[str, Any] = {
        "machine": {"cpu": cpu_name(), "threads": args.threads, "torch": torch.__version__},
        "capability": torch.backends.cpu.get_cpu_capability(),
        "biLM FLOP a word": flop,
        "works": [],
    }
    for name in WORKS:
        if name not in args.works:
            continue
        single = name == "one at a time"
        some = sentences[: args.limit_single if single else args.limit]
        if name == "bucketed":
            some = sorted(some, key=len)
        results["works"].append(rounds_of(args, name, some, 1 if single else args.batch_size, flop))
    results["megabytes of float32 weights"] = weights_megabytes(args.model)
    results["peak megabytes over start"] = {kind: memory_of(args, kind, sentences[:64]) for kind in args.kinds}
    print_comparison(args, results)
    return results


def memory_of(args: argparse.Namespace, kind: str, sentences: Sentences) -> float:
    """Peak memory of a process that runs alone, since shared pages of a mapped file count for every process."""
    with text_file(sentences) as path:
        alone = argparse.Namespace(**{**vars(args), "peer": None, "kinds": [kind]})
        with workers_for(alone, path, args.batch_size) as workers:
            return workers[kind].round()["megabytes"]


@contextmanager
def text_file(sentences: Sentences) -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write("".join(" ".join(sentence) + "\n" for sentence in sentences))
        file.flush()
        yield file.name


def rounds_of(
    args: argparse.Namespace, name: str, sentences: Sentences, batch_size: int, flop: float
) -> dict[str, Any]:
    words = sum(map(len, sentences))
    print(f"{name}: {len(sentences)} sentences, {words} words", file=sys.stderr)
    with text_file(sentences) as path, workers_for(args, path, batch_size) as workers:
        answers: dict[str, list[dict[str, float]]] = {kind: [] for kind in workers}
        limits = []
        for number in range(args.rounds + 1):
            limits.append(best_matmul(args.threads))
            for kind, worker in workers.items():
                answer = worker.round()
                print(f"  round {number} {kind}: {answer['seconds']:.2f} s", file=sys.stderr)
                if number:
                    answers[kind].append(answer)
    rates = {kind: [words / answer["seconds"] for answer in found] for kind, found in answers.items()}
    limit = max(limits)
    return {
        "work": name,
        "words": words,
        "sentences": len(sentences),
        "batch_size": batch_size,
        "words_per_second": {kind: statistics.median(found) for kind, found in rates.items()},
        "times_peer": {
            kind: statistics.median(ours / theirs for ours, theirs in zip(found, rates["peer"], strict=True))
            for kind, found in rates.items()
            if "peer" in rates
        },
        "best matmul GFLOP/s": limit,
        "share of the best matmul": {
            kind: statistics.median(found) * flop / limit / 1e9 for kind, found in rates.items()
        },
        # The model also computes boundaries.
        "share, boundaries counted": {
            kind: statistics.median(found) * (1 + 2 * len(sentences) / words) * flop / limit / 1e9
            for kind, found in rates.items()
        },
    }


def weights_megabytes(folder: str) -> float:
    model = AutoModel.from_pretrained(folder, device_map="meta")
    return sum(weight.numel() for weight in model.parameters()) * 4e-6


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def print_comparison(args: argparse.Namespace, results: dict[str, Any]) -> None:
    kinds = (["peer"] if args.peer else []) + args.kinds
    print(f"{results['machine']['cpu']}, {results['capability']}, {args.threads} threads, torch {torch.__version__}")
    print(f"\n{'words/s (x peer)':18}" + "".join(f"{kind:>18}" for kind in kinds))
    for work_of in results["works"]:
        cells = []
        for kind in kinds:
            cell = f"{work_of['words_per_second'][kind]:.0f}"
            if args.peer and kind != "peer":
                cell += f" ({work_of['times_peer'][kind]:.1f})"
            cells.append(f"{cell:>18}")
        print(f"{work_of['work']:18}" + "".join(cells))
    for work_of in results["works"]:
        share, counted = work_of["share of the best matmul"], work_of["share, boundaries counted"]
        if work_of["work"] == "bucketed" and "fp32" in share:
            limit = work_of["best matmul GFLOP/s"]
            print(
                f"\nbucketed fp32: {share['fp32']:.0%} of the best matmul in this run, {limit:.0f} GFLOP/s, by words; "
                f"{counted['fp32']:.0%} with the sentence boundaries, which are computed too"
            )
    weights = results["megabytes of float32 weights"]
    peaks = results["peak megabytes over start"]
    sizes = [f"{kind} {size:.0f} MB ({size / weights:.2f} x)" for kind, size in peaks.items()]
    print(f"peak memory over the start, loading included: {', '.join(sizes)}; float32 weights {weights:.0f} MB")


def draw_comparison(results: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4))
    kinds = list(results["works"][0]["words_per_second"])
    for place, kind in enumerate(kinds):
        heights = [work_of["words_per_second"][kind] for work_of in results["works"]]
        axes.bar([x + place / (len(kinds) + 1) for x in range(len(heights))], heights, 1 / (len(kinds) + 1), label=kind)
    axes.set_xticks(range(len(results["works"])), [work_of["work"] for work_of in results["works"]])
    axes.set_ylabel("words/s")
    axes.set_yscale("log")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


# Over length, batch size and threads


def sweep(args: argparse.Namespace, sentences: Sentences) -> dict[str, Any]:
    text = [word for sentence in sentences for word in sentence]
    points = [("length", length, args.batch_size, args.threads) for length in (1, 2, 4, 8, 16, 32, 64)]
    points += [("batch_size", 20, size, args.threads) for size in (1, 2, 4, 8, 16, 32, 64, 128, 256)]
    points += [("threads", 20, args.batch_size, count) for count in range(1, torch.get_num_threads() + 1)]
    results: dict[str, Any] = {"machine": {"cpu": cpu_name(), "torch": torch.__version__}, "points": []}
    print(f"{'kind':6}{'length':>8}{'batch':>8}{'threads':>9}{'words/s':>10}")
    for kind in (["peer"] if args.peer else []) + args.kinds:
        model_of = None if kind == "peer" else load(args, kind)
        for axis, length, size, threads in points:
            # Enough words for timing, different in every batch.
            words = max(length * size, 512 if kind == "peer" else 2048) // (length * size) * length * size
            stream = (text * (words // len(text) + 1))[:words]
            rows = [stream[start : start + length] for start in range(0, words, length)]
            if model_of is None:
                seconds = seconds_of_peer(args, rows, size, threads)
            else:
                torch.set_num_threads(threads)
                batches = [rows[start : start + size] for start in range(0, len(rows), size)]
                embed(*model_of, batches[:1])
                seconds = min(embed(*model_of, batches) for _ in range(args.rounds))
            point = {"kind": kind, "axis": axis, "length": length, "batch_size": size, "threads": threads}
            results["points"].append({**point, "words_per_second": words / seconds})
            print(f"{kind:6}{length:8}{size:8}{threads:9}{words / seconds:10.0f}", flush=True)
        del model_of
    return results


def seconds_of_peer(args: argparse.Namespace, rows: Sentences, batch_size: int, threads: int) -> float:
    alone = argparse.Namespace(**{**vars(args), "kinds": [], "threads": threads})
    with text_file(rows) as path, workers_for(alone, path, batch_size) as workers:
        workers["peer"].round()
        return min(workers["peer"].round()["seconds"] for _ in range(args.rounds))


def draw_sweep(results: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    names = {"length": "words per sentence", "batch_size": "sentences per batch", "threads": "threads"}
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharey=True)
    for panel, (axis, label) in zip(axes, names.items(), strict=True):
        for kind in ("peer", *KINDS):
            line = [point for point in results["points"] if point["axis"] == axis and point["kind"] == kind]
            if line:
                panel.plot(
                    [point[axis] for point in line], [point["words_per_second"] for point in line], "o-", label=kind
                )
        if axis != "threads":
            panel.set_xscale("log", base=2)
        else:
            panel.set_xticks(sorted({point[axis] for point in results["points"]}))
        panel.set_yscale("log")
        panel.set_xlabel(label)
    axes[0].set_ylabel("words/s")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()

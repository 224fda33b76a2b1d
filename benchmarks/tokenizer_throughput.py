#!/usr/bin/env python3
"""Measure words/s of ElmoTokenizer, in batches.

    python benchmarks/tokenizer_throughput.py --sentences FILE [--limit N] [--vocab FILE]

This prints a table for pre-split words and raw text, int16 arrays in lists and padded int64 tensors, and several batch
sizes.

    python benchmarks/tokenizer_throughput.py --sentences FILE --worker words --batch-size 32

This is a worker for a program that alternates between two of them on the same sentences. It prints a line that begins
with `ready`; then, for each line `go` on standard input, it tokenizes every sentence once, into padded tensors, and
prints one JSON line with `seconds` and `words_per_second`. `--worker text` reads the lines as raw text.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from elmo_hf import ElmoTokenizer

TENSORS = {"padding": True, "return_tensors": "pt"}


def one_round(tokenizer: ElmoTokenizer, sentences: Sequence[Any], batch_size: int, options: dict[str, Any]) -> float:
    """Seconds for tokenizing all sentences."""
    start = time.perf_counter()
    for first in range(0, len(sentences), batch_size):
        tokenizer(sentences[first : first + batch_size], **options)
    return time.perf_counter() - start


def print_table(tokenizer: ElmoTokenizer, lines: list[str], batch_sizes: list[int], rounds: int) -> None:
    given = [line.split() for line in lines]
    print(f"{len(lines)} sentences, vocabulary of {len(tokenizer):,} ids; words per second: median (best) of {rounds}")
    print(f"{'input':24}{'output':10}" + "".join(f"{f'batches of {size}':>26}" for size in batch_sizes))
    inputs: list[tuple[str, str, Sequence[Any], dict[str, Any]]] = [
        ("given words", "ptb", given, {"is_split_into_words": True}),
        ("raw text, ptb", "ptb", lines, {}),
        ("raw text, whitespace", "whitespace", lines, {}),
    ]
    for name, pre_tokenization, sentences, options in inputs:
        tokenizer.pre_tokenization = pre_tokenization
        words = sum(map(len, tokenizer(list(sentences), add_special_tokens=False, **options)["input_ids"]))
        for output, more in (("lists", {}), ("tensors", TENSORS)):
            cells = []
            for size in batch_sizes:
                one_round(tokenizer, sentences, size, {**options, **more})  # warm-up
                seconds = [one_round(tokenizer, sentences, size, {**options, **more}) for _ in range(rounds)]
                cells.append(f"{words / statistics.median(seconds):,.0f} ({words / min(seconds):,.0f})")
            print(f"{name:24}{output:10}" + "".join(f"{cell:>26}" for cell in cells), flush=True)


def serve(tokenizer: ElmoTokenizer, lines: list[str], kind: str, batch_size: int) -> None:
    sentences: Sequence[Any] = [line.split() for line in lines] if kind == "words" else lines
    options = {"is_split_into_words": kind == "words", **TENSORS}
    lengths = tokenizer(list(sentences), is_split_into_words=kind == "words", add_special_tokens=False)["input_ids"]
    words = sum(map(len, lengths))
    print(f"ready elmo_hf tokenizer, {kind}: {len(sentences)} sentences {words} words", flush=True)
    for _ in sys.stdin:
        seconds = one_round(tokenizer, sentences, batch_size, options)
        print(json.dumps({"seconds": seconds, "words_per_second": words / seconds}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sentences", required=True, help="text, one sentence of space-separated words per line")
    parser.add_argument("--limit", type=int, default=None, help="number of sentences")
    parser.add_argument("--vocab", default=None, help="vocabulary file; without one, words have no ids")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[32, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", choices=["words", "text"], help="serve on standard input instead of a table")
    args = parser.parse_args()

    tokenizer = ElmoTokenizer(vocab_file=args.vocab)
    with open(args.sentences, encoding="utf-8") as file:
        lines = [line.strip() for line in file if line.strip()][: args.limit]
    if args.worker:
        serve(tokenizer, lines, args.worker, args.batch_size[0])
    else:
        print_table(tokenizer, lines, args.batch_size, args.rounds)


if __name__ == "__main__":
    main()

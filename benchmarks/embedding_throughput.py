#!/usr/bin/env python3
"""Words a second of embedding tokenised sentences with an ElmoModel, tokenizer included.

    python benchmarks/embedding_throughput.py --model FOLDER --sentences FILE [--batch-size 32] [--bucket]

Run plainly, it prints a line a round. Run under a program that times two workers in turn, it serves as one of them: it
prints a line that begins with `ready`, and then, for each line `go` on standard input, does one round and prints one
JSON line with `seconds` and `words_per_second`.
"""

import argparse
import json
import sys
import time

import torch
from transformers import AutoModel, AutoTokenizer

import elmo_hf  # noqa: F401  registers the Auto classes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a converted model and its tokenizer")
    parser.add_argument("--sentences", required=True, help="text, one sentence of space-separated words a line")
    parser.add_argument("--limit", type=int, default=None, help="number of sentences")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--bucket", action="store_true", help="sort sentences by length before batching")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=5, help="rounds when run plainly")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModel.from_pretrained(args.model, dtype=getattr(torch, args.dtype)).eval()
    with open(args.sentences, encoding="utf-8") as file:
        sentences = [line.split() for line in file if line.strip()][: args.limit]
    if args.bucket:
        sentences.sort(key=len)
    batches = [sentences[start : start + args.batch_size] for start in range(0, len(sentences), args.batch_size)]
    words = sum(map(len, sentences))

    def one_round() -> dict[str, float]:
        start = time.perf_counter()
        with torch.no_grad():
            for batch in batches:
                model(**tokenizer(batch, is_split_into_words=True, padding=True, return_tensors="pt"))
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "words_per_second": words / seconds}

    print(f"ready elmo_hf {len(sentences)} sentences {words} words", flush=True)
    if sys.stdin.isatty() or not sys.stdin.readable():
        for _ in range(args.rounds):
            print("{words_per_second:.0f} words/s ({seconds:.2f} s)".format(**one_round()))
        return
    for _ in sys.stdin:
        print(json.dumps(one_round()), flush=True)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Measure held-out perplexity of n-gram models, the baseline of a pretrained biLM on the same text and vocabulary.

    python benchmarks/ngram_perplexity.py --train_data train.txt.xz --held_out_data heldout.txt --vocabulary vocab.txt

Prints the perplexity per word of the unigram model and of an interpolated Kneser-Ney model of each of `--orders`, for
each held-out file and both reading directions. Text is tokenized, with one sentence per line. Words outside of the
vocabulary are `<UNK>`, and the end of the sentence is predicted too, as in `elmo-hf perplexity`.

Source: Kneser and Ney 1995 in the interpolated form of Chen and Goodman 1998, with one discount per order,
n1 / (n1 + 2 * n2).
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from elmo_hf.pretraining import open_corpus, word_splitter

Ids = NDArray[np.int64]
BEGIN, END, UNKNOWN = "<S>", "</S>", "<UNK>"


class KneserNey:
    """Interpolated Kneser-Ney model of one order over word ids below `words`.

    An n-gram is identified by a number: the number of its first n - 1 words among all such contexts, times `words`,
    plus its last word. Tables are therefore sorted arrays, and look-ups are binary searches.
    """

    def __init__(self, windows: Ids, words: int) -> None:
        """Count n-grams.

        Args:
            windows: (positions, order), the words up to and including each predicted word.
            words: number of word ids.
        """
        self.words, self.order = words, windows.shape[1]
        self.uniform = 1 / words
        # By length: sorted n-gram numbers, their discounted probabilities, and the mass left for the shorter context.
        self.ngrams: list[Ids] = []
        self.shares: list[NDArray[np.float64]] = []
        self.left_over: list[NDArray[np.float64]] = []
        # Numbers of contexts, by length; the empty context is 0.
        self.context_tables: list[Ids] = []
        for length in range(1, self.order + 1):
            part = windows[:, self.order - length :]
            contexts = self._contexts(part[:, :-1], learn=True)
            if length == self.order:
                numbers, counts = np.unique(contexts * words + part[:, -1], return_counts=True)
            else:
                # Shorter n-grams count distinct preceding words instead of occurrences.
                longer = windows[:, self.order - length - 1 :]
                _, first_longer = np.unique(self._hash(longer), return_index=True)
                kept = contexts[first_longer] * words + part[first_longer, -1]
                numbers, counts = np.unique(kept, return_counts=True)
            self._add(numbers, counts.astype(np.float64))

    def _hash(self, ngrams: Ids) -> Ids:
        """64-bit hashes of rows; different rows collide with negligible probability."""
        hashes = np.zeros(len(ngrams), dtype=np.uint64)
        for column in ngrams.T:
            hashes = (hashes ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
            hashes ^= hashes >> np.uint64(29)
        return hashes.view(np.int64)

    def _contexts(self, words: Ids, learn: bool = False) -> Ids:
        """Number of each context (positions, n - 1); -1 for unseen contexts."""
        if words.shape[1] == 0:
            return np.zeros(len(words), dtype=np.int64)
        hashes = self._hash(words)
        if learn:
            self.context_tables.append(np.unique(hashes))
        table = self.context_tables[words.shape[1] - 1]
        found = np.searchsorted(table, hashes).clip(max=len(table) - 1)
        return np.where(table[found] == hashes, found, -1)

    def _add(self, numbers: Ids, counts: NDArray[np.float64]) -> None:
        contexts = numbers // self.words
        once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
        discount = once / (once + 2 * twice) if once else 0.0
        totals = np.bincount(contexts, weights=counts)
        kinds = np.bincount(contexts)
        self.ngrams.append(numbers)
        self.shares.append((counts - discount) / totals[contexts])
        self.left_over.append(np.where(totals > 0, discount * kinds / np.maximum(totals, 1), 1.0))

    def probabilities(self, windows: Ids) -> NDArray[np.float64]:
        """Probability of the last word given the previous ones, for each window (positions, order)."""
        values = np.full(len(windows), self.uniform)
        for length in range(1, self.order + 1):
            part = windows[:, self.order - length :]
            contexts = self._contexts(part[:, :-1])
            numbers = contexts * self.words + part[:, -1]
            table = self.ngrams[length - 1]
            found = np.searchsorted(table, numbers).clip(max=len(table) - 1)
            share = np.where((table[found] == numbers) & (contexts >= 0), self.shares[length - 1][found], 0.0)
            known = contexts >= 0
            left_over = np.where(known, self.left_over[length - 1][contexts.clip(min=0)], 1.0)
            values = share + left_over * values
        return values


def read_windows(sentences: Iterable[list[str]], ids: dict[str, int], order: int, backward: bool) -> Ids:
    """Windows (positions, order) that end at each word and sentence end, filled up with boundaries."""
    begin, end = (END, BEGIN) if backward else (BEGIN, END)
    unknown = ids[UNKNOWN]
    text: list[int] = []
    predicted: list[bool] = []
    for sentence in tqdm(sentences, unit=" sentences", leave=False):
        words = [ids.get(word, unknown) for word in (reversed(sentence) if backward else sentence)]
        text += [ids[begin]] * (order - 1) + words + [ids[end]]
        predicted += [False] * (order - 1) + [True] * (len(words) + 1)
    array = np.array([ids[begin]] * (order - 1) + text, dtype=np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(array, order)
    return windows[np.array(predicted, dtype=bool)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_data", nargs="+", required=True, help="files or globs")
    parser.add_argument("--held_out_data", nargs="+", required=True, help="files, each with its own row")
    parser.add_argument("--vocabulary", required=True, help="file with one word per line")
    parser.add_argument("--orders", type=int, nargs="+", default=[2, 3, 4], help="orders of n-grams, one model each")
    parser.add_argument("--output", help="also append JSON lines, one per model and text, like benchmarks/results.py")
    args = parser.parse_args()
    with open(args.vocabulary, encoding="utf-8") as file:
        ids = {line.strip(): number for number, line in enumerate(file)}

    def windows_of(paths: list[str], order: int, backward: bool) -> Ids:
        return read_windows(map(word_splitter("whitespace"), open_corpus(paths)), ids, order, backward)

    def show(name: str, direction: str, path: str, log_probabilities: NDArray[np.float64]) -> None:
        perplexity = np.exp(-log_probabilities.mean())
        print(f"{name:8s} {direction:8s} {path}: {perplexity:.1f} over {len(log_probabilities):,} words", flush=True)

    frequency = np.bincount(windows_of(args.train_data, 1, False)[:, 0], minlength=len(ids))
    # Words of the vocabulary that are not in the text get a small probability.
    frequency = np.log((frequency + 1e-3) / (frequency + 1e-3).sum())
    for path in args.held_out_data:
        show("unigram", "both", path, frequency[windows_of([path], 1, False)[:, 0]])
    measured: dict[tuple[str, str], dict[str, float]] = {}
    for order in args.orders:
        for backward in (False, True):
            model = KneserNey(windows_of(args.train_data, order, backward), len(ids))
            for path in args.held_out_data:
                scores = np.log(model.probabilities(windows_of([path], order, backward)))
                direction = "backward" if backward else "forward"
                show(f"{order}-gram", direction, path, scores)
                row = measured.setdefault((f"{order}-gram", path), {})
                row |= {direction: float(np.exp(-scores.mean())), "targets": len(scores)}
    if args.output:
        with open(args.output, "a", encoding="utf-8") as file:
            for (name, path), row in measured.items():
                row["both"] = (row["forward"] * row["backward"]) ** 0.5
                text = "/".join(Path(path).parts[-2:])  # as in results.py
                file.write(json.dumps({"model": name, "text": text, **row}) + "\n")


if __name__ == "__main__":
    main()

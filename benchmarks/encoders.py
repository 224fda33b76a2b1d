"""Measure words/s of several ELMos by sentence length, alternating in one run, to compare biLSTM and Transformer.

    python benchmarks/encoders.py biLSTM=outputs/small/model Transformer=outputs/transformer/model --threads 2

Every model reads sentences of random frequent words of its own vocabulary, in batches with about the same number of
words, from ids to the vectors of all layers. Tokenization is not measured, since it is the same for all. Prints a
table, and with `--output` also writes it as JSON and as a picture.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoModel, AutoTokenizer

import elmo_hf  # noqa: F401  registers the Auto classes

FREQUENT_WORDS = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 40, 160], help="words per sentence")
    parser.add_argument("--batch_words", type=int, default=1280, help="words per batch; at least one sentence")
    parser.add_argument("--rounds", type=int, default=9, help="measured calls of each; medians are compared")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, help="folder for encoders.json and encoders.png")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    folders = dict(text.split("=", 1) for text in options.models)
    models = {name: AutoModel.from_pretrained(folder).eval() for name, folder in folders.items()}
    tokenizers = {name: AutoTokenizer.from_pretrained(folder) for name, folder in folders.items()}
    speeds: dict[str, dict[int, float]] = {name: {} for name in models}
    for length in options.lengths:
        draw = random.Random(length)
        encodings = {}
        for name, tokenizer in tokenizers.items():
            words = [word for word, number in tokenizer.get_vocab().items() if 3 <= number < FREQUENT_WORDS]
            sentences = [draw.choices(words, k=length) for _ in range(max(1, options.batch_words // length))]
            encodings[name] = tokenizer(sentences, is_split_into_words=True, return_tensors="pt")
        times: dict[str, list[float]] = {name: [] for name in models}
        for number in range(options.rounds + 2):
            for name, model in models.items():
                began = time.perf_counter()
                with torch.no_grad():
                    model(**encodings[name], output_hidden_states=True)
                if number >= 2:  # the first calls warm up caches and allocators
                    times[name].append(time.perf_counter() - began)
        for name, encoding in encodings.items():
            speeds[name][length] = len(encoding["input_ids"]) * length / statistics.median(times[name])

    width = max(map(len, models))
    print(f"words/s, {options.threads} threads".ljust(width), *(f"{length:>7} words" for length in options.lengths))
    for name, of_lengths in speeds.items():
        size = sum(weight.numel() for weight in models[name].parameters())
        print(name.ljust(width), *(f"{speed:>13,.0f}" for speed in of_lengths.values()), f"  {size:,} parameters")
    if options.output is not None:
        write(options.output, speeds, options)


def write(folder: Path, speeds: dict[str, dict[int, float]], options: argparse.Namespace) -> None:
    """Write the numbers and a picture."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    record = {"threads": options.threads, "batch_words": options.batch_words, "words_per_second": speeds}
    (folder / "encoders.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    for name, of_lengths in speeds.items():
        axes.plot(list(of_lengths), list(of_lengths.values()), marker="o", label=name)
    axes.set(xlabel="words of a sentence", ylabel="words/s", xscale="log", ylim=(0, None))
    axes.legend()
    figure.savefig(folder / "encoders.png", dpi=150)


if __name__ == "__main__":
    main()

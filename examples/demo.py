"""Demo of the shipped English model in two minutes: word senses, gap filling, a tagger, the original's format, plots.

    python examples/demo.py --output_dir demo

Nothing is downloaded: the model is shipped with the package, and the tagger learns from 1,492 sentences of Wikinews
(`examples/data/gum_wikinews/NOTICE.md` names their authors and licenses). Each step is one function or command of the
package.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import pipeline

from elmo_hf import default_model, embed, tag
from elmo_hf.finetuning import TagColumns, read_json, read_tagged, write_lines

EXAMPLES = Path(__file__).resolve().parent
CORPUS = EXAMPLES / "data" / "gum_wikinews"

WORD = "light"
SENSES = {
    "what shines": ["The light of the lamp fell upon his face .", "There was no light in the window of the house ."],
    "not heavy": ["The box was light enough for a child to carry .", "She was as light as a feather in his arms ."],
    "to set fire to": ["He stopped to light his pipe .", "She tried to light the fire with a match ."],
}
GAPS = [
    "She was one <mask> them .",
    "He took off his <mask> and sat down at the table .",
    "The ship was lost in a <mask> at sea .",
]
RAW_TEXT = "The minister will address reporters in Skopje after the close of trading, but she didn't say when."


class Failure(RuntimeError):
    """A failed step of the demo."""


def heading(number: int, text: str) -> None:
    print(f"\n{number}. {text}\n{'-' * (len(text) + 3)}", flush=True)


def run(name: str, *arguments: str | Path) -> None:
    """Show and run `elmo-hub` or a script of this folder; the output, with progress bars, goes to the terminal."""
    words = [str(word) for word in arguments]
    print(f"$ {name} {shlex.join(words)}", flush=True)
    program = ["-m", "hub_upload"] if name == "elmo-hub" else [str(EXAMPLES / Path(name).name)]
    # The matrices are so small that a second thread would slow things down.
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", **os.environ}
    done = subprocess.run([sys.executable, *program, *words], env=environment, check=False)
    if done.returncode:
        raise Failure(f"{name} ended with status {done.returncode}")


def show_senses() -> None:
    """Print the nearest sentence, by the word's vector, for each sentence, and how often the senses agree.

    Vectors are from the top layer, which separates senses best according to the paper.
    """
    rows = [(sense, sentence.split()) for sense, sentences in SENSES.items() for sentence in sentences]
    arrays = embed([words for _, words in rows], layers="top", progress=False)
    vectors = np.stack([array[words.index(WORD)] for array, (_, words) in zip(arrays, rows, strict=True)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -1)
    right = 0
    for (sense, words), cosines in zip(rows, similar, strict=True):
        nearest = int(cosines.argmax())
        right += rows[nearest][0] == sense
        print(f"  {sense:15} {' '.join(words):48} nearest: {rows[nearest][0]} ({cosines[nearest]:.2f})")
    print(f'The nearest "{WORD}" has the same sense in {right} of {len(rows)} sentences.', flush=True)


def show_gaps() -> None:
    """Print the most probable words for each gap, by both directions together."""
    fill = pipeline("fill-mask", model=default_model())
    for sentence in GAPS:
        answers = ", ".join(f"{each['token_str']} {each['score']:.2f}" for each in fill(sentence, top_k=5))
        print(f"  {sentence:54} {answers}", flush=True)


def check_answers(folder: Path, predictions: Path) -> int:
    """Compare the reloaded tagger's labels with those of the training process; return the number of words."""
    rows = predictions.read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    sentences = [[line.split("\t") for line in row.split("\n")] for row in rows]
    found = tag([[word for word, _, _ in sentence] for sentence in sentences], str(folder), progress=False)
    for sentence, answer in zip(sentences, found, strict=True):
        if [predicted for _, _, predicted in sentence] != list(answer.tags or ()):
            raise Failure(f"the reloaded tagger answers differently: {' '.join(word for word, _, _ in sentence)}")
    return sum(map(len, sentences))


def check_round_trip(converted: Path) -> float:
    """Largest difference between vectors of the shipped and the reconverted model; raises `Failure` if there is any."""
    sentences = [sentence.split() for sentences in SENSES.values() for sentence in sentences]
    pairs = zip(embed(sentences, layers="all"), embed(sentences, converted, layers="all"), strict=True)
    difference = max(float(np.abs(ours - theirs).max()) for ours, theirs in pairs)
    if difference > 1e-6:
        raise Failure(f"{converted} gives other vectors than the shipped model, by up to {difference}")
    return difference


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Demo of the shipped English model in two minutes.")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the tagger, files and pictures")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--train_share", type=float, default=1.0, help="share of the tagger's training sentences")
    output = (args := parser.parse_args(argv)).output_dir
    start = time.monotonic()
    torch.set_num_threads(1)
    tagger, original, back, figures = (output / name for name in ("tagger", "original", "back", "figures"))

    heading(1, f'One word in three senses: vectors of "{WORD}"')
    show_senses()

    heading(2, "A gap, filled from both sides")
    show_gaps()

    heading(3, "A POS tagger, fine-tuned on Wikinews")
    parts = {split: CORPUS / f"{split}.conll" for split in ("train", "validation", "test")}
    files = [argument for split, path in parts.items() for argument in (f"--{split}_file", path)]
    options = "--task pos --freeze_bilm --cache_layers 1 --task_lstm_size 64 --representation_dropout 0.3"
    options += " --learning_rate 5e-3 --per_device_train_batch_size 32 --do_train --do_eval --do_predict"
    options += f" --resume_from_checkpoint false --num_train_epochs {args.epochs} --train_share {args.train_share:g}"
    run("python examples/run_ner.py", *files, "--output_dir", tagger, *options.split())
    results = read_json(tagger / "all_results.json")
    print(f"\nRight tags on {results['test_samples']} test sentences: {results['test_accuracy']:.1%}")
    words = check_answers(tagger, tagger / "predictions.conll")
    print(f"{tagger}, reloaded: the same answers as in training for {words:,} words")
    (answer,) = tag([RAW_TEXT], str(tagger), progress=False)
    print("  " + " ".join(f"{word}/{each}" for word, each in zip(answer.words, answer.tags or (), strict=True)))

    heading(4, "Into the original's format (options.json, HDF5) and back")
    run("elmo-hub", "export", "--model", default_model(), "--output", original, "--overwrite")
    run("elmo-hub", "convert", original, "--output", back, "--overwrite")
    run("elmo-hub", "verify", "--model", back, "--against", original)
    print(f"Vectors of the shipped model and of {back}: largest difference {check_round_trip(back):.1e}")

    heading(5, "The paper's pictures")
    text = output / "text.txt"
    tagged = [sentence for path in parts.values() for sentence in read_tagged(path, TagColumns(any_tag=True))]
    write_lines(text, (" ".join(sentence.words) + "\n" for sentence in tagged))
    queries = [sentences[0] for sentences in SENSES.values()]
    senses = ("--word", WORD, "--text_files", text, "--queries", *queries)
    run("python examples/plot_layers.py", "--task_models", f"tags={tagger}", *senses, "--output_dir", figures)
    for picture in sorted(figures.glob("*.png")):
        print(f"  {picture}")
    print(f"\nDone in {time.monotonic() - start:.0f} s; everything is in {output}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"demo: {failure}")

"""The whole way in a few minutes: a checkpoint in the original's format becomes a fine-tuned tagger and tagged text.

    python examples/demo.py --output_dir demo

The checkpoint is a small biLM with random weights, written in the original's format (options.json and HDF5); every step
after that is the one a published checkpoint takes, with the same commands.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, TokenClassificationPipeline, pipeline

from elmo_hf import ElmoConfig, ElmoModel

EXAMPLES = Path(__file__).resolve().parent

SMALL_SHAPE = {
    "character_filters": [[1, 16], [2, 32], [3, 64], [4, 64]],
    "num_highway_layers": 1,
    "projection_size": 64,
    "cell_size": 128,
}

# None of these names is in the training sentences.
SENTENCES = [
    "Thandiwe Mabaso, who runs Brightfjord Ltd., has left Skopje for the Marrakesh Open.",
    "Shares of Zelotronix rose 12 percent after the Bhutanese minister visited Tashkent.",
    "Is Bergamo colder than Novosibirsk in March? Ask Ingeborg Haugland.",
    "Mrs. Oyelaran didn't fly from Ballarat to Maribor; Hepworth & Sons paid the bill.",
]

COLOURS = {"PER": 36, "LOC": 32, "ORG": 35, "MISC": 33}


class Failure(RuntimeError):
    """A step of the demonstration did not end as it should."""


def heading(number: int, text: str) -> None:
    print(f"\n{number}. {text}\n{'-' * (len(text) + 3)}", flush=True)


def run(*command: str | Path, shown_as: str) -> None:
    """Show and run a command; its output, progress bars included, goes to the terminal."""
    words = [str(word) for word in command]
    print(f"$ {shown_as} {shlex.join(words)}", flush=True)
    program = {
        "elmo-hub": [sys.executable, "-m", "hub_upload"],
        "python examples/ner_corpus.py": [sys.executable, str(EXAMPLES / "ner_corpus.py")],
        "python examples/run_ner.py": [sys.executable, str(EXAMPLES / "run_ner.py")],
    }[shown_as]
    done = subprocess.run([*program, *words], env=environment(), check=False)
    if done.returncode:
        raise Failure(f"{shown_as} ended with status {done.returncode}")


def environment() -> dict[str, str]:
    # The matrices are so small that a second thread costs more than it brings.
    return {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", **os.environ}


def coloured(text: str, entity: str) -> str:
    return f"\033[{COLOURS[entity]}m{text}\033[0m" if sys.stdout.isatty() else text


def show(text: str, tagger: TokenClassificationPipeline) -> None:
    """Print a text with its entities in brackets, then each entity with its characters and score."""
    entities = tagger(text)
    marked, position = "", 0
    for entity in entities:
        start, end, name = entity["start"], entity["end"], entity["entity_group"]
        marked += text[position:start] + coloured(f"[{name} {text[start:end]}]", name)
        position = end
    print(f"\n  {marked}{text[position:]}")
    for entity in entities:
        start, end = entity["start"], entity["end"]
        print(f"    {start:3d}-{end:<3d} {entity['entity_group']:4s} {entity['score']:.2f}  {text[start:end]}")


def read_predictions(path: Path) -> list[list[tuple[str, str]]]:
    """(word, predicted tag) of every word of every sentence that run_ner.py tagged."""
    sentences = path.read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    rows = [[line.split("\t") for line in sentence.split("\n")] for sentence in sentences]
    return [[(word, predicted) for word, _, predicted in sentence] for sentence in rows]


def check_answers(folder: Path, predictions: Path) -> int:
    """Compare the reloaded tagger, word by word, with what the training process answered; returns the words."""
    tagger = pipeline(
        "token-classification",
        model=AutoModelForTokenClassification.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        ignore_labels=[],
    )
    words = 0
    for sentence in read_predictions(predictions):
        (answers,) = tagger([word for word, _ in sentence], is_split_into_words=True)
        expected = [tag for _, tag in sentence]
        if [answer["entity"] for answer in answers] != expected:
            raise Failure(f"the reloaded tagger answers differently: {' '.join(word for word, _ in sentence)}")
        words += len(sentence)
    return words


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="From a checkpoint in the original's format to tagged text.")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the corpus, checkpoints and tagger")
    parser.add_argument("--epochs", type=int, default=8)
    output = (args := parser.parse_args(argv)).output_dir
    start = time.monotonic()
    torch.set_num_threads(1)
    corpus, fresh, original, elmo, tagger = (output / n for n in ("corpus", "fresh", "original", "elmo", "tagger"))

    heading(1, "A small checkpoint in the original's format (options.json, HDF5)")
    torch.manual_seed(0)
    ElmoModel(ElmoConfig(**SMALL_SHAPE)).save_pretrained(fresh)
    run("export", "--model", fresh, "--output", original, "--overwrite", shown_as="elmo-hub")

    heading(2, "Converted to a Transformers folder, and verified against the original")
    run("convert", original, "--output", elmo, "--overwrite", shown_as="elmo-hub")
    run("verify", "--model", elmo, "--against", original, shown_as="elmo-hub")

    heading(3, "Fine-tuned for named entities; no name of the test sentences occurs in the training sentences")
    run("--output_dir", corpus, shown_as="python examples/ner_corpus.py")
    files = [
        part for split in ("train", "validation", "test") for part in (f"--{split}_file", corpus / f"{split}.conll")
    ]
    options = "--do_train --do_eval --do_predict --learning_rate 3e-3 --per_device_train_batch_size 32"
    run(
        *("--model_name_or_path", elmo, *files, "--output_dir", tagger, *options.split()),
        *("--num_train_epochs", str(args.epochs), "--resume_from_checkpoint", "false"),
        *("--config_overrides", json.dumps({"representation_dropout": 0.3})),
        shown_as="python examples/run_ner.py",
    )
    results = json.loads((tagger / "all_results.json").read_text(encoding="utf-8"))
    print(f"\nEntity F1 on {results['test_samples']} unseen sentences: {results['test_f1']:.3f}")

    heading(4, "Saved as safetensors, reloaded, and asked again")
    words = check_answers(tagger, tagger / "predictions.conll")
    print(f"{tagger / 'model.safetensors'}: the same answers as in training for {words:,} words")

    heading(5, "Raw text")
    model, tokenizer = AutoModelForTokenClassification.from_pretrained(tagger), AutoTokenizer.from_pretrained(tagger)
    pipe = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple")
    for sentence in SENTENCES:
        show(sentence, pipe)
    print(f"\nDone in {time.monotonic() - start:.0f} s; everything is in {output}", flush=True)


if __name__ == "__main__":
    from elmo_hf.finetuning import run as run_script

    run_script(main)

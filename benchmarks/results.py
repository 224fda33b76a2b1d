"""Measure the benefit of the shipped model for tasks, in cells of (task, variant, seed, share of the training data).

    python benchmarks/results.py vectors --text 'books-*.txt.xz' --output outputs/word2vec.txt
    python benchmarks/results.py cells --data DATA --word_vectors outputs/word2vec.txt --output_dir outputs/results \\
        --tasks wnut17 ewt --seeds 1 2 3 --shares 1 0.1 0.01 --rates 1e-3 2e-3 4e-3 --minutes 60
    python benchmarks/results.py perplexity --texts heldout.txt --output_dir outputs/results
    python benchmarks/results_page.py outputs/results --output docs/results.md

Every finished cell is a line of `cells.jsonl`; the same command again runs what is missing. Runs use early stopping and
keep the best validation epoch. Each variant uses the one of `--rates` with the best validation result of the first seed
on all training data. With `--typos`, the cells on all training data are also tested on test sets with typing errors.

Variants: (w) words alone, initialized from word2vec; (a) word and character embeddings of the task, from scratch; (b)
the same, words initialized from word2vec; (c) these combined with a frozen biLM with random weights; (d) with the
frozen biLM; (e) with the fine-tuned biLM.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from robustness import KINDS, write_typos

from elmo_hf import ElmoForPreTraining, ElmoTokenizer, default_model
from elmo_hf.pretraining import open_corpus, perplexity, word_splitter

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
EARLY = "--num_train_epochs 40 --early_stopping_patience 4 --save_total_limit 1 --do_train --do_eval --do_predict"
TAGGER = "--task_lstm_size 128 --task_dropout 0.3 --per_device_train_batch_size 32 --per_device_eval_batch_size 64"
# The layers of AllenNLP's published NER model: a biLSTM of two layers and a CRF.
NAMES = "--preset ner-elmo --per_device_train_batch_size 32 --per_device_eval_batch_size 64"
# The paper's biattentive network. Its input dropout already covers ELMo, which has none of its own.
SENTENCES = (
    "--task_lstm_size 128 --task_dropout 0.5 --representation_dropout 0 --integrator_size 128 --pooling mean max "
    "--pre_tokenization whitespace --per_device_train_batch_size 64 --per_device_eval_batch_size 128"
)
TRANSLATOR = (
    "--task_lstm_size 128 --task_dropout 0.3 --decoder_hidden_size 128 --target_vocab_size 4000 "
    "--per_device_train_batch_size 32 --warmup_steps 200 --length_penalty 2.0 --train_sampling_strategy group_by_length"
)


@dataclass(frozen=True)
class Task:
    """A task: its script, its metric, its files in the data folder, and further options.

    Attributes:
        column: column of the words in the test file.
    """

    script: str
    metric: str
    files: dict[str, str]
    options: str
    column: int = 0


SPLITS = ("train", "validation", "test")


def files(pattern: str, *names: str) -> dict[str, str]:
    """Options for the training, validation and test files, from a pattern of their names."""
    return {split: " ".join(each.format(name) for each in pattern.split()) for split, name in zip(SPLITS, names)}


TASKS = {
    "wnut17": Task("run_ner.py", "f1", files("ner/wnut17/{}.conll", "train", "dev", "test"), f"{NAMES} {EARLY}"),
    "szeged": Task(
        "run_ner.py",
        "accuracy",
        files("hu/hu_szeged-ud-{}.conllu", "train", "dev", "test"),
        f"--task pos {TAGGER} {EARLY}",
        column=1,
    ),
    **{
        # Only dev and test are available: a tenth of dev chooses the epoch, the rest is training data.
        name: Task(
            "run_ner.py",
            "accuracy",
            {"train": f"pos/{name}/dev.conll", "test": f"pos/{name}/test.conll"},
            f"--task pos --validation_share 0.1 {TAGGER} {EARLY}",
        )
        for name in ("ewt", "gum")
    },
    **{
        name: Task(
            "run_sentiment.py",
            "accuracy",
            files(f"sentiment/{name}/{{}}.tsv", "train", "dev", "test"),
            f"--text_column {text} --label_column {1 - text} {SENTENCES} {EARLY}",
            text,
        )
        for name, text in (("sst5", 1), ("sst2", 0))
    },
    "multi30k": Task(
        "run_translation.py",
        "bleu",
        files("mt/multi30k/{0}.en mt/multi30k/{0}.de", "train", "val", "test_2016_flickr"),
        f"{TRANSLATOR} {EARLY} --num_train_epochs 8",
    ),
}
# The Hungarian treebank needs a biLM and word vectors of that language.
ENGLISH = [name for name in TASKS if name != "szeged"]

VARIANTS = {
    "w": "words alone, from word2vec",
    "a": "words and characters",
    "b": "started from word2vec",
    "c": "joined to a random biLM",
    "d": "joined to the biLM, frozen",
    "e": "joined to the biLM, fine-tuned",
}


def options_of(variant: str, model: str | None, word_vectors: str | None) -> list[str]:
    """Options of a variant.

    Raises:
        ValueError: word vectors are needed but not given.
    """
    elmo = ["--model_name_or_path", model] if model else []
    frozen = [*elmo, "--freeze_bilm", "--cache_layers", "8"]
    if variant != "a" and word_vectors is None:
        raise ValueError(f"variant {variant} starts from word vectors: give --word_vectors")
    own = ["--word_vector_size", "100"] if variant == "a" else ["--word_vectors", str(word_vectors)]
    own += ["--task_character_size", "0" if variant == "w" else "16"]
    return {
        **{baseline: ["--without_elmo", *own] for baseline in "wab"},
        "c": [*frozen, *own, "--random_weights"],
        "d": [*frozen, *own],
        "e": [*elmo, *own, "--bilm_learning_rate", "3e-4"],
    }[variant]


@dataclass(frozen=True)
class Cell:
    """One training run."""

    task: str
    variant: str
    seed: int
    share: float
    rate: str

    @property
    def key(self) -> dict[str, Any]:
        return dict(vars(self))


class Cells:
    """The finished cells in a file, with methods to run further ones."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.path = args, args.output_dir / "cells.jsonl"
        self.finished = read_cells(self.path)
        self.stop = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")

    def record_of(self, cell: Cell) -> dict[str, Any] | None:
        return next((each for each in self.finished if cell.key.items() <= each.items()), None)

    def run(self, cell: Cell) -> dict[str, Any] | None:
        """Run a cell unless it is finished; return `None` if there is no time left or it failed."""
        if (found := self.record_of(cell)) is not None:
            return found
        variant = options_of(cell.variant, self.args.model, self.args.word_vectors)
        if time.monotonic() > self.stop:
            return None
        folder = self.args.output_dir / "runs" / "-".join(map(str, vars(cell).values()))
        command = [*self._command(cell, folder), *variant]
        began = time.monotonic()
        print(f"{' '.join(map(str, vars(cell).values()))} ...", end=" ", flush=True)
        if not self._succeeds(command, folder):
            return None
        metric = TASKS[cell.task].metric
        results = json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
        record = {
            **cell.key,
            "metric": metric,
            "test": results[f"test_{metric}"],
            "validation": results[f"eval_{metric}"],
        }
        seconds = round(time.monotonic() - began, 1)
        record |= {"epochs": results.get("epoch"), "command": self._shown(command), "seconds": seconds}
        if self.args.typos and cell.share == 1 and cell.task != "multi30k":
            record["typos"] = self._with_typos(cell, folder)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.finished.append(record)
        print(f"{metric} {record['test']:.4f} in {record['seconds']:.0f} s", flush=True)
        if not self.args.keep:
            shutil.rmtree(folder)
        return record

    def _command(self, cell: Cell, folder: Path) -> list[str]:
        task = TASKS[cell.task]
        data = []
        for split, names in task.files.items():
            data += [f"--{split}_file", *(str(self.args.data / name) for name in names.split())]
        own = ["--learning_rate", cell.rate, "--seed", str(cell.seed), "--output_dir", str(folder)]
        share = [] if cell.share == 1 else ["--train_share", f"{cell.share:g}", *self._longer(task, cell.share)]
        # Options given by hand come last, so that they take precedence.
        return [task.script, *data, *task.options.split(), *own, *share, *self.args.more]

    def _longer(self, task: Task, share: float) -> list[str]:
        """More epochs and patience for a share of the data, whose epochs have fewer updates."""
        factor, options = round(share**-0.5), task.options.split()[::-1]
        return [
            part
            for name in ("--num_train_epochs", "--early_stopping_patience")
            for part in (name, str(factor * int(options[options.index(name) - 1])))
        ]

    def _shown(self, command: Sequence[str]) -> list[str]:
        """The command without the folders of this machine."""
        args = self.args
        names = {str(args.data): "DATA", str(args.output_dir): "outputs/results"}
        names |= {str(path): Path(path).name for path in (args.model, args.word_vectors) if path}

        def shown(part: str) -> str:
            # Whole paths only: a folder named "out" must not change the option --output_dir.
            found = next((path for path in names if part == path or part.startswith(path + os.sep)), None)
            return part if found is None else names[found] + part[len(found) :]

        return [shown(part) for part in command]

    def _succeeds(self, command: Sequence[str], folder: Path) -> bool:
        folder.mkdir(parents=True, exist_ok=True)
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        with (folder / "log.txt").open("a", encoding="utf-8") as log:
            program = [sys.executable, str(EXAMPLES / command[0]), *command[1:]]
            done = subprocess.run(program, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False)
        if done.returncode:
            print(f"failed with status {done.returncode}: see {folder / 'log.txt'}", flush=True)
        return done.returncode == 0

    def _with_typos(self, cell: Cell, folder: Path) -> dict[str, float]:
        """Test results by kind of typing error, with a third of the words changed."""
        task, found = TASKS[cell.task], {}
        for kind in KINDS:
            source = self.args.data / task.files["test"]
            noisy, output = folder / f"{kind}{source.suffix}", folder / kind
            write_typos(source, noisy, kind, self.args.typo_share, column=task.column)
            columns = " ".join(f"--{n}_column {v}" for n, v in (("text", task.column), ("label", 1 - task.column)))
            kind_of = "--task pos" if task.script == "run_ner.py" and task.metric == "accuracy" else ""
            options = columns if task.script == "run_sentiment.py" else kind_of
            command = [task.script, "--model_name_or_path", str(folder), "--test_file", str(noisy), *options.split()]
            if not self._succeeds([*command, "--output_dir", str(output), "--do_predict"], output):
                continue
            results = json.loads((output / "all_results.json").read_text(encoding="utf-8"))
            found[kind] = results[f"test_{task.metric}"]
        return found


def read_cells(path: Path) -> list[dict[str, Any]]:
    """Read the finished cells, ignoring a last line that was truncated by a kill."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]), encoding="utf-8")
    return [json.loads(line) for line in lines if line.endswith("\n")]


def run_cells(args: argparse.Namespace) -> None:
    """Run all requested cells: first the rates, then shares and seeds."""
    args.output_dir.mkdir(parents=True, exist_ok=True)
    cells = Cells(args)
    rows = [(task, variant) for task in args.tasks for variant in args.variants]
    rates: dict[tuple[str, str], str] = {}
    for task, variant in rows:
        tried = [(rate, cells.run(Cell(task, variant, args.seeds[0], 1.0, rate))) for rate in args.rates]
        known = [(record["validation"], rate) for rate, record in tried if record is not None]
        # A variant is not compared before all its rates have been tried.
        if known and len(known) == len(args.rates):
            rates[task, variant] = max(known)[1]
    for seed in args.seeds:
        for share in args.shares:
            for row in rows:
                if row in rates:
                    cells.run(Cell(*row, seed, share, rates[row]))


def train_vectors(args: argparse.Namespace) -> None:
    """Train word2vec (skip-gram with negative sampling) on the biLM's training text."""
    try:
        from gensim.models import Word2Vec
    except ImportError as error:
        raise SystemExit(f"word vectors need gensim: pip install 'elmo-hf[benchmarks]' ({error})") from error

    class Text:
        """Training text, read again in each epoch."""

        def __iter__(self) -> Iterator[list[str]]:
            return islice(map(word_splitter("whitespace"), open_corpus(args.text)), args.max_sentences)

    settings = {"vector_size": args.size, "window": 5, "min_count": 5, "sg": 1, "negative": 5, "sample": 1e-4}
    model = Word2Vec(sentences=Text(), epochs=args.epochs, workers=args.workers, seed=1, **settings)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    model.wv.save_word2vec_format(str(args.output))
    print(f"{args.output}: {len(model.wv):,} words, {settings}, {args.epochs} epochs")


def measure_perplexity(args: argparse.Namespace) -> None:
    """Append a line to `perplexity.jsonl` for each text."""
    folder = args.model or default_model()
    model, tokenizer = ElmoForPreTraining.from_pretrained(folder).eval(), ElmoTokenizer.from_pretrained(folder)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    for path in args.texts:
        lines = islice(open_corpus([path]), args.max_sentences)
        score = perplexity(model, tokenizer, lines, pre_tokenization=tokenizer.corpus_pre_tokenization)
        names = ("forward", "backward", "both", "words", "unknown", "targets")
        record = {
            "model": args.name,
            "text": "/".join(Path(path).parts[-2:]),
            **{name: getattr(score, name) for name in names},
        }
        with (args.output_dir / "perplexity.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(record, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    cells = commands.add_parser("cells", help="run what is missing")
    cells.add_argument("--data", type=Path, required=True, help="folder with ner/, pos/, sentiment/, mt/ and hu/")
    cells.add_argument("--output_dir", type=Path, required=True)
    cells.add_argument("--model", help="the biLM (default: the shipped one)")
    cells.add_argument("--word_vectors", help="word vectors, for all variants but a")
    cells.add_argument("--tasks", nargs="+", choices=TASKS, default=ENGLISH)
    cells.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    cells.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    cells.add_argument("--shares", nargs="+", type=float, default=[1.0])
    cells.add_argument("--rates", nargs="+", default=["2e-3"], help="learning rates to choose from")
    cells.add_argument("--minutes", type=float, help="start no cell after this time")
    cells.add_argument("--typos", action="store_true", help="also test with typing errors")
    cells.add_argument("--typo_share", type=float, default=0.3, help="share of changed words (default 0.3)")
    cells.add_argument("--keep", action="store_true", help="keep the models")
    cells.add_argument("more", nargs="*", help="after --: further options of every run")
    cells.set_defaults(run=run_cells)
    vectors = commands.add_parser("vectors", help="train word2vec")
    vectors.add_argument("--text", nargs="+", required=True)
    vectors.add_argument("--output", type=Path, required=True)
    vectors.add_argument("--size", type=int, default=100)
    vectors.add_argument("--epochs", type=int, default=1)
    vectors.add_argument("--workers", type=int, default=1)
    vectors.add_argument("--max_sentences", type=int)
    vectors.set_defaults(run=train_vectors)
    texts = commands.add_parser("perplexity", help="measure a language model")
    texts.add_argument("--texts", nargs="+", required=True)
    texts.add_argument("--output_dir", type=Path, required=True)
    texts.add_argument("--model", help="(default: the shipped one)")
    texts.add_argument("--name", default="shipped biLM", help="in the table")
    texts.add_argument("--max_sentences", type=int)
    texts.set_defaults(run=measure_perplexity)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()

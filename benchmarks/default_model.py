"""Make the shipped default model, `elmo_hf/data/default`, from a pretraining run, and measure the effect of float16.

    python benchmarks/default_model.py outputs/books/model --held_out_data heldout.txt \\
        --runs benchmarks/default_model_runs.jsonl outputs/books

Weights are stored in float16; the configuration says float32, so that loading converts them back. The folder also has
the softmax, the tokenizer and a model card, but no code. It is replaced as a whole, and only within the size limit.
`default_model_runs.jsonl` keeps the records of the runs that led to the shipped weights.
"""

import argparse
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData

from elmo_hf import ElmoForPreTraining, ElmoTokenizer, __version__
from elmo_hf.pretraining import TextScore, open_corpus, perplexity
from hub_upload.common.output import new_folder
from hub_upload.convert import remove_code

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "elmo_hf" / "data" / "default"
CARD = Path(__file__).with_name("default_model_card.md.jinja")
MEGABYTES = 16
# Settings of a run shown in the card; others had their defaults.
SHOWN = """
rows unroll_steps epochs max_steps loss num_samples optimizer learning_rate schedule warmup_steps max_gradient_norm
dropout initialize_from seed
""".split()


def read_runs(path: Path) -> list[dict[str, Any]]:
    """Words, hours, steps and settings of the pretraining run in a folder, or of the runs in a file of such records.

    A folder's record comes from its newest checkpoint.

    Raises:
        FileNotFoundError: there is none.
    """
    if path.is_file():
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = sorted((path / "checkpoints").glob("step-*/progress.json"))
    if not found:
        raise FileNotFoundError(f"{path} has no checkpoints/step-*/progress.json: name a run's output_dir")
    record = json.loads(found[-1].read_text(encoding="utf-8"))
    progress, settings = record["progress"], record["settings"]
    return [
        {
            "steps": progress["step"],
            "words": progress["words"],
            "duration": str(timedelta(seconds=round(progress["seconds"]))),
            "words_per_second": progress["words"] / progress["seconds"],
            "settings": {name: settings[name] for name in SHOWN if settings.get(name) is not None},
        }
    ]


def measure(folder: Path, held_out: list[str], words: int | None) -> dict[str, TextScore]:
    """Perplexity of each held-out text with carried state, as reported by `elmo-hf perplexity`."""
    model = ElmoForPreTraining.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = ElmoTokenizer.from_pretrained(folder)
    rule = tokenizer.corpus_pre_tokenization
    texts = {path: first_words(path, words) for path in held_out}
    return {path: perplexity(model, tokenizer, text, pre_tokenization=rule) for path, text in texts.items()}


def first_words(path: str, words: int | None) -> list[Any]:
    """Leading sentences of a text with about `words` words; all for `None`."""
    kept: list[Any] = []
    seen = 0
    for sentence in open_corpus([path]):
        if words is not None and seen >= words:
            break
        seen += len(str(sentence).split())
        kept.append(sentence)
    return kept


def write_half(source: Path, folder: Path) -> int:
    """Write model and tokenizer of `source` to `folder`, with float16 weights; return the biLM's number of parameters.

    Raises:
        ValueError: a weight that overflows float16.
    """
    model = ElmoForPreTraining.from_pretrained(source, dtype=torch.float32)
    largest = max(float(weight.detach().abs().max()) for weight in model.parameters())
    if not largest <= torch.finfo(torch.float16).max:
        raise ValueError(f"{source}: a weight of {largest} is beyond float16")
    model.half().save_pretrained(folder)
    ElmoTokenizer.from_pretrained(source).save_pretrained(folder)
    remove_code(folder)
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) | {"dtype": "float32"}
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return model.elmo.num_parameters()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of a language model: a run's model, or a checkpoint")
    parser.add_argument(
        "--runs",
        type=Path,
        nargs="*",
        default=[],
        help="output_dir of each run that led to it, or a file of records, in order",
    )
    parser.add_argument("--held_out_data", nargs="+", required=True, help="files to measure both precisions on")
    parser.add_argument("--held_out_words", type=int, help="measure on about N words of each file (default: all)")
    parser.add_argument("--output_dir", type=Path, default=TARGET, help="(default: the package's)")
    parser.add_argument("--interim", action="store_true", help="announce a better model in the card")
    args = parser.parse_args()
    with new_folder(args.output_dir) as folder:
        parameters = write_half(args.source, folder)
        single = measure(args.source, args.held_out_data, args.held_out_words)
        half = measure(folder, args.held_out_data, args.held_out_words)
        for path in args.held_out_data:
            cost = half[path].both / single[path].both - 1
            print(f"{path}: {single[path].both:.4f} in float32, {half[path].both:.4f} in float16 ({cost:+.4%})")
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        card = ModelCard.from_template(
            ModelCardData(language="en", license="apache-2.0", library_name="transformers", tags=["elmo", "bilm"]),
            template_path=str(CARD),
            config=config,
            parameters=parameters,
            softmax=config["vocab_size"] * (config["projection_size"] + 1),
            runs=[record for run in args.runs for record in read_runs(run)],
            perplexities=[(Path(path).name, single[path], half[path]) for path in args.held_out_data],
            interim=args.interim,
            version=__version__,
        )
        (folder / "README.md").write_text(str(card), encoding="utf-8")
        size = sum(path.stat().st_size for path in folder.iterdir())
        if size > MEGABYTES * 1e6:
            raise ValueError(f"{size / 1e6:.1f} MB: expected at most {MEGABYTES}, nothing was written")
    print(f"{args.output_dir}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

"""Write the contextual vectors of every sentence of a text to files, and read them back.

    python examples/run_embeddings.py --model_name_or_path elmo-small --input_files text.txt \\
        --output vectors.hdf5 --layers all

The work is done by `elmo_hf.embed_corpus`, like the command `elmo-hf embed`, which has more options. `.hdf5` has the
layout of bilm-tf's `dump_bilm_embeddings` and AllenNLP's `elmo` command; `.parquet` and `.safetensors` are folders of
shards. Running the same command again continues an interrupted run.

Unlike the originals, which carry recurrent state from sentence to sentence, every sentence is read independently.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
from safetensors import safe_open
from transformers import HfArgumentParser

from elmo_hf import CorpusEmbedding, embed_corpus
from elmo_hf.finetuning import option, run


@dataclass
class Arguments:
    input_files: list[str] = field(
        metadata={"help": "Text (one sentence per line), JSON lines, Parquet; files or globs."}
    )
    output: str = field(metadata={"help": "A .hdf5 file, or a .parquet or .safetensors folder."})
    model_name_or_path: str | None = option(
        None, "Folder or Hub name of a model and its tokenizer (default: the shipped English model)."
    )
    layers: Literal["mix", "top", "average", "all"] = option("mix", "Which layers to write.")
    pre_tokenization: Literal["whitespace", "ptb"] = option(
        "whitespace", "Sentences are words separated by spaces, or raw text (ptb)."
    )
    text_column: str = option("text", "Column of JSON lines and Parquet.")
    half_precision: bool = option(False, "Write float16 instead of float32.")
    bf16: bool = option(False, "Compute in bfloat16.")


def read_vectors(output: Path, number: int) -> np.ndarray:
    """Read the vectors of one sentence of an output, without reading the others."""
    if output.is_file():
        with h5py.File(output) as file:
            return file[str(number)][...]
    shards = json.loads((output / "_embeddings.index.json").read_text(encoding="utf-8"))["shards"]
    shard = next(shard for shard in reversed(shards) if shard["first"] <= number)
    if shard["file"].endswith(".safetensors"):
        with safe_open(output / shard["file"], "numpy") as file:
            return file.get_tensor(str(number))
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(output / shard["file"], columns=["vectors"], filters=[("index", "=", number)])
    return np.array(table["vectors"][0].as_py(), dtype=np.float32)


def main(argv: Sequence[str] | None = None) -> CorpusEmbedding:
    """Run the embedding and return its summary."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    summary = embed_corpus(
        args.input_files,
        args.output,
        args.model_name_or_path,
        layers=args.layers,
        pre_tokenization=args.pre_tokenization,
        text_column=args.text_column,
        dtype="float16" if args.half_precision else "float32",
        model_dtype=torch.bfloat16 if args.bf16 else None,
    )
    print(summary.line())
    for number in range(min(3, summary.sentences)):
        print(f"sentence {number}: {read_vectors(summary.output, number).shape}")
    return summary


if __name__ == "__main__":
    run(main)

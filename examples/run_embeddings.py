"""Write the contextual vectors of every sentence of a text to a file.

    python examples/run_embeddings.py --model_name_or_path elmo-small --input_files text.txt \\
        --output_file vectors.hdf5 --layers all

The output has one array a sentence, named by its number in the text from 0: (words, 2P), or (layers, words, 2P) with
`--layers all`. By the suffix it is HDF5 (`.hdf5`, `.h5`), in the layout that bilm-tf's `dump_bilm_embeddings` and
AllenNLP's `elmo` command write, NumPy's `.npz`, or `.safetensors`. HDF5 and `.npz` are written as sentences come, in
bounded memory; `.safetensors` is gathered in memory first. A file appears only when it is complete, and an interrupted
run starts anew.

Unlike the originals, which carry their recurrent state from sentence to sentence, every sentence is read by itself.
"""

import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import HfArgumentParser

from elmo_hf import embed_iter
from elmo_hf.pretraining import open_corpus

Write = Callable[[str, np.ndarray], None]


@dataclass
class Arguments:
    model_name_or_path: str = field(metadata={"help": "Folder or Hub name of a model and its tokenizer."})
    input_files: list[str] = field(metadata={"help": "Text (a sentence a line), JSON lines, Parquet; files or globs."})
    output_file: str = field(metadata={"help": "A .hdf5, .h5, .npz or .safetensors file."})
    layers: Literal["mix", "top", "average", "all"] = field(default="mix", metadata={"help": "Which layers to write."})
    pre_tokenization: Literal["whitespace", "ptb"] = field(
        default="whitespace", metadata={"help": "Sentences are words with spaces between, or raw text (ptb)."}
    )
    text_column: str = field(default="text", metadata={"help": "Column of JSON lines and Parquet."})
    encoding: str = field(default="utf-8", metadata={"help": "Of text and JSON lines."})
    boundaries: bool = field(default=False, metadata={"help": "Also write the vectors of <S> and </S>."})
    half_precision: bool = field(default=False, metadata={"help": "Write float16 in place of float32."})
    forget_sentences: bool = field(
        default=False, metadata={"help": "HDF5: leave out sentence_to_index, from which AllenNLP's readers look up."}
    )
    batch_words: int = field(default=2048, metadata={"help": "Words read at a time, padding included."})
    device: str | None = field(default=None, metadata={"help": "Such as cuda (default: the GPU if there is one)."})
    bf16: bool = field(default=False, metadata={"help": "Compute in bfloat16."})


@contextmanager
def hdf5_writer(path: Path) -> Iterator[Write]:
    with h5py.File(path, "w") as file:
        yield lambda name, array: file.create_dataset(name, data=array)


@contextmanager
def npz_writer(path: Path) -> Iterator[Write]:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:

        def write(name: str, array: np.ndarray) -> None:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)

        yield write


@contextmanager
def safetensors_writer(path: Path) -> Iterator[Write]:
    arrays: dict[str, np.ndarray] = {}
    yield arrays.__setitem__
    save_file(arrays, path)


WRITERS = {".hdf5": hdf5_writer, ".h5": hdf5_writer, ".npz": npz_writer, ".safetensors": safetensors_writer}


def read_sentences(args: Arguments, kept: list[str] | None) -> Iterator[str | list[str]]:
    """The sentences of the input, blank lines among them so that numbers are lines; texts are noted in `kept`."""
    corpus = open_corpus(args.input_files, text_column=args.text_column, encoding=args.encoding, blank_lines="keep")
    for sentence in corpus:
        if kept is not None:
            kept.append(sentence.strip())
        yield sentence.split() if args.pre_tokenization == "whitespace" else sentence


def write_embeddings(args: Arguments, path: Path) -> tuple[int, int]:
    """Write all vectors to `path`; returns the numbers of sentences and words."""
    suffix = Path(args.output_file).suffix
    with_index = suffix in (".hdf5", ".h5") and not args.forget_sentences
    texts: list[str] | None = [] if with_index else None
    arrays = embed_iter(
        read_sentences(args, texts),
        args.model_name_or_path,
        layers=args.layers,
        boundaries=args.boundaries,
        batch_words=args.batch_words,
        device=args.device,
        dtype=torch.bfloat16 if args.bf16 else None,
    )
    sentences = words = 0
    with WRITERS[suffix](path) as write:
        for number, array in enumerate(arrays):
            write(str(number), array.astype(np.float16) if args.half_precision else array)
            sentences, words = number + 1, words + array.shape[-2]
        if texts is not None:
            # AllenNLP's: of a sentence that comes twice, the last number.
            index = json.dumps({text: str(number) for number, text in enumerate(texts)})
            write("sentence_to_index", np.array([index], dtype=h5py.string_dtype()))
    return sentences, words


def main(argv: Sequence[str] | None = None) -> tuple[int, int]:
    """Run; returns the numbers of sentences and words written."""
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses(argv)
    output = Path(args.output_file)
    if output.suffix not in WRITERS:
        raise ValueError(f"--output_file {output}: expected a name that ends in {', '.join(WRITERS)}")
    unfinished = output.with_name(f".{output.name}.writing")
    try:
        sentences, words = write_embeddings(args, unfinished)
        os.replace(unfinished, output)
    finally:
        unfinished.unlink(missing_ok=True)
    print(f"{output}: {sentences:,} sentences, {words:,} words")
    return sentences, words


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

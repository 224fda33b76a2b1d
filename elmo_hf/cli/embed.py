"""`elmo-hf embed`: contextual vectors of every sentence of a text, into files."""

import sys
from typing import Any

from .text import add_pos_options, add_pre_tokenization


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "embed",
        dataclass_types=[],
        help="write the contextual vectors of a whole corpus",
        description="Write the contextual vectors of every sentence of a text. The same command again continues one "
        "that was interrupted. Several processes: torchrun --nproc_per_node N -m elmo_hf.cli embed ..., or accelerate "
        "launch --multi_gpu --num_processes N -m elmo_hf.cli embed ...",
    )
    parser.add_argument(
        "input",
        nargs="+",
        help="text (a sentence a line), JSON lines, both also .gz or .xz, Parquet; files, globs",
    )
    parser.add_argument(
        "output",
        help="an HDF5 file (.hdf5, .h5) in the layout of bilm-tf and AllenNLP; or a folder of shards, .parquet or "
        ".safetensors by its name or --format",
    )
    parser.add_argument("--model", help="folder of a model and its tokenizer (default: the shipped English model)")
    parser.add_argument("--format", choices=("hdf5", "parquet", "safetensors"), help="whatever the output's name is")
    parser.add_argument(
        "--layers",
        type=lambda text: int(text) if text.isdecimal() else text,
        default="mix",
        metavar="mix|top|average|all|NUMBER",
        help="which vectors: the model's mix of layers (default), the last layer, the mean of all, all of them, or one "
        "layer by its number, 0 for the word layer",
    )
    parser.add_argument("--boundaries", action="store_true", help="also write the vectors of <S> and </S>")
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of the vectors in the files",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "int8"),
        help="what the model computes in (default: as it is stored)",
    )
    parser.add_argument("--device", help="such as cuda (default: each process's GPU if there is one)")
    parser.add_argument(
        "--batch_words", "--batch-words", type=int, default=2048, help="words read at a time (default 2048)"
    )
    parser.add_argument(
        "--shard_words",
        "--shard-words",
        type=int,
        default=100_000,
        help="words of a shard, about (default 100000): what a kill costs at most; Ctrl-C keeps what a shard has",
    )
    parser.add_argument(
        "--chunk_words",
        "--chunk-words",
        type=int,
        default=2048,
        help="longer lines are read by chunks of so many words, with the same result (default 2048)",
    )
    parser.add_argument(
        "--carry_state",
        "--carry-state",
        action="store_true",
        help="read the sentences in their order, each from the state that the one before it has left, as bilm-tf and "
        "AllenNLP do (one process)",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=1,
        help="with carried state: sentences read side by side, each continuing the one so many places before it: 1 as "
        "bilm-tf's dump_bilm_embeddings (default), 64 as AllenNLP's ElmoEmbedder",
    )
    parser.add_argument(
        "--warm_up",
        "--warm-up",
        type=int,
        default=0,
        metavar="N",
        help="with carried state: read the first N sentences once beforehand (default 0)",
    )
    parser.add_argument(
        "--word_cache_mb",
        "--word-cache-mb",
        type=float,
        default=256.0,
        help="on a processor: megabytes of words' vectors kept within a shard, 0 for none (default 256)",
    )
    parser.add_argument("--text_column", "--text-column", default="text", help="column of JSON lines and Parquet")
    add_pos_options(parser)
    parser.add_argument("--id_column", "--id-column", help="column with names of the sentences, written beside them")
    add_pre_tokenization(parser)
    parser.add_argument("--encoding", default="utf-8", help="encoding of text and JSON files (default utf-8)")
    parser.add_argument(
        "--undecodable",
        choices=("refuse", "replace"),
        default="refuse",
        help="lines that are not valid in the encoding: stop (default), or mark the bytes U+FFFD",
    )
    parser.add_argument(
        "--forget_sentences",
        "--forget-sentences",
        action="store_true",
        help="HDF5: leave out sentence_to_index, from which AllenNLP's readers look up; it needs all text in memory",
    )
    parser.add_argument(
        "--use_sentence_keys",
        "--use-sentence-keys",
        action="store_true",
        help="HDF5: name each dataset by its sentence, as AllenNLP's option does, in place of its number",
    )
    parser.add_argument("--overwrite", action="store_true", help="start anew, whatever an earlier command has written")
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`embed_corpus`] and print its closing line."""
    import torch

    from elmo_hf import embed_corpus

    sources, output, model = (options.pop(name) for name in ("input", "output", "model"))
    precision = options.pop("precision")
    try:
        summary = embed_corpus(
            sources,
            output,
            model,
            model_dtype=None if precision in (None, "int8") else getattr(torch, precision),
            int8=precision == "int8",
            word_cache_megabytes=options.pop("word_cache_mb") or None,
            sentence_index=not options.pop("forget_sentences"),
            **options,
        )
    except KeyboardInterrupt:
        print("elmo-hf embed: stopped; the same command continues", file=sys.stderr)
        return 130
    if summary.is_first_process:
        print(summary.line())
        print(f"read it with {summary.reading()}", file=sys.stderr)
    return 0

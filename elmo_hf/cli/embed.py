"""`elmo-hf embed`: contextual vectors of every sentence of a text, into files."""

from typing import Any

from .models import add_model, chosen_model, chosen_output
from .options import UsageError, add_flag, add_number, say
from .output import add_json, tell
from .text import add_batch_words, add_encoding, add_pos_options, add_pre_tokenization, files_of


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf embed TEXT ... --output FILE --model FOLDER [options]",
        description="Write the contextual vectors of every sentence of a text. The same command again continues an "
        "interrupted run. Several processes: torchrun --nproc_per_node N -m elmo_hf.cli embed ...",
        example="elmo-hf embed corpus/*.txt.gz --output vectors.hdf5 --model elmo-folder --layers all",
    )
    parser.add_argument(
        "input",
        nargs="+",
        metavar="TEXT",
        help="text (one sentence per line) or JSON lines, also .gz or .xz, Parquet, CoNLL-U; files, globs; - for stdin",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="an HDF5 file (.hdf5, .h5) in the layout of bilm-tf and AllenNLP; or a folder of shards, .parquet or "
        ".safetensors by its name or --format",
    )
    add_model(parser)
    parser.add_argument("--format", choices=("hdf5", "parquet", "safetensors"), help="(default: by the output's name)")
    parser.add_argument(
        "--layers",
        type=lambda text: int(text) if text.isdecimal() else text,
        default="mix",
        metavar="NAME",
        help="mix: the model's mix of layers; top: the last layer; average; all; or a layer's number, 0 for words",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="dtype of the vectors in the files"
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "int8"),
        help="dtype that the model computes in (default: as stored)",
    )
    parser.add_argument("--id_column", help="column with names of the sentences, which are written too")
    add_flag(parser, "--overwrite", "start over, replacing the output of earlier runs")
    add_json(parser)

    group = parser.further_group("batches")
    add_batch_words(group)
    add_number(
        group,
        "--shard_words",
        "approximate words per shard. A killed run loses at most one shard; Ctrl-C loses nothing",
        100_000,
    )
    add_number(group, "--chunk_words", "read longer lines in chunks of N words, with the same result", 2048)
    group.add_argument(
        "--word_cache_mb",
        type=float,
        default=256.0,
        metavar="N",
        help="on a CPU: megabytes of word vectors cached within a shard, 0 for none",
    )
    group = parser.further_group("a cluster")
    group.add_argument(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help="ray: workers of a Ray cluster, which read and write Parquet by paths and URLs (s3://...) that all "
        "machines can access; unreadable files are reported at the end, after the others are done",
    )
    group.add_argument("--address", metavar="HOST:PORT", help="Ray cluster (default: a new one on this machine)")
    add_number(group, "--workers", "maximum number (default: one per CPU, or GPU)")
    group.add_argument("--gpus_per_worker", type=float, default=0, metavar="N", help="may be a fraction; 0: use CPUs")
    group = parser.further_group("carried state")
    add_flag(
        group,
        "--carry_state",
        "read sentences in order, each from the final state of the previous one, as bilm-tf and AllenNLP do (one "
        "process)",
    )
    add_number(
        group,
        "--rows",
        "with carried state: sentences per batch, each continuing the sentence N before it: 1 as in bilm-tf's "
        "dump_bilm_embeddings, 64 as in AllenNLP's ElmoEmbedder",
        1,
    )
    add_number(group, "--warm_up", "read the first N sentences once beforehand", 0)
    group = parser.further_group("what is written")
    add_flag(group, "--boundaries", "also write the vectors of <S> and </S>")
    add_flag(
        group,
        "--forget_sentences",
        "HDF5: omit sentence_to_index, which AllenNLP's readers use; it needs all text in memory",
    )
    add_flag(
        group,
        "--use_sentence_keys",
        "HDF5: name each dataset by its sentence instead of its number, as AllenNLP's option does",
    )
    group = parser.further_group("how text is read")
    group.add_argument("--text_column", default="text", help="column of JSON lines and Parquet")
    add_pos_options(group)
    add_pre_tokenization(group)
    add_encoding(group)
    parser.set_defaults(run=run, after_stop="the same command continues, and keeps what is complete")


def run(options: dict[str, Any]) -> int:
    """Call [`embed_corpus`] and print its closing line."""
    output, model = chosen_output(options, "input"), chosen_model(options)
    del options["output"], options["model"]

    import torch

    from elmo_hf import embed_corpus
    from elmo_hf.corpus_embedding.ray_engine import embed_by_ray

    precision, json = options.pop("precision"), options.pop("json")
    options["model_dtype"] = None if precision in (None, "int8") else getattr(torch, precision)
    options["int8"] = precision == "int8"
    options["word_cache_megabytes"] = options.pop("word_cache_mb") or None
    if _by_ray(options, str(output)):
        summary = embed_by_ray(options.pop("input"), output, model, **options)
    else:
        options["sentence_index"] = not options.pop("forget_sentences")
        summary = embed_corpus(files_of(options.pop("input")), output, model, **options)
    if summary.is_first_process:
        record = {"output": str(summary.output), "sentences": summary.sentences, "words": summary.words}
        record |= {"shards": summary.shards, "new_shards": summary.new_shards}
        record |= {"words_per_second": summary.words_per_second, "reading": summary.reading()}
        tell({"json": json}, record, summary.line())
        say(f"read it with {summary.reading()}")
    return 0


def _by_ray(options: dict[str, Any], output: str) -> bool:
    """True for the engine `ray`. Removes the options of the other engine.

    Raises:
        UsageError: an option that the chosen engine does not support.
    """
    engine, file_format = options.pop("engine"), options["format"]
    options["gpus"] = options.pop("gpus_per_worker")
    if engine != "ray":
        for name in ("address", "workers", "gpus"):
            if options.pop(name):
                raise UsageError(f"--{name.replace('gpus', 'gpus_per_worker')} needs --engine ray")
        return False
    if file_format not in (None, "parquet") or output.endswith((".hdf5", ".h5", ".safetensors")):
        raise UsageError(f"--engine ray writes a folder of Parquet, not {file_format or output}: choose such a name")
    if "-" in options["input"]:
        raise UsageError("--engine ray cannot read stdin, which other machines do not see: write the text to a file")
    for name in ("carry_state", "use_sentence_keys", "forget_sentences", "warm_up"):
        if options.pop(name):
            raise UsageError(f"--{name} cannot be combined with --engine ray")
    if options.pop("rows") != 1:
        raise UsageError("--rows cannot be combined with --engine ray")
    del options["format"]
    return True

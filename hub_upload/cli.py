"""`elmo-hub`: convert original ELMo checkpoints, export them again, and check that nothing was lost."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from elmo_hf import __version__

from .common.content import read_text
from .common.errors import CheckpointError
from .convert import convert
from .export import export
from .verify import TOLERANCE, verify

VECTORS_HELP = "table of word vectors in place of characters: a dump of token embeddings, or GloVe's or word2vec's form"
TOLERANCE_HELP = "largest difference, as a share of a layer's largest value (default: %(default)g)"
OPTIONS_HELP = "options.json, or the architecture file of ELMoForManyLangs, if it is not beside the weights"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main_parser = argparse.ArgumentParser(prog="elmo-hub", description=__doc__)
    main_parser.add_argument("--version", action="version", version=__version__)
    commands = main_parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("convert", help="an original checkpoint to a Transformers folder")
    command.add_argument("source", type=Path, help="folder, ZIP, model.tar.gz, *.hdf5, or prefix of a TF checkpoint")
    command.add_argument("output", type=Path, help="folder to make")
    command.add_argument("--options", type=Path, help=OPTIONS_HELP)
    command.add_argument("--weights", type=Path, help="weight file, if it is not to be guessed")
    command.add_argument("--vocabulary", type=Path, help="vocabulary, one word a line, plain or gzipped")
    command.add_argument("--softmax", type=Path, help="HDF5 file with softmax/W and softmax/b")
    command.add_argument("--word-vectors", type=Path, help=VECTORS_HELP)
    command.add_argument("--without-vocabulary", action="store_true", help="leave vocabulary and softmax out")
    command.add_argument("--without-softmax", action="store_true", help="leave the softmax out")
    command.add_argument(
        "--elmo-only",
        action="store_true",
        help="take the ELMo of an AllenNLP task model alone (default: a crf_tagger or bcn as a whole)",
    )
    command.add_argument(
        "--layer-norm-epsilon",
        type=float,
        metavar="E",
        help="of a Transformer language model, whose archive does not hold it (default: by the age of the program that "
        "wrote the archive, 1e-6 up to AllenNLP 0.9, 1e-13 from 1.0 on)",
    )
    command.add_argument(
        "--remote-code",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="put the code into the folder, for trust_remote_code=True where elmo-hf is missing",
    )
    command.add_argument("--force", action="store_true", help="replace a folder at the output that elmo-hub wrote")

    command = commands.add_parser("export", help="a Transformers folder to the files of the original programs")
    command.add_argument("folder", type=Path, help="Transformers folder")
    command.add_argument("output", type=Path, help="folder to make")
    command.add_argument(
        "--softmax-layout",
        choices=("sparse", "dense", "unsampled"),
        help="how the archive of a Transformer holds its softmax (default: sparse)",
    )
    command.add_argument("--force", action="store_true", help="replace a folder at the output that elmo-hub wrote")

    command = commands.add_parser("verify", help="compare a folder with the checkpoint it was made from")
    command.add_argument("folder", type=Path, help="Transformers folder")
    command.add_argument("--against", type=Path, required=True, metavar="SOURCE", help="the original checkpoint")
    command.add_argument("--options", type=Path, help=OPTIONS_HELP)
    command.add_argument("--weights", type=Path, help="weight file, if it is not to be guessed")
    command.add_argument("--vocabulary", type=Path, help="vocabulary, if it is not beside the weights")
    command.add_argument("--word-vectors", type=Path, help=VECTORS_HELP)
    command.add_argument("--sentences", type=Path, help="tokenized sentences, one a line, instead of built-in ones")
    command.add_argument("--tolerance", type=float, default=TOLERANCE, help=TOLERANCE_HELP)
    return main_parser


def _convert(arguments: argparse.Namespace) -> int:
    report = convert(
        arguments.source,
        arguments.output,
        options=arguments.options,
        weights=arguments.weights,
        vocabulary=arguments.vocabulary,
        softmax=arguments.softmax,
        word_vectors=arguments.word_vectors,
        without_vocabulary=arguments.without_vocabulary,
        without_softmax=arguments.without_softmax,
        layer_norm_epsilon=arguments.layer_norm_epsilon,
        elmo_only=arguments.elmo_only,
        remote_code=arguments.remote_code,
        force=arguments.force,
    )
    print(report.source)
    print(
        f"{report.tensors} tensors, {report.parameters:,} values, {report.vocab_size:,} word ids -> "
        f"{report.architecture} in {report.output}"
    )
    _print_notes(report.notes)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    report = export(arguments.folder, arguments.output, softmax_layout=arguments.softmax_layout, force=arguments.force)
    print(f"{report.tensors} tensors -> {report.output}: {', '.join(report.files)}")
    _print_notes(report.notes)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    sentences = None
    if arguments.sentences is not None:
        text = read_text(arguments.sentences, "tokenized sentences, one a line")
        # Lines end as in all readers, not at U+2028.
        sentences = [line.split() for line in io.StringIO(text, newline=None)]
    report = verify(
        arguments.folder,
        arguments.against,
        sentences=sentences,
        tolerance=arguments.tolerance,
        options=arguments.options,
        weights=arguments.weights,
        vocabulary=arguments.vocabulary,
        word_vectors=arguments.word_vectors,
    )
    print(f"{report.source}; {report.sentences} sentences; largest absolute differences:")
    first, second = ("from zero state", "with carried state") if report.has_state else ("at once", "in batches")
    for layer, values in enumerate(zip(report.differences, report.carried, report.magnitudes, strict=True)):
        alone, carried, magnitude = values
        print(f"layer {layer}: {alone:.2e} {first}, {carried:.2e} {second}, of values up to {magnitude:.3g}")
    if (task := report.task) is not None:
        print(
            f"task: logits {task.logits:.2e} (tolerance {task.logits_tolerance:g}), log likelihoods "
            f"{task.log_likelihoods:.2e} (tolerance {task.likelihood_tolerance:g}); another result in {task.different} "
            f"of {task.sentences} sentences"
        )
    print(
        f"{'passed' if report.passed else 'FAILED'}: {report.largest:.2e}, {report.scaled:.2e} of its layer's largest "
        f"value, tolerance {report.tolerance:g}"
    )
    return 0 if report.passed else 1


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 for a failed verification, 2 for an error."""
    parsed = parser().parse_args(arguments)
    try:
        return {"convert": _convert, "export": _export, "verify": _verify}[parsed.command](parsed)
    except (CheckpointError, OSError, UnicodeDecodeError) as error:
        print(f"elmo-hub: error: {error}", file=sys.stderr)
        return 2

"""`elmo-hub`: convert original ELMo checkpoints, verify and publish them, export them again."""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from elmo_hf import __version__
from elmo_hf.hub import HubError, add_facts, note_verification, push

from .common.content import read_text
from .common.errors import CheckpointError
from .convert import convert
from .export import export
from .release import ReleaseReport, release, table
from .verify import TOLERANCE, sentence_of, verify

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
    _add_publishing(commands)
    return main_parser


def _add_publishing(commands: argparse._SubParsersAction) -> None:
    """The commands about the Hub and the published originals."""
    command = commands.add_parser("card", help="write a folder's model card, or add facts to it")
    command.add_argument("folder", type=Path, help="Transformers folder")
    command.add_argument("--license", help="identifier of the Hub: apache-2.0, cc-by-4.0, other, unknown, ...")
    command.add_argument("--license-name", "--license_name", help="its name, with --license other")
    command.add_argument("--language", nargs="+", default=[], metavar="CODE", help="such as en")
    command.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="training data, by names on the Hub")

    command = commands.add_parser("push", help="publish a folder on the Hub: model, tokenizer, code, card and metrics")
    command.add_argument("folder", type=Path, help="Transformers folder")
    command.add_argument("name", help="of the repository, user/name")
    _add_push_options(command)
    command.add_argument(
        "--dry-run", "--dry_run", action="store_true", help="print files, sizes and card; send nothing"
    )

    command = commands.add_parser("release", help="fetch, convert and verify a published original by its name")
    command.add_argument("name", help="such as small; elmo-hub list shows all")
    command.add_argument("output", type=Path, nargs="?", help="folder to make (default: kept, and found as elmo:NAME)")
    command.add_argument("--base-url", "--base_url", metavar="URL", help="mirror, https:// or file://, with NAME/FILE")
    command.add_argument("--softmax", action="store_true", help="with its language model's softmax and vocabulary")
    command.add_argument("--yes", action="store_true", help="do not ask about size and licence")
    command.add_argument("--force", action="store_true", help="replace a folder at the output that elmo-hub wrote")
    command.add_argument("--push", metavar="USER/NAME", help="publish it on the Hub, too")
    _add_push_options(command)

    commands.add_parser("list", help="the published originals: size, licence, language, what is kept here")


def _add_push_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    command.add_argument("--revision", help="branch to commit to, or to start --branch from (default: main)")
    command.add_argument("--branch", help="branch to commit to, made if it does not exist")
    command.add_argument("--pull-request", "--pull_request", action="store_true", help="open a pull request instead")
    command.add_argument("--message", help="of the commit")


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
    if report.passed:
        try:
            note_verification(arguments.folder, sentence_of(report))
        except OSError as error:
            _print_notes([f"the card does not say so: {error}"])
    return 0 if report.passed else 1


def _card(arguments: argparse.Namespace) -> int:
    facts = {name: getattr(arguments, name) for name in ("license", "license_name", "language", "datasets")}
    print(add_facts(arguments.folder, **facts))
    return 0


def _push(arguments: argparse.Namespace) -> int:
    _publish(arguments, arguments.folder, arguments.name, dry_run=arguments.dry_run)
    return 0


def _publish(arguments: argparse.Namespace, folder: Path, name: str, dry_run: bool = False) -> None:
    given = {key: getattr(arguments, key) for key in ("private", "revision", "branch", "pull_request", "message")}
    report = push(folder, name, dry_run=dry_run, **given)
    if dry_run:
        for file, size in report.files:
            print(f"{size:>14,}  {file}")
        print(f"{sum(size for _, size in report.files):>14,}  in all\n\n{report.card}")
        return
    for file in report.deleted:
        print(f"deleted: {file}")
    print(f"{len(report.files)} files, {sum(size for _, size in report.files):,} bytes -> {report.url}")


def _release(arguments: argparse.Namespace) -> int:
    given = {key: getattr(arguments, key) for key in ("base_url", "softmax", "yes", "force")}
    report: ReleaseReport = release(arguments.name, arguments.output, **given)
    print(f"{report.item.name} -> {report.folder}")
    print(f"passed: {report.verification.scaled:.2e}, tolerance {report.verification.tolerance:g}")
    _print_notes(report.notes)
    if arguments.push:
        _publish(arguments, report.folder, arguments.push)
    return 0


def _list(arguments: argparse.Namespace) -> int:
    rows = [("name", "size", "licence", "language", "", "what it is"), *table()]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print("  ".join([*(part.ljust(width) for part, width in zip(row[:5], widths, strict=True)), row[5]]))
    return 0


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}")


COMMANDS = {
    "card": _card,
    "convert": _convert,
    "export": _export,
    "list": _list,
    "push": _push,
    "release": _release,
    "verify": _verify,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0, 1 for a failed verification, 2 for an error."""
    parsed = parser().parse_args(arguments)
    try:
        return COMMANDS[parsed.command](parsed)
    except (CheckpointError, HubError, OSError, UnicodeDecodeError) as error:
        print(f"elmo-hub: error: {error}", file=sys.stderr)
        return 2

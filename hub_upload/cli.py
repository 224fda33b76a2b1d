"""`elmo-hub`: convert original ELMo checkpoints, verify and publish them, export them again."""

import dataclasses
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from elmo_hf.cli import Parser, Program, UsageError, add_flag, add_json, card, tell
from elmo_hf.hub import PushReport, note_verification, push

from .common.content import read_text
from .convert import ConversionReport, convert
from .export import ExportReport, export
from .release import ReleaseReport, release, table
from .verify import TOLERANCE, sentence_of, verify

WEIGHTS = (
    ("options", "options.json, or the architecture file of ELMoForManyLangs, if not next to the weights"),
    ("weights", "weight file, if it should not be guessed"),
    ("vocabulary", "vocabulary, one word per line, plain or gzipped, if not next to the weights"),
    ("word_vectors", "word vectors to use instead of characters: a dump of token embeddings, GloVe or word2vec"),
)
OVERWRITE_HELP = "replace an output folder written by elmo-hub"


def _add_convert(add_command: Any) -> None:
    parser = add_command(
        usage="elmo-hub convert SOURCE --output FOLDER [options]",
        description="Convert an original checkpoint to a folder that Transformers loads, bit for bit.",
        renamed={"--force": "--overwrite"},
        example="elmo-hub convert elmo_2x4096_512_2048cnn_2xhighway_weights.hdf5 --output elmo-original "
        "--options elmo_2x4096_512_2048cnn_2xhighway_options.json",
    )
    parser.add_argument(
        "source", nargs="+", help="folder, ZIP, model.tar.gz, *.hdf5, or prefix of a TensorFlow checkpoint"
    )
    parser.add_argument("--output", metavar="FOLDER", help="folder to make")
    add_flag(parser, "--overwrite", OVERWRITE_HELP)
    add_flag(
        parser, "--elmo_only", "convert only the ELMo of an AllenNLP task model (default: a complete crf_tagger or bcn)"
    )
    add_json(parser)
    group = parser.add_argument_group("files")
    for name, text in WEIGHTS:
        group.add_argument(f"--{name}", type=Path, metavar="FILE", help=text)
    group.add_argument("--softmax", type=Path, metavar="FILE", help="HDF5 file with softmax/W and softmax/b")
    group = parser.further_group("what is left out")
    add_flag(group, "--without_vocabulary", "omit vocabulary and softmax")
    add_flag(group, "--without_softmax", "omit the softmax")
    group.add_argument(
        "--no_remote_code",
        dest="remote_code",
        action="store_false",
        help="omit the code that allows loading without elmo-hf (trust_remote_code=True)",
    )
    group.add_argument("--remote_code", action="store_true", help="==SUPPRESS==")
    group = parser.further_group("Transformer language models")
    group.add_argument(
        "--layer_norm_epsilon",
        type=float,
        metavar="E",
        help="not stored in the archive (default: by the AllenNLP version that wrote it, 1e-6 up to 0.9, 1e-13 from "
        "1.0 on)",
    )
    parser.set_defaults(run=_convert, remote_code=True)


def _add_export(add_command: Any) -> None:
    parser = add_command(
        usage="elmo-hub export --model FOLDER --output FOLDER [options]",
        description="Write a Transformers folder as the files that the original programs read.",
        renamed={"--force": "--overwrite"},
        example="elmo-hub export --model elmo-folder --output original",
    )
    parser.add_argument("places", nargs="*", help="==SUPPRESS==")
    parser.add_argument("--model", metavar="FOLDER", help="Transformers folder")
    parser.add_argument("--output", metavar="FOLDER", help="folder to make")
    add_flag(parser, "--overwrite", OVERWRITE_HELP)
    parser.add_argument(
        "--softmax_layout",
        choices=("sparse", "dense", "unsampled"),
        help="layout of the softmax in the archive of a Transformer (default: sparse)",
    )
    add_json(parser)
    parser.set_defaults(run=_export)


def _add_verify(add_command: Any) -> None:
    parser = add_command(
        usage="elmo-hub verify --model FOLDER --against SOURCE [options]",
        description="Compare a folder with the checkpoint it was made from, by an independent implementation in NumPy. "
        "The exit status is 1 if they differ.",
        example="elmo-hub verify --model elmo-folder --against weights.hdf5",
    )
    parser.add_argument("places", nargs="*", help="==SUPPRESS==")
    parser.add_argument("--model", metavar="FOLDER", help="Transformers folder")
    parser.add_argument("--against", type=Path, required=True, metavar="SOURCE", help="the original checkpoint")
    parser.add_argument(
        "--sentences", type=Path, metavar="FILE", help="tokenized sentences, one per line, instead of built-in ones"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="X",
        help="maximum difference, relative to the layer's largest value",
    )
    add_json(parser)
    group = parser.add_argument_group("files")
    for name, text in WEIGHTS:
        group.add_argument(f"--{name}", type=Path, metavar="FILE", help=text)
    parser.set_defaults(run=_verify)


def _add_push(add_command: Any) -> None:
    parser = add_command(
        usage="elmo-hub push FOLDER NAME [options]",
        description="Publish a folder on the Hub in one commit: model, tokenizer, code, card and metrics.",
        example="elmo-hub push elmo-folder me/elmo-small --private",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="Transformers folder")
    parser.add_argument("name", metavar="NAME", help="name of the repository, user/name")
    add_flag(parser, "--dry_run", "print files, sizes and card; send nothing")
    _add_repository(parser)
    add_json(parser)
    parser.set_defaults(run=_push)


def _add_release(add_command: Any) -> None:
    parser = add_command(
        usage="elmo-hub release NAME [options]",
        description="Download a published original by name, convert it and verify it.",
        renamed={"--force": "--overwrite"},
        example="elmo-hub release small --output elmo-small",
    )
    parser.add_argument("name", metavar="NAME", help="such as small; elmo-hub list shows all")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="folder to create (default: the cache, found as elmo:NAME)"
    )
    add_flag(parser, "--overwrite", OVERWRITE_HELP)
    parser.add_argument("--base_url", metavar="URL", help="mirror, https:// or file://, with files NAME/FILE")
    add_flag(parser, "--softmax", "include its language model's softmax and vocabulary")
    add_flag(parser, "--yes", "accept size and license without a prompt")
    parser.add_argument("--push", metavar="USER/NAME", help="also publish it on the Hub")
    _add_repository(parser)
    add_json(parser)
    parser.set_defaults(run=_release)


def _add_repository(parser: Parser) -> None:
    group = parser.add_argument_group("repository")
    group.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    group.add_argument("--revision", metavar="NAME", help="branch to commit to, or start of --branch (default: main)")
    group.add_argument("--branch", metavar="NAME", help="branch to commit to; created if it does not exist")
    add_flag(group, "--pull_request", "open a pull request instead")
    group.add_argument("--message", metavar="TEXT", help="of the commit")


def _add_list(add_command: Any) -> None:
    parser = add_command(
        usage="elmo-hub list",
        description="List the published originals: size, license, language, and if they are cached.",
        example="elmo-hub list",
    )
    add_json(parser)
    parser.set_defaults(run=_list)


def _convert(options: dict[str, Any]) -> int:
    output = _named(options, "output", options["source"], -1, fewest=2)
    (source,) = _only(options["source"], "SOURCE")
    names = "options weights vocabulary softmax word_vectors without_vocabulary without_softmax".split()
    names += "layer_norm_epsilon elmo_only remote_code".split()
    report = convert(source, output, force=options["overwrite"], **{name: options[name] for name in names})
    lines = [
        report.source,
        f"{report.tensors} tensors, {report.parameters:,} values, {report.vocab_size:,} word ids -> "
        f"{report.architecture} in {report.output}",
    ]
    _tell_of(options, report, lines)
    return 0


def _export(options: dict[str, Any]) -> int:
    output = _named(options, "output", options["places"], -1)
    folder = _named(options, "model", options["places"], 0)
    report = export(folder, output, softmax_layout=options["softmax_layout"], force=options["overwrite"])
    _tell_of(options, report, [f"{report.tensors} tensors -> {report.output}: {', '.join(report.files)}"])
    return 0


def _verify(options: dict[str, Any]) -> int:
    folder = _named(options, "model", options["places"], 0)
    sentences = None
    if options["sentences"] is not None:
        text = read_text(options["sentences"], "tokenized sentences, one a line")
        # Lines end as in all other readers, not at U+2028.
        sentences = [line.split() for line in io.StringIO(text, newline=None)]
    report = verify(
        folder,
        options["against"],
        sentences=sentences,
        tolerance=options["tolerance"],
        **{name: options[name] for name, _ in WEIGHTS},
    )
    lines = [f"{report.source}; {report.sentences} sentences; largest absolute differences:"]
    first, second = ("from zero state", "with carried state") if report.has_state else ("at once", "in batches")
    for layer, values in enumerate(zip(report.differences, report.carried, report.magnitudes, strict=True)):
        alone, carried, magnitude = values
        lines.append(f"layer {layer}: {alone:.2e} {first}, {carried:.2e} {second}, of values up to {magnitude:.3g}")
    if (task := report.task) is not None:
        lines.append(
            f"task: logits {task.logits:.2e} (tolerance {task.logits_tolerance:g}), log likelihoods "
            f"{task.log_likelihoods:.2e} (tolerance {task.likelihood_tolerance:g}); another result in {task.different} "
            f"of {task.sentences} sentences"
        )
    lines.append(
        f"{'passed' if report.passed else 'FAILED'}: {report.largest:.2e}, {report.scaled:.2e} of its layer's largest "
        f"value, tolerance {report.tolerance:g}"
    )
    if report.passed:
        try:
            note_verification(Path(folder), sentence_of(report))
        except OSError as error:
            lines.append(f"note: the card does not say so: {error}")
    tell(options, {**dataclasses.asdict(report), "passed": report.passed}, "\n".join(lines))
    return 0 if report.passed else 1


def _push(options: dict[str, Any]) -> int:
    report = _published(options, options["folder"], options["name"], dry_run=options["dry_run"])
    tell(options, dataclasses.asdict(report), "\n".join(_lines_of_push(report, options["dry_run"])))
    return 0


def _published(options: dict[str, Any], folder: Path, name: str, dry_run: bool = False) -> PushReport:
    given = {key: options[key] for key in ("private", "revision", "branch", "pull_request", "message")}
    return push(folder, name, dry_run=dry_run, **given)


def _lines_of_push(report: PushReport, dry_run: bool) -> list[str]:
    total = sum(size for _, size in report.files)
    if dry_run:
        files = [f"{size:>14,}  {file}" for file, size in report.files]
        return [*files, f"{total:>14,}  in all", "", report.card]
    deleted = [f"deleted: {file}" for file in report.deleted]
    return [*deleted, f"{len(report.files)} files, {total:,} bytes -> {report.url}"]


def _release(options: dict[str, Any]) -> int:
    given = {key: options[key] for key in ("base_url", "softmax", "yes")}
    report: ReleaseReport = release(options["name"], options["output"], force=options["overwrite"], **given)
    lines = [
        f"{report.item.name} -> {report.folder}",
        f"passed: {report.verification.scaled:.2e}, tolerance {report.verification.tolerance:g}",
        *(f"note: {note}" for note in report.notes),
    ]
    record: dict[str, Any] = {"name": report.item.name, "folder": str(report.folder), "notes": report.notes}
    record["difference"] = report.verification.scaled
    if options["push"]:
        pushed = _published(options, report.folder, options["push"])
        lines += _lines_of_push(pushed, dry_run=False)
        record["url"] = pushed.url
    tell(options, record, "\n".join(lines))
    return 0


def _list(options: dict[str, Any]) -> int:
    titles = ("name", "size", "license", "language", "kept", "what")
    rows = [titles, *table()]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join([*(map(str.ljust, row[:5], widths)), row[5]]) for row in rows]
    tell(options, {"originals": [dict(zip(titles, row, strict=True)) for row in rows[1:]]}, "\n".join(lines))
    return 0


def _named(options: dict[str, Any], name: str, places: list[str], place: int, fewest: int = 1) -> str:
    """The value of an option; formerly the argument number `place` of `places`, if there are at least `fewest`."""
    if options[name] is None:
        if len(places) < fewest:
            raise UsageError(f"--{name} is missing")
        options[name] = places.pop(place)
        print(f"note: the {name} is now given by --{name} {options[name]}", file=sys.stderr)
    return options[name]


def _only(values: list[str], name: str) -> list[str]:
    if len(values) != 1:
        raise UsageError(f"{name} is one argument, not {len(values)}: {' '.join(values)}")
    return values


def _tell_of(options: dict[str, Any], report: ConversionReport | ExportReport, lines: list[str]) -> None:
    """Print a report: its lines and notes, or with `--json` all of it."""
    tell(options, dataclasses.asdict(report), "\n".join([*lines, *(f"note: {note}" for note in report.notes)]))


GROUPS = {
    "originals": {
        "list": "list the published originals",
        "release": "download a published original by name, convert and verify it",
        "convert": "convert an original checkpoint to a Transformers folder",
        "verify": "compare a folder with the checkpoint it was made from",
        "export": "write a Transformers folder as the files of the original programs",
    },
    "publish": {
        "card": "write a folder's model card, or add facts to it",
        "push": "publish a folder on the Hub: model, tokenizer, code, card and metrics",
    },
}
COMMANDS = {name: text for group in GROUPS.values() for name, text in group.items()}
ADDERS: dict[str, Callable[[Any], None]] = {
    "card": card.add_parser,
    "convert": _add_convert,
    "export": _add_export,
    "list": _add_list,
    "push": _add_push,
    "release": _add_release,
    "verify": _add_verify,
}
PROGRAM = Program(
    "elmo-hub",
    "conversion of original ELMo checkpoints to Transformers folders and back",
    ADDERS.__getitem__,
    GROUPS,
    [
        "  elmo-hub convert weights.hdf5 --output elmo-folder --options options.json",
        "  elmo-hub COMMAND --help lists its options.",
    ],
)


def parser() -> Parser:
    """The command line, with all commands."""
    return PROGRAM.parser(*COMMANDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of `elmo-hub`; return the status: 0, 1 for a refusal or a failed verification, 2 for usage."""
    return PROGRAM.main(arguments)

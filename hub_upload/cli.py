"""`elmo-hub`: convert original ELMo checkpoints, verify and publish them, export them again."""

import dataclasses
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from elmo_hf.cli import Parser, Program, UsageError
from elmo_hf.hub import PushReport, add_facts, note_verification, push

from .common.content import read_text
from .convert import convert
from .export import export
from .release import ReleaseReport, release, table
from .verify import TOLERANCE, sentence_of, verify

WEIGHTS = (
    ("options", "options.json, or the architecture file of ELMoForManyLangs, if not next to the weights"),
    ("weights", "weight file, if it should not be guessed"),
    ("vocabulary", "vocabulary, one word per line, plain or gzipped, if not next to the weights"),
    ("word_vectors", "word vectors to use instead of characters: a dump of token embeddings, GloVe or word2vec"),
)
OVERWRITE_HELP = "replace an output folder written by elmo-hub"


def _add_convert(commands: Any) -> None:
    parser = commands.add_parser(
        "convert",
        usage="elmo-hub convert SOURCE --output FOLDER [options]",
        help=COMMANDS["convert"],
        description="Convert an original checkpoint to a folder that Transformers loads, bit for bit.",
        renamed={"--force": "--overwrite"},
        example="elmo-hub convert elmo_2x4096_512_2048cnn_2xhighway_weights.hdf5 --output elmo-original "
        "--options elmo_2x4096_512_2048cnn_2xhighway_options.json",
    )
    parser.add_argument(
        "source", nargs="+", help="folder, ZIP, model.tar.gz, *.hdf5, or prefix of a TensorFlow checkpoint"
    )
    parser.add_argument("--output", metavar="FOLDER", help="folder to make")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    parser.add_argument(
        "--elmo_only",
        action="store_true",
        help="convert only the ELMo of an AllenNLP task model (default: a complete crf_tagger or bcn)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    group = parser.add_argument_group("files")
    for name, text in WEIGHTS:
        group.add_argument(f"--{name}", type=Path, metavar="FILE", help=text)
    group.add_argument("--softmax", type=Path, metavar="FILE", help="HDF5 file with softmax/W and softmax/b")
    group = parser.further_group("what is left out")
    group.add_argument("--without_vocabulary", action="store_true", help="omit vocabulary and softmax")
    group.add_argument("--without_softmax", action="store_true", help="omit the softmax")
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


def _add_export(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        usage="elmo-hub export --model FOLDER --output FOLDER [options]",
        help=COMMANDS["export"],
        description="Write a Transformers folder as the files that the original programs read.",
        renamed={"--force": "--overwrite"},
        example="elmo-hub export --model elmo-folder --output original",
    )
    parser.add_argument("places", nargs="*", help="==SUPPRESS==")
    parser.add_argument("--model", metavar="FOLDER", help="Transformers folder")
    parser.add_argument("--output", metavar="FOLDER", help="folder to make")
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    parser.add_argument(
        "--softmax_layout",
        choices=("sparse", "dense", "unsampled"),
        help="layout of the softmax in the archive of a Transformer (default: sparse)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=_export)


def _add_verify(commands: Any) -> None:
    parser = commands.add_parser(
        "verify",
        usage="elmo-hub verify --model FOLDER --against SOURCE [options]",
        help=COMMANDS["verify"],
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
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    group = parser.add_argument_group("files")
    for name, text in WEIGHTS:
        group.add_argument(f"--{name}", type=Path, metavar="FILE", help=text)
    parser.set_defaults(run=_verify)


def _add_card(commands: Any) -> None:
    parser = commands.add_parser(
        "card",
        usage="elmo-hub card FOLDER [options]",
        help=COMMANDS["card"],
        description="Write a folder's model card, or add facts to it, and print it.",
        example="elmo-hub card elmo-folder --license apache-2.0 --language en",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="Transformers folder")
    parser.add_argument("--license", metavar="NAME", help="the Hub's identifier: apache-2.0, cc-by-4.0, other, ...")
    parser.add_argument("--license_name", metavar="NAME", help="name of the license, with --license other")
    parser.add_argument("--language", nargs="+", default=[], metavar="CODE", help="such as en")
    parser.add_argument("--datasets", nargs="+", default=[], metavar="NAME", help="Hub names of the training data")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_card)


def _add_push(commands: Any) -> None:
    parser = commands.add_parser(
        "push",
        usage="elmo-hub push FOLDER NAME [options]",
        help=COMMANDS["push"],
        description="Publish a folder on the Hub in one commit: model, tokenizer, code, card and metrics.",
        example="elmo-hub push elmo-folder me/elmo-small --private",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="Transformers folder")
    parser.add_argument("name", metavar="NAME", help="name of the repository, user/name")
    parser.add_argument("--dry_run", action="store_true", help="print files, sizes and card; send nothing")
    _add_repository(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_push)


def _add_release(commands: Any) -> None:
    parser = commands.add_parser(
        "release",
        usage="elmo-hub release NAME [options]",
        help=COMMANDS["release"],
        description="Download a published original by name, convert it and verify it.",
        renamed={"--force": "--overwrite"},
        example="elmo-hub release small --output elmo-small",
    )
    parser.add_argument("name", metavar="NAME", help="such as small; elmo-hub list shows all")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="folder to create (default: the cache, found as elmo:NAME)"
    )
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    parser.add_argument("--base_url", metavar="URL", help="mirror, https:// or file://, with files NAME/FILE")
    parser.add_argument("--softmax", action="store_true", help="include its language model's softmax and vocabulary")
    parser.add_argument("--yes", action="store_true", help="accept size and license without a prompt")
    parser.add_argument("--push", metavar="USER/NAME", help="also publish it on the Hub")
    _add_repository(parser)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=_release)


def _add_repository(parser: Parser) -> None:
    group = parser.add_argument_group("repository")
    group.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    group.add_argument("--revision", metavar="NAME", help="branch to commit to, or start of --branch (default: main)")
    group.add_argument("--branch", metavar="NAME", help="branch to commit to; created if it does not exist")
    group.add_argument("--pull_request", action="store_true", help="open a pull request instead")
    group.add_argument("--message", metavar="TEXT", help="of the commit")


def _add_list(commands: Any) -> None:
    parser = commands.add_parser(
        "list",
        usage="elmo-hub list",
        help=COMMANDS["list"],
        description="List the published originals: size, license, language, and if they are cached.",
        example="elmo-hub list",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
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
    _tell(options, report, [*lines, *(f"note: {note}" for note in report.notes)])
    return 0


def _export(options: dict[str, Any]) -> int:
    output = _named(options, "output", options["places"], -1)
    folder = _named(options, "model", options["places"], 0)
    report = export(folder, output, softmax_layout=options["softmax_layout"], force=options["overwrite"])
    line = f"{report.tensors} tensors -> {report.output}: {', '.join(report.files)}"
    _tell(options, report, [line, *(f"note: {note}" for note in report.notes)])
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
    _tell(options, report, lines, passed=report.passed)
    return 0 if report.passed else 1


def _card(options: dict[str, Any]) -> int:
    facts = {name: options[name] for name in ("license", "license_name", "language", "datasets")}
    card = str(add_facts(options["folder"], **facts))
    _print(options, {"folder": str(options["folder"]), "card": card}, [card])
    return 0


def _push(options: dict[str, Any]) -> int:
    report = _published(options, options["folder"], options["name"], dry_run=options["dry_run"])
    _print(options, dataclasses.asdict(report), _lines_of_push(report, options["dry_run"]))
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
    _print(options, record, lines)
    return 0


def _list(options: dict[str, Any]) -> int:
    titles = ("name", "size", "license", "language", "kept", "what")
    rows = [titles, *table()]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join([*(map(str.ljust, row[:5], widths)), row[5]]) for row in rows]
    _print(options, {"originals": [dict(zip(titles, row, strict=True)) for row in rows[1:]]}, lines)
    return 0


def _named(options: dict[str, Any], name: str, places: list[str], place: int, fewest: int = 1) -> str:
    """The value of an option; formerly the argument number `place` of `places`, if there are at least `fewest`."""
    if options[name] is None:
        if len(places) < fewest:
            raise UsageError(f"--{name} is missing")
        options[name] = places.pop(place)
        print(f"note: the {name} is given by --{name} {options[name]} now", file=sys.stderr)
    return options[name]


def _only(values: list[str], name: str) -> list[str]:
    if len(values) != 1:
        raise UsageError(f"{name} is one argument, not {len(values)}: {' '.join(values)}")
    return values


def _tell(options: dict[str, Any], report: Any, lines: Sequence[str], **more: Any) -> None:
    """Print the report of a command: its lines, or with `--json` all of it."""
    _print(options, {**dataclasses.asdict(report), **more}, lines)


def _print(options: dict[str, Any], record: dict[str, Any], lines: Sequence[str]) -> None:
    print(json.dumps(record, default=str, ensure_ascii=False) if options["json"] else "\n".join(lines))


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
    "card": _add_card,
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
        "  elmo-hub COMMAND --help tells more.",
    ],
)


def parser() -> Parser:
    """The command line, with all commands."""
    return PROGRAM.parser(*COMMANDS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of `elmo-hub`; return the status: 0, 1 for a refusal or a failed verification, 2 for usage."""
    return PROGRAM.main(arguments)

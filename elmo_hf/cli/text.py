"""Options for reading text, shared by the commands; `pretrain` has settings of the same names."""

import atexit
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import add_number

if TYPE_CHECKING:
    from collections.abc import Iterator

    from elmo_hf import ElmoTokenizer
    from elmo_hf.pretraining import Corpus

TEXT_HELP = "files (text, .gz, .xz, JSON, Parquet, CoNLL-U), globs, the name of a data set; - for stdin"


def add_text_options(parser: Any, *, has_model: bool = True) -> None:
    """Add the options, shown by `--help_all`. Commands without a model split lines at whitespace by default."""
    group = parser.further_group("how text is read")
    group.add_argument("--text_column", default="text", help="column of JSON, Parquet or a data set")
    add_pos_options(group)
    group.add_argument("--split", default="train", help="split of a data set")
    add_pre_tokenization(group, has_model)
    add_encoding(group, "skip")
    group.add_argument(
        "--blank_lines",
        choices=("skip", "keep"),
        default="skip",
        help="blank lines: no sentences, or empty ones as in bilm-tf",
    )


def add_layers(parser: Any) -> None:
    """Add the option `--layers`."""
    parser.add_argument(
        "--layers",
        type=lambda text: int(text) if text.isdecimal() else text,
        default="mix",
        metavar="NAME",
        help="mix: the model's mix of layers; top: the last layer; average; or a layer's number",
    )


def add_batch_words(group: Any) -> None:
    """Add the option for the size of batches."""
    add_number(
        group, "--batch_words", "words per batch (default 2048; on a GPU 512 sentences of up to 16384 words in total)"
    )


def add_encoding(group: Any, *further: str) -> None:
    """Add the options for decoding bytes."""
    group.add_argument("--encoding", default="utf-8", help="encoding of text and JSON files")
    group.add_argument(
        "--undecodable",
        choices=("refuse", *further, "replace"),
        default="refuse",
        help="lines that are invalid in it: stop, skip them, or replace the bytes by U+FFFD",
    )


def add_pre_tokenization(group: Any, has_model: bool = True) -> None:
    """Add the option `--pre_tokenization`."""
    default = "as the lines of the model's corpus did" if has_model else "whitespace"
    group.add_argument(
        "--pre_tokenization",
        choices=("whitespace", "ptb"),
        default=None if has_model else "whitespace",
        help=f"lines are tokenized (whitespace) or raw text (ptb) (default: {default})",
    )


def add_pos_options(group: Any) -> None:
    """Add the options that locate POS tags."""
    group.add_argument("--pos_column", help="column of the words' POS tags, beside lists of words in --text_column")
    group.add_argument(
        "--pos_separator",
        help="instead of --pos_column: separator between each word and its tag, as _ in the_DET",
    )


def words_of_lines(options: dict[str, Any], tokenizer: "ElmoTokenizer") -> "Iterator[list[str]]":
    """Yield the words of each sentence of the corpus, split by the options or like the model's training text."""
    from elmo_hf.corpus.word_encoder import RuleNotice, line_splitter

    rule = options["pre_tokenization"] or tokenizer.corpus_pre_tokenization
    return map(line_splitter(tokenizer, rule), RuleNotice(tokenizer, rule).over(open_text(options)))


def open_text(options: dict[str, Any]) -> "Corpus":
    """Open the corpus named by `text` with these options."""
    from elmo_hf.pretraining import open_corpus

    names = "text_column split encoding undecodable blank_lines pos_column pos_separator".split()
    return open_corpus(files_of(options["text"]), **{name: options[name] for name in names})


def files_of(sources: list[str]) -> list[str]:
    """The sources, with `-` (stdin) copied to a temporary file, because corpora are read more than once."""
    if "-" not in sources:
        return sources
    folder = tempfile.mkdtemp(prefix="elmo_hf_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "stdin.txt"
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    return [str(path) if source == "-" else source for source in sources]

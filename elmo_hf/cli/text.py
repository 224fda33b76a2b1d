"""The options of how text is read, shared by the commands; `pretrain` has settings of the same names."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from elmo_hf import ElmoTokenizer
    from elmo_hf.pretraining import Corpus


def add_model_and_text(parser: Any, model: str) -> None:
    """Add the arguments of a command that reads a text with a model, which may be left out."""
    parser.intermixed = True
    parser.add_argument(
        "text",
        nargs="+",
        metavar="[MODEL] TEXT",
        help=f"folder of {model} and its tokenizer (default: the shipped English model), then files, globs, or the "
        "name of a data set; the first is a model unless it stands alone or is a file",
    )


def model_and_text(options: dict[str, Any]) -> tuple[str | None, list[str]]:
    """The model that these arguments name, if they name one, and the text."""
    first, *rest = options["text"]
    return (None, [first, *rest]) if not rest or os.path.isfile(first) else (first, rest)


def add_text_options(parser: Any, *, has_model: bool = True) -> None:
    """Add the options; of a command without a model, lines are cut at whitespace by default."""
    parser.add_argument("--text_column", "--text-column", default="text", help="column of JSON, Parquet or a data set")
    add_pos_options(parser)
    parser.add_argument("--split", default="train", help="split of a data set (default train)")
    add_pre_tokenization(parser, has_model)
    parser.add_argument("--encoding", default="utf-8", help="encoding of text and JSON files (default utf-8)")
    parser.add_argument(
        "--undecodable",
        choices=("refuse", "skip", "replace"),
        default="refuse",
        help="lines that are not valid in the encoding: stop (default), leave them out, or mark the bytes U+FFFD",
    )
    parser.add_argument(
        "--blank_lines",
        "--blank-lines",
        choices=("skip", "keep"),
        default="skip",
        help="blank lines: no sentences (default), or empty ones as in bilm-tf",
    )


def add_pre_tokenization(parser: Any, has_model: bool = True) -> None:
    """Add the option of how lines become words."""
    default = "as the lines of the model's corpus did" if has_model else "whitespace"
    parser.add_argument(
        "--pre_tokenization",
        "--pre-tokenization",
        choices=("whitespace", "ptb"),
        default=None if has_model else "whitespace",
        help=f"how a line becomes words: it is tokenized already, or is raw text (default: {default})",
    )


def add_pos_options(parser: Any) -> None:
    """Add the options of where parts of speech are."""
    parser.add_argument(
        "--pos_column",
        "--pos-column",
        help="column of the words' parts of speech, beside lists of words in --text_column",
    )
    parser.add_argument(
        "--pos_separator",
        "--pos-separator",
        help="in place of --pos_column: what stands between each word and its part of speech, as _ in the_DET",
    )


def words_of_lines(options: dict[str, Any], tokenizer: "ElmoTokenizer") -> "Iterator[list[str]]":
    """The words of each sentence of the corpus for a model, by the options or as those that it learned from."""
    from elmo_hf.corpus.word_encoder import RuleNotice, line_splitter

    rule = options["pre_tokenization"] or tokenizer.corpus_pre_tokenization
    return map(line_splitter(tokenizer, rule), RuleNotice(tokenizer, rule).over(open_text(options)))


def open_text(options: dict[str, Any]) -> "Corpus":
    """The corpus that these options and `text` name."""
    from elmo_hf.pretraining import open_corpus

    return open_corpus(
        options["text"],
        text_column=options["text_column"],
        split=options["split"],
        encoding=options["encoding"],
        undecodable=options["undecodable"],
        blank_lines=options["blank_lines"],
        pos_column=options["pos_column"],
        pos_separator=options["pos_separator"],
    )

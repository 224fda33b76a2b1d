"""`elmo-hf answer`: answers to questions from a text."""

import sys
from pathlib import Path
from typing import Any

from .models import add_model, chosen_model
from .options import add_number
from .output import add_json, tell


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf answer QUESTION --text FILE --model FOLDER [options]",
        description="Print the spans of a text that answer a question best, with their probabilities, by a model "
        "trained with examples/run_question_answering.py.",
        example="elmo-hf answer 'When was the bell cast ?' --text bell.txt --model answerer",
    )
    parser.add_argument("question", nargs="+", help="questions, each one argument")
    parser.add_argument("--text", required=True, metavar="FILE", help="file with the text, UTF-8; - for stdin")
    add_model(parser, "folder of an answerer (ElmoForQuestionAnswering) and its tokenizer")
    add_number(parser, "--count", "number of answers per question", 1)
    add_number(parser, "--max_answer_words", "longest answer", 30)
    parser.add_argument(
        "--null_threshold",
        type=float,
        metavar="X",
        help='margin by which "no answer" must exceed the best answer (default: there always is an answer)',
    )
    add_json(parser)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Call [`answer_question`] and print the answers."""
    folder = chosen_model(options, shipped=False)

    from elmo_hf import ElmoForQuestionAnswering, answer_question
    from elmo_hf.inference.loading import load_model

    text = sys.stdin.read() if options["text"] == "-" else Path(options["text"]).read_text(encoding="utf-8")
    model = load_model(folder, ElmoForQuestionAnswering, device=options["device"])
    found: Any = answer_question(
        model,
        folder,
        options["question"],
        text,
        n_best=options["count"],
        max_answer_words=options["max_answer_words"],
        null_threshold=options["null_threshold"],
    )
    for question, answers in zip(options["question"], found, strict=True):
        lines = [question] if len(found) > 1 else []
        lines += [f"{answer.score:.3f}  {' '.join(answer.text.split()) or 'no answer'}" for answer in answers]
        record = {"question": question, "answers": [answer._asdict() for answer in answers]}
        tell(options, record, "\n".join(lines))
    return 0

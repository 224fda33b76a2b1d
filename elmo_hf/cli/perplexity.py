"""`elmo-hf perplexity`: perplexity of a text to a language model, by direction."""

import json
import math
from typing import TYPE_CHECKING, Any

from .models import SHIPPED, add_model, chosen_model
from .options import UsageError, add_flag, add_number
from .output import add_json, tell, written
from .text import TEXT_HELP, add_text_options, open_text

if TYPE_CHECKING:
    from elmo_hf.pretraining import SentenceScore


def add_parser(add_command: Any) -> None:
    """Add the command."""
    parser = add_command(
        usage="elmo-hf perplexity TEXT ... --model FOLDER [options]",
        description="Compute the perplexity of a text, by direction, with the full softmax and in constant memory.",
        example="elmo-hf perplexity held_out.txt --model run/model --sentence_independent",
    )
    parser.add_argument("text", nargs="+", help=TEXT_HELP)
    add_model(parser, "folder of a language model and its tokenizer" + SHIPPED)
    add_number(parser, "--rows", "sentences per batch", 32)
    add_number(parser, "--steps", "words of each row per batch", 20)
    add_flag(
        parser,
        "--sentence_independent",
        "start every sentence from zero states instead of carrying state as in training; a Transformer needs it",
    )
    parser.add_argument(
        "--per_sentence",
        metavar="FILE",
        help="write a JSON object per sentence: index, words, unknown words, log-probabilities; - for stdout",
    )
    add_flag(parser, "--per_word", "with --per_sentence: also the log-probability of every word")
    add_json(parser)
    add_text_options(parser)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Score the text sentence by sentence and print the perplexities."""
    if options["per_word"] and options["per_sentence"] is None:
        raise UsageError("--per_word needs --per_sentence FILE, the file that the words' probabilities are written to")
    folder = chosen_model(options, "text")

    import torch

    from elmo_hf.corpus.word_encoder import RuleNotice
    from elmo_hf.pretraining import TextScore, score_sentences
    from elmo_hf.pretraining.start import load

    device = options["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = load(folder)
    model.to(torch.device(device))  # type: ignore[arg-type] # Transformers' wrapper hides what `self` is
    corpus = open_text(options)
    rule = options["pre_tokenization"] or tokenizer.corpus_pre_tokenization
    total = TextScore()
    with written(options["per_sentence"]) as file:
        for score in score_sentences(
            model,
            tokenizer,
            RuleNotice(tokenizer, rule).over(corpus),
            rows=options["rows"],
            steps=options["steps"],
            carry_state=not options["sentence_independent"],
            per_word=options["per_word"],
            pre_tokenization=rule,
        ):
            total.add(score)
            if file is not None:
                file.write(json.dumps(record(score)) + "\n")
        if not total.sentences:
            raise ValueError(f"{corpus.name} has no sentence: perplexity needs at least one line")
    directions = f"forward {total.forward:.3f}, backward {total.backward:.3f}"
    counts = {"words": total.words, "unknown": total.unknown, "sentences": total.sentences, "targets": total.targets}
    tell(
        options,
        {"perplexity": _number(total.both), "forward": total.forward, "backward": _number(total.backward), **counts},
        f"perplexity {total.both:.3f} ({directions if model.config.bidirectional else 'forward alone'}) over "
        f"{total.targets:,} targets of each direction: {total.words:,} words ({total.unknown:,} unknown) and "
        f"{total.sentences:,} sentence ends",
        beside=options["per_sentence"] == "-",
    )
    return 0


def record(score: "SentenceScore") -> dict[str, Any]:
    """The JSON record of one sentence; log-probabilities in nats."""
    values = {
        "sentence": score.index,
        "words": score.words,
        "unknown": score.unknown,
        "forward_log_prob": score.forward,
        "backward_log_prob": score.backward,
    }
    if score.forward_log_probs is not None and score.backward_log_probs is not None:
        values["forward_log_probs"] = score.forward_log_probs.tolist()
        values["backward_log_probs"] = score.backward_log_probs.tolist()
    if math.isnan(score.backward):  # a model without that direction; JSON has no NaN
        return {name: value for name, value in values.items() if not name.startswith("backward")}
    return values


def _number(value: float) -> float | None:
    """The value, or `None` for NaN, which JSON does not have."""
    return None if math.isnan(value) else value

"""`elmo-hf perplexity`: how well a language model predicts a text, in each direction."""

import json
import math
import sys
from typing import TYPE_CHECKING, Any

from .output import written
from .text import add_model_and_text, add_text_options, model_and_text, open_text

if TYPE_CHECKING:
    from elmo_hf.pretraining import SentenceScore


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "perplexity",
        dataclass_types=[],
        help="perplexity of a text, each direction for itself, with the full softmax",
        description="Perplexity of a text, each direction for itself, with the full softmax and in constant memory.",
    )
    add_model_and_text(parser, "a language model")
    parser.add_argument("--rows", type=int, default=32, help="sentences read side by side (default 32)")
    parser.add_argument("--steps", type=int, default=20, help="words of a row read at a time (default 20)")
    parser.add_argument(
        "--sentence_independent",
        "--sentence-independent",
        action="store_true",
        help="start every sentence from zero states instead of carrying them on as in training; a Transformer needs it",
    )
    parser.add_argument("--device", help="such as cuda (default: the GPU if there is one)")
    parser.add_argument(
        "--per_sentence",
        "--per-sentence",
        metavar="FILE",
        help="write a JSON object a sentence: place, words, unknown words, both log-probabilities; - for stdout",
    )
    parser.add_argument(
        "--per_word",
        "--per-word",
        action="store_true",
        help="with --per_sentence: the log-probability of every word too",
    )
    add_text_options(parser)
    parser.set_defaults(run=run)


def run(options: dict[str, Any]) -> int:
    """Score the text sentence by sentence and print the perplexities."""
    import torch

    from elmo_hf.corpus.word_encoder import RuleNotice
    from elmo_hf.inference.loading import named
    from elmo_hf.pretraining import TextScore, score_sentences
    from elmo_hf.pretraining.start import load

    if options["per_word"] and options["per_sentence"] is None:
        raise ValueError("--per_word needs --per_sentence FILE, the file that the words' probabilities are written to")
    device = options["device"] or ("cuda" if torch.cuda.is_available() else "cpu")
    name, options["text"] = model_and_text(options)
    model, tokenizer = load(named(name))
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
    print(
        f"perplexity {total.both:.3f} ({directions if model.config.bidirectional else 'forward alone'}) over "
        f"{total.targets:,} targets of each direction: {total.words:,} words ({total.unknown:,} unknown) and "
        f"{total.sentences:,} sentence ends",
        file=sys.stderr if options["per_sentence"] == "-" else sys.stdout,
    )
    return 0


def record(score: "SentenceScore") -> dict[str, Any]:
    """What is written of one sentence; log-probabilities in nats."""
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

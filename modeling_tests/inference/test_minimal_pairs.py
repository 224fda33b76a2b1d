"""Minimal pairs, compared with scores of single sentences and accuracies counted by hand."""

import json
import lzma
import math

import pytest
import torch

from elmo_hf import (
    ElmoForPreTraining,
    ElmoTokenizer,
    MinimalPair,
    PairScore,
    pair_accuracies,
    read_minimal_pairs,
    score_minimal_pairs,
)
from elmo_hf.cli import main
from elmo_hf.inference.minimal_pairs import TIE, cost_of_unknown_words
from elmo_hf.inference.minimal_pairs_report import pair_report, pair_table, read_published
from elmo_hf.inference.perplexity import SentenceScore
from modeling_tests.tiny import tiny_config, with_large_weights

WORDS = ["<S>", "</S>", "<UNK>", "the", "cat", "cats", "sleep", "sleeps", "."]
PAIRS = [
    MinimalPair("the cat sleeps.", "the cat sleep.", "singular", "agreement"),
    MinimalPair("the cats sleep.", "the cats sleeps.", "plural", "agreement"),
    MinimalPair("the dogs sleep.", "the dogs sleeps.", "plural", "agreement"),
    MinimalPair("the cat.", "cat the.", "order", "order"),
    MinimalPair("cat the.", "the cat.", "order", "order"),
    MinimalPair("cat sleeps.", "cat  sleeps.", "order", "order"),  # the same words: a tie
]


@pytest.fixture(scope="module")
def tokenizer():
    return ElmoTokenizer(vocab=WORDS, max_characters_per_word=9)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(3)
    config = tiny_config(vocab_size=len(tokenizer), mask_token_id=tokenizer.mask_token_id)
    return with_large_weights(ElmoForPreTraining(config)).eval()


@torch.no_grad()
def log_probabilities(model, tokenizer, text):
    """(forward, backward) in nats, from the two directions' layers and a full softmax over each word."""
    encoding = tokenizer(text, return_tensors="pt")
    top = model.elmo(**encoding, output_hidden_states=True).hidden_states[-1][0].double()
    ids, size = encoding["input_ids"][0], model.config.projection_size
    weight, bias = model.softmax.weight.double(), model.softmax.bias.double()
    sums = []
    for states, targets in ((top[:-1, :size], ids[1:]), (top[1:, size:], ids[:-1])):
        logits = states @ weight.T + bias
        for excluded in (tokenizer.pad_token_id, tokenizer.mask_token_id):
            logits[:, excluded] = -math.inf
        sums.append(float(logits.log_softmax(-1)[range(len(targets)), targets].sum()))
    return sums


def test_scores_are_those_of_each_sentence_for_itself(model, tokenizer):
    scores = score_minimal_pairs(PAIRS, model, tokenizer, batch_size=4, progress=False)
    assert [score.pair for score in scores] == list(PAIRS)
    for score in scores:
        for text, found in ((score.pair.good, score.good), (score.pair.bad, score.bad)):
            assert [found.forward, found.backward] == pytest.approx(log_probabilities(model, tokenizer, text), abs=1e-4)


def test_accuracies_are_counted_by_hand(model, tokenizer):
    rows = pair_accuracies(score_minimal_pairs(PAIRS, model, tokenizer, progress=False))
    sums = [[log_probabilities(model, tokenizer, text) for text in (pair.good, pair.bad)] for pair in PAIRS]
    judged = {
        "forward": [good[0] > bad[0] for good, bad in sums],
        "backward": [good[1] > bad[1] for good, bad in sums],
        "both": [sum(good) > sum(bad) for good, bad in sums],
    }
    members = {"singular": [0], "plural": [1, 2], "order": [3, 4, 5], "agreement": [0, 1, 2], "all": list(range(6))}
    assert [(row.level, row.name) for row in rows] == [
        *[("kind", each) for each in ("singular", "plural", "order")],
        *[("phenomenon", each) for each in ("agreement", "order")],
        ("all", "all"),
    ]
    for row in rows:
        places = members[row.name]
        assert row.pairs == len(places)
        for direction, right in judged.items():
            assert getattr(row, direction) == pytest.approx(sum(right[place] for place in places) / len(places))
    # Of a pair in both orders, one is correct; equal sentences are a tie, which is incorrect.
    order = rows[2]
    assert (order.both, order.forward, order.ties) == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    plural, everything = rows[1], rows[-1]
    assert plural.with_unknown == 0.5 and plural.known == judged["both"][1] and plural.unknown == judged["both"][2]
    assert everything.with_unknown == pytest.approx(1 / 6)
    assert cost_of_unknown_words(rows) == pytest.approx(plural.known - plural.unknown)


def scored(forward, backward=0.0, unknown=0, kind="k"):
    """A pair whose good sentence is more probable by this difference."""
    good = SentenceScore(0, 3, unknown, forward, backward)
    return PairScore(MinimalPair("a", "b", kind), good, SentenceScore(1, 3, 0, 0.0, 0.0 * backward))


def test_tie_is_not_correct():
    for difference, right in ((1.0, True), (2 * TIE, True), (TIE / 2, False), (0.0, False), (-1.0, False)):
        assert scored(difference).is_right("forward") == scored(difference).is_right("both") == right
    assert scored(TIE / 2).is_tie("forward") and scored(-TIE / 2).is_tie("both")
    assert not scored(2 * TIE).is_tie("forward") and not scored(-1.0).is_tie("both")
    # Not even where nothing is known.
    assert not scored(math.nan).is_right("forward")
    # Directions may disagree.
    pair = scored(2.0, -1.0)
    assert [pair.is_right(each) for each in ("forward", "backward", "both")] == [True, False, True]


def test_a_model_of_one_direction():
    rows = pair_accuracies([scored(1.0, math.nan), scored(-1.0, math.nan), scored(0.0, math.nan)])
    row = rows[-1]
    assert row.forward == pytest.approx(1 / 3) == pytest.approx(row.ties)
    assert math.isnan(row.backward) and math.isnan(row.both)
    assert json.dumps(pair_report(rows), allow_nan=False)
    table = pair_table(rows)
    assert "–" in table
    # First all pairs, then phenomena, then kinds, each once.
    expected = [row.name for level in ("all", "phenomenon", "kind") for row in rows if row.level == level]
    assert [line.split(" | ")[0].strip("| *") for line in table.splitlines()[2:]] == expected


def test_cost_of_unknown_words_within_kinds():
    rows = pair_accuracies(
        [scored(1.0, kind="a")] * 3
        + [scored(1.0, unknown=1, kind="a"), scored(-1.0, unknown=2, kind="a")]
        + [scored(-1.0, unknown=1, kind="b")] * 9  # a hard kind, all unknown, tells nothing
    )
    assert cost_of_unknown_words(rows) == pytest.approx(0.5)
    assert (rows[-1].known, rows[-1].unknown) == pytest.approx((1.0, 1 / 11))


def test_files(tmp_path):
    path = tmp_path / "wh_island.jsonl.xz"
    with lzma.open(path, "wt") as file:
        file.write('{"sentence_good": "A b.", "sentence_bad": "B a.", "UID": "wh", "linguistics_term": "islands"}\n\n')
        file.write('{"good": "C d.", "bad": "D c."}\n' * 3)
    pairs = read_minimal_pairs([tmp_path / "*.xz"])
    assert pairs[0] == MinimalPair("A b.", "B a.", "wh", "islands")
    assert pairs[1:] == [MinimalPair("C d.", "D c.", "wh_island", "")] * 3
    assert len(read_minimal_pairs([path], limit=2)) == 3
    for line, message in (
        ("{", "line 1 is not JSON"),
        ("[]", r"line 1: '\[\]'"),
        ('{"good": "A"}', "line 1: bad=None.*sentence_bad"),
        ('{"good": " ", "bad": "b"}', "line 1: good=' '"),
    ):
        (tmp_path / "bad.jsonl").write_text(line + "\n")
        with pytest.raises(ValueError, match=f"bad.jsonl, {message}"):
            read_minimal_pairs([tmp_path / "bad.jsonl"])
    with pytest.raises(FileNotFoundError, match="missing.jsonl"):
        read_minimal_pairs(["missing.jsonl"])
    with pytest.raises(ValueError, match="limit=0"):
        read_minimal_pairs([path], limit=0)


@pytest.mark.usefixtures("figures")
def test_the_command(model, tokenizer, tmp_path, capsys):
    folder, file, published = tmp_path / "model", tmp_path / "pairs.jsonl", tmp_path / "published.tsv"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file.write_text(
        "".join(
            json.dumps({"good": p.good, "bad": p.bad, "uid": p.kind, "phenomenon": p.phenomenon}) + "\n" for p in PAIRS
        )
    )
    published.write_text("uid\tphenomenon\tgpt2\nsingular\tagreement\t0.9\nplural\tagreement\t0.8\norder\torder\t0.1\n")
    report, picture = tmp_path / "report.json", tmp_path / "picture.png"
    arguments = ["minimal-pairs", str(folder), str(file), "--published", str(published), "--device", "cpu"]
    assert main([*arguments, "--json", str(report), "--picture", str(picture)]) == 0
    table = capsys.readouterr().out
    found = json.loads(report.read_text())["accuracies"]
    expected = pair_accuracies(score_minimal_pairs(PAIRS, model, tokenizer, progress=False))
    assert [row["both"] for row in found] == pytest.approx([row.both for row in expected])
    rows = {
        line.split(" | ")[0].strip("| *"): line.strip(" |").split(" | ") for line in table.splitlines() if "|" in line
    }
    assert rows["all"][1] == "6" and rows["all"][-1] == "60.0"
    assert rows["agreement"][-1] == "85.0" and rows["order"][-1] == "10.0"
    assert picture.read_bytes().startswith(b"\x89PNG")
    published.write_text("uid\tgpt2\nsingular\tx\n")
    with pytest.raises(ValueError, match="published.tsv, line 2"):
        read_published(published)

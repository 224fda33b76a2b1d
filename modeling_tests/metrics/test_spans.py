"""The metric of answer spans against values counted by hand."""

import evaluate
import pytest

from elmo_hf.metrics import AnswerSpans, spans
from elmo_hf.metrics.spans import normalize_answer, word_f1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Eiffel Tower", "eiffel tower"),
        ("  an apple a day, the end.", "apple day end"),
        ("Ten-year-old's", "tenyearolds"),
        # Punctuation goes before articles do, and only whole words are articles.
        ("a.b. theatre another 'the'", "ab theatre another"),
        # Only ASCII punctuation goes; any other mark also ends a word.
        ("“The” end…", "“ ” end…"),
        ("The", ""),
        ("", ""),
        ("A\tB\nC", "b c"),
    ],
)
def test_normalized_answers(text, expected):
    assert normalize_answer(text) == expected


@pytest.mark.parametrize(
    ("predicted", "gold", "expected"),
    [
        ("the cat", "cat", 1.0),
        ("black cat", "cat", 2 * 0.5 * 1 / 1.5),
        ("cat sat there", "there sat a dog now", 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)),
        # Each word counts as often as it occurs in both.
        ("no no no", "no no yes", 2 * (2 / 3) * (2 / 3) / (4 / 3)),
        ("dog", "cat", 0.0),
        ("", "cat", 0.0),
        ("cat", "", 0.0),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_word_f1(predicted, gold, expected, version):
    assert word_f1(predicted, gold, version) == pytest.approx(expected)
    assert word_f1(gold, predicted, version) == pytest.approx(expected)


def test_two_empty_answers():
    for texts in (("", ""), ("the", "a"), ("!", "")):
        assert word_f1(*texts, version=2) == 1.0
        assert word_f1(*texts, version=1) == 0.0


PREDICTIONS = ["The 1920s", "Ada Lovelace", "London, England", "Nobody"]
REFERENCES = [["1920s", "the twenties"], ["Lovelace", "Countess Lovelace"], ["Paris"], ["nobody"]]


@pytest.mark.parametrize("version", [1, 2])
def test_the_best_reference_counts(version):
    scores = AnswerSpans().compute(predictions=PREDICTIONS, references=REFERENCES, version=version)
    # 1 and 1; 0 and max(2/3, 1/2); 0 and 0; 1 and 1.
    assert scores == {"exact_match": 2 / 4, "f1": pytest.approx((1 + 2 / 3 + 0 + 1) / 4), "total": 4}
    assert all(type(scores[name]) is float for name in ("exact_match", "f1")) and type(scores["total"]) is int


def test_no_answer():
    scores = AnswerSpans().compute(
        predictions=["", "Rome", "", "big Rome"], references=[[], [], ["Paris"], ["Rome", "the"]]
    )
    assert scores == {
        "exact_match": 1 / 4,
        "f1": pytest.approx((1 + 0 + 0 + 2 / 3) / 4),
        "total": 4,
        "has_answer_exact_match": 0.0,
        "has_answer_f1": pytest.approx(1 / 3),
        "has_answer_total": 2,
        "no_answer_exact_match": 1 / 2,
        "no_answer_f1": 1 / 2,
        "no_answer_total": 2,
    }
    alone = AnswerSpans().compute(predictions=["", "x"], references=[[], [""]])
    assert alone == {"exact_match": 0.5, "f1": 0.5, "total": 2}


def test_references_that_normalize_to_nothing():
    """Version 1 compares empty answers as they are; version 2 leaves them out."""
    given = {"predictions": ["a", "x"], "references": [["the", "Band"], ["the"]]}
    one, two = (AnswerSpans().compute(**given, version=version) for version in (1, 2))
    assert (one["exact_match"], one["f1"]) == (1 / 2, 0.0)
    assert (two["exact_match"], two["f1"]) == (0.0, 0.0)
    assert AnswerSpans().compute(predictions=["an"], references=[["the"]])["f1"] == 1.0


def test_as_a_local_module_and_in_batches():
    metric = evaluate.load(spans.__file__)
    for predicted, gold in zip(PREDICTIONS, REFERENCES, strict=True):
        metric.add(prediction=predicted, reference=gold)
    assert metric.compute() == AnswerSpans().compute(predictions=PREDICTIONS, references=REFERENCES)
    metric = AnswerSpans()
    metric.add_batch(predictions=PREDICTIONS, references=REFERENCES)
    assert metric.compute(version=1)["exact_match"] == 0.5


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], [], "predictions and references are empty"),
        (None, None, "predictions and references.*add_batch"),
        (["a"], None, "references missing"),
        (None, [["a"]], "predictions missing"),
        (["a", "b"], [["a"]], "2 predictions and 1 references"),
        ([["a"]], [["a"]], r"question 0: predicted \['a'\]: expected a text"),
        (["a", "b"], [["a"], "b"], "question 1: references 'b'"),
        (["a"], [[None]], r"question 0: references \[None\]"),
        (["a"], [None], "question 0: references None"),
    ],
)
def test_bad_input(predictions, references, message):
    with pytest.raises(ValueError, match=message):
        AnswerSpans().compute(predictions=predictions, references=references)


def test_bad_versions():
    with pytest.raises(ValueError, match="version=3.*1.*2"):
        AnswerSpans().compute(predictions=["a"], references=[["a"]], version=3)
    with pytest.raises(ValueError, match="1.*version=2"):
        AnswerSpans().compute(predictions=["a", ""], references=[["a"], []], version=1)

"""Windows over contexts and answers from spans, compared with exhaustive search and round trips."""

import math
import random
import re
from functools import partial
from itertools import pairwise

import datasets
import numpy as np
import pytest
import torch
from transformers import DataCollatorWithPadding, default_data_collator

from elmo_hf import (
    Answer,
    ElmoForQuestionAnswering,
    ElmoModel,
    ElmoTokenizer,
    answer_question,
    answers_from_spans,
    question_answering_features,
)
from modeling_tests.tiny import tiny_config, with_large_weights

TEXT = (
    "The bells of St. Mary's, cast in 1782, don't ring on Sundays (they're too loud). In the 1920s the vicar -- a Mr. "
    'Éclair from Ålesund -- paid $1,000 for "better" ones: no-one ever heard them.\n\nTheir price, he wrote, was “low”.'
)


@pytest.fixture(scope="module")
def tokenizer():
    return ElmoTokenizer(max_characters_per_word=9)


def word_spans(tokenizer, context):
    return [span for _, span in tokenizer.words(context)]


def example(name, context, start=None, end=None, question="What is it ?"):
    """A record with the answer context[start:end], or with none."""
    texts, starts = ([], []) if start is None else ([context[start:end]], [start])
    return {"id": name, "question": question, "context": context, "answers": {"text": texts, "answer_start": starts}}


def columns(records):
    return {name: [record[name] for record in records] for name in records[0]}


def gold_logits(features, scale=10.0):
    """Logits that point at the labels; of uneven length, filled up as the Trainer does."""
    width = max(map(len, features["input_ids"]))
    logits = np.full((2, len(features["input_ids"]), width), -100.0)
    for row, ids in enumerate(features["input_ids"]):
        logits[:, row, : len(ids)] = 0
        for part, name in zip(logits, ("start_positions", "end_positions"), strict=True):
            part[row, features[name][row]] = scale
    return logits


class TestWindows:
    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize(("max_length", "stride"), [(12, 0), (12, 1), (18, 9), (40, 20), (1000, 128), (None, 128)])
    def test_cover_every_word_and_overlap_by_the_stride(self, max_length, stride, side):
        tokenizer = ElmoTokenizer(max_characters_per_word=9, truncation_side=side)
        contexts = [TEXT, TEXT * 3, "Short .", "x " * 57]
        records = [example(str(number), context) for number, context in enumerate(contexts)]
        features = question_answering_features(columns(records), tokenizer, max_length, stride)
        for number, context in enumerate(contexts):
            windows = [row for row, name in enumerate(features["example_id"]) if name == str(number)]
            parts = []
            for row in windows:
                offsets = features["offset_mapping"][row]
                assert len(offsets) == len(features["input_ids"][row]) == len(features["character_ids"][row])
                assert len(offsets) <= (max_length or math.inf)
                # <S> What is it ? </S> <S> ... </S>
                assert offsets[:7] == [(0, 0)] * 7 and offsets[-1] == (0, 0)
                parts.append([tuple(span) for span in offsets[7:-1]])
            parts.sort()
            spans = word_spans(tokenizer, context)
            assert sorted(set().union(*parts)) == spans
            if max_length is None or len(spans) + 8 <= max_length:
                assert len(parts) == 1
            for before, after in pairwise(parts):
                shared = set(before) & set(after)
                assert len(shared) == stride
                assert shared == set(before[len(before) - stride :]) == set(after[:stride])

    def test_rows_equal_the_tokenizer(self, tokenizer):
        features = question_answering_features(columns([example("a", "Some words , here .")]), tokenizer)
        expected = tokenizer("What is it ?", "Some words , here .")
        for name in tokenizer.model_input_names:
            assert np.array_equal(features[name][0], expected[name])

    def test_labels_are_the_words_of_the_answer(self, tokenizer):
        """For every span and window, the label covers the span, or the window does not contain all of it."""
        spans = word_spans(tokenizer, TEXT)
        records = [
            example(f"{i} {j}", TEXT, spans[i][0], spans[j][1])
            for i in range(len(spans))
            for j in range(i, min(i + 6, len(spans)))
        ]
        features = question_answering_features(columns(records), tokenizer, 20, 7)
        found = set()
        for row, name in enumerate(features["example_id"]):
            first, last = map(int, name.split())
            start, end = features["start_positions"][row], features["end_positions"][row]
            offsets = features["offset_mapping"][row]
            if spans[first] in offsets and spans[last] in offsets:
                assert (offsets[start], offsets[end]) == (spans[first], spans[last])
                found.add(name)
            else:
                assert (start, end) == (0, 0)
        assert found == {record["id"] for record in records}

    def test_answers_inside_words_get_the_words(self, tokenizer):
        def label(text, answer, start=None):
            start = text.index(answer) if start is None else start
            features = question_answering_features(columns([example("a", text, start, start + len(answer))]), tokenizer)
            offsets = features["offset_mapping"][0]
            return text[offsets[features["start_positions"][0]][0] : offsets[features["end_positions"][0]][1]]

        assert label("In the 1920s it was .", "1920") == "1920s"
        assert label("In pre-war days .", "war da") == "pre-war days"
        assert label("A  big cat .", " big ") == "big"
        assert label("a a a", "a", 2) == "a"

    def test_the_first_answer_is_the_label(self, tokenizer):
        record = example("a", "one two three")
        record["answers"] = {"text": ["two", "one"], "answer_start": [4, 0]}
        features = question_answering_features(columns([record]), tokenizer)
        assert features["offset_mapping"][0][features["start_positions"][0]] == (4, 7)

    def test_without_answers(self, tokenizer):
        record = example("a", "one two three")
        assert question_answering_features(columns([record]), tokenizer)["end_positions"] == [0]
        del record["answers"]
        assert "end_positions" not in question_answering_features(columns([record]), tokenizer)

    def test_maps_over_datasets_and_collates(self, tokenizer):
        spans = word_spans(tokenizer, TEXT)
        records = [example(str(i), TEXT, *span) for i, span in enumerate(spans[:20])]
        dataset = datasets.Dataset.from_list(records)
        rule = partial(question_answering_features, tokenizer=tokenizer, max_length=24, stride=4)
        mapped = dataset.map(rule, batched=True, batch_size=3, remove_columns=dataset.column_names)
        whole = rule(columns(records))
        assert len(mapped) == len(whole["example_id"]) > 60
        for name in ("input_ids", "start_positions", "example_id"):
            assert mapped[name][:] == whole[name]
        kept = [name for name in mapped.column_names if name not in ("offset_mapping", "example_id")]
        batch = DataCollatorWithPadding(tokenizer)([mapped.select_columns(kept)[row] for row in range(4)])
        output = with_large_weights(ElmoForQuestionAnswering(tiny_config()))(**batch)
        assert output.loss.isfinite()
        assert default_data_collator([{"a": 1}])["a"].tolist() == [1]
        # Features straight from a dataset give the same answers as the lists.
        start, end = gold_logits(whole)
        assert answers_from_spans(dataset, mapped, start, end) == answers_from_spans(records, whole, start, end)


class TestBadInput:
    @pytest.mark.parametrize("column", ["id", "question", "context"])
    def test_missing_columns(self, column, tokenizer):
        examples = columns([example("a", "b")])
        del examples[column]
        with pytest.raises(ValueError, match=f"'{column}'.*'answers'"):
            question_answering_features(examples, tokenizer)

    @pytest.mark.parametrize("text", ["", " \n", None, 7])
    @pytest.mark.parametrize("column", ["question", "context"])
    def test_empty_texts(self, column, text, tokenizer):
        records = [example("good", "b"), {**example("bad", "b"), column: text}]
        with pytest.raises(ValueError, match=f"'bad': {column} is {re.escape(repr(text))}"):
            question_answering_features(columns(records), tokenizer)

    def test_misplaced_answers(self, tokenizer):
        records = [example("good", "one two", 4, 7), example("bad", "one two two", 4, 7)]
        records[1]["answers"]["answer_start"] = [3]
        message = "example 'bad': answer 'two' .* 3 .* 4"
        with pytest.raises(ValueError, match=message):
            question_answering_features(columns(records), tokenizer)
        for start in (-3, 8, None):
            records[1]["answers"] = {"text": ["one", "three"], "answer_start": [0, start]}
            with pytest.raises(ValueError, match=f"'bad'.*'three'.*{start} .*correct"):
                question_answering_features(columns(records), tokenizer)

    @pytest.mark.parametrize(
        ("answers", "message"),
        [
            (None, "answers is None"),
            (["two"], r"answers is \['two'\]"),
            ({"text": ["two"]}, r"answers is \{'text': \['two'\]\}"),
            ({"text": ["two"], "answer_start": []}, "1 answer texts.* 0 starts"),
            ({"text": [""], "answer_start": [0]}, "answer ''.*empty"),
        ],
    )
    def test_malformed_answers(self, answers, message, tokenizer):
        with pytest.raises(ValueError, match=f"example 'bad': {message}"):
            question_answering_features(columns([{**example("bad", "one two"), "answers": answers}]), tokenizer)

    def test_too_long_questions(self, tokenizer):
        records = [
            example("short context", "so short", question="why " * 10),
            example("good", TEXT),
            example("bad", TEXT, question="why " * 10),
        ]
        message = "example 'bad': in max_length=16 .* 10 words .* 2 .* stride=5"
        with pytest.raises(ValueError, match=message):
            question_answering_features(columns(records), tokenizer, 16, 5)
        with pytest.raises(ValueError, match="'bad'.*max_length=8.*0"):
            question_answering_features(columns(records[2:]), tokenizer, 8, 0)
        assert len(question_answering_features(columns(records[:2]), tokenizer, 16, 5)["example_id"]) > 10

    def test_boundaries_in_a_question(self, tokenizer):
        with pytest.raises(ValueError, match="example 'bad': .*'<S>'.*add_bos_token=True"):
            question_answering_features(
                columns([example("good", "<S> </S>"), example("bad", "b", question="What does <S> mean ?")]), tokenizer
            )
        bare = ElmoTokenizer(max_characters_per_word=9, add_bos_token=False)
        with pytest.raises(ValueError, match="'a'.*'<S>'.*add_bos_token=True"):
            question_answering_features(columns([example("a", "b")]), bare)

    def test_left_padding(self):
        left = ElmoTokenizer(max_characters_per_word=9, padding_side="left")
        with pytest.raises(ValueError, match="tokenizer.padding_side is 'left'.*tokenizer.padding_side='right'"):
            question_answering_features(columns([example("a", "b")]), left)


def slow_answers(context, windows, max_words, null_threshold):
    """Every allowed span with its best score over the windows, by four loops; best first, then probabilities."""
    scores = {}
    for offsets, start, end in windows:
        for i, first in enumerate(offsets):
            for j, last in enumerate(offsets):
                if first != (0, 0) and last != (0, 0) and 0 <= j - i < max_words:
                    span = (first[0], last[1])
                    scores[span] = max(scores.get(span, -math.inf), start[i] + end[j])
    ranked = [(score, span) for span, score in scores.items()]
    null = min(start[0] + end[0] for _, start, end in windows)
    total = sum(math.exp(score) for score in scores.values())
    if null_threshold is not None:
        ranked.append((null - null_threshold, None))
        total += math.exp(null)
    ranked.sort(key=lambda pair: -pair[0])
    answers = []
    for score, span in ranked:
        probability = math.exp(null if span is None else score) / total
        answers.append(Answer("" if span is None else context[slice(*span)], probability, *(span or (None, None))))
    return answers


class TestAnswers:
    @pytest.mark.slow
    @pytest.mark.parametrize("stride", [0, 3, 12])
    def test_gold_spans_give_the_answers_exactly(self, stride, tokenizer):
        """An answer inside a window is found again, in contexts of many windows."""
        spans = word_spans(tokenizer, TEXT * 4)
        records = []
        for number in range(60):
            first = random.Random(number).randrange(len(spans) - 3)
            last = first + number % 4
            records.append(example(str(number), TEXT * 4, spans[first][0], spans[last][1]))
        features = question_answering_features(columns(records), tokenizer, 24, stride)
        assert len(features["example_id"]) > 60 * 10
        answers = answers_from_spans(records, features, *gold_logits(features))
        # Window boundaries split the answer unless windows overlap by that many words.
        lost = set()
        for record in records:
            rows = [row for row, name in enumerate(features["example_id"]) if name == record["id"]]
            if all(features["end_positions"][row] == 0 for row in rows):
                lost.add(record["id"])
                continue
            (answer,) = answers[record["id"]]
            start = record["answers"]["answer_start"][0]
            assert answer.text == record["answers"]["text"][0]
            assert (answer.start, answer.end) == (start, start + len(answer.text))
        assert bool(lost) == (stride == 0)

    @pytest.mark.parametrize("null_threshold", [None, 0.0, 1.5, -40.0, 40.0])
    @pytest.mark.parametrize("max_answer_words", [1, 3, 1000])
    def test_agree_with_a_slow_search(self, max_answer_words, null_threshold, tokenizer):
        records = [example("a", TEXT), example("b", "just a few words"), example("c", TEXT[:70])]
        features = question_answering_features(columns(records), tokenizer, 20, 8)
        generator = np.random.default_rng(1)
        start, end = generator.normal(scale=3, size=(2, len(features["example_id"]), 25))
        found = answers_from_spans(records, features, start, end, 10**6, max_answer_words, null_threshold)
        for record in records:
            windows = [
                (features["offset_mapping"][row], start[row], end[row])
                for row, name in enumerate(features["example_id"])
                if name == record["id"]
            ]
            expected = slow_answers(record["context"], windows, max_answer_words, null_threshold)
            assert len(found[record["id"]]) == len(expected)
            for one, other in zip(found[record["id"]], expected, strict=True):
                assert one[:1] + one[2:] == other[:1] + other[2:]
                assert one.score == pytest.approx(other.score, rel=1e-9)
            assert sum(answer.score for answer in found[record["id"]]) == pytest.approx(1)
        few = answers_from_spans(records, features, start, end, 3, max_answer_words, null_threshold)
        assert few == {name: answers[:3] for name, answers in found.items()}

    def test_no_answer_needs_every_window(self, tokenizer):
        """One window that finds an answer is enough, whatever the others say."""
        records = [example("a", "x " * 30)]
        features = question_answering_features(columns(records), tokenizer, 18, 0)
        start = np.zeros((len(features["example_id"]), 18))
        assert len(start) == 3
        start[:, 0] = 9.0
        assert answers_from_spans(records, features, start, start, null_threshold=0.0)["a"][0].text == ""
        assert answers_from_spans(records, features, start, start, null_threshold=None)["a"][0].text != ""
        start[1, 0], start[1, 10] = 0.0, 5.0
        (answer,) = answers_from_spans(records, features, start, start, null_threshold=0.0)["a"]
        assert (answer.text, answer.start) == ("x", 26)

    def test_masked_logits_and_half_precision(self, tokenizer):
        records = [example("a", "one two three")]
        features = question_answering_features(columns(records), tokenizer)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            logits = torch.full((1, 11), torch.finfo(dtype).min, dtype=dtype, requires_grad=True)
            with torch.no_grad():
                logits[0, 8] = 1.0  # two
            (answer,) = answers_from_spans(records, features, logits, logits)["a"]
            assert answer == ("two", 1.0, 4, 7)

    def test_invalid_arguments(self, tokenizer):
        records = [example("a", "one two"), example("b", "three")]
        features = question_answering_features(columns(records), tokenizer)
        good = np.zeros((2, 10))
        bad = good.copy()
        bad[1, 7] = np.nan
        for arguments, message in {
            "one window too many": ((records, features, np.zeros((3, 10)), good), r"start_logits has shape \(3, 10\)"),
            "one axis": ((records, features, good, good[0]), r"end_logits has shape \(10,\).*\(2, words\)"),
            "too few words": ((records, features, good[:, :9], good), "example 'a': .* 9 words.* 10"),
            "not a number": ((records, features, good, bad), "example 'b': .*NaN"),
            "other examples": (([example("c", "d")], features, good, good), "window of example 'c'"),
            "not all examples": ((records[:1], features, good, good), "features .*'b'"),
            "an example twice": ((records * 2, features, good, good), "id 'a'"),
            "no answers": ((records, features, good, good, 0), "n_best=0"),
            "no words": ((records, features, good, good, 1, 0), "max_answer_words=0"),
        }.values():
            with pytest.raises(ValueError, match=message):
                answers_from_spans(*arguments)


class TestAnswerQuestion:
    @pytest.fixture
    def model(self):
        return with_large_weights(ElmoForQuestionAnswering(tiny_config(task_lstm_size=3)))

    @pytest.mark.slow
    def test_equals_the_three_steps(self, model, tokenizer):
        contexts = [TEXT, "Short .", TEXT * 2, "Not so short ."]
        questions = ["Who ?", "What is it that they said ?", "Which", "When did it ring ?"]
        options = {"n_best": 3, "max_answer_words": 5, "null_threshold": 0.5}
        model.train()
        windows = {"max_length": 30, "stride": 10, "batch_size": 3}
        found = answer_question(model, tokenizer, questions, contexts, **windows, **options)
        assert model.training
        model.eval()
        records = [
            {"id": str(number), "question": question, "context": context}
            for number, (question, context) in enumerate(zip(questions, contexts, strict=True))
        ]
        features = question_answering_features(columns(records), tokenizer, 30, 10)
        start, end = np.full((2, len(features["example_id"]), 30), -100.0)
        for row in range(len(start)):
            inputs = {name: torch.tensor(np.array(features[name][row]))[None] for name in tokenizer.model_input_names}
            with torch.no_grad():
                output = model(**{**inputs, "character_ids": inputs["character_ids"].long()})
            start[row, : output.start_logits.shape[1]] = output.start_logits[0]
            end[row, : output.end_logits.shape[1]] = output.end_logits[0]
        expected = answers_from_spans(records, features, start, end, **options)
        assert len(found) == 4
        for number, answers in enumerate(found):
            assert len(answers) == 3
            for one, other in zip(answers, expected[str(number)], strict=True):
                assert one[:1] + one[2:] == other[:1] + other[2:]
                assert one.score == pytest.approx(other.score, rel=1e-3)

    @pytest.mark.slow
    def test_one_question_or_one_text(self, model, tokenizer):
        (answer,) = one = answer_question(model, tokenizer, "Who ?", TEXT)
        assert isinstance(answer, Answer) and TEXT[answer.start : answer.end] == answer.text != ""
        questions, contexts = ["Who ?", "Is it so ?"], [TEXT, "Short ."]
        both = {
            (q, c): answer_question(model, tokenizer, questions[q], contexts[c])[0].text for q in (0, 1) for c in (0, 1)
        }

        def texts(*arguments):
            return [answers[0].text for answers in answer_question(model, tokenizer, *arguments)]

        assert texts(questions, TEXT) == [both[0, 0], both[1, 0]]
        assert texts("Who ?", contexts) == [both[0, 0], both[0, 1]]
        assert texts(questions, contexts) == [both[0, 0], both[1, 1]]
        assert texts(tuple(questions), tuple(contexts)) == texts(questions, contexts)
        assert texts(["Who ?"], TEXT) == [one[0].text]
        assert answer_question(model, tokenizer, [], []) == answer_question(model, tokenizer, [], TEXT) == []

    @pytest.mark.slow
    def test_of_a_checkpoint(self, model, tokenizer, tmp_path):
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        expected = answer_question(model, tokenizer, "Who ?", TEXT)
        assert answer_question(tmp_path, None, "Who ?", TEXT)[0].text == expected[0].text
        assert answer_question(ElmoForQuestionAnswering.from_pretrained(tmp_path), None, "Who ?", TEXT)
        ElmoModel(tiny_config()).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=rf"{tmp_path} lacks \d+ weights of ElmoForQuestionAnswering"):
            answer_question(tmp_path, None, "Who ?", TEXT)

    def test_invalid_arguments(self, model, tokenizer):
        for arguments, message in {
            "uneven": ((["Who ?", "Why ?"], ["a"]), "2 questions and 1 contexts"),
            "empty": ((["Who ?", "Why ?"], ["a", ""]), "example '1': context is ''"),
        }.values():
            with pytest.raises(ValueError, match=message):
                answer_question(model, tokenizer, *arguments)
        with pytest.raises(ValueError, match="batch_size=0.*1"):
            answer_question(model, tokenizer, "Who ?", "a", batch_size=0)
        model.train()
        with pytest.raises(ValueError, match="n_best=0"):
            answer_question(model, tokenizer, "Who ?", "a", n_best=0)
        assert model.training

"""Perplexity, compared with its definition: word by word, one row at a time."""

import math
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer
from elmo_hf.corpus.tagged_text import TaggedSentence
from elmo_hf.inference.perplexity import TextScore, perplexity, perplexity_of, score_sentences

WORD_INPUT = {"character_filters": [], "word_embedding_size": 6}
VOCABULARY = ["<S>", "</S>", "<UNK>", *"the a cat dog sees runs in out of town . ,".split()]


@pytest.fixture(scope="module")
def tokenizer() -> ElmoTokenizer:
    return ElmoTokenizer(vocab=VOCABULARY, pre_tokenization="whitespace", max_characters_per_word=8)


def tag_of(word: str) -> str | None:
    return {"the": "D", "a": "D", "sees": "V", "runs": "V", "zebra": "N"}.get(word)


def make_model(tokenizer: ElmoTokenizer, **changes: Any) -> ElmoForPreTraining:
    torch.manual_seed(3)
    fields: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "mask_token_id": tokenizer.mask_token_id,
        "max_characters_per_word": 8,
        "character_embedding_size": 4,
        "character_filters": [[1, 4], [2, 8]],
        "num_highway_layers": 1,
        "projection_size": 6,
        "cell_size": 10,
        "lstm_input_dropout": 0.3,  # must have no effect
    }
    return ElmoForPreTraining(ElmoConfig(**{**fields, **changes}))


def make_text(count: int, seed: int = 0) -> list[str]:
    """Sentences of 0 to 12 words, some of them unknown."""
    generator = np.random.default_rng(seed)
    words = [*VOCABULARY[3:], "zebra", "<UNK>"]
    return [" ".join(generator.choice(words, size=generator.integers(13))) for _ in range(count)]


@torch.no_grad()
def brute_force(
    model: ElmoForPreTraining, tokenizer: ElmoTokenizer, rows: list[list[str]], carry: bool
) -> list[list[tuple[list[float], list[float]]]]:
    """For each row's sentences, the log-probabilities of both directions in their reading order, word by word."""
    model.eval()
    found = []
    for row in rows:
        states: list[Any] = [None, None]
        of_row = []
        for sentence in row:
            words = sentence.split()
            tags = {} if tokenizer.pos_tag_set is None else {"pos_tags": [tag_of(word) for word in words]}
            encoding = tokenizer(words, is_split_into_words=True, return_tensors="pt", **tags)
            ids = encoding["input_ids"][0]
            inputs = [encoding[name][0] for name in model.elmo.embeddings.input_names]
            if not carry:
                states = [None, None]
            scores: tuple[list[float], list[float]] = ([], [])
            for direction, name in enumerate(("forward_lstm", "backward_lstm")):
                order = range(len(ids)) if direction == 0 else range(len(ids) - 1, -1, -1)
                for here, target in zip(list(order)[:-1], list(order)[1:], strict=True):
                    read = [each[None, here : here + 1] for each in inputs]
                    hidden = model.elmo.embeddings(*read, mask=torch.tensor([[True]]))[0]
                    before = states[direction] or [(torch.zeros(1, 6), torch.zeros(1, 10)) for _ in range(2)]
                    after = []
                    for layer, (h, c) in zip(model.elmo.encoder.layers, before, strict=True):
                        output, *state = getattr(layer, name)(hidden, [1], h, c)
                        after.append(state)
                        hidden = output + hidden if layer.has_skip_connection else output
                    states[direction] = after
                    scores[direction].append(float(model.softmax.logits(hidden).log_softmax(-1)[0, ids[target]]))
            of_row.append(scores)
        found.append(of_row)
    return found


@pytest.mark.samples(3)
@pytest.mark.parametrize("steps", [1, 3, 20])
@pytest.mark.parametrize("carry", [True, False])
@pytest.mark.parametrize("shape", [{}, WORD_INPUT, {"word_embedding_size": 4}], ids=["characters", "words", "both"])
def test_brute_force_of_one_row(tokenizer: ElmoTokenizer, shape: dict[str, Any], carry: bool, steps: int) -> None:
    model, text = make_model(tokenizer, **shape), make_text(12)
    expected = brute_force(model, tokenizer, [text], carry)[0]
    options = {"rows": 1, "steps": steps, "carry_state": carry}
    scores = sorted(score_sentences(model, tokenizer, text, per_word=True, **options), key=lambda score: score.index)
    assert [score.index for score in scores] == list(range(len(text)))
    for score, sentence, (forward, backward) in zip(scores, text, expected, strict=True):
        words = sentence.split()
        assert score.words == len(words)
        assert score.targets == len(words) + 1
        assert score.unknown == sum(word not in VOCABULARY or word == "<UNK>" for word in words)
        np.testing.assert_allclose(score.forward_log_probs, forward, atol=1e-5)
        np.testing.assert_allclose(score.backward_log_probs, backward[::-1], atol=1e-5)
        assert score.forward == pytest.approx(sum(forward), abs=1e-5)
        assert score.backward == pytest.approx(sum(backward), abs=1e-5)
        assert score.forward_perplexity == pytest.approx(math.exp(-np.mean(forward)), rel=1e-5)
    result = perplexity(model, tokenizer, text, **options)
    flat = [[value for scores in expected for value in scores[direction]] for direction in range(2)]
    assert result.targets == len(flat[0]) == len(flat[1])
    assert result.sentences == len(text)
    assert result.words == sum(len(sentence.split()) for sentence in text)
    assert result.forward == pytest.approx(math.exp(-np.mean(flat[0])), rel=1e-5)
    assert result.backward == pytest.approx(math.exp(-np.mean(flat[1])), rel=1e-5)
    assert result.both == pytest.approx(math.sqrt(result.forward * result.backward), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("carry", [True, False])
def test_pos_tags_are_read(tokenizer: ElmoTokenizer, carry: bool) -> None:
    known = ElmoTokenizer(
        vocab=VOCABULARY, pre_tokenization="whitespace", max_characters_per_word=8, pos_tag_set=["V", "D", "N"]
    )
    model, text = make_model(known, num_pos_tags=3, pos_tag_embedding_size=3), make_text(12)
    tagged = [TaggedSentence(words := each.split(), [tag_of(word) for word in words]) for each in text]
    expected = brute_force(model, known, [text], carry)[0]
    scores = score_sentences(model, known, tagged, rows=1, steps=3, carry_state=carry, per_word=True)
    for score, (forward, backward) in zip(sorted(scores, key=lambda each: each.index), expected, strict=True):
        np.testing.assert_allclose(score.forward_log_probs, forward, atol=1e-5)
        np.testing.assert_allclose(score.backward_log_probs, backward[::-1], atol=1e-5)
    # A model without them reads the words.
    plain = make_model(tokenizer)
    assert perplexity(plain, tokenizer, tagged) == perplexity(plain, tokenizer, text)

    with pytest.raises(ValueError, match=r"sentence 0, 'a b': .*\(num_pos_tags\)"):
        next(score_sentences(model, known, ["a b"]))
    with pytest.raises(ValueError, match="'a b'.*'Q'.*pos_tag_set.*V.*D.*N"):
        next(score_sentences(model, known, [TaggedSentence(["a", "b"], [None, "Q"])]))
    with pytest.raises(ValueError, match="0.*num_pos_tags=3"):
        next(score_sentences(model, tokenizer, tagged))


@pytest.mark.slow
def test_rows_are_running_texts(tokenizer: ElmoTokenizer) -> None:
    """Rows take sentences by bilm-tf's rule: at its end, a row takes the next sentence, in row order."""
    model, text = make_model(tokenizer), make_text(20, seed=1)
    rows, steps = 3, 4
    taken: list[list[int]] = [[] for _ in range(rows)]
    left, following = [0] * rows, iter(range(len(text)))
    exhausted = False
    while not exhausted or any(left):
        for row in range(rows):
            missing = steps
            while missing:
                if not left[row]:
                    number = next(following, None)
                    if number is None:
                        exhausted = True
                        break
                    taken[row].append(number)
                    left[row] = len(text[number].split()) + 1
                count = min(missing, left[row])
                left[row] -= count
                missing -= count
    expected = brute_force(model, tokenizer, [[text[number] for number in numbers] for numbers in taken], carry=True)
    scores = {score.index: score for score in score_sentences(model, tokenizer, text, rows=rows, steps=steps)}
    assert len(scores) == len(text)
    for numbers, of_row in zip(taken, expected, strict=True):
        for number, (forward, backward) in zip(numbers, of_row, strict=True):
            assert scores[number].forward == pytest.approx(sum(forward), abs=1e-5)
            assert scores[number].backward == pytest.approx(sum(backward), abs=1e-5)


@pytest.mark.slow
def test_independent_sentences_do_not_depend_on_batches(tokenizer: ElmoTokenizer) -> None:
    """Scores do not depend on the order of sentences, and equal the model's log-probabilities."""
    model, text = make_model(tokenizer).eval(), make_text(30, seed=2)
    some = {s.index: s for s in score_sentences(model, tokenizer, text, rows=1, steps=50, carry_state=False)}
    assert len(some) == 30
    for rows, steps in ((4, 3), (64, 20)):
        options = {"rows": rows, "steps": steps, "carry_state": False}
        scores = list(score_sentences(model, tokenizer, text[::-1], **options))
        assert len(scores) == 30
        for score in scores:
            assert score.forward == pytest.approx(some[len(text) - 1 - score.index].forward, abs=1e-5)
            assert score.backward == pytest.approx(some[len(text) - 1 - score.index].backward, abs=1e-5)
    encoding = tokenizer([sentence.split() for sentence in text], is_split_into_words=True, padding=True)
    outputs = model(**encoding.convert_to_tensors("pt"))
    for index, score in some.items():
        assert score.forward == pytest.approx(float(outputs.forward_log_probs[index].sum()), abs=1e-4)
        assert score.backward == pytest.approx(float(outputs.backward_log_probs[index].sum()), abs=1e-4)


def test_adaptive_softmax(tokenizer: ElmoTokenizer) -> None:
    model = make_model(tokenizer, softmax_cutoffs=[6])
    result = perplexity(model, tokenizer, make_text(5))
    assert 1 < result.both < math.inf


def test_overflowing_loss_is_infinite_and_nan_stays_nan() -> None:
    assert perplexity_of(1e4) == math.inf
    assert math.isnan(perplexity_of(math.nan))


def test_sums_of_shards(tokenizer: ElmoTokenizer) -> None:
    model, text = make_model(tokenizer), make_text(11)
    whole = perplexity(model, tokenizer, text, carry_state=False)
    parts = [perplexity(model, tokenizer, text[start::2], carry_state=False) for start in range(2)]
    total = parts[0] + parts[1]
    assert (total.sentences, total.words, total.unknown) == (whole.sentences, whole.words, whole.unknown)
    assert total.forward == pytest.approx(whole.forward, rel=1e-6)
    assert total.backward == pytest.approx(whole.backward, rel=1e-6)


def test_the_model_keeps_its_mode(tokenizer: ElmoTokenizer) -> None:
    model = make_model(tokenizer).train()
    first = perplexity(model, tokenizer, make_text(3))
    assert model.training
    assert first == perplexity(model.eval(), tokenizer, make_text(3)), "no dropout in either"
    assert not model.training


@pytest.mark.slow
@pytest.mark.parametrize("carry", [True, False])
def test_memory_does_not_grow_with_the_text(tokenizer: ElmoTokenizer, carry: bool) -> None:
    model = make_model(tokenizer)

    def peak(count: int) -> int:
        def text() -> Iterator[str]:
            for number in range(count):
                yield "the cat sees a dog in town ." if number % 2 else "dog runs"

        tracemalloc.start()
        perplexity(model, tokenizer, text(), rows=4, steps=8, carry_state=carry)
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return highest

    peak(60)
    # Memory in use varies a little; a leaked sentence would take more than a kilobyte.
    assert peak(600) - peak(60) < 540 * 400


def test_refusals(tokenizer: ElmoTokenizer) -> None:
    model = make_model(tokenizer)
    with pytest.raises(ValueError, match="^sentences "):
        perplexity(model, tokenizer, [])
    with pytest.raises(ValueError, match="rows=0"):
        perplexity(model, tokenizer, ["a"], rows=0)
    with pytest.raises(ValueError, match="tokenizer.*5.*vocab_size=17"):
        perplexity(model, ElmoTokenizer(), ["a"])
    with pytest.raises(ValueError, match="targets=0"):
        _ = TextScore().forward

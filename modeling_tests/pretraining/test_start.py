"""The initial model of a run, loaded or new, and the number of steps."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from elmo_hf import ElmoForPreTraining, ElmoForTokenClassification, ElmoTokenizer
from elmo_hf.pretraining import build_vocabulary, open_corpus, pretrain
from elmo_hf.pretraining.start import Start, clear_padding, expected_steps, load, vocabulary_digest
from modeling_tests.pretraining.runs import SHAPE, settings
from modeling_tests.tiny import BOTH_INPUTS, tiny_config

TOKENIZER = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "the", "cat"], max_characters_per_word=9)


def test_model_and_tokenizer_in_float32(tmp_path: Path) -> None:
    model = ElmoForPreTraining(tiny_config(vocab_size=len(TOKENIZER), mask_token_id=6))
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    loaded, tokenizer = load(tmp_path)
    assert loaded.dtype == torch.float32 and loaded.device.type == "cpu"
    assert torch.equal(loaded.softmax.weight, model.softmax.weight.float())
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()


def test_padding_rows_become_zero() -> None:
    """Of words, of characters, and of the ids that are never predicted; nothing else changes."""
    model = ElmoForPreTraining(tiny_config(**BOTH_INPUTS))
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(1.0)
    clear_padding(model)
    changed = {name for name, weight in model.named_parameters() if not weight.eq(1).all()}
    assert len(changed) == 3 and sum("softmax" in name for name in changed) == 1
    for name, weight in model.named_parameters():
        if name in changed:
            zero = model.softmax.excluded_ids if "softmax" in name else [0]
            assert weight.eq(0).all(dim=1).nonzero().flatten().tolist() == zero, name


def test_vocabulary_digest(tmp_path: Path) -> None:
    """The words in the order of their ids, one per line."""
    vocabulary = ["<S>", "</S>", "<UNK>", "zebra", "ant", "mole"]
    tokenizer = ElmoTokenizer(vocab=vocabulary)
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert words.index("zebra") < words.index("ant") < words.index("mole")
    assert vocabulary_digest(tokenizer) == hashlib.sha256("\n".join(words).encode()).hexdigest()
    assert vocabulary_digest(ElmoTokenizer(vocab=[*vocabulary[:3], "ant", "zebra", "mole"])) != vocabulary_digest(
        tokenizer
    )


def test_a_tagger_has_no_softmax(tmp_path: Path) -> None:
    ElmoForTokenClassification(tiny_config(vocab_size=len(TOKENIZER))).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="2.*ElmoForPreTraining.*softmax.bias"):
        load(tmp_path)


def test_another_vocabulary(tmp_path: Path) -> None:
    ElmoForPreTraining(tiny_config(vocab_size=9)).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="7.*vocab_size=9"):
        load(tmp_path)
    with pytest.raises(OSError, match="nowhere.*folder"):
        load(tmp_path / "nowhere")


@pytest.mark.samples(1)
@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        # 120 sentences and their words: a row is six targets of running text, or a sentence.
        ({}, None),
        ({"epochs": 1, "gradient_accumulation_steps": 3}, None),
        ({"sentence_independent": True, "unroll_steps": 20}, 60),
        ({"sentence_independent": True, "unroll_steps": 20, "gradient_accumulation_steps": 2}, 30),
        ({"max_steps": 5}, 5),
    ],
)
def test_steps_of_a_run(corpus: Path, tmp_path: Path, changed: dict[str, Any], expected: int | None) -> None:
    counted = build_vocabulary(open_corpus(str(corpus / "train.txt")), progress=False)
    counted.save(tmp_path / "vocab.txt")
    values: dict[str, Any] = {"vocabulary": str(tmp_path / "vocab.txt"), "max_steps": None, "held_out_data": None}
    values |= {"checkpoint_every": 1000, **changed}
    run = settings(corpus, tmp_path / "run", **values)
    if expected is None:
        targets = run.epochs * (counted.running_words + counted.sentences)
        expected = -(-targets // (run.rows * run.unroll_steps * run.gradient_accumulation_steps))
    assert expected_steps(run, 1) == expected
    if run.max_steps is None:
        assert expected_steps(run, 2) == (expected + 1) // 2
    taken = pretrain(run).step
    # Rows and directions end at different steps, which adds some padded steps.
    assert expected <= taken <= expected + 3
    if run.sentence_independent or run.max_steps is not None:
        assert taken == expected


def test_steps_of_sentences_longer_than_an_unroll(corpus: Path, tmp_path: Path) -> None:
    counted = build_vocabulary(open_corpus(str(corpus / "train.txt")), progress=False)
    counted.save(tmp_path / "vocab.txt")
    run = settings(
        corpus,
        tmp_path / "run",
        vocabulary=str(tmp_path / "vocab.txt"),
        sentence_independent=True,
        unroll_steps=2,
        max_steps=None,
    )
    # At least as many rows as running text would fill.
    assert expected_steps(run, 1) == -(-2 * (counted.running_words + 120) // (2 * 4))
    assert expected_steps(settings(corpus, tmp_path / "run", max_steps=None), 1) is None


@pytest.mark.parametrize(
    ("changed", "shape", "message"),
    [
        ({}, {"num_pos_tags": 3}, "num_pos_tags=3.*config_overrides.*0 POS tags"),
        ({"pos_separator": "_"}, {"num_pos_tags": 3}, "num_pos_tags=3.*config_overrides.*2 POS tags"),
        (
            {"character_dictionary": "c.json"},
            {"character_filters": [], "word_embedding_size": 4},
            r"character_dictionary='c.json': .*\(character_filters",
        ),
        ({"character_dictionary": "vocab.txt"}, {}, "vocab.txt.*JSON"),
    ],
)
def test_invalid_new_models(
    corpus: Path, tmp_path: Path, changed: dict[str, Any], shape: dict[str, Any], message: str
) -> None:
    (tmp_path / "train.txt").write_text("a_X b_Y\n")
    if changed.get("character_dictionary") == "vocab.txt":
        changed = {"character_dictionary": str(corpus / "vocab.txt")}
    values = {"train_data": [str(tmp_path / "train.txt")], "config_overrides": json.dumps({**SHAPE, **shape})}
    with pytest.raises(ValueError, match=message):
        Start.from_settings(settings(corpus, tmp_path / "run", **values, **changed), None)

"""What is read from the folder of a language model."""

from pathlib import Path

import pytest
import torch

from elmo_hf import ElmoForPreTraining, ElmoForTokenClassification, ElmoTokenizer
from elmo_hf.pretraining.start import load
from modeling_tests.tiny import tiny_config

TOKENIZER = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "the", "cat"], max_characters_per_word=9)


def test_model_and_tokenizer_in_float32(tmp_path: Path) -> None:
    model = ElmoForPreTraining(tiny_config(vocab_size=len(TOKENIZER), mask_token_id=6))
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    loaded, tokenizer = load(tmp_path)
    assert loaded.dtype == torch.float32 and loaded.device.type == "cpu"
    assert torch.equal(loaded.softmax.weight, model.softmax.weight.float())
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()


def test_a_tagger_has_no_softmax(tmp_path: Path) -> None:
    ElmoForTokenClassification(tiny_config(vocab_size=len(TOKENIZER))).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="lacks 2 weights of ElmoForPreTraining, softmax.bias among them"):
        load(tmp_path)


def test_another_vocabulary(tmp_path: Path) -> None:
    ElmoForPreTraining(tiny_config(vocab_size=9)).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a tokenizer of 7 words and a model of vocab_size=9"):
        load(tmp_path)
    with pytest.raises(OSError, match="nowhere is no folder of a model and its tokenizer"):
        load(tmp_path / "nowhere")

"""Pipelines and composite models of Transformers, unmodified, over real tokenizer output; values, not only shapes."""

import pytest
import torch
from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel, pipeline

from elmo_hf import ElmoForTokenClassification, ElmoModel, ElmoTokenizer

from .tiny import tiny_config, with_large_weights

TEXTS = ["Ada met Grace (the admiral).", "No.", "They didn't say why."]


@pytest.fixture(params=["right", "left"])
def tokenizer(request):
    return ElmoTokenizer(max_characters_per_word=9, padding_side=request.param)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("mixes", [1, 2])
def test_feature_extraction(tokenizer, batch_size, mixes):
    model = with_large_weights(ElmoModel(tiny_config(num_representations=mixes))).eval()
    extract = pipeline("feature-extraction", model=model, tokenizer=tokenizer)
    for text, found in zip(TEXTS, extract(TEXTS, batch_size=batch_size), strict=True):
        expected = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        values = torch.tensor(found)[0]
        # The pipeline keeps the batch's padding.
        values = values[: len(expected)] if tokenizer.padding_side == "right" else values[-len(expected) :]
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_token_classification(tokenizer, batch_size):
    config = tiny_config(id2label={0: "O", 1: "B-PER", 2: "I-PER"}, label2id={"O": 0, "B-PER": 1, "I-PER": 2})
    model = with_large_weights(ElmoForTokenClassification(config)).eval()
    tag = pipeline("token-classification", model=model, tokenizer=tokenizer, ignore_labels=[])
    for text, found in zip(TEXTS, tag(TEXTS, batch_size=batch_size), strict=True):
        batch = tokenizer(text, return_tensors="pt")
        probabilities = model(**batch).logits[0, 1:-1].softmax(-1)
        words = tokenizer.words(text)
        assert [(item["word"], (item["start"], item["end"])) for item in found] == words
        assert [item["entity"] for item in found] == [config.id2label[i] for i in probabilities.argmax(-1).tolist()]
        assert [item["score"] for item in found] == pytest.approx(probabilities.max(-1).values.tolist(), abs=1e-5)


def test_encoder_of_an_encoder_decoder(tokenizer, tmp_path):
    decoder = BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        is_decoder=True, add_cross_attention=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        tiny_config(), decoder, decoder_start_token_id=1, pad_token_id=0, eos_token_id=2
    )
    model = EncoderDecoderModel(config).eval()
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    labels = torch.tensor([[4, 5, 2], [6, 2, -100], [7, 8, 2]])
    output = model(**batch, labels=labels)
    output.loss.backward()
    assert model.encoder.encoder.layers[0].forward_lstm.input_proj.weight.grad.abs().sum() > 0
    generated = model.generate(**batch, max_new_tokens=4, num_beams=2, do_sample=False)
    # A sentence alone is translated as in a batch.
    alone = model.generate(**tokenizer(TEXTS[1], return_tensors="pt"), max_new_tokens=4, num_beams=2, do_sample=False)
    assert generated[1, : alone.shape[1]].tolist() == alone[0].tolist()
    model.save_pretrained(tmp_path)
    again = EncoderDecoderModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**batch, labels=labels).logits, output.logits, rtol=0, atol=1e-5)

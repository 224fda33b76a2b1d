"""ELMo as the encoder of an encoder-decoder model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertGenerationConfig,
    BertGenerationDecoder,
    DataCollatorForSeq2Seq,
    EncoderDecoderModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from elmo_hf import ElmoConfig, ElmoEncoderDecoderConfig, ElmoEncoderDecoderModel, ElmoModel, ElmoTokenizer
from elmo_hf.model.configuration_elmo import ElmoTaskEncoderConfig
from elmo_hf.model.task_encoder import ElmoTaskEncoder
from modeling_tests.tiny import TRANSFORMER, WORD_INPUT, tiny_config, with_large_weights

TOKENIZER = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", *"ab cd the cat sat".split()], max_characters_per_word=9)
SOURCES = ["the cat sat", "cat", "ab cd", "sat the"]


def decoder_config() -> BertGenerationConfig:
    return BertGenerationConfig(
        vocab_size=len(TOKENIZER),
        hidden_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


# Encoders with layers of the task.
JOINED = {"word_vector_size": 5, "task_lstm_size": 3}
WITHOUT_ELMO = {**JOINED, "elmo_at": []}


def translator(**overrides) -> ElmoEncoderDecoderModel:
    config = tiny_config(**overrides)
    if "task_lstm_size" in overrides:
        config = ElmoTaskEncoderConfig.from_dict(config.to_dict())
    config = ElmoEncoderDecoderConfig.from_encoder_decoder_configs(
        config,
        decoder_config(),
        pad_token_id=0,
        decoder_start_token_id=1,
        eos_token_id=2,
    )
    model = with_large_weights(ElmoEncoderDecoderModel(config), 0.3).eval()
    model.generation_config.update(decoder_start_token_id=1, eos_token_id=2, pad_token_id=0, bos_token_id=1)
    return model


def batch_of(sources=SOURCES):
    batch = TOKENIZER(sources, padding=True, return_tensors="pt")
    labels = TOKENIZER(text_target=[text[::-1] for text in sources], padding=True, return_tensors="pt")["input_ids"]
    return {**batch, "labels": labels.masked_fill(labels.eq(0), -100)}


@pytest.mark.parametrize(
    "overrides",
    [{}, WORD_INPUT, TRANSFORMER, JOINED, WITHOUT_ELMO],
    ids=["characters", "words", "Transformer", "task layers", "without ELMo"],
)
def test_computes_what_the_stock_class_does(overrides):
    model, batch = translator(**overrides), batch_of()
    stock = EncoderDecoderModel(encoder=model.encoder, decoder=model.decoder)
    stock.config.pad_token_id, stock.config.decoder_start_token_id = 0, 1
    if hasattr(model, "enc_to_dec_proj"):
        stock.enc_to_dec_proj = model.enc_to_dec_proj
    with pytest.warns(FutureWarning, match=r"Version v4\.12"):
        expected = stock(**batch)
    for inputs in (batch, {name: value for name, value in batch.items() if name != "attention_mask"}):
        found = model(**inputs)
        torch.testing.assert_close(found.logits, expected.logits)
        torch.testing.assert_close(found.loss, expected.loss)
    count = batch["labels"].ne(-100).sum()
    torch.testing.assert_close(model(**batch, num_items_in_batch=2 * count).loss, expected.loss / 2)


@torch.no_grad()
def test_a_given_mask_hides_words():
    model, batch = translator(), TOKENIZER(SOURCES, padding=True, return_tensors="pt")
    decoder_input_ids = torch.ones(len(batch["input_ids"]), 2, dtype=torch.int64)
    hidden = {**batch, "attention_mask": batch["attention_mask"].clone()}
    hidden["attention_mask"][:, 2:] = 0
    shorter = {name: value[:, :2] for name, value in hidden.items()}
    found, expected = (model(**each, decoder_input_ids=decoder_input_ids).logits for each in (hidden, shorter))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, model(**batch, decoder_input_ids=decoder_input_ids).logits)


@pytest.mark.parametrize("overrides", [{}, JOINED], ids=["biLM", "task layers"])
def test_saved_and_loaded_by_both_classes(overrides, tmp_path):
    model, batch = translator(**overrides, num_representations=2), batch_of()
    model.encoder.bilm.scalar_mixes[1].requires_grad_(False)
    model.save_pretrained(tmp_path)
    assert not any(path.is_dir() for path in tmp_path.iterdir())
    assert {"encoder_decoder.py", "configuration_encoder_decoder.py", "modeling_elmo.py"} <= {
        path.name for path in tmp_path.iterdir()
    }
    again = ElmoEncoderDecoderModel.from_pretrained(tmp_path).eval()
    kinds = (ElmoTaskEncoderConfig, ElmoTaskEncoder) if overrides else (ElmoConfig, ElmoModel)
    assert (type(again.config.encoder), type(again.encoder)) == kinds
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits, rtol=0, atol=0)
    # With the package imported, no code of the folder is needed.
    stock = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert type(stock) is EncoderDecoderModel and type(stock.encoder) is kinds[1]
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    labels = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    torch.testing.assert_close(
        stock(**inputs, decoder_input_ids=labels).logits, model(**inputs, decoder_input_ids=labels).logits
    )
    assert torch.equal(
        model.generate(**inputs, num_beams=2, max_new_tokens=5), again.generate(**inputs, num_beams=2, max_new_tokens=5)
    )


def test_from_pretrained_parts(tmp_path):
    encoder, decoder = ElmoModel(tiny_config()), BertGenerationDecoder(decoder_config())
    encoder.save_pretrained(tmp_path / "encoder")
    decoder.save_pretrained(tmp_path / "decoder")
    model = ElmoEncoderDecoderModel.from_encoder_decoder_pretrained(
        str(tmp_path / "encoder"), str(tmp_path / "decoder")
    )
    assert torch.equal(model.encoder.scalar_mixes[0].weights, encoder.scalar_mixes[0].weights)
    assert model.config.decoder.add_cross_attention and type(model.config) is ElmoEncoderDecoderConfig


def test_a_fresh_model_starts_as_its_parts_do():
    torch.manual_seed(0)
    model = ElmoEncoderDecoderModel(translator().config)
    assert not model.encoder.embeddings.character_embeddings.weight[0].any()
    gate = model.encoder.embeddings.highways[0].gate
    assert gate.bias.eq(-2).all()
    assert model.encoder.get_input_embeddings().weight.shape[0] == len(TOKENIZER) + 2  # tiny_config's vocab_size
    assert model.decoder.bert.embeddings.word_embeddings.weight.std() < 0.05


@pytest.mark.slow
def test_trains_with_the_stock_trainer(tmp_path):
    """Model inputs are kept, accumulated batches are weighted by their labels, and evaluation generates text."""
    model = translator()
    data = [
        {**TOKENIZER(source), "labels": TOKENIZER(text_target=source[::-1])["input_ids"], "unused": 1}
        for source in SOURCES
    ]
    start = {name: value.clone() for name, value in model.state_dict().items()}
    results = []
    for batch_size, accumulated in ((4, 1), (1, 4)):
        model.load_state_dict(start)
        arguments = Seq2SeqTrainingArguments(
            tmp_path,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulated,
            max_steps=1,
            learning_rate=0.1,
            optim="sgd",
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            predict_with_generate=True,
            generation_max_length=6,
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Seq2SeqTrainer(
            model,
            arguments,
            train_dataset=data,
            eval_dataset=data,
            processing_class=TOKENIZER,
            data_collator=DataCollatorForSeq2Seq(TOKENIZER, model=model),
        )
        trainer.train()
        results.append({name: value.clone() for name, value in model.state_dict().items()})
        assert trainer.predict(data).predictions.shape[0] == len(SOURCES)
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-5, atol=1e-6)
    assert any(not torch.equal(value, start[name]) for name, value in results[0].items())


def test_refusals():
    with pytest.raises(ValueError, match="encoder.*model_type='bert'"):
        ElmoEncoderDecoderConfig(encoder=BertConfig().to_dict(), decoder=decoder_config().to_dict())
    model = translator()
    model.config.decoder_start_token_id = None
    with pytest.raises(ValueError, match="decoder_start_token_id=None"):
        model(**batch_of())


PROGRAM = """
import sys
if sys.argv[2] == "absent":
    sys.modules["elmo_hf"] = None
elif sys.argv[2] == "imported":
    import elmo_hf
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
name = sys.argv[1]
for source in (name, sys.argv[3]):
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=True)
    model = AutoModelForSeq2SeqLM.from_pretrained(source, trust_remote_code=True).eval()
    assert type(model).__name__ == "ElmoEncoderDecoderModel", type(model)
    inputs = tokenizer(["the cat sat", "ab"], padding=True, return_tensors="pt")
    print(model.generate(**inputs, max_length=6, num_beams=2).tolist())
    model.save_pretrained(sys.argv[3])
    tokenizer.save_pretrained(sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("package", ["absent", "installed", "imported"])
@pytest.mark.parametrize(("source", "overrides"), [("folder", JOINED), ("Hub", {})], ids=["folder", "Hub"])
def test_remote_code(package, source, overrides, tmp_path):
    """With the package absent, installed or imported; from a local folder and from a Hub cache."""
    model = translator(**overrides)
    revision = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "home" / "hub" / "models--me--translator"
    folder = repository / "snapshots" / revision if source == "Hub" else tmp_path / "translator"
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(revision)
    (tmp_path / "empty").mkdir()
    root = Path(__file__).resolve().parents[2]
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, "me/translator" if source == "Hub" else folder, package, tmp_path / "again"],
        cwd=tmp_path / "empty",
        env={
            **os.environ,
            "HF_HOME": str(tmp_path / "home"),
            "PYTHONPATH": "" if package == "absent" else str(root),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    inputs = TOKENIZER(["the cat sat", "ab"], padding=True, return_tensors="pt")
    expected = str(model.generate(**inputs, max_length=6, num_beams=2).tolist())
    assert process.stdout.splitlines() == [expected, expected]

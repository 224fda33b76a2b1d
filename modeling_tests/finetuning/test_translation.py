"""Parts of translators: inputs, loss, target tokenizers, learning rates."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EncoderDecoderModel, Seq2SeqTrainer

from elmo_hf import ElmoConfig, ElmoForSequenceClassification, ElmoModel, ElmoTokenizer
from elmo_hf.finetuning import (
    CorpusError,
    Pair,
    PairArguments,
    TranslationTrainingArguments,
    TranslatorArguments,
    encode_pairs,
    parameter_groups,
    parse,
    translation,
)

# Every EncoderDecoderModel with labels gives this warning.
pytestmark = pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces:FutureWarning")

TINY = {
    "character_embedding_size": 6,
    "character_filters": [[1, 12], [2, 16], [3, 16]],
    "max_characters_per_word": 20,
    "projection_size": 16,
    "cell_size": 24,
    "representation_dropout": 0.0,
}
DECODER = (
    "--decoder_type gpt2 --decoder_hidden_size 24 --decoder_layers 1 --decoder_heads 2 --decoder_dropout 0 "
    "--decoder_initializer_range 0.15 --target_vocab_size 280 --max_target_tokens 24"
)


def is_bilm(name: str) -> bool:
    return name.startswith(("encoder.embeddings.", "encoder.encoder."))


def small_translator(**data: Any) -> tuple[EncoderDecoderModel, Any, Any, list[Pair], PairArguments]:
    pairs = [Pair("red dog", "rote Hund", "f:1"), Pair("cats", "Katzen", "f:2"), Pair("see a dog !", "sehen", "f:3")]
    options = "--preset small --do_train --output_dir o --use_cpu --config_overrides"
    model_args, data_args, _ = parse(
        [*options.split(), json.dumps(TINY), *DECODER.split()],
        TranslatorArguments,
        PairArguments,
        TranslationTrainingArguments,
    )
    for name, value in data.items():
        setattr(data_args, name, value)
    return (*translation.make_translator(model_args, data_args, {"train": pairs}), pairs, data_args)


def test_collator_carries_characters() -> None:
    model, tokenizer, target_tokenizer, pairs, data = small_translator()
    encoded = encode_pairs(pairs, tokenizer, target_tokenizer, data, cut_targets=True)
    batch = translation.PairCollator(tokenizer, model=model)([encoded[index] for index in range(3)])
    expected = tokenizer([pair.source for pair in pairs], padding=True, return_tensors="pt")
    for name in ("input_ids", "attention_mask", "character_ids"):
        assert torch.equal(batch[name], expected[name]), name
    assert batch["character_ids"].shape == (3, 6, 20)
    for row, pair in zip(batch["labels"], pairs, strict=True):
        ids = row[row.ne(translation.IGNORED_LABEL)].tolist()
        assert target_tokenizer.decode(ids[:-1]) == pair.target and ids[-1] == target_tokenizer.eos_token_id
    start = torch.full((3, 1), target_tokenizer.bos_token_id)
    shifted = torch.cat([start, batch["labels"][:, :-1]], dim=1).clamp(min=0)
    assert torch.equal(batch["decoder_input_ids"], shifted)


def test_padding_changes_nothing() -> None:
    model, tokenizer, target_tokenizer, pairs, data = small_translator()
    encoded = encode_pairs(pairs, tokenizer, target_tokenizer, data, cut_targets=True)
    collate = translation.PairCollator(tokenizer, model=model)
    model.eval()
    together = model(**collate([encoded[index] for index in range(3)])).logits
    for index in range(3):
        alone = model(**collate([encoded[index]])).logits[0]
        torch.testing.assert_close(together[index, : len(alone)], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_that_of_the_model_and_of_the_trainer(smoothing: float, tmp_path: Path) -> None:
    model, tokenizer, target_tokenizer, pairs, data = small_translator()
    encoded = encode_pairs(pairs, tokenizer, target_tokenizer, data, cut_targets=True)
    batch = translation.PairCollator(tokenizer, model=model)([encoded[index] for index in range(3)])
    outputs = model.eval()(**batch)
    loss = translation.make_loss(model.encoder, smoothing)
    args = TranslationTrainingArguments(str(tmp_path), label_smoothing_factor=smoothing, use_cpu=True)
    smoother = Seq2SeqTrainer(model, args, processing_class=tokenizer).label_smoother
    expected = outputs.loss if smoother is None else smoother(outputs, batch["labels"])
    torch.testing.assert_close(loss(outputs, batch["labels"]), expected)
    count = batch["labels"].ne(translation.IGNORED_LABEL).sum()
    torch.testing.assert_close(loss(outputs, batch["labels"], num_items_in_batch=2 * count), expected / 2)


def test_learning_rates_reach_their_parameters() -> None:
    model, *_ = small_translator()
    args = TranslationTrainingArguments(
        "unused", learning_rate=1e-3, bilm_learning_rate=1e-5, weight_decay=0.1, use_cpu=True
    )
    found = {id(p): g["lr"] for g in parameter_groups(model, args) for p in g["params"]}
    parameters = dict(model.named_parameters())
    assert len(found) == len(parameters)
    for name, parameter in parameters.items():
        assert found[id(parameter)] == (1e-5 if is_bilm(name) else 1e-3), name


def test_long_texts() -> None:
    _, tokenizer, target_tokenizer, pairs, data = small_translator(max_source_words=2, max_target_tokens=5)
    reports: list[str] = []
    encoded = encode_pairs(pairs, tokenizer, target_tokenizer, data, cut_targets=True, report=reports.append)
    assert [len(row["input_ids"]) - 2 for row in encoded] == [2, 1, 2]
    assert [len(row["character_ids"]) - 2 for row in encoded] == [2, 1, 2]
    whole = target_tokenizer([pair.target for pair in pairs])["input_ids"]
    assert [row["labels"] for row in encoded] == [ids[:5] for ids in whole]
    long = sum(len(ids) > 5 for ids in whole)
    assert long and reports == [
        "1 of 3 sources are longer than 2 words and were truncated",
        f"{long} of 3 training targets are longer than 5 tokens and were truncated",
    ]
    with pytest.raises(CorpusError, match=r"f:1: .*\d+ tokens.* 5;.*--max_target_tokens"):
        encode_pairs(pairs, tokenizer, target_tokenizer, data, cut_targets=False)


def test_target_tokenizer_is_the_same_every_time() -> None:
    targets = ["Ein rote Hund schläft .", "Ein große Katze singt ."]
    first, second = (translation.train_target_tokenizer(targets, 280) for _ in range(2))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()
    assert (first.pad_token_id, first.bos_token_id, first.eos_token_id) == (0, 1, 2)


def joined(*more: str) -> tuple[Any, Any]:
    """An encoder with layers of the task, and its tokenizer."""
    options = "--do_train --output_dir o --use_cpu --min_count 1".split()
    model_args, *_ = parse([*options, *more], TranslatorArguments, PairArguments, TranslationTrainingArguments)
    pairs = [Pair("red dog", "rote Hund", "f:1"), Pair("cats", "Katzen", "f:2")]
    return translation.make_encoder(model_args, {"train": pairs})


def test_word_vectors_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "vectors.txt").write_text("dog 0.5 -1\ncats 2 3\n")
    encoder, tokenizer = joined("--without_elmo", "--word_vectors", str(tmp_path / "vectors.txt"))
    table = encoder.task_layers.word_vectors.word_embeddings.weight
    found = table[tokenizer.convert_tokens_to_ids(["dog", "cats"])]
    assert encoder.elmo is None and torch.equal(found, torch.tensor([[0.5, -1.0], [2.0, 3.0]]))


def test_layers_of_another_task_are_left_behind(tmp_path: Path) -> None:
    fields = {**TINY, "integrator_size": 2, "pre_encoder_layers": [[3, "relu"]], "task_lstm_size": 4}
    fields |= {
        "task_lstm_layers": 2,
        "task_dropout": 0.4,
        "word_vector_size": 5,
        "vocab_size": 4,
        "elmo_at": ["output"],
    }
    classifier = ElmoForSequenceClassification(ElmoConfig(**fields))
    classifier.save_pretrained(tmp_path)
    ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>"], max_characters_per_word=20).save_pretrained(tmp_path)
    start = ("--model_name_or_path", str(tmp_path))
    for encoder, _ in (joined(*start), joined(*start, "--task_lstm_size", "6")):
        config, new = encoder.config, ElmoConfig()
        for name in translation.TASK_FIELDS:
            assert getattr(config, name) == getattr(new, name), name
        assert (config.word_vector_size, config.elmo_at) == (0, ["input"])
        weight = encoder.bilm.encoder.layers[0].forward_lstm.input_proj.weight
        assert torch.equal(weight, classifier.elmo.encoder.layers[0].forward_lstm.input_proj.weight)
    assert type(joined(*start)[0]) is ElmoModel and encoder.config.hidden_size == 12


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--task_dropout 0.1", "task_dropout=0.1.*--task_lstm_size"),
        ("--freeze_word_vectors", "train_word_vectors=False.*--word_vectors"),
        ("--without_elmo", r"elmo_at=\[\] without word_vector_size"),
        ("--without_elmo --word_vector_size 4 --freeze_bilm", "--freeze_bilm.*--without_elmo"),
        ("--without_elmo --word_vector_size 4 --cache_layers 1", "--cache_layers.*--without_elmo"),
        ('--config_overrides {"elmo_size":3}', "elmo_size"),
    ],
)
def test_options_without_effect_are_refused(more: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        joined(*more.split())


def test_decay_of_the_mix() -> None:
    model, tokenizer, target_tokenizer, pairs, data = small_translator()
    encoded = encode_pairs(pairs, tokenizer, target_tokenizer, data, cut_targets=True)
    batch = translation.PairCollator(tokenizer, model=model)([encoded[index] for index in range(3)])
    with torch.no_grad():
        model.encoder.scalar_mixes[0].weights.fill_(2.0)
    before = model.eval()(**batch).loss
    model.encoder.config.scalar_mix_l2 = 0.5
    after = model(**batch)
    torch.testing.assert_close(after.loss, before + model.encoder.scalar_mix_penalty())
    assert model.encoder.scalar_mix_penalty() == 0.5 * 3 * 4
    torch.testing.assert_close(translation.make_loss(model.encoder, 0.0)(after, batch["labels"]), after.loss)

"""Initial configuration, tokenizer and model of a run, by its options."""

from pathlib import Path
from typing import Any

import pytest
import torch

from elmo_hf import (
    ElmoConfig,
    ElmoForPreTraining,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
)
from elmo_hf.finetuning import (
    ClassifierArguments,
    ModelArguments,
    TaggerArguments,
    load_config,
    load_model,
    load_tokenizer,
    set_labels,
)
from elmo_hf.finetuning.options import TASK_PRESETS

TINY = {
    "character_embedding_size": 6,
    "character_filters": [[1, 12], [2, 16]],
    "max_characters_per_word": 20,
    "projection_size": 8,
    "cell_size": 12,
}


def words_of(tokenizer: Any, texts: list[str]) -> list[str]:
    return " ".join(texts).split()


def start_from(path: Path, **options: Any) -> tuple[Any, Any, bool]:
    """(model, tokenizer, whether the head was kept) as a script makes them for labels `O` and `B-X`."""
    model_args = ModelArguments(model_name_or_path=str(path), **options)
    config, keeps_head = load_config(model_args, ElmoForTokenClassification)
    if not keeps_head:
        set_labels(config, ["O", "B-X"])
    splits = {"train": ["a rose is", "a rose is a"], "test": ["a thorn"]}
    tokenizer = load_tokenizer(model_args, config, keeps_head, splits, words_of)
    return load_model(model_args, ElmoForTokenClassification, config, tokenizer, keeps_head), tokenizer, keeps_head


@pytest.mark.parametrize("cls", [ElmoModel, ElmoForTokenClassification, ElmoForPreTraining])
def test_checkpoints_of_every_kind_are_trained_in_float32(cls: Any, tmp_path: Path) -> None:
    config = ElmoConfig(**TINY, vocab_size=7, id2label={0: "O", 1: "B-PER", 2: "I-PER"})
    saved = cls(config).to(torch.bfloat16)
    saved.save_pretrained(tmp_path)
    ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "a", "b"], max_characters_per_word=20).save_pretrained(tmp_path)
    model, tokenizer, keeps_head = start_from(tmp_path)
    assert keeps_head is (cls is ElmoForTokenClassification)
    assert model.config.id2label == ({0: "O", 1: "B-PER", 2: "I-PER"} if keeps_head else {0: "O", 1: "B-X"})
    assert model.config.words_only is not keeps_head  # a loaded head reads what it was trained on
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    stored = {name.removeprefix("elmo."): tensor.float() for name, tensor in saved.state_dict().items()}
    for name, tensor in model.elmo.state_dict().items():
        assert name.startswith("scalar_mixes") or torch.equal(tensor, stored[name]), name
    if keeps_head:
        assert torch.equal(model.classifier.weight, stored["classifier.weight"])
        assert not start_from(tmp_path, new_classifier=True)[2]
    assert len(tokenizer) == 7  # without its own word vectors, a task needs no vocabulary


def test_fields_are_checked_together(tmp_path: Path) -> None:
    ElmoModel(ElmoConfig(**TINY)).save_pretrained(tmp_path)
    start = {"model_name_or_path": str(tmp_path)}
    config, _ = load_config(ModelArguments(**start, elmo_at=["input", "output"], task_lstm_size=5), ElmoModel)
    assert (config.elmo_at, config.num_representations, config.projection_size) == (["input", "output"], 2, 8)
    with pytest.raises(ValueError, match="without task_lstm_size"):
        load_config(ModelArguments(**start, elmo_at=["output"], word_vector_size=4), ElmoModel)
    with pytest.raises(ValueError, match="set word_vector_size"):
        load_config(ModelArguments(without_elmo=True), ElmoModel)
    # Explicit options take precedence.
    options = ModelArguments(**start, task_lstm_size=5, config_overrides='{"task_lstm_size": 6}')
    assert load_config(options, ElmoModel)[0].task_lstm_size == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "small", "model_name_or_path": "x"}, "--model_name_or_path.*--preset"),
        ({"without_elmo": True, "elmo_at": ["output"]}, "--elmo_at output.*--without_elmo"),
        ({"preset": "small", "min_count": 0}, "--min_count 0"),
        ({"preset": "small", "random_weights": True}, "--random_weights without --model_name_or_path"),
    ],
)
def test_contradicting_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelArguments(**options)


def test_vocabulary_is_that_of_the_frequent_training_words(tmp_path: Path) -> None:
    base = ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "x"], pre_tokenization="whitespace", max_characters_per_word=20)
    base.save_pretrained(tmp_path)
    ElmoModel(ElmoConfig(**TINY)).save_pretrained(tmp_path)
    model_args = ModelArguments(model_name_or_path=str(tmp_path), word_vector_size=3)
    config, _ = load_config(model_args, ElmoForTokenClassification)
    splits = {"train": ["b a a b b c <UNK> <UNK>", "<mask> <mask> d d"], "validation": ["e e e"]}
    tokenizer = load_tokenizer(model_args, config, False, splits, words_of)
    words = ["<pad>", "<S>", "</S>", "<UNK>", "b", "a", "d", "<mask>"]
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))) == words
    assert (tokenizer.pre_tokenization, tokenizer.max_characters_per_word) == ("whitespace", 20)
    assert tokenizer("a c")["input_ids"] == [1, 5, 3, 2]
    assert (config.vocab_size, config.mask_token_id, config.unk_token_id) == (8, 7, 3)
    model_args.min_count = 1
    assert "c" in load_tokenizer(model_args, config, False, splits, words_of).get_vocab()
    # Without the task's own word vectors, no vocabulary is built.
    config.word_vector_size = 0
    assert len(load_tokenizer(model_args, config, False, splits, words_of)) == len(base)


def test_word_vectors_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    path.write_text("rose 1 2 3\nthorn 4 5 6\nfar 7 8 9\n")
    options = {"without_elmo": True, "word_vectors": str(path), "freeze_word_vectors": True}
    model_args = ModelArguments(**options)
    config, _ = load_config(model_args, ElmoForTokenClassification)
    assert (config.word_vector_size, config.elmo_at, config.train_word_vectors) == (3, [], False)
    splits = {"train": ["a rose is", "a rose by"], "test": ["a thorn in"]}
    tokenizer = load_tokenizer(model_args, config, False, splits, words_of)
    # Words that are frequent in training or have a vector; "in", "is" and "by" are neither.
    assert set(tokenizer.get_vocab()) == {"<pad>", "<S>", "</S>", "<UNK>", "<mask>", "a", "rose", "thorn"}
    model = load_model(model_args, ElmoForTokenClassification, config, tokenizer)
    table = model.task_layers.word_vectors.word_embeddings.weight
    ids = tokenizer.get_vocab()
    assert table[ids["rose"]].tolist() == [1, 2, 3] and table[ids["thorn"]].tolist() == [4, 5, 6]
    assert not table.requires_grad


@pytest.mark.parametrize(
    ("text", "message"),
    [("a 1 2\nb 1\n", r"vectors\.txt, line 2: .* 2"), (None, r"No such file.*vectors\.txt"), ("a b\n", "line 1: ")],
)
def test_bad_word_vectors(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "vectors.txt").write_text(text)
    model_args = ModelArguments(without_elmo=True, word_vectors=str(tmp_path / "vectors.txt"))
    with pytest.raises((ValueError, OSError), match=message):
        load_config(model_args, ElmoForTokenClassification)


def test_a_word_model_keeps_the_vocabulary_that_it_has_learned(tmp_path: Path) -> None:
    shape = {"character_filters": [], "word_embedding_size": 8, "projection_size": 8, "cell_size": 12}
    ElmoModel(ElmoConfig(**shape, vocab_size=7)).save_pretrained(tmp_path)
    ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "a", "b"]).save_pretrained(tmp_path)
    model, tokenizer, _ = start_from(tmp_path, word_vector_size=4)
    assert len(tokenizer) == model.config.vocab_size == 7
    assert model.task_layers.word_vectors.word_embeddings.weight.shape == (7, 4)
    # Without the biLM, the model has none of its weights.
    model, tokenizer, _ = start_from(tmp_path, word_vector_size=4, without_elmo=True)
    assert "rose" in tokenizer.get_vocab() and model.elmo is None


def test_random_weights_in_the_shape_of_a_checkpoint(tmp_path: Path) -> None:
    saved = ElmoForTokenClassification(ElmoConfig(**TINY, id2label={0: "O", 1: "B-PER"}))
    saved.save_pretrained(tmp_path)
    ElmoTokenizer(max_characters_per_word=20, pre_tokenization="whitespace").save_pretrained(tmp_path)
    model, tokenizer, keeps_head = start_from(tmp_path, random_weights=True)
    assert not keeps_head and tokenizer.pre_tokenization == "whitespace"
    assert model.config.cell_size == 12 and model.config.id2label == {0: "O", 1: "B-X"}
    for name, weight in saved.elmo.encoder.state_dict().items():
        assert "bias" in name or not torch.equal(weight, model.elmo.encoder.state_dict()[name]), name


def test_dropout_and_decay_of_the_mix(tmp_path: Path) -> None:
    model_args = ModelArguments(preset="small", representation_dropout=0.25, scalar_mix_l2=0.001)
    config, _ = load_config(model_args, ElmoForTokenClassification)
    assert (config.representation_dropout, config.scalar_mix_l2) == (0.25, 0.001)


@pytest.mark.parametrize("preset", ["ner-elmo", "sst-elmo"])
def test_layers_of_the_published_archives(preset: str, tmp_path: Path) -> None:
    """Around any checkpoint; single options win. The tokenizer spells and looks words up as the layers need it."""
    ElmoModel(ElmoConfig(**TINY)).save_pretrained(tmp_path)
    ElmoTokenizer(max_characters_per_word=20).save_pretrained(tmp_path)
    is_tagger = preset == "ner-elmo"
    kind, head = (
        (TaggerArguments, ElmoForTokenClassification)
        if is_tagger
        else (ClassifierArguments, ElmoForSequenceClassification)
    )
    model_args = kind(model_name_or_path=str(tmp_path), preset=preset, task_lstm_size=6)
    config, _ = load_config(model_args, head)
    fields = {**TASK_PRESETS[preset], "task_lstm_size": 6}
    assert {name: getattr(config, name) for name in fields} == fields and config.words_only
    set_labels(config, ["O", "B-X"])
    splits = {"train": ["A rose is", "a Rose is a rose"], "test": ["a thorn"]}
    tokenizer = load_tokenizer(model_args, config, False, splits, words_of)
    model = load_model(model_args, head, config, tokenizer, False)
    batch = tokenizer(splits["train"], padding=True, return_tensors="pt")
    assert tokenizer.lowercase_lookup == is_tagger == ("code_point_ids" in batch)
    labels = batch["input_ids"].masked_fill(batch["input_ids"].lt(3), -100).clamp(max=1)
    model.train()(**batch, labels=labels if is_tagger else torch.tensor([0, 1])).loss.backward()
    assert model.task_layers.layers[0].forward_lstm.input_proj.weight.grad.any()
    with pytest.raises(ValueError, match=f"{preset}.*"):
        (ClassifierArguments if is_tagger else TaggerArguments)(model_name_or_path=str(tmp_path), preset=preset)

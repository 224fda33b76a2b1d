"""What the examples share: the options' meaning, where models and tokenizers come from, optimizers, resuming."""

from pathlib import Path
from typing import Any

import pytest
import torch

import task_training
from corpus_files import CorpusError
from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoForTokenClassification, ElmoModel, ElmoTokenizer
from task_training import (
    ModelArguments,
    SplitArguments,
    TaskTrainingArguments,
    load_config,
    load_model,
    load_tokenizer,
    make_optimizer,
    parameter_groups,
    set_labels,
)

TINY = {
    "character_embedding_size": 6,
    "character_filters": [[1, 12], [2, 16]],
    "max_characters_per_word": 20,
    "projection_size": 8,
    "cell_size": 12,
}


def is_bilm(name: str) -> bool:
    return name.startswith(("elmo.embeddings.", "elmo.encoder."))


def parsed(*more: str, output: Path | str = "unused") -> TaskTrainingArguments:
    argv = ["--preset", "small", "--do_train", "--output_dir", str(output), "--use_cpu", *more]
    return task_training.parse(argv, ModelArguments, TaskTrainingArguments)[-1]


# ---- resuming


def test_resume_can_be_chosen_or_refused(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir(parents=True)

    def choice(value: str | None, folder: Path) -> str | None:
        args = parsed(output=folder)
        args.resume_from_checkpoint = value
        return task_training.checkpoint_to_resume(args)

    assert choice(None, tmp_path / "run") == str(tmp_path / "run/checkpoint-10")
    assert choice("true", tmp_path / "run") == str(tmp_path / "run/checkpoint-10")
    assert choice("false", tmp_path / "run") is None
    assert choice("elsewhere/checkpoint-3", tmp_path / "run") == "elsewhere/checkpoint-3"
    assert choice(None, tmp_path / "new") is None


# ---- optimizer


def test_learning_rates_reach_their_parameters() -> None:
    model = ElmoForTokenClassification(ElmoConfig(**TINY, num_labels=3))
    args = parsed("--learning_rate", "1e-3", "--bilm_learning_rate", "1e-5", "--weight_decay", "0.1")
    groups = parameter_groups(model, args)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        decay = 0.1 if parameter.ndim > 1 else 0.0
        assert found[id(parameter)] == (1e-5 if is_bilm(name) else 1e-3, decay), name


def test_one_learning_rate_by_default_and_no_group_for_a_frozen_bilm() -> None:
    model = ElmoForTokenClassification(ElmoConfig(**TINY, num_labels=3))
    assert {group["lr"] for group in parameter_groups(model, parsed("--learning_rate", "2e-3"))} == {2e-3}
    model.freeze_bilm()
    groups = parameter_groups(model, parsed("--bilm_learning_rate", "1e-5"))
    trained = {name for name, p in model.named_parameters() for g in groups if any(p is q for q in g["params"])}
    assert trained == {name for name, _ in model.named_parameters() if not is_bilm(name)}


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor"])
def test_optimizer_is_the_one_named(optim: str) -> None:
    model = ElmoForTokenClassification(ElmoConfig(**TINY, num_labels=3))
    args = parsed("--optim", optim, "--bilm_learning_rate", "1e-5")
    optimizer = make_optimizer(model, args)
    assert type(optimizer).__name__.lower() == optim.removesuffix("_torch")
    assert {group["lr"] for group in optimizer.param_groups} == {1e-5, args.learning_rate}


# ---- configuration, tokenizer, model


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
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    stored = {name.removeprefix("elmo."): tensor.float() for name, tensor in saved.state_dict().items()}
    for name, tensor in model.elmo.state_dict().items():
        assert name.startswith("scalar_mixes") or torch.equal(tensor, stored[name]), name
    if keeps_head:
        assert torch.equal(model.classifier.weight, stored["classifier.weight"])
        assert not start_from(tmp_path, new_classifier=True)[2]
    assert len(tokenizer) == 7  # without word vectors of its own a task needs no vocabulary


def test_fields_are_checked_together(tmp_path: Path) -> None:
    ElmoModel(ElmoConfig(**TINY)).save_pretrained(tmp_path)
    start = {"model_name_or_path": str(tmp_path)}
    config, _ = load_config(ModelArguments(**start, elmo_at=["input", "output"], task_lstm_size=5), ElmoModel)
    assert (config.elmo_at, config.num_representations, config.projection_size) == (["input", "output"], 2, 8)
    with pytest.raises(ValueError, match="without task_lstm_size"):
        load_config(ModelArguments(**start, elmo_at=["output"], word_vector_size=4), ElmoModel)
    with pytest.raises(ValueError, match="set word_vector_size"):
        load_config(ModelArguments(without_elmo=True), ElmoModel)
    # What is written out has the last word.
    options = ModelArguments(**start, task_lstm_size=5, config_overrides='{"task_lstm_size": 6}')
    assert load_config(options, ElmoModel)[0].task_lstm_size == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "small", "model_name_or_path": "x"}, "either --model_name_or_path .* not both"),
        ({}, "give either --model_name_or_path"),
        ({"without_elmo": True, "elmo_at": ["output"]}, "--elmo_at output: there is none of it --without_elmo"),
        ({"preset": "small", "min_count": 0}, "--min_count 0: expected 1 or more"),
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
    # Without word vectors of the task's own nobody reads a vocabulary.
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
    # Frequent in training, or with a vector of their own; "in", "is" and "by" are neither.
    assert set(tokenizer.get_vocab()) == {"<pad>", "<S>", "</S>", "<UNK>", "<mask>", "a", "rose", "thorn"}
    model = load_model(model_args, ElmoForTokenClassification, config, tokenizer)
    table = model.task_layers.word_vectors.word_embeddings.weight
    ids = tokenizer.get_vocab()
    assert table[ids["rose"]].tolist() == [1, 2, 3] and table[ids["thorn"]].tolist() == [4, 5, 6]
    assert not table.requires_grad


@pytest.mark.parametrize(
    ("text", "message"),
    [("a 1 2\nb 1\n", r"vectors\.txt, line 2: .*expected 2"), (None, "No such file"), ("a b\n", "line 1: ")],
)
def test_bad_word_vectors(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "vectors.txt").write_text(text)
    model_args = ModelArguments(without_elmo=True, word_vectors=str(tmp_path / "vectors.txt"))
    with pytest.raises(CorpusError, match=message):
        load_config(model_args, ElmoForTokenClassification)


def test_a_word_model_keeps_the_vocabulary_that_it_has_learned(tmp_path: Path) -> None:
    shape = {"character_filters": [], "word_embedding_size": 8, "projection_size": 8, "cell_size": 12}
    ElmoModel(ElmoConfig(**shape, vocab_size=7)).save_pretrained(tmp_path)
    ElmoTokenizer(vocab=["<S>", "</S>", "<UNK>", "a", "b"]).save_pretrained(tmp_path)
    model, tokenizer, _ = start_from(tmp_path, word_vector_size=4)
    assert len(tokenizer) == model.config.vocab_size == 7
    assert model.task_layers.word_vectors.word_embeddings.weight.shape == (7, 4)
    # Without the biLM nothing of it is left.
    model, tokenizer, _ = start_from(tmp_path, word_vector_size=4, without_elmo=True)
    assert "rose" in tokenizer.get_vocab() and model.elmo is None


# ---- data


def test_held_out_examples_are_the_same_for_every_seed() -> None:
    torch.manual_seed(1)
    kept, held = task_training.hold_out(list(range(100)), 0.1)
    assert sorted(kept + held) == list(range(100)) and (kept, held) == (sorted(kept), sorted(held))
    assert len(held) == 10 and held != list(range(90, 100))
    torch.manual_seed(2)
    assert task_training.hold_out(list(range(100)), 0.1) == (kept, held)
    assert len(task_training.hold_out([1, 2], 0.01)[1]) == len(task_training.hold_out([1, 2], 0.99)[1]) == 1
    with pytest.raises(CorpusError, match="1 training example: too few to hold any out; give --validation_file"):
        task_training.hold_out([1], 0.5)


@pytest.mark.parametrize("stages", [("do_train", "do_eval"), ("do_eval",), ("do_train",)])
def test_splits_with_held_out_validation(stages: tuple[str, ...]) -> None:
    def read(path: str, labels: list[str] | None) -> list[str]:
        assert labels is None
        return [f"{path} {number}" for number in range(10)]

    args = parsed()
    args.do_train, args.do_eval = "do_train" in stages, "do_eval" in stages
    data = SplitArguments(train_file="train", validation_share=0.2)
    splits, labels = task_training.read_splits(data, args, None, read, read, lambda found: [str(len(found))])
    sizes = {"train": 8, "validation": 2}
    wanted = [name for name, stage in (("train", "do_train"), ("validation", "do_eval")) if stage in stages]
    assert {name: len(examples) for name, examples in splits.items()} == {name: sizes[name] for name in wanted}
    assert labels == ["10"]
    # A file of its own goes first.
    data.validation_file = "validation"
    splits, _ = task_training.read_splits(data, args, None, lambda path, _: read(path, None), read, lambda found: ["x"])
    assert {name: len(examples) for name, examples in splits.items()} == dict.fromkeys(wanted, 10)


def test_share_outside_of_its_range() -> None:
    with pytest.raises(ValueError, match="--validation_share 1: expected a number between 0 and 1"):
        SplitArguments(validation_share=1)

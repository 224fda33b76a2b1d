"""Training: optimizers, complete checkpoints, resuming and refusals, full disks."""

import logging
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import DataCollatorForTokenClassification, TrainerCallback

from elmo_hf import ElmoConfig, ElmoForTokenClassification, ElmoTokenizer
from elmo_hf.finetuning import (
    CheckpointError,
    ModelArguments,
    Sentence,
    TaskTrainer,
    TaskTrainingArguments,
    encode_tagged,
    make_optimizer,
    parameter_groups,
    parse,
    run_record,
    run_stages,
    warn_of_one_class,
)
from elmo_hf.finetuning.record import RECORD_NAME
from elmo_hf.finetuning.training import checkpoint_to_resume, complete_checkpoints

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
    return parse(argv, ModelArguments, TaskTrainingArguments)[-1]


# ---- checkpoints


def checkpoints(folder: Path, *steps: int) -> list[Path]:
    paths = [folder / f"checkpoint-{step}" for step in steps]
    for path in paths:
        path.mkdir(parents=True)
        (path / "trainer_state.json").write_text("{}")
    return paths


def test_resume_can_be_chosen_or_refused(tmp_path: Path) -> None:
    output = tmp_path / "run"
    checkpoints(output, 2, 10, 9)
    # A run was killed while writing this one.
    (output / "checkpoint-11").mkdir()
    (output / "checkpoint-11/trainer_state.json").write_text('{"global_step"')

    def choice(value: str | None, folder: Path) -> Path | None:
        args = parsed(output=folder)
        args.resume_from_checkpoint = value
        return checkpoint_to_resume(args)

    assert choice(None, output) == choice("true", output) == output / "checkpoint-10"
    assert choice("elsewhere/checkpoint-3", output) == Path("elsewhere/checkpoint-3")
    assert choice(None, tmp_path / "new") is None
    assert choice("false", output) is None
    assert complete_checkpoints(output) == [], "mixed with those of the new run they would be taken for its latest"
    assert [path.name for path in complete_checkpoints(output / "earlier")] == [f"checkpoint-{n}" for n in (2, 9, 10)]
    checkpoints(output, 3)
    assert choice("False", output) is None and len(complete_checkpoints(output / "earlier")) == 1


class DiskFillsUp(TrainerCallback):
    """Limit the size of files after a step, like a full disk."""

    def __init__(self, step: int, limit: int) -> None:
        self.step, self.limit = step, limit

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def file_sizes() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def trainer_of(output: Path, labels: list[str], words: str, *callbacks: TrainerCallback) -> tuple[TaskTrainer, Any]:
    """Three steps of a tiny tagger, a checkpoint after each."""
    torch.manual_seed(0)
    sentence = Sentence(words.split(), [labels[number % len(labels)] for number in range(len(words.split()))])
    config = ElmoConfig(**{**TINY, "cell_size": 64, "projection_size": 32}, id2label=dict(enumerate(labels)))
    model, tokenizer = ElmoForTokenClassification(config), ElmoTokenizer(max_characters_per_word=20)
    args = TaskTrainingArguments(
        output_dir=str(output),
        do_train=True,
        eval_strategy="no",
        save_strategy="steps",
        save_steps=1,
        save_total_limit=9,
        load_best_model_at_end=False,
        max_steps=3,
        use_cpu=True,
        disable_tqdm=True,
    )
    data = {"train": encode_tagged([sentence] * 4, tokenizer, dict(zip(labels, range(9), strict=False)))}
    collator = DataCollatorForTokenClassification(tokenizer)
    trainer = TaskTrainer(model, args, data, callbacks=callbacks, processing_class=tokenizer, data_collator=collator)
    return trainer, run_record(model, {"train": [sentence] * 4}, labels, (args,))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["record", "code", "optimizer"])
def test_a_full_disk_leaves_the_older_checkpoint(what: str, tmp_path: Path, file_sizes: None) -> None:
    run_stages(*trainer_of(tmp_path / "whole", ["O", "B-X"], "a b"))
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "whole/checkpoint-1").iterdir()}
    assert sizes["optimizer.pt"] > max(size for name, size in sizes.items() if name != "optimizer.pt")
    limit = {"record": 300, "code": 30_000, "optimizer": sizes["optimizer.pt"] - 1}[what]
    output = tmp_path / "out"
    with pytest.raises(CheckpointError) as caught:
        run_stages(*trainer_of(output, ["O", "B-X"], "a b", DiskFillsUp(2, limit)))
    assert str(output / "checkpoint-2") in str(caught.value) and f"{output}/checkpoint-1 is complete" in str(
        caught.value
    )
    assert not (output / "checkpoint-2").exists()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    trainer, record = trainer_of(output, ["O", "B-X"], "a b")
    run_stages(trainer, record)
    assert trainer.state.global_step == 3
    for name, weight in trainer_of(tmp_path / "other", ["O", "B-X"], "a b")[0].model.state_dict().items():
        assert weight.shape == trainer.model.state_dict()[name].shape
    expected = load_file(tmp_path / "whole/model.safetensors")
    for name, weight in load_file(output / "model.safetensors").items():
        assert torch.equal(weight, expected[name]), name


@pytest.mark.samples(1)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"words": "a c"}, ["train data of 4 examples"]),
        ({"labels": ["O", "B-Y"]}, ["labels O B-Y (was O B-X)", "train data"]),
        ({"labels": ["O", "B-X", "I-X"]}, ["labels O B-X I-X (was O B-X)"]),
        ({"learning_rate": 0.5}, ["learning_rate=0.5 (was 0.001)"]),
    ],
)
def test_another_task_does_not_continue(change: dict[str, Any], named: list[str], tmp_path: Path) -> None:
    given = {"labels": ["O", "B-X"], "words": "a b"}
    run_stages(*trainer_of(tmp_path, **given))
    trainer, record = trainer_of(tmp_path, **{**given, **{n: v for n, v in change.items() if n in given}})
    if "learning_rate" in change:
        record["settings"]["learning_rate"] = change["learning_rate"]
    with pytest.raises(ValueError) as caught:
        run_stages(trainer, record)
    assert str(tmp_path / "checkpoint-3") in str(caught.value)
    for part in (*named, "--output_dir", "--resume_from_checkpoint false"):
        assert part in str(caught.value)
    trainer.args.resume_from_checkpoint = "false"
    run_stages(trainer, record)
    assert trainer.state.global_step == 3


@pytest.mark.slow
def test_checkpoints_of_earlier_versions_continue(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Those checkpoints have no run record, only a model and its labels."""
    run_stages(*trainer_of(tmp_path, ["O", "B-X"], "a b"))
    (tmp_path / "checkpoint-3" / RECORD_NAME).unlink()
    run_stages(*trainer_of(tmp_path, ["O", "B-X"], "other words"))
    assert f"checkpoint-3 has no {RECORD_NAME}" in caplog.text
    with pytest.raises(ValueError, match=r"labels O B-Y \(was O B-X\)"):
        run_stages(*trainer_of(tmp_path, ["O", "B-Y"], "a b"))


def test_single_class_predictions_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    warn_of_one_class([1, 2], [1, 2])
    warn_of_one_class([1, 1], [1, 1])
    assert not caplog.records
    warn_of_one_class([1, 1, 1], [0, 1, 1], ["bad", "good"].__getitem__)
    assert "Every prediction is good" in caplog.text


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


def test_a_metric_on_the_command_line_takes_precedence() -> None:
    args = parsed()
    args.choose_by("mse", greater_is_better=False)
    assert (args.metric_for_best_model, args.greater_is_better) == ("mse", False)
    args = parsed("--metric_for_best_model", "accuracy")
    args.choose_by("mse", greater_is_better=False)
    assert (args.metric_for_best_model, args.greater_is_better) == ("accuracy", True)

"""The loop, compared with a plain one; killed and resumed; in two processes; errors."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, ElmoTokenizer
from elmo_hf.corpus.sentences import open_corpus
from elmo_hf.pretraining import (
    CheckpointError,
    LossNotFiniteError,
    PretrainingSettings,
    StreamingObjective,
    build_character_dictionary,
    build_optimizer,
    clip_gradients,
    loop,
    multiplies_bfloat16,
    perplexity,
    pretrain,
    save_model_of_run,
)
from elmo_hf.pretraining.checkpoint import read_tensors
from elmo_hf.pretraining.loop import Run
from elmo_hf.pretraining.start import fields_of, open_streams
from modeling_tests.forking import run_python
from modeling_tests.pretraining.runs import SHAPE, WORDS, losses, settings, start

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path, tolerance: float = 0.0) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def uninterrupted(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an uninterrupted run."""
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    process = start(settings(corpus, output, evaluate_every=6))
    process.join()
    assert process.exitcode == 0
    return output


# ---- results of a run


@pytest.mark.samples(1)
@pytest.mark.parametrize(("accumulation", "resets"), [(1, False), (3, False), (1, True)])
def test_takes_the_steps_of_a_plain_loop(corpus: Path, tmp_path: Path, accumulation: int, resets: bool) -> None:
    run = settings(
        corpus, tmp_path / "run", max_steps=4, dropout=0.0, gradient_accumulation_steps=accumulation, stop_after=4,
        reset_states=resets,
    )  # fmt: skip
    # A run that only writes its initial weights.
    first = settings(corpus, tmp_path / "first", dropout=0.0, max_steps=1, learning_rate=1e-30)
    pretrain(first)
    model = ElmoForPreTraining.from_pretrained(tmp_path / "first" / "model").train()
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "first" / "model")
    objective = StreamingObjective(model, num_samples=run.num_samples, seed=run.seed, reset_states=resets)
    optimizer, _ = build_optimizer(model, run)
    streams, state = open_streams(run, tokenizer, 0, 1), None
    for _ in range(4):
        for _ in range(accumulation):
            result = objective(next(streams), state)
            state = result.state
            (result.loss * run.unroll_steps / accumulation).backward()
        clip_gradients(model.parameters(), run.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()

    summary = pretrain(run)
    assert summary.model_folder is None
    assert summary.step == 4
    assert summary.words == 4 * accumulation * run.rows * run.unroll_steps
    model.save_pretrained(tmp_path / "plain")
    assert summary.checkpoint is not None
    assert_same_weights(tmp_path / "plain", summary.checkpoint, tolerance=1e-6)


@pytest.mark.usefixtures("figures")
def test_a_whole_run_leaves_a_model_that_others_can_load(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    summary = pretrain(settings(corpus, output, epochs=1, max_steps=None, evaluate_every=20))
    text = (corpus / "train.txt").read_text()
    # Every word and sentence end occurs once: the end of the text is not dropped.
    assert summary.words == len(text.split()) + text.count("\n")
    assert summary.line().startswith(f"{summary.words:,} words seen | 0:0")
    assert f"held-out perplexity {summary.held_out_perplexity:.2f}" in summary.line()
    assert summary.peak_memory is not None

    model_folder = output / "model"
    model, tokenizer = AutoModel.from_pretrained(model_folder), AutoTokenizer.from_pretrained(model_folder)
    assert model(**tokenizer("kara lose !", return_tensors="pt")).last_hidden_state.shape == (1, 5, 16)
    lm = ElmoForPreTraining.from_pretrained(model_folder)
    held_out = open_corpus(str(corpus / "held_out.txt"))
    expected = perplexity(lm, tokenizer, held_out, pre_tokenization="whitespace")
    assert summary.held_out_perplexity == pytest.approx(expected.both, rel=1e-6)
    assert expected.both < 28  # better than chance among 29 words
    # Rows without a word, as in converted originals.
    assert not lm.softmax.weight[[0, -1]].any()
    assert (output / "training_curves.png").read_bytes().startswith(b"\x89PNG")
    card = (model_folder / "README.md").read_text()
    assert f"{summary.held_out_perplexity:.2f}" in card
    assert f"{summary.words:,}" in card
    steps = [int(path.name.removeprefix("step-")) for path in (output / "checkpoints").iterdir()]
    assert len(steps) <= 3  # the newest two and the best

    hub_upload = pytest.importorskip("hub_upload.export")
    hub_upload.export(model_folder, tmp_path / "exported")
    assert (tmp_path / "exported" / "options.json").exists()


@pytest.mark.slow
def test_bfloat16_keeps_weights_and_state_in_float32(corpus: Path, tmp_path: Path) -> None:
    for precision in ("no", "bf16"):  # in separate processes, because Accelerate has one precision per process
        process = start(settings(corpus, tmp_path / precision, precision=precision, dropout=0.0, max_steps=6))
        process.join()
        assert process.exitcode == 0
    checkpoint = tmp_path / "bf16" / "checkpoints" / "step-00000006"
    assert {tensor.dtype for tensor in weights(checkpoint).values()} == {torch.float32}
    state = read_tensors(checkpoint / "process-00000.pt")["state"]
    assert {part.dtype for part in state.values()} == {torch.float32}
    exact, rounded = (
        [json.loads(line)["forward_loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("no", "bf16")
    )
    assert (exact != rounded) is multiplies_bfloat16()
    assert rounded == pytest.approx(exact, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "can_multiply", "warns"), [("bf16", False, True), ("bf16", True, False), ("no", False, False)]
)
def test_cpu_without_bfloat16_is_reported(
    precision: str,
    can_multiply: bool,
    warns: bool,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(loop, "multiplies_bfloat16", lambda: can_multiply)
    with caplog.at_level("WARNING", logger=loop.__name__):
        summary = pretrain(settings(corpus, tmp_path / "run", precision=precision, max_steps=1, held_out_data=None))
    assert (summary.step, summary.forward_loss, summary.model_folder) == (1, None, tmp_path / "run" / "model")
    messages = [record.message for record in caplog.records if "bf16" in record.message]
    assert len(messages) == warns
    if warns:
        assert "float32" in messages[0]


def test_trackers_receive_every_record(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received = []

    class Notebook(GeneralTracker):
        name = "notebook"
        requires_logging_directory = False

        def __init__(self, run_name: str, **kwargs: object) -> None:
            super().__init__()

        @property
        def tracker(self) -> None:
            return None

        def store_init_configuration(self, values: dict) -> None:
            received.append(("settings", values["rows"]))

        def log(self, values: dict, step: int | None, **kwargs: object) -> None:
            received.append((step, sorted(values)))

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "notebook", Notebook)
    monkeypatch.setattr("elmo_hf.pretraining.loop.get_available_trackers", lambda: ["notebook"])
    pretrain(settings(corpus, tmp_path / "run", max_steps=2, trackers=["notebook"]))
    assert received[0] == ("settings", "4")
    assert [step for step, _ in received[1:]] == [1, 2, 2]
    assert "train/backward_loss" in received[1][1]
    assert "held_out/forward_loss" in received[3][1]


@pytest.mark.slow
def test_tensorboard(corpus: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pretrain(settings(corpus, tmp_path / "run", max_steps=2, trackers=["tensorboard"]))
    events = EventAccumulator(str(tmp_path / "run" / "trackers" / "elmo")).Reload()
    losses_shown = [scalar.value for scalar in events.Scalars("train/forward_loss")]
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses_shown == pytest.approx([record["forward_loss"] for record in records[:2]], rel=1e-6)
    assert "held_out/backward_loss" in events.Tags()["scalars"]


def test_refuses_a_tracker_that_is_not_there(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tracker 'abacus'"):
        pretrain(settings(corpus, tmp_path / "run", trackers=["abacus"]))


def test_refuses_sharded_weights(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elmo_hf.pretraining.loop.SUPPORTED", ())
    with pytest.raises(ValueError, match="distributed_type=NO"):
        pretrain(settings(corpus, tmp_path / "run"))


def test_refuses_a_mismatched_world_size(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elmo_hf.pretraining.loop.torch.accelerator.is_available", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2.*Accelerate.*1"):
        pretrain(settings(corpus, tmp_path / "run"))


# ---- starting from a checkpoint


@pytest.mark.slow
def test_warm_start_learns_the_softmax_of_a_new_vocabulary_first(
    corpus: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["<S>", "</S>", "<UNK>", *WORDS[10:], "unheard"]) + "\n")
    run = settings(
        corpus,
        tmp_path / "run",
        vocabulary=str(vocabulary),
        config_overrides=None,
        initialize_from=str(uninterrupted / "model"),
        softmax_only_steps=4,
        max_steps=8,
    )
    pretrain(run)
    before, during, after = (
        weights(folder)
        for folder in (
            uninterrupted / "model",
            tmp_path / "run" / "checkpoints" / "step-00000004",
            tmp_path / "run" / "model",
        )
    )
    kernel = "elmo.encoder.layers.0.forward_lstm.input_proj.weight"
    assert torch.equal(before[kernel], during[kernel])
    assert not torch.equal(before[kernel], after[kernel])
    assert during["softmax.weight"].shape[0] == 1 + 3 + 21 + 1
    assert not torch.equal(during["softmax.weight"][4:20], before["softmax.weight"][14:30])


@pytest.mark.slow
def test_cutoffs_of_adaptive_softmax_in_new_and_warm_started_models(corpus: Path, tmp_path: Path) -> None:
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["<S>", "</S>", "<UNK>", *WORDS, *(f"rare{place}" for place in range(80))]) + "\n")
    changed = {
        "vocabulary": str(vocabulary),
        "loss": "adaptive",
        "config_overrides": json.dumps({**SHAPE, "projection_size": 64}),
        "max_steps": 2,
    }
    pretrain(settings(corpus, tmp_path / "new", **changed))
    sampled = {**changed, "loss": "sampled"}
    pretrain(settings(corpus, tmp_path / "sampled", **sampled))
    warm = {**changed, "config_overrides": None, "initialize_from": str(tmp_path / "sampled" / "model")}
    pretrain(settings(corpus, tmp_path / "warm", **warm))
    for name in ("new", "warm"):
        config = ElmoForPreTraining.from_pretrained(tmp_path / name / "model").config
        assert config.softmax_cutoffs == [1, 5, 28]


# ---- words by their id


WORD_SHAPES: dict[str, dict[str, Any]] = {
    "tied": {"character_filters": [], "word_embedding_size": 8, "tie_word_embeddings": True},
    "untied": {"character_filters": [], "word_embedding_size": 8},
    "joined to characters": {"word_embedding_size": 5, "context_word_layer": True},
}


@pytest.mark.samples(1)
@pytest.mark.parametrize("kind", ["tied", "untied", "joined to characters"])
def test_a_word_model_is_trained_resumed_and_continued(corpus: Path, tmp_path: Path, kind: str) -> None:
    shape, tied = {**SHAPE, **WORD_SHAPES[kind]}, kind == "tied"
    changed = {"config_overrides": json.dumps(shape), "max_steps": 8}
    summary = pretrain(settings(corpus, tmp_path / "whole", **changed))
    pretrain(settings(corpus, tmp_path / "halves", **changed, stop_after=5))
    pretrain(settings(corpus, tmp_path / "halves", **changed))
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    assert_same_weights(tmp_path / "halves" / "model", tmp_path / "whole" / "model")
    folder = tmp_path / "whole" / "model"
    model, tokenizer = ElmoForPreTraining.from_pretrained(folder), ElmoTokenizer.from_pretrained(folder)
    held_out = open_corpus(str(corpus / "held_out.txt"))
    expected = perplexity(model, tokenizer, held_out, pre_tokenization="whitespace")
    assert summary.held_out_perplexity == pytest.approx(expected.both, rel=1e-6)

    warm = {"config_overrides": None, "initialize_from": str(folder), "max_steps": 2}
    if tied:
        with pytest.raises(ValueError, match="softmax_only_steps=1"):
            pretrain(settings(corpus, tmp_path / "frozen", **warm, softmax_only_steps=1))
    assert pretrain(settings(corpus, tmp_path / "warm", **warm)).step == 2


def tag_corpus(corpus: Path, folder: Path) -> dict[str, Any]:
    """The corpus with each word's first letter as its POS tag, except for one word; settings that read it."""
    for name in ("train", "held_out"):
        lines = []
        for line in (corpus / f"{name}.txt").read_text().splitlines():
            words = line.split()
            tags = [None if word[0] == "p" else word[0].upper() for word in words]
            lines.append(json.dumps({"words": words, "tags": tags}) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return {
        "train_data": [str(folder / "train.jsonl")],
        "held_out_data": [str(folder / "held_out.jsonl")],
        "text_column": "words",
        "pos_column": "tags",
    }


@pytest.mark.samples(1)
@pytest.mark.parametrize("kind", ["tied", "joined to characters"])
def test_model_with_pos_tags(corpus: Path, tmp_path: Path, kind: str) -> None:
    shape = {**SHAPE, **WORD_SHAPES[kind], "pos_tag_embedding_size": 3}
    text = tag_corpus(corpus, tmp_path)
    changed = {"config_overrides": json.dumps(shape), "max_steps": 8, **text}
    summary = pretrain(settings(corpus, tmp_path / "whole", **changed))
    pretrain(settings(corpus, tmp_path / "halves", **changed, stop_after=5))
    pretrain(settings(corpus, tmp_path / "halves", **changed))
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    assert_same_weights(tmp_path / "halves" / "model", tmp_path / "whole" / "model")

    folder = tmp_path / "whole" / "model"
    model, tokenizer = ElmoForPreTraining.from_pretrained(folder), ElmoTokenizer.from_pretrained(folder)
    assert tokenizer.pos_tag_set == ["K", "L", "M", "N"]
    assert model.config.num_pos_tags == 4
    held_out = open_corpus(text["held_out_data"], text_column="words", pos_column="tags")
    expected = perplexity(model, tokenizer, held_out)
    assert summary.held_out_perplexity == pytest.approx(expected.both, rel=1e-6)
    table = model.elmo.embeddings.pos_tags.pos_tag_embeddings.weight
    assert not table[0].any() and table[1:].any()
    assert "pos_tags=" in (folder / "README.md").read_text()

    # Continued with other words; the POS tags are the checkpoint's.
    warm = {**text, "config_overrides": None, "initialize_from": str(folder), "max_steps": 2}
    (tmp_path / "vocab.txt").write_text("\n".join(["<S>", "</S>", "<UNK>", *WORDS[5:]]) + "\n")
    summary = pretrain(settings(corpus, tmp_path / "warm", **warm, vocabulary=str(tmp_path / "vocab.txt")))
    assert ElmoTokenizer.from_pretrained(summary.model_folder).pos_tag_set == ["K", "L", "M", "N"]
    with pytest.raises(ValueError, match=r"train.jsonl.*\(pos_column\).*\(pos_separator\)"):
        pretrain(settings(corpus, tmp_path / "none", **{**warm, "pos_column": None}))


def test_pos_tag_set_from_a_file(corpus: Path, tmp_path: Path) -> None:
    tags = tmp_path / "tags.txt"
    tags.write_text("N\nM\nL\nK\nX\n")
    changed = {**tag_corpus(corpus, tmp_path), "pos_tag_set": str(tags), "max_steps": 1}
    summary = pretrain(settings(corpus, tmp_path / "run", **changed))
    assert ElmoTokenizer.from_pretrained(summary.model_folder).pos_tag_set == ["N", "M", "L", "K", "X"]
    tags.write_text("N\nM\nK\nX\n")
    with pytest.raises(ValueError, match="'L'.*pos_tag_set.*N.*M.*K.*X"):
        pretrain(settings(corpus, tmp_path / "other", **{**changed, "max_steps": 9}))


@pytest.mark.slow
def test_a_new_model_over_a_dictionary_of_characters(corpus: Path, tmp_path: Path) -> None:
    dictionary, coverage = build_character_dictionary(open_corpus(str(corpus / "train.txt")), min_count=20)
    assert 0.9 < coverage <= 1
    dictionary.save(tmp_path / "characters.json")
    changed = {"character_dictionary": str(tmp_path / "characters.json"), "max_steps": 6}
    shape = {**SHAPE, "word_embedding_size": 5, "max_characters_per_word": 7, "character_activation": "tanh"}
    changed["config_overrides"] = json.dumps(shape)
    summary = pretrain(settings(corpus, tmp_path / "run", **changed))
    pretrain(settings(corpus, tmp_path / "halves", **changed, stop_after=4))
    pretrain(settings(corpus, tmp_path / "halves", **changed))
    assert losses(tmp_path / "halves") == losses(tmp_path / "run")
    model = ElmoForPreTraining.from_pretrained(summary.model_folder)
    tokenizer = ElmoTokenizer.from_pretrained(summary.model_folder)
    assert tokenizer.character_vocabulary == dictionary.ids
    assert model.config.num_characters == len(dictionary.ids) + 1
    assert tokenizer("ka", add_special_tokens=False)["character_ids"][0][1] == dictionary.ids["k"]
    held_out = open_corpus(str(corpus / "held_out.txt"))
    expected = perplexity(model, tokenizer, held_out, pre_tokenization="whitespace")
    assert summary.held_out_perplexity == pytest.approx(expected.both, rel=1e-6)
    assert not model.elmo.embeddings.characters.character_embeddings.weight[0].any()


@pytest.mark.slow
def test_a_model_with_a_dictionary_of_characters_is_continued(corpus: Path, tmp_path: Path) -> None:
    """Like a converted ELMoForManyLangs model: words and code points joined, with its own boundaries."""
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<oov>", "pad_token": "<none>"}
    tokenizer = ElmoTokenizer(
        vocab=["<oov>", "<bos>", "<eos>", "<pad>", *WORDS],
        character_vocabulary=["<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>", *"aeioukrlmnpstvz"],
        max_characters_per_word=7,
        **names,
    )
    config = ElmoConfig(
        **{**SHAPE, "word_embedding_size": 5, "max_characters_per_word": 7},
        **fields_of(tokenizer),
    )
    ElmoModel(config).save_pretrained(tmp_path / "start")
    tokenizer.save_pretrained(tmp_path / "start")
    changed = {"config_overrides": None, "initialize_from": str(tmp_path / "start"), "vocabulary": None}
    run = settings(corpus, tmp_path / "run", **changed, max_steps=6, softmax_only_steps=2)
    summary = pretrain(run)
    assert summary.step == 6
    again = ElmoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert again.character_vocabulary == tokenizer.character_vocabulary
    model = ElmoForPreTraining.from_pretrained(tmp_path / "run" / "model")
    before = ElmoModel.from_pretrained(tmp_path / "start").state_dict()
    moved = {name for name, value in model.elmo.state_dict().items() if not torch.equal(value, before[name])}
    assert {"embeddings.words.word_embeddings.weight", "embeddings.projection.weight"} <= moved


# ---- killed, stopped, resumed


@pytest.mark.slow
@pytest.mark.parametrize(
    "sabotage",
    [
        "step:3",
        "step:9",
        "data_loader:21",
        "writing:1",
        "writing:6",
        "moving:2",
        "deleting:1",
    ],
)
def test_a_killed_run_resumes_to_the_same_losses(
    corpus: Path, uninterrupted: Path, tmp_path: Path, sabotage: str
) -> None:
    output = tmp_path / "run"
    run = settings(corpus, output, evaluate_every=6)
    if sabotage.startswith("step"):  # from outside, after this number of records
        process = start(run)
        log, count = output / "metrics.jsonl", int(sabotage.removeprefix("step:"))
        while process.is_alive() and not (log.exists() and len(log.read_text().splitlines()) >= count):
            time.sleep(0.002)
        process.kill()
    else:
        process = start(run, sabotage)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (output / "model").exists()

    process = start(run)
    process.join()
    assert process.exitcode == 0
    assert losses(output) == losses(uninterrupted)
    assert_same_weights(output / "model", uninterrupted / "model")
    assert not [path for path in (output / "checkpoints").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_finished_run_is_unchanged_when_repeated(corpus: Path, tmp_path: Path) -> None:
    """Like a run killed after its last checkpoint, in evaluation or while writing the model."""
    run = settings(corpus, tmp_path / "run", max_steps=4, evaluate_every=4, log_every=3)
    pretrain(run)
    before = losses(tmp_path / "run")
    assert [dict(record)["kind"] for record in before] == ["train", "held_out", "train", "held_out"]
    pretrain(run)
    assert losses(tmp_path / "run") == before


@pytest.mark.slow
def test_sigterm_writes_a_checkpoint_first(corpus: Path, uninterrupted: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run = settings(corpus, output, evaluate_every=6, checkpoint_every=1000)
    process = start(run)
    while process.is_alive() and not (output / "metrics.jsonl").exists():
        time.sleep(0.002)
    process.terminate()
    process.join()
    assert process.exitcode == 0
    assert not (output / "model").exists()
    assert list((output / "checkpoints").glob("step-*"))
    process = start(run)
    process.join()
    assert losses(output) == losses(uninterrupted)


@pytest.mark.slow
def test_independent_sentences_adamw_and_a_schedule_resume_too(corpus: Path, tmp_path: Path) -> None:
    changed = {
        "sentence_independent": True,
        "optimizer": "adamw",
        "schedule": "cosine",
        "warmup_steps": 2,
        "loss": "full",
        "gradient_accumulation_steps": 2,
        "max_steps": 6,
    }
    pretrain(settings(corpus, tmp_path / "whole", **changed))
    assert pretrain(settings(corpus, tmp_path / "halves", **changed, stop_after=3)).model_folder is None
    summary = pretrain(settings(corpus, tmp_path / "halves", **changed))
    assert summary.step == 6
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    assert_same_weights(tmp_path / "halves" / "model", tmp_path / "whole" / "model")


@pytest.fixture
def interrupted_schedule(corpus: Path, tmp_path: Path) -> tuple[dict[str, Any], Path]:
    """Settings with a cosine schedule, and the folder of an interrupted run with them."""
    changed = {"schedule": "cosine", "epochs": 1, "max_steps": None, "held_out_data": None, "warmup_steps": None}
    summary = pretrain(settings(corpus, tmp_path / "halves", **changed, stop_after=5))
    assert summary.model_folder is None
    assert f"elmo-hf save-model {tmp_path / 'halves'}" in summary.line()
    return changed, tmp_path / "halves"


@pytest.mark.slow
def test_schedule_length_is_computed_from_the_text(
    interrupted_schedule: tuple[dict[str, Any], Path], corpus: Path, tmp_path: Path
) -> None:
    changed, halves = interrupted_schedule
    text = (corpus / "train.txt").read_text()
    planned = -(-(len(text.split()) + text.count("\n")) // (4 * 6))
    (stored,) = (halves / "checkpoints").glob("step-*5/progress.json")
    assert json.loads(stored.read_text())["planned_steps"] == planned
    # `save-model` writes the model of an unfinished run, which can still be continued.
    summary = save_model_of_run(halves)
    assert summary.step == 5
    assert_same_weights(halves / "model", stored.parent)
    assert AutoTokenizer.from_pretrained(halves / "model").tokenize("kara lose !") == ["kara", "lose", "!"]
    assert "| optimizer steps | 5 |" in (halves / "model" / "README.md").read_text()
    pretrain(settings(corpus, halves, **changed))
    pretrain(settings(corpus, tmp_path / "whole", **changed))
    assert losses(halves) == losses(tmp_path / "whole")
    rates = [dict(record)["learning_rate"] for record in losses(halves)]
    assert rates[planned - 1] == pytest.approx(0, abs=1e-6)
    assert rates[0] > rates[5] > rates[-2]
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/checkpoints holds no checkpoint"):
        save_model_of_run(tmp_path)


@pytest.mark.slow
def test_ends_on_time(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances half a second per reading: one and a half seconds per step."""
    clock = itertools.count(step=0.5)
    monkeypatch.setattr("elmo_hf.pretraining.loop.time.perf_counter", lambda: next(clock))
    changed = {"max_hours": 15 / 3600, "max_steps": None, "epochs": 9, "schedule": "linear", "held_out_data": None}
    summary = pretrain(settings(corpus, tmp_path / "run", **changed))
    assert 9 <= summary.step <= 11
    assert summary.model_folder is not None
    rates = [dict(record)["learning_rate"] for record in losses(tmp_path / "run")]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(0.2 * 14.5 / 15, rel=0.05)
    assert rates[-1] == pytest.approx(0, abs=0.01)
    # Nothing is left to do, whatever the time.
    assert pretrain(settings(corpus, tmp_path / "run", **changed)).step == summary.step


@pytest.mark.slow
def test_model_is_saved_before_the_last_evaluation(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = settings(corpus, tmp_path / "run", max_steps=2)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_evaluate", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pretrain(run)
    card = tmp_path / "run" / "model" / "README.md"
    assert "full softmax" not in card.read_text()
    capsys.readouterr()
    pretrain(run)
    assert "full softmax" in card.read_text()
    assert "held_out_data: 100%" in capsys.readouterr().err


@pytest.mark.slow
def test_refuses_to_resume_with_other_settings(corpus: Path, tmp_path: Path) -> None:
    pretrain(settings(corpus, tmp_path / "run", max_steps=4))
    with pytest.raises(ValueError, match=r"rows=5 \(was 4\)"):
        pretrain(settings(corpus, tmp_path / "run", max_steps=4, rows=5))
    # The length of a run and its intervals may change.
    assert pretrain(settings(corpus, tmp_path / "run", max_steps=6, log_every=2)).step == 6


@pytest.mark.slow
def test_refuses_another_vocabulary_or_text(corpus: Path, tmp_path: Path) -> None:
    vocabulary, text = tmp_path / "vocab.txt", tmp_path / "text.txt"
    vocabulary.write_text((corpus / "vocab.txt").read_text())
    text.write_text((corpus / "train.txt").read_text())
    run = settings(corpus, tmp_path / "run", max_steps=2, vocabulary=str(vocabulary), train_data=[str(text)])
    pretrain(run)
    text.write_text((corpus / "train.txt").read_text() + "one more sentence\n")
    with pytest.raises(ValueError, match=r"corpus was '\w+' and is"):
        pretrain(run)
    vocabulary.write_text(vocabulary.read_text() + "further\n")
    with pytest.raises(ValueError, match=r"words \(\d+\).*vocab.*\(\d+\)"):
        pretrain(run)


# ---- errors


@pytest.mark.slow
def test_a_loss_that_is_not_finite_saves_the_batch_and_keeps_the_checkpoint(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = StreamingObjective.forward
    calls = []

    def broken(self: StreamingObjective, *args: object) -> object:
        calls.append(args)
        result = forward(self, *args)
        return result._replace(forward_loss=result.forward_loss * float("nan")) if len(calls) == 7 else result

    monkeypatch.setattr(StreamingObjective, "forward", broken)
    output = tmp_path / "run"
    with pytest.raises(LossNotFiniteError, match="7.*step-00000004.*initialize_from"):
        pretrain(settings(corpus, output))
    saved = load_file(output / "failed-step-00000007-process-00000.safetensors")
    batch, state, _ = calls[6]
    assert torch.equal(saved["0.forward_character_ids"], batch.source.forward_character_ids)
    assert torch.equal(saved["state.cell"], state.cell)
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-00000004"]
    assert len(losses(output)) == 6

    # Once the cause is removed, the same command continues.
    monkeypatch.setattr(StreamingObjective, "forward", forward)
    assert pretrain(settings(corpus, output)).step == 14


def test_non_finite_loss_is_reported_if_the_batch_cannot_be_saved(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("elmo_hf.pretraining.loop.save_file", full)
    with pytest.raises(LossNotFiniteError, match="No space left on device.*learning_rate"):
        pretrain(settings(corpus, tmp_path / "run", learning_rate=1e38, max_gradient_norm=0))


def test_a_gradient_that_is_not_finite_stops_the_run(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(LossNotFiniteError, match=r"step \d+ is .*learning_rate \(now 1e\+38\)"):
        pretrain(settings(corpus, tmp_path / "run", learning_rate=1e38, max_gradient_norm=0))


@pytest.mark.slow
def test_full_disk_keeps_the_earlier_checkpoint(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = torch.save, []

    def full(value: object, path: Path) -> None:
        calls.append(path)
        if len(calls) > 2:  # the first checkpoint has two files
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save(value, path)

    monkeypatch.setattr(torch, "save", full)
    output = tmp_path / "run"
    with pytest.raises(CheckpointError, match="step-00000008.*No.*left.*step-00000004"):
        pretrain(settings(corpus, output))
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-00000004"]
    monkeypatch.setattr(torch, "save", save)
    assert pretrain(settings(corpus, output)).step == 14


def test_names_a_damaged_checkpoint(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    pretrain(settings(corpus, output, max_steps=4))
    damaged = output / "checkpoints" / "step-00000004" / "training.pt"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"training\.pt.*Remove .*step-00000004"):
        pretrain(settings(corpus, output, max_steps=6))


# ---- several processes, and memory


READS = {
    "characters": SHAPE,
    "words": {**SHAPE, "character_filters": [], "word_embedding_size": 8, "tie_word_embeddings": True},
    "both": {**SHAPE, "word_embedding_size": 5},
}


def undivided(corpus: Path, output: Path, reads: str, rows: int) -> PretrainingSettings:
    """At the end of the corpus, one of two processes has no sentences left."""
    changed: dict[str, Any] = {"dropout": 0.0, "epochs": 1, "max_steps": None, "held_out_data": None}
    return settings(corpus, output, rows=rows, config_overrides=json.dumps(READS[reads]), **changed)


# Variables that launchers set; the second process is forked.
RANKS = """
import json, os, socket, sys
from elmo_hf.pretraining import PretrainingSettings, pretrain
with socket.socket() as found:
    found.bind(("127.0.0.1", 0))
    port = str(found.getsockname()[1])
child = os.fork()
rank = str(int(child == 0))
os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
pretrain(PretrainingSettings(**json.load(open(sys.argv[1]))))
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reads", "launcher"),
    [
        ("characters", "accelerate"),
        ("words", None),
        ("both", None),
    ],
)
def test_two_processes_equal_one_with_twice_the_rows(
    reads: str, launcher: str | None, corpus: Path, tmp_path: Path
) -> None:
    """Over gloo, started by `accelerate launch` or by a fork with its variables."""
    one, two = tmp_path / "one", tmp_path / "two"
    pretrain(undivided(corpus, one, reads, rows=4))
    values = undivided(corpus, two, reads, rows=2).to_dict()
    config = tmp_path / "settings.json"
    config.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    if launcher is None:
        done = run_python("-c", RANKS, config)
        assert done.returncode == 0, done.stderr
    else:
        command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2"]
        command += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        script = str(ROOT / "examples" / "run_pretraining.py")
        subprocess.run([*command, script, str(config)], env=environment, timeout=240, check=True)
    expected, found = (
        [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()] for output in (one, two)
    )
    assert [record["words"] for record in expected] == [record["words"] for record in found]
    for name in ("forward_loss", "backward_loss"):
        assert [record[name] for record in expected] == pytest.approx([record[name] for record in found], abs=1e-6)
    assert_same_weights(one / "model", two / "model", tolerance=1e-6)
    assert len(list((two / "checkpoints").glob("step-*/process-*.pt"))) == 4
    with pytest.raises(ValueError, match="written by 2 processes.* 1"):
        pretrain(undivided(corpus, two, reads, rows=2))


PEAK = """
import json, resource, sys
from elmo_hf.pretraining import PretrainingSettings, pretrain
pretrain(PretrainingSettings(**json.loads(sys.argv[1])))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_of(run: PretrainingSettings) -> int:
    """Peak memory of a new process, in kilobytes."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, json.dumps(run.to_dict())],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_memory_does_not_grow_with_steps(corpus: Path, tmp_path: Path) -> None:
    peaks = [
        peak_of(settings(corpus, tmp_path / str(steps), epochs=1000, max_steps=steps, checkpoint_every=50))
        for steps in (60, 300)
    ]
    assert peaks[1] == pytest.approx(peaks[0], rel=0.05)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(corpus: Path, tmp_path: Path) -> None:
    """One epoch each over 4,000 and 20,000 sentences, 0.2 and 1 MB of text."""
    lines = (corpus / "train.txt").read_text().splitlines()
    peaks = []
    for sentences in (4_000, 20_000):
        text = tmp_path / f"{sentences}.txt"
        text.write_text("\n".join(lines[index % len(lines)] for index in range(sentences)) + "\n")
        changed = {"train_data": [str(text)], "held_out_data": None, "epochs": 1, "max_steps": None}
        changed |= {"rows": 32, "shuffle_window": 1_000, "checkpoint_every": 100, "log_every": 100}
        peaks.append(peak_of(settings(corpus, tmp_path / str(sentences), **changed)))
    assert peaks[1] == pytest.approx(peaks[0], rel=0.05)

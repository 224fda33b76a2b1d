"""Batches prepared by worker processes: the same batches in order, from any position, and their errors."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from elmo_hf import ElmoForPreTraining, ElmoTokenizer
from elmo_hf.pretraining import PretrainingSettings, StreamingObjective, loop, pretrain
from elmo_hf.pretraining.prefetching import PreparedBatches, _Made, _Worker
from elmo_hf.pretraining.start import Start, open_streams
from modeling_tests.pretraining.runs import losses, settings
from modeling_tests.pretraining.test_loop import assert_same_weights
from modeling_tests.waits import waits

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


@pytest.fixture
def run(corpus: Path, tmp_path: Path) -> PretrainingSettings:
    return settings(corpus, tmp_path / "run", epochs=1, max_steps=None)


@pytest.fixture
def start(run: PretrainingSettings) -> Start:
    return Start.from_settings(run, None)


def batches_of(run: PretrainingSettings, model: ElmoForPreTraining, tokenizer: ElmoTokenizer, workers: int) -> Any:
    objective = StreamingObjective(model, num_samples=run.num_samples, seed=5)
    return PreparedBatches(open_streams(run, tokenizer, 0, 1), objective, workers=workers), objective


def flat(value: Any) -> list[Any]:
    """The contents of a batch, tensors as lists."""
    if isinstance(value, torch.Tensor):
        return [value.dtype, value.tolist()]
    if isinstance(value, tuple):
        return [flat(part) for part in value]
    return [(name, flat(part)) for name, part in vars(value).items()] if hasattr(value, "__dict__") else [value]


@pytest.mark.slow
@pytest.mark.parametrize("independent", [False, True])
def test_the_same_batches_and_positions(run: PretrainingSettings, start: Start, independent: bool) -> None:
    run.sentence_independent = independent
    plain, objective = batches_of(run, start.model, start.tokenizer, 0)
    prefetched, other = batches_of(run, start.model, start.tokenizer, 2)
    random = torch.get_rng_state()
    positions = []
    for batch in plain:
        assert flat(next(prefetched)) == flat(batch)
        positions.append((plain.state_dict(), objective.sampler_state()))
        assert (prefetched.state_dict(), other.sampler_state()) == positions[-1]
    assert next(prefetched, None) is None and len(positions) > 5
    assert torch.equal(random, torch.get_rng_state()), "dropout must not depend on who makes the batches"
    # From the middle on.
    position, draws = positions[2]
    for each, own in ((plain, objective), (prefetched, other)):
        each.load_state_dict(position)
        own.load_sampler_state(draws)
    assert [flat(batch) for batch in plain] == [flat(batch) for batch in prefetched]


def test_pickled_worker_has_no_weights_and_no_open_file(run: PretrainingSettings, start: Start) -> None:
    """Where processes are not forked, all that a worker needs is pickled."""
    plain, objective = batches_of(run, start.model, start.tokenizer, 0)
    next(plain)
    dataset = _Worker(plain._streams, plain.state_dict(), objective.preparation.without_weights())
    sent = pickle.dumps(dataset)
    arrived = pickle.loads(sent)
    assert all(weight.is_meta for weight in arrived.preparation.layer.parameters())
    assert not any(weight.is_meta for weight in start.model.parameters())
    arrived.streams.load_state_dict(arrived.position)
    assert flat(arrived.preparation(next(arrived.streams))) == flat(next(plain))
    assert arrived.preparation.sampler.draws == objective.sampler.draws


def test_batches_are_pinned_and_copied_without_blocking(
    run: PretrainingSettings, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = next(batches_of(run, start.model, start.tokenizer, 0)[0])
    pinned: list[int] = []
    sent: list[tuple[int, Any]] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda part: pinned.append(id(part)) or part)
    monkeypatch.setattr(torch.Tensor, "to", lambda part, *to, **how: sent.append((id(part), how)) or part)
    made = _Made(batch, {}, None).pin_memory()
    assert made.batch is not None
    made.batch.to("cuda", non_blocking=True)
    assert sent == [(number, {"non_blocking": True}) for number in pinned]
    assert len(pinned) >= 12


def test_worker_error_is_raised_in_the_main_process(run: PretrainingSettings, start: Start) -> None:
    """The worker's error is raised unchanged when its batch is requested."""
    run.rows = 500
    batches, _ = batches_of(run, start.model, start.tokenizer, 2)
    with pytest.raises(ValueError, match="120 sentences.* 500 rows") as caught:
        list(batches)
    assert "Traceback" not in str(caught.value)


@pytest.mark.slow
def test_a_run_with_workers(corpus: Path, tmp_path: Path) -> None:
    """Interrupted and resumed, the steps equal those without workers; their number may change."""
    plain = settings(corpus, tmp_path / "plain", gradient_accumulation_steps=2, max_steps=7, data_workers=0)
    pretrain(plain)
    for stop_after, workers in ((3, 2), (None, 1)):
        run = settings(
            corpus, tmp_path / "run", gradient_accumulation_steps=2, max_steps=7, stop_after=stop_after,
            data_workers=workers,
        )  # fmt: skip
        pretrain(run)
    assert losses(tmp_path / "run") == losses(tmp_path / "plain")
    assert_same_weights(tmp_path / "plain" / "model", tmp_path / "run" / "model")


@pytest.mark.slow
def test_step_has_one_host_sync(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One host sync for losses and norm, after the backward pass; prepared batches cause none."""
    monkeypatch.setenv("ELMO_HF_KERNELS", "reference")  # the CPU kernels read the tensors
    step, found = loop.Run._step, []

    def watched(run: loop.Run, batches: Any) -> bool:
        with waits() as of_step:
            asked = step(run, batches)
        found.append(of_step)
        return asked

    monkeypatch.setattr(loop.Run, "_step", watched)
    pretrain(settings(corpus, tmp_path / "run", gradient_accumulation_steps=2, max_steps=2))
    assert found == [["tolist"]] * 2

"""Optimizers, compared with formulas and sparse with dense; schedules; clipping; several processes."""

import copy
import math
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from elmo_hf import ElmoConfig, ElmoForPreTraining
from elmo_hf.pretraining.optimizer import (
    Adagrad,
    OptimizerSettings,
    build_optimizer,
    clip_gradients,
    fused_adagrad,
    reduce_row_gradients,
)
from modeling_tests.forking import run_python


def tiny_model() -> ElmoForPreTraining:
    return ElmoForPreTraining(
        ElmoConfig(
            vocab_size=12,
            max_characters_per_word=5,
            character_embedding_size=2,
            character_filters=[[1, 4]],
            num_highway_layers=1,
            projection_size=4,
            cell_size=6,
        )
    )


def sparse_rows(rows: list[int], values: Tensor, size: torch.Size) -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, size)


def test_adagrad_formula() -> None:
    weight = nn.Parameter(torch.randn(4, 3, dtype=torch.float64))
    expected, total = weight.detach().clone(), torch.full((4, 3), 0.5, dtype=torch.float64)
    optimizer = Adagrad([weight], lr=0.3, initial_accumulator_value=0.5)
    for _ in range(3):
        weight.grad = torch.randn(4, 3, dtype=torch.float64)
        optimizer.step()
        total += weight.grad**2
        expected -= 0.3 * weight.grad / total.sqrt()
        torch.testing.assert_close(weight.detach(), expected, atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="initial_accumulator_value=0"):
        Adagrad([weight], initial_accumulator_value=0)


def test_adamw_decays_matrices_only() -> None:
    model = tiny_model()
    optimizer, _ = build_optimizer(model, OptimizerSettings(optimizer="adamw", weight_decay=0.25))
    assert isinstance(optimizer, torch.optim.AdamW) and optimizer.param_groups[0]["lr"] == 1e-3
    decay = {id(weight): group["weight_decay"] for group in optimizer.param_groups for weight in group["params"]}
    trained = {name: weight for name, weight in model.named_parameters() if "scalar_mixes." not in name}
    assert {weight.dim() for weight in trained.values()} == {1, 2, 3} and len(decay) == len(trained)
    for name, weight in trained.items():
        assert decay[id(weight)] == (0.25 if weight.dim() >= 2 else 0.0), name


@pytest.mark.parametrize(
    ("version", "devices", "fused"),
    [
        ("2.11.1+cu130", {"cpu"}, True),
        ("2.11.1+cu130", {"cuda"}, None),
        ("2.12.0", {"cuda"}, True),
        ("2.13.0+cpu", {"xpu"}, None),
        ("2.13.0", {"cpu", "cuda"}, None),
    ],
)
def test_fused_where_torch_has_it(version: str, devices: set[str], fused: bool | None) -> None:
    """On other devices torch chooses, since it refuses `fused=True`, and `False` is the slowest."""
    assert fused_adagrad(devices, TorchVersion(version)) is fused


def test_fused_is_not_taken_from_a_saved_state() -> None:
    weights = [nn.Parameter(torch.randn(3)) for _ in range(2)]
    saved = Adagrad(weights[:1]).state_dict()
    saved["param_groups"][0]["fused"] = None
    other = Adagrad(weights[1:])
    assert other.param_groups[0]["fused"] is True
    other.load_state_dict(saved)
    assert other.param_groups[0]["fused"] is True


def test_sparse_updates_are_the_dense_ones() -> None:
    """Matrices and vectors with repeated rows, and a dense parameter; the state is saved and loaded."""
    weights = [nn.Parameter(torch.randn(9, 4)), nn.Parameter(torch.randn(9)), nn.Parameter(torch.randn(3))]
    others = [nn.Parameter(weight.detach().clone()) for weight in weights]
    dense, sparse = Adagrad(weights), Adagrad(others)
    for rows in ([1, 5, 8], [5, 0, 5]):
        for weight, other in zip(weights, others, strict=True):
            if len(weight) == 3:
                weight.grad = torch.randn(3)
                other.grad = weight.grad.clone()
                continue
            other.grad = sparse_rows(rows, torch.randn(3, *weight.shape[1:]), weight.shape)
            weight.grad = other.grad.to_dense()
        dense.step()
        sparse.step()
        assert others[0].grad is not None, "the gradient stays until it is zeroed, as with any optimizer"
        again = Adagrad(others)
        again.load_state_dict(copy.deepcopy(sparse.state_dict()))
        sparse = again
    for weight, other in zip(weights, others, strict=True):
        torch.testing.assert_close(other, weight, atol=1e-7, rtol=0)
        for name in ("sum", "step"):
            torch.testing.assert_close(sparse.state[other][name], dense.state[weight][name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("max_norm", [0.5, 1e6, None])
def test_clipping(max_norm: float | None) -> None:
    weights = [nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.zeros(5, 2)), nn.Parameter(torch.zeros(1))]
    weights[0].grad = torch.randn(3, 2)
    weights[1].grad = sparse_rows([1, 4, 1], torch.randn(3, 2), torch.Size((5, 2)))
    flat = torch.cat([weights[0].grad.flatten(), weights[1].grad.to_dense().flatten()])
    norm = clip_gradients(weights, max_norm)
    torch.testing.assert_close(norm, flat.norm(), atol=1e-6, rtol=0)
    factor = 1.0 if max_norm is None else min(1.0, max_norm / float(flat.norm()))
    found = torch.cat([weights[0].grad.flatten(), weights[1].grad.to_dense().flatten()])
    torch.testing.assert_close(found, factor * flat, atol=1e-7, rtol=0)


def test_clipping_of_missing_and_non_finite_gradients() -> None:
    weight = nn.Parameter(torch.zeros(2))
    assert clip_gradients([weight], 1.0) == 0
    weight.grad = torch.tensor([1.0, float("nan")])
    assert not clip_gradients([weight], 1.0).isfinite()
    with pytest.raises(ValueError, match="max_norm=0"):
        clip_gradients([weight], 0)


def test_default_equals_bilm_tf() -> None:
    model = tiny_model()
    optimizer, schedule = build_optimizer(model, OptimizerSettings())
    assert schedule is None
    assert isinstance(optimizer, Adagrad)
    assert optimizer.param_groups[0]["lr"] == 0.2
    assert optimizer.param_groups[0]["eps"] == 0
    trained = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert trained == {id(weight) for name, weight in model.named_parameters() if "scalar_mixes" not in name}
    assert len(optimizer.state) == len(trained)
    assert all((state["sum"] == 1).all() for state in optimizer.state.values())


def rates(total: int, **options: Any) -> list[float]:
    optimizer, schedule = build_optimizer(tiny_model(), OptimizerSettings(learning_rate=2.0, **options), total)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("optimizer", ["adagrad", "adamw"])
def test_schedules(optimizer: str) -> None:
    assert rates(5, optimizer=optimizer, warmup_steps=4) == pytest.approx([0.5, 1, 1.5, 2, 2])
    linear = rates(8, optimizer=optimizer, warmup_steps=4, schedule="linear")
    assert linear == pytest.approx([0.5, 1, 1.5, 2, 2, 1.5, 1, 0.5])
    cosine = rates(4, optimizer=optimizer, schedule="cosine")
    assert cosine == pytest.approx([1 + math.cos(math.pi * step / 4) for step in range(4)])
    kept = rates(10, optimizer=optimizer, schedule="constant-then-linear")
    assert kept == pytest.approx([2] * 9 + [1])
    noam = rates(6, optimizer=optimizer, schedule="noam", warmup_steps=3)
    assert noam == pytest.approx([2 * 4**-0.5 * min(step**-0.5, step * 3**-1.5) for step in range(1, 7)])
    assert max(noam) == noam[2]


def test_schedule_by_elapsed_time() -> None:
    """Warm-up by steps, or over the first tenth of the time if shorter; then a decrease to zero by time."""
    shares = [0.0, 0.01, 0.5, 0.75, 1.0]
    options = OptimizerSettings(learning_rate=2.0, schedule="linear", warmup_steps=4)
    optimizer, schedule = build_optimizer(tiny_model(), options, None, lambda done: shares[done])
    found = []
    for _ in shares[1:]:
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [*found, optimizer.param_groups[0]["lr"]] == pytest.approx([0.5, 0.99, 1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer='sgd'"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"schedule": "step"}, "schedule='step'"),
        ({"schedule": "linear"}, "schedule='linear'.*max_steps"),
        ({"schedule": "noam"}, "schedule='noam'.*warmup_steps"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_optimizer(tiny_model(), OptimizerSettings(**options))


def test_warm_up_longer_than_the_run() -> None:
    with pytest.raises(ValueError, match="warmup_steps=9.*9"):
        build_optimizer(tiny_model(), OptimizerSettings(schedule="cosine", warmup_steps=9), 9)


def _reduce_in_process(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    module = nn.Linear(2, 6)
    # Unequal numbers of rows, one of them in both processes; the bias stays dense.
    rows = ([0, 3], [3, 4, 5])[rank]
    values = torch.arange(2.0 * len(rows)).view(-1, 2) + 10 * rank
    module.weight.grad = sparse_rows(rows, values, module.weight.shape)
    module.bias.grad = torch.full((6,), float(rank))
    reduce_row_gradients(module)
    torch.save((module.weight.grad.to_dense(), module.bias.grad), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


TWO_PROCESSES = """
import os, sys
from modeling_tests.pretraining.test_optimizer import _reduce_in_process
child = os.fork()
_reduce_in_process(int(child == 0), int(sys.argv[1]), sys.argv[2])
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.slow
def test_rows_of_two_processes(tmp_path: Path) -> None:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    done = run_python("-c", TWO_PROCESSES, port, tmp_path)
    assert done.returncode == 0, done.stderr
    expected = torch.zeros(6, 2)
    expected[[0, 3]] += torch.tensor([[0.0, 1], [2, 3]]) / 2
    expected[[3, 4, 5]] += torch.tensor([[10.0, 11], [12, 13], [14, 15]]) / 2
    for rank in range(2):
        weight, bias = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(weight, expected, atol=1e-6, rtol=0)
        assert (bias == rank).all()

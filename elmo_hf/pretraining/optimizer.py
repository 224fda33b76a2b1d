"""Optimizers and schedules of pretraining; reduction and clipping of gradients.

Source: bilm-tf `train` (Adagrad, `average_gradients`, `clip_grads`); TensorFlow 1's `AdagradOptimizer` and
`clip_by_global_norm`.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from .settings import DEFAULT_LEARNING_RATE, PretrainingSettings

# Last part of the run in which `constant-then-linear` falls.
DECAY = 0.2


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Options of `build_optimizer`; the defaults are bilm-tf's.

    Attributes:
        optimizer: `"adagrad"` or `"adamw"`.
        learning_rate: `None` for 0.2 (Adagrad) or 0.001 (AdamW). With `schedule="noam"`, a factor.
        initial_accumulator: Adagrad's first sum of squared gradients.
        weight_decay: AdamW's, decoupled, on matrices only.
        adam_beta1, adam_beta2, adam_epsilon: AdamW's.
        schedule: learning rate after the warm-up: `"constant"`; `"linear"` or `"cosine"`, down to zero at the last
            step; `"constant-then-linear"`, which falls over the last fifth; `"noam"` (Vaswani et al. 2017, section
            5.3), learning_rate * projection_size ** -0.5 * min(step ** -0.5, step * warmup_steps ** -1.5).
        warmup_steps: steps over which the learning rate rises linearly from zero.
    """

    optimizer: Literal["adagrad", "adamw"] = "adagrad"
    learning_rate: float | None = None
    initial_accumulator: float = 1.0
    weight_decay: float = 0.01
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    schedule: Literal["constant", "linear", "cosine", "constant-then-linear", "noam"] = "constant"
    warmup_steps: int = 0


def fused_adagrad(devices: set[str], version: Any = torch.__version__) -> bool | None:
    """Value of torch's option `fused` for weights on these types of devices: `True` if torch has a fused Adagrad.

    torch has one on CPU, and since version 2.12 on GPU. `None` leaves the choice to torch (`foreach` on a GPU), which
    `False` would forbid.
    """
    return True if devices == {"cpu"} or (devices == {"cuda"} and version >= (2, 12)) else None


class Adagrad(torch.optim.Adagrad):
    """TensorFlow 1's Adagrad: sum += g ** 2; w -= learning rate * g / sqrt(sum), without epsilon.

    Dense gradients use torch's fused update if available. Sparse gradients (`gather_rows`) update only their own rows.
    The result is the same: a row without gradient does not change, nor does its sum.

    Args:
        params, lr: as in torch.
        initial_accumulator_value: first value of the sums, positive: it keeps the first steps small and the division
            defined.
    """

    def __init__(self, params: Any, lr: float = 0.2, initial_accumulator_value: float = 1.0) -> None:
        if not initial_accumulator_value > 0:
            raise ValueError(
                f"initial_accumulator_value={initial_accumulator_value}: expected more than 0, since nothing is added "
                "to the root of the sum (bilm-tf: 1.0)"
            )
        params = list(params)
        weights = [weight for each in params for weight in (each["params"] if isinstance(each, dict) else [each])]
        fused = fused_adagrad({weight.device.type for weight in weights})
        super().__init__(params, lr=lr, initial_accumulator_value=initial_accumulator_value, eps=0.0, fused=fused)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a state, also one from another device or version of torch with another `fused`."""
        groups = [
            {**saved, "fused": own["fused"]}
            for saved, own in zip(state_dict["param_groups"], self.param_groups, strict=True)
        ]
        super().load_state_dict({**state_dict, "param_groups": groups})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        sparse: list[tuple[Tensor, Tensor]] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    self._update_rows(parameter, parameter.grad.coalesce(), float(group["lr"]))
                    sparse.append((parameter, parameter.grad))
                    parameter.grad = None
        super().step()
        for parameter, gradient in sparse:
            parameter.grad = gradient
        return loss

    def _update_rows(self, parameter: Tensor, gradient: Tensor, learning_rate: float) -> None:
        state = self.state[parameter]
        state["step"] += 1
        rows, values = gradient.indices()[0], gradient.values()
        sums = state["sum"].index_select(0, rows).addcmul_(values, values)
        state["sum"].index_copy_(0, rows, sums)
        parameter.index_add_(0, rows, values / sums.sqrt_(), alpha=-learning_rate)


def build_optimizer(
    model: nn.Module,
    settings: OptimizerSettings | PretrainingSettings,
    total_steps: int | None = None,
    share_of_run: Callable[[int], float] | None = None,
) -> tuple[torch.optim.Optimizer, LRScheduler | None]:
    """Build the optimizer of all weights of a language model, and the schedule of its learning rate.

    Frozen weights are included: without a gradient they and their statistics do not change. The scalar mixes are left
    out, since no language model reads them.

    Args:
        model: an `ElmoForPreTraining` or a module around it, before any distributed wrapping.
        settings: the run's options.
        total_steps: optimizer steps of the run, for schedules that fall to zero.
        share_of_run: for a run limited in time, instead of `total_steps`: the completed share of the run, from 0 to 1,
            as a function of the steps done.

    Returns:
        The optimizer, and the scheduler, to be stepped after each optimizer step; `None` for a constant rate.

    Raises:
        ValueError: unknown names, or a schedule without the numbers it needs.
    """
    named = [(name, weight) for name, weight in model.named_parameters() if "scalar_mixes." not in name]
    if settings.optimizer not in DEFAULT_LEARNING_RATE:
        raise ValueError(f"optimizer={settings.optimizer!r}: expected 'adagrad' or 'adamw'")
    rate = settings.learning_rate
    rate = DEFAULT_LEARNING_RATE[settings.optimizer] if rate is None else rate
    if not rate > 0 or math.isinf(rate):
        raise ValueError(f"learning_rate={rate}: expected a positive number")
    optimizer: torch.optim.Optimizer
    if settings.optimizer == "adagrad":
        optimizer = Adagrad([weight for _, weight in named], rate, settings.initial_accumulator)
    else:
        groups = [
            {"params": [weight for _, weight in named if weight.dim() >= 2], "weight_decay": settings.weight_decay},
            {"params": [weight for _, weight in named if weight.dim() < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups,
            lr=rate,
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_epsilon,
            fused=True,
        )
    factor = _rate_factor(model, settings, total_steps, share_of_run)
    return optimizer, None if factor is None else LambdaLR(optimizer, factor)


def _rate_factor(
    model: nn.Module,
    settings: OptimizerSettings | PretrainingSettings,
    total_steps: int | None,
    share_of_run: Callable[[int], float] | None,
) -> Callable[[int], float] | None:
    """Return the factor of the learning rate as a function of the optimizer steps done; `None` if it is always 1."""
    warmup, schedule = settings.warmup_steps, settings.schedule
    if schedule not in ("constant", "linear", "cosine", "constant-then-linear", "noam"):
        raise ValueError(
            f"schedule={schedule!r}: expected 'constant', 'linear', 'cosine', 'constant-then-linear' or 'noam'"
        )
    if warmup < 0:
        raise ValueError(f"warmup_steps={warmup}: expected 0 or more")
    if schedule == "constant" and not warmup:
        return None
    if schedule == "noam":
        if not warmup:
            raise ValueError("schedule='noam' needs warmup_steps of 1 or more: the rate peaks there")
        width = _width(model)
        return lambda done: width**-0.5 * min((done + 1) ** -0.5, (done + 1) * warmup**-1.5)
    if schedule != "constant" and share_of_run is not None:
        # At most the first tenth of the time: a short run has few steps.
        def factor_in_time(done: int) -> float:
            share = share_of_run(done)
            return min(1.0, max((done + 1) / max(1, warmup), 10 * share)) * _fall(schedule, share)

        return factor_in_time
    last = 0
    if schedule != "constant":
        if total_steps is None:
            raise ValueError(f"schedule={schedule!r} needs the number of steps of the run: set max_steps")
        if total_steps <= warmup:
            raise ValueError(f"warmup_steps={warmup} leaves nothing of a run of {total_steps} steps")
        last = total_steps

    def factor(done: int) -> float:
        # The next step is number done + 1, so the first step has a rate above zero.
        if done < warmup:
            return (done + 1) / warmup
        return 1.0 if schedule == "constant" else _fall(schedule, min(1.0, (done - warmup) / (last - warmup)))

    return factor


def _fall(schedule: str, progress: float) -> float:
    """Factor of a schedule that falls from 1 (at `progress` 0) to 0 (at `progress` 1)."""
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    left = 1.0 - progress
    return left if schedule == "linear" else min(1.0, left / DECAY)


def _width(model: nn.Module) -> int:
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "projection_size"):
            return int(config.projection_size)
    raise ValueError("schedule='noam' scales the learning rate by the model's projection_size, and it has none")


def clip_gradients(parameters: Iterable[Tensor], max_norm: float | None) -> Tensor:
    """Scale all gradients, dense and sparse, so that their global norm is at most `max_norm`.

    TensorFlow's `clip_by_global_norm`: the factor is exactly max_norm / max(norm, max_norm).

    Args:
        parameters: all parameters of the optimizer, gradients already averaged over processes.
        max_norm: `None` only computes the norm.

    Returns:
        The norm before clipping, float32; not finite where a gradient is not, and the gradients are then unusable.
    """
    values = []
    for parameter in parameters:
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse:
            # Duplicate rows are summed before the norm.
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        else:
            values.append(parameter.grad)
    if not values:
        return torch.zeros(())
    norm = torch.nn.utils.get_total_norm(values)
    if max_norm is not None:
        if not max_norm > 0:
            raise ValueError(f"max_norm={max_norm}: expected a positive number, or None for no clipping")
        torch._foreach_mul_(values, max_norm / norm.clamp(min=max_norm))
    return norm


def reduce_row_gradients(model: nn.Module) -> None:
    """Average sparse gradients over all processes, in place; a no-op outside distributed training.

    Every process receives the rows of all others, as bilm-tf concatenates the sparse gradients of its towers. Call this
    once per step, after the last backward pass and before `clip_gradients`. `DistributedDataParallel` averages the
    dense gradients.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return
    world = distributed.get_world_size()
    for parameter in model.parameters():
        if parameter.grad is None or not parameter.grad.is_sparse:
            continue
        gradient = parameter.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world)]
        distributed.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
        lengths = [int(count) for count in counts]
        # Collective calls need equal shapes: all are padded to the longest, and truncated afterwards.
        room = max(lengths) - len(rows)
        rows = torch.nn.functional.pad(rows, (0, room))
        values = torch.cat([values, values.new_zeros(room, *values.shape[1:])])
        all_rows = [torch.empty_like(rows) for _ in range(world)]
        all_values = [torch.empty_like(values) for _ in range(world)]
        distributed.all_gather(all_rows, rows)
        distributed.all_gather(all_values, values)
        parameter.grad = torch.sparse_coo_tensor(
            torch.cat([each[:length] for each, length in zip(all_rows, lengths, strict=True)]).unsqueeze(0),
            torch.cat([each[:length] for each, length in zip(all_values, lengths, strict=True)]) / world,
            gradient.shape,
            check_invariants=False,
        ).coalesce()

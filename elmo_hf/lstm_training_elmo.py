"""The recurrence of `lstm_elmo.reference_lstm` with a hand-written backward pass, for training.

Autograd records some twenty operations a step and adds up the gradient of each weight matrix once a step. Here a step
keeps its activated gates, raw cell and raw output, overwrites what nobody needs again, and the gradients of the weights
are one matrix product each over all steps.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

backward_of_sigmoid = torch.ops.aten.sigmoid_backward.grad_input
backward_of_tanh = torch.ops.aten.tanh_backward.grad_input
backward_of_clip = torch.ops.aten.hardtanh_backward.grad_input


def _bounds(clip: float | None, values: Tensor) -> tuple[float, float] | None:
    """The open interval whose numbers in the dtype of `values` are those of [-clip, clip].

    A gradient passes a clip at its very bounds too, unlike a hard tanh.
    """
    if clip is None:
        return None
    bound = torch.tensor(clip, dtype=values.dtype)
    beyond = float(torch.nextafter(bound, torch.full_like(bound, float("inf"))))
    return -beyond, beyond


class _ProjectedLstm(torch.autograd.Function):
    """Arguments and results as `training_lstm`."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        hidden: Tensor,
        cell: Tensor,
        input_weight: Tensor,
        input_bias: Tensor,
        hidden_weight: Tensor,
        output_weight: Tensor | None,
        batch_sizes: Sequence[int],
        cell_clip: float | None,
        projection_clip: float | None,
        forget_bias: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        total, size = len(inputs), cell.shape[1]
        gates = torch.addmm(input_bias, inputs, input_weight.T)  # [total, 4H]; activated in place, step by step
        gates[:, size : 2 * size] += forget_bias
        raw_cells = cell.new_empty(total, size)
        cell_tanhs = cell.new_empty(total, size)
        raw_outputs = hidden.new_empty(total, hidden.shape[1])
        if output_weight is None:
            projection_clip = None
        outputs = raw_outputs if projection_clip is None else torch.empty_like(raw_outputs)
        final_hidden, final_cell = hidden.clone(), cell.clone()
        transposed = hidden_weight.T
        start = 0
        for running in batch_sizes:
            part = slice(start, start + running)
            start += running
            before_hidden, before_cell = final_hidden[:running], final_cell[:running]
            step = gates[part].addmm_(before_hidden, transposed)
            input_gate, forget_gate, candidate, output_gate = step.chunk(4, dim=1)
            step[:, : 2 * size].sigmoid_()
            candidate.tanh_()
            output_gate.sigmoid_()
            after = torch.mul(forget_gate, before_cell, out=raw_cells[part]).addcmul_(input_gate, candidate)
            if cell_clip is None:
                before_cell.copy_(after)
            else:
                torch.clamp(after, -cell_clip, cell_clip, out=before_cell)
            torch.tanh(before_cell, out=cell_tanhs[part])
            if output_weight is None:
                torch.mul(output_gate, cell_tanhs[part], out=raw_outputs[part])
            else:
                torch.mm(output_gate * cell_tanhs[part], output_weight.T, out=raw_outputs[part])
            if projection_clip is not None:
                torch.clamp(raw_outputs[part], -projection_clip, projection_clip, out=outputs[part])
            before_hidden.copy_(outputs[part])
        ctx.save_for_backward(
            inputs, hidden, cell, input_weight, hidden_weight, output_weight, gates, raw_cells, cell_tanhs,
            raw_outputs, outputs,
        )  # fmt: skip
        ctx.batch_sizes, ctx.cell_clip, ctx.projection_clip = batch_sizes, cell_clip, projection_clip
        return outputs, final_hidden, final_cell

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, output_gradient: Tensor, final_hidden_gradient: Tensor, final_cell_gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        (
            inputs, hidden, cell, input_weight, hidden_weight, output_weight, gates, raw_cells, cell_tanhs,
            raw_outputs, outputs,
        ) = ctx.saved_tensors  # fmt: skip
        gate_gradient = torch.empty_like(gates)
        raw_output_gradient = torch.empty_like(raw_outputs)
        hidden_before = torch.empty_like(outputs)
        exposed_cells = torch.empty_like(raw_cells)
        cell_bounds, output_bounds = _bounds(ctx.cell_clip, cell), _bounds(ctx.projection_clip, outputs)
        # Of the state after the step at hand: what later steps, or the caller, ask of it.
        hidden_gradient, cell_gradient = final_hidden_gradient.clone(), final_cell_gradient.clone()
        end = len(inputs)
        for number in range(len(ctx.batch_sizes) - 1, -1, -1):
            running = ctx.batch_sizes[number]
            part = slice(end - running, end)
            end -= running
            if number:
                before = slice(end - ctx.batch_sizes[number - 1], end - ctx.batch_sizes[number - 1] + running)
                hidden_before[part] = outputs[before]
                cell_before = raw_cells[before]
                if ctx.cell_clip is not None:
                    cell_before = cell_before.clamp(-ctx.cell_clip, ctx.cell_clip)
            else:
                hidden_before[part] = hidden[:running]
                cell_before = cell[:running]
            input_gate, forget_gate, candidate, output_gate = gates[part].chunk(4, dim=1)
            d_input, d_forget, d_candidate, d_output = gate_gradient[part].chunk(4, dim=1)
            # h' = clip(exposed @ output_weight.T)
            d_hidden = torch.add(output_gradient[part], hidden_gradient[:running], out=raw_output_gradient[part])
            if output_bounds is not None:
                backward_of_clip(d_hidden, raw_outputs[part], *output_bounds, grad_input=d_hidden)
            d_exposed = d_hidden if output_weight is None else torch.mm(d_hidden, output_weight)
            # exposed = output_gate * tanh(clip(raw cell))
            cell_tanh = cell_tanhs[part]
            torch.mul(output_gate, cell_tanh, out=exposed_cells[part])
            backward_of_sigmoid(d_exposed * cell_tanh, output_gate, grad_input=d_output)
            d_cell = torch.mul(d_exposed, output_gate)
            backward_of_tanh(d_cell, cell_tanh, grad_input=d_cell).add_(cell_gradient[:running])
            if cell_bounds is not None:
                backward_of_clip(d_cell, raw_cells[part], *cell_bounds, grad_input=d_cell)
            # raw cell = forget_gate * cell_before + input_gate * candidate
            backward_of_sigmoid(d_cell * candidate, input_gate, grad_input=d_input)
            backward_of_sigmoid(d_cell * cell_before, forget_gate, grad_input=d_forget)
            backward_of_tanh(d_cell * input_gate, candidate, grad_input=d_candidate)
            torch.mul(d_cell, forget_gate, out=cell_gradient[:running])
            torch.mm(gate_gradient[part], hidden_weight, out=hidden_gradient[:running])
        needed = ctx.needs_input_grad
        return (
            gate_gradient @ input_weight if needed[0] else None,
            hidden_gradient if needed[1] else None,
            cell_gradient if needed[2] else None,
            (inputs.T @ gate_gradient).T.contiguous() if needed[3] else None,
            gate_gradient.sum(dim=0) if needed[4] else None,
            (hidden_before.T @ gate_gradient).T.contiguous() if needed[5] else None,
            raw_output_gradient.T @ exposed_cells if needed[6] else None,
            None,
            None,
            None,
            None,
        )


class LstmWeights(NamedTuple):
    """Weights of one direction of one layer: [4H, P], [4H], [4H, P], and [P, H] or `None`."""

    input_weight: Tensor
    input_bias: Tensor
    hidden_weight: Tensor
    output_weight: Tensor | None


def trainable_weights(
    inputs: Tensor, cell: Tensor, input_proj: nn.Module, hidden_proj: nn.Module, output_proj: nn.Module | None
) -> LstmWeights | None:
    """The weights with which `training_lstm` serves a call of `projected_lstm`, or `None` where it does not.

    It reads weights, so every layer must be a plain `nn.Linear` that nothing is attached to; it computes in one dtype;
    it is neither differentiable twice nor known to compilers and function transforms; and it pays in training only.
    """
    if not torch.is_grad_enabled() or not len(inputs) or torch.is_autocast_enabled(inputs.device.type):
        return None
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return None
    if not (_is_plain(input_proj) and _is_plain(hidden_proj) and (output_proj is None or _is_plain(output_proj))):
        return None
    found = (
        input_proj.weight,
        input_proj.bias,
        hidden_proj.weight,
        None if output_proj is None else output_proj.weight,
    )
    weights = [weight for weight in found if weight is not None]
    # A sharded weight is a subclass of a tensor.
    if cell.dtype != inputs.dtype or any(
        type(weight) not in (nn.Parameter, Tensor) or weight.dtype != inputs.dtype or weight.device != inputs.device
        for weight in weights
    ):
        return None
    if input_proj.bias is None or not (inputs.requires_grad or any(weight.requires_grad for weight in weights)):
        return None
    return LstmWeights(*cast("tuple[Tensor, Tensor, Tensor, Tensor | None]", found))


def _is_plain(layer: nn.Module) -> bool:
    """A linear layer that is nothing more: no subclass, no hook, no `forward` of its own (offloading sets one)."""
    attached = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return type(layer) is nn.Linear and "forward" not in vars(layer) and not any(attached)


def training_lstm(
    inputs: Tensor,
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    weights: LstmWeights,
    *,
    cell_clip: float | None,
    projection_clip: float | None,
    forget_bias: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference_lstm` for weights of one dtype, outside of autocast; differentiable once.

    Arguments and results as in `reference_lstm`, with the weights in place of the products; at least one word.
    """
    return _ProjectedLstm.apply(inputs, hidden, cell, *weights, batch_sizes, cell_clip, projection_clip, forget_bias)

"""The recurrence of `operators.reference_lstm` with a hand-written backward pass, for training.

Autograd records some twenty operations per step and accumulates every weight gradient once per step. This
implementation keeps each step's activated gates, raw cell and raw output, reuses all other buffers, and computes each
weight gradient by one matmul over all steps. For float32 on a CPU with a C compiler, [`cpu.native_training`] does the
same, faster.

Matmuls may use a lower dtype than everything else: bfloat16 under autocast and for bfloat16 weights, with state, gates
and accumulations in float32. Weights are then converted once per call, not once per step.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .cpu.native_training import native_training_lstm
from .precision import multiplies_bfloat16

backward_of_sigmoid = torch.ops.aten.sigmoid_backward.grad_input
backward_of_tanh = torch.ops.aten.tanh_backward.grad_input
backward_of_clip = torch.ops.aten.hardtanh_backward.grad_input


def _bounds(clip: float | None, values: Tensor) -> tuple[float, float] | None:
    """The open interval that holds the same numbers as [-clip, clip] in the dtype of `values`.

    The gradient of a clip passes at its exact bounds too; that of a hard tanh does not.
    """
    if clip is None:
        return None
    bound = torch.tensor(clip, dtype=values.dtype)
    beyond = float(torch.nextafter(bound, torch.full_like(bound, float("inf"))))
    return -beyond, beyond


def _add_matmul(target: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """target += left @ right, in place. The factors share one dtype; the target has the same or a wider one."""
    return target.addmm_(left, right) if left.dtype == target.dtype else target.add_(torch.mm(left, right))


def _set_matmul(target: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """target = left @ right, in place; dtypes as in `_add_matmul`."""
    return torch.mm(left, right, out=target) if left.dtype == target.dtype else target.copy_(torch.mm(left, right))


def _without_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class _ProjectedLstm(torch.autograd.Function):
    """Autograd function of `training_lstm`, with its arguments and results; gradients have the dtypes of the arguments.

    Matmul operands are in `matmul_dtype`, everything else in the cell's dtype (*wide*).
    """

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
        matmul_dtype: torch.dtype,
        outputs_dtype: torch.dtype,
        batch_sizes: Sequence[int],
        cell_clip: float | None,
        projection_clip: float | None,
        forget_bias: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.dtypes = [None if given is None else given.dtype for given in (
            inputs, hidden, cell, input_weight, input_bias, hidden_weight, output_weight
        )]  # fmt: skip
        wide, (total, size) = cell.dtype, (len(inputs), cell.shape[1])
        inputs, input_weight, hidden_weight = (
            given.to(matmul_dtype) for given in (inputs, input_weight, hidden_weight)
        )
        output_weight = None if output_weight is None else output_weight.to(matmul_dtype)
        hidden = hidden.to(wide)
        # [total, 4H]; activated in place, step by step.
        if matmul_dtype == wide:
            gates = torch.addmm(input_bias.to(wide), inputs, input_weight.T)
        else:
            gates = torch.mm(inputs, input_weight.T) + input_bias.to(wide)
        gates[:, size : 2 * size] += forget_bias
        raw_cells = cell.new_empty(total, size)
        cell_tanhs = cell.new_empty(total, size)
        raw_outputs = cell.new_empty(total, hidden.shape[1])
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
            step = _add_matmul(gates[part], before_hidden.to(matmul_dtype), transposed)
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
                exposed = (output_gate * cell_tanhs[part]).to(matmul_dtype)
                _set_matmul(raw_outputs[part], exposed, output_weight.T)
            if projection_clip is not None:
                torch.clamp(raw_outputs[part], -projection_clip, projection_clip, out=outputs[part])
            before_hidden.copy_(outputs[part])
        ctx.save_for_backward(
            inputs, hidden, cell, input_weight, hidden_weight, output_weight, gates, raw_cells, cell_tanhs,
            raw_outputs, outputs,
        )  # fmt: skip
        ctx.batch_sizes, ctx.cell_clip, ctx.projection_clip = batch_sizes, cell_clip, projection_clip
        return outputs.to(outputs_dtype), final_hidden.to(outputs_dtype), final_cell

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, output_gradient: Tensor, final_hidden_gradient: Tensor, final_cell_gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        # `backward` may be called under autocast.
        with _without_autocast(output_gradient):
            gradients = _ProjectedLstm._gradients(ctx, output_gradient, final_hidden_gradient, final_cell_gradient)
        return (
            *(None if part is None else part.to(dtype) for part, dtype in zip(gradients, ctx.dtypes, strict=True)),
            *[None] * 6,
        )

    @staticmethod
    def _gradients(
        ctx: Any, output_gradient: Tensor, final_hidden_gradient: Tensor, final_cell_gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradients of the seven tensor arguments."""
        (
            inputs, hidden, cell, input_weight, hidden_weight, output_weight, gates, raw_cells, cell_tanhs,
            raw_outputs, outputs,
        ) = ctx.saved_tensors  # fmt: skip
        # Operands of the matmuls over all steps. If these are narrower than the gates, each step has wide copies too.
        factors = inputs.dtype
        gate_gradient = torch.empty_like(gates, dtype=factors)
        raw_output_gradient = torch.empty_like(raw_outputs, dtype=factors)
        hidden_before = torch.empty_like(outputs, dtype=factors)
        exposed_cells = torch.empty_like(raw_cells, dtype=factors)
        narrows = factors != gates.dtype
        step_gates = torch.empty_like(gates[: max(ctx.batch_sizes)]) if narrows else None
        cell_bounds, output_bounds = _bounds(ctx.cell_clip, cell), _bounds(ctx.projection_clip, outputs)
        output_gradient = output_gradient.to(outputs.dtype)
        # Gradients of the state after the current step, from later steps or from the caller.
        hidden_gradient = final_hidden_gradient.to(outputs.dtype, copy=True)
        cell_gradient = final_cell_gradient.clone()
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
            d_gates = gate_gradient[part] if step_gates is None else step_gates[:running]
            d_input, d_forget, d_candidate, d_output = d_gates.chunk(4, dim=1)
            # h' = clip(exposed @ output_weight.T)
            d_hidden = hidden_gradient[:running].add_(output_gradient[part])
            if output_bounds is not None:
                backward_of_clip(d_hidden, raw_outputs[part], *output_bounds, grad_input=d_hidden)
            raw_output_gradient[part] = d_hidden
            d_exposed = d_hidden if output_weight is None else raw_output_gradient[part] @ output_weight
            d_exposed = d_exposed.to(gates.dtype)
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
            if step_gates is not None:
                gate_gradient[part] = d_gates
            _set_matmul(hidden_gradient[:running], gate_gradient[part], hidden_weight)
        needed = ctx.needs_input_grad
        return (
            gate_gradient @ input_weight if needed[0] else None,
            hidden_gradient if needed[1] else None,
            cell_gradient if needed[2] else None,
            (inputs.T @ gate_gradient).T.contiguous() if needed[3] else None,
            gate_gradient.sum(dim=0, dtype=gates.dtype) if needed[4] else None,
            (hidden_before.T @ gate_gradient).T.contiguous() if needed[5] else None,
            raw_output_gradient.T @ exposed_cells if needed[6] else None,
        )


class LstmWeights(NamedTuple):
    """Weights of one direction of one layer: [4H, P], [4H], [4H, P], and [P, H] or `None`.

    Attributes:
        matmul_dtype: dtype of matmul operands; `None` for the cell's.
        outputs_dtype: dtype of outputs and hidden state; `None` for the inputs'.
    """

    input_weight: Tensor
    input_bias: Tensor
    hidden_weight: Tensor
    output_weight: Tensor | None
    matmul_dtype: torch.dtype | None = None
    outputs_dtype: torch.dtype | None = None


def projected_lstm(
    inputs: Tensor,
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    input_map: Any,
    hidden_map: Any,
    output_map: Any | None,
    *,
    cell_clip: float | None,
    projection_clip: float | None,
    forget_bias: float,
    index: Tensor | None = None,
    native: bool = False,
) -> tuple[Tensor, Tensor, Tensor] | str:
    """`training_lstm` with the arguments of `operators.projected_lstm`, or the reason why it cannot be used.

    Used in training only. Supported dtypes: one dtype for everything; on a CPU also bfloat16 inputs and weights with a
    float32 cell, and autocast to bfloat16 with float32 weights. The last two multiply in bfloat16 if the CPU supports
    it, else in float32, which is exact and faster there. Outputs under autocast are float32.
    """
    if not torch.is_grad_enabled():
        return "no gradients are recorded"
    maps = [input_map, hidden_map] + ([] if output_map is None else [output_map])
    if input_map.bias is None or any(each.bias is not None for each in maps[1:]):
        return "biases are not those of an LSTM"
    tensors = [each.weight for each in maps] + [input_map.bias]
    dtype = input_map.weight.dtype
    # A sharded weight is a subclass of a tensor.
    if any(
        type(tensor) not in (nn.Parameter, Tensor) or tensor.dtype != dtype or tensor.device != inputs.device
        for tensor in tensors
    ):
        return "weights of several dtypes, devices or kinds"
    if not (inputs.requires_grad or any(tensor.requires_grad for tensor in tensors)):
        return "nothing is trained"
    dtypes = _dtypes(inputs, cell, dtype)
    if dtypes is None:
        return f"dtypes {inputs.dtype}, {cell.dtype}, {dtype}"
    weights = LstmWeights(
        input_map.weight, input_map.bias, hidden_map.weight, None if output_map is None else output_map.weight, *dtypes
    )
    words = inputs if index is None else inputs.index_select(0, index)
    train = native_lstm if native else training_lstm
    results = train(
        words,
        batch_sizes,
        hidden,
        cell,
        weights,
        cell_clip=cell_clip,
        projection_clip=projection_clip,
        forget_bias=forget_bias,
    )
    return "no compiled kernel for these sizes and dtypes here" if results is None else results


def _dtypes(inputs: Tensor, cell: Tensor, weights: torch.dtype) -> tuple[torch.dtype, torch.dtype] | None:
    """Dtypes of matmul operands and of outputs; `None` if `training_lstm` does not support the combination."""
    device = inputs.device.type
    autocasts = torch.is_autocast_enabled(device)
    if not autocasts and weights == inputs.dtype == cell.dtype:
        return weights, weights
    if device != "cpu" or cell.dtype != torch.float32:
        return None
    if autocasts and (
        torch.get_autocast_dtype(device) != torch.bfloat16
        or weights != torch.float32
        or inputs.dtype not in (torch.float32, torch.bfloat16)
    ):
        return None
    if not autocasts and not weights == inputs.dtype == torch.bfloat16:
        return None
    return torch.bfloat16 if multiplies_bfloat16() else torch.float32, weights


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
    """`reference_lstm` in the dtypes given by `weights`; differentiable once. Autocast has no further effect.

    Arguments and results are those of `reference_lstm`, with weights in place of its matmul functions. Takes at least
    one word.
    """
    *tensors, matmul_dtype, outputs_dtype = weights
    with _without_autocast(inputs):
        return _ProjectedLstm.apply(
            inputs,
            hidden,
            cell,
            *tensors,
            matmul_dtype or cell.dtype,
            outputs_dtype or inputs.dtype,
            batch_sizes,
            cell_clip,
            projection_clip,
            forget_bias,
        )


def native_lstm(
    inputs: Tensor, batch_sizes: Sequence[int], hidden: Tensor, cell: Tensor, weights: LstmWeights, **settings: Any
) -> tuple[Tensor, Tensor, Tensor] | None:
    """`training_lstm` in compiled C; `None` if the compiled code cannot be used."""
    *_, matmul_dtype, outputs_dtype = weights
    if inputs.device.type != "cpu" or not (matmul_dtype or cell.dtype) == cell.dtype == torch.float32:
        return None
    with _without_autocast(inputs):
        results = native_training_lstm(inputs, batch_sizes, hidden, cell, *weights[:4], **settings)
    if results is None:
        return None
    outputs, final_hidden, final_cell = results
    dtype = outputs_dtype or inputs.dtype
    return outputs.to(dtype), final_hidden.to(dtype), final_cell

"""Reference implementations of the model's operators, and the only place that dispatches to faster kernels.

`reference_lstm` and `reference_maxima` define two operators; a plain `nn.Linear` and
`quantized_linear.quantized_linear` define the other two. If the package `elmo_hf` is installed, its kernels are tried
in turn; each returns the same results, gradients included, or declines and logs why. Copies of this file in checkpoints
use the installed kernels too, and run the reference without them.

The environment variable `ELMO_HF_KERNELS` restricts the choice (see `elmo_hf/kernels`).

Source: TensorFlow 1's `LSTMCell(num_proj, cell_clip, proj_clip)` as bilm-tf uses it, and AllenNLP's
`LstmCellWithProjection`.
"""

import functools
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .conditions import has_nothing_attached, is_plain, is_traced
from .installed import package_part

# Version of the kernels' interface that this file uses; kernels of another version are ignored.
KERNELS_VERSION = 2

TensorFunction = Callable[[Tensor], Tensor]
Keep = Callable[[str, Callable[[], Any]], Any]


# -------------------------------------------------------------------------------------- reference implementations


def reference_lstm(
    inputs: Tensor,
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    input_proj: TensorFunction,
    hidden_proj: TensorFunction,
    output_proj: TensorFunction | None,
    *,
    cell_clip: float | None,
    projection_clip: float | None,
    forget_bias: float,
    index: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Run one direction of one layer over packed sequences.

    With gates i, f, g, o in this order::

        a  = input_proj(x) + hidden_proj(h)
        c' = clip(sigmoid(a_f + forget_bias) * c + sigmoid(a_i) * tanh(a_g), cell_clip)
        h' = clip(output_proj(sigmoid(a_o) * tanh(c')), projection_clip)

    Clipping is part of the model, in training and in inference. Matmuls run in the model's dtype; the cell and all
    point-wise operations in float32 or wider, so that bfloat16 does not round the cell at each step.

    Args:
        inputs: [total, input width], time-major: the words of step 0 of all rows, then those of step 1, and so on; with
            `index`, [n, input width] in any order.
        batch_sizes: number of rows at each step, never increasing; their sum is `total`.
        hidden: [rows, P] initial projected output. Rows past `batch_sizes[0]` have no words and keep their state.
        cell: [rows, H] initial cell.
        input_proj: x [n, input width] -> [n, 4H], with bias.
        hidden_proj: h [n, P] -> [n, 4H], without bias.
        output_proj: [n, H] -> [n, P]; `None` for a cell without projection (H == P), whose output is not clipped.
        cell_clip, projection_clip: bounds of the absolute value; `None` for none.
        forget_bias: added to the forget gate.
        index: [total], int64: word k is `inputs[index[k]]`, for deduplicated words.

    Returns:
        outputs [total, P], in the order of the words; final hidden [rows, P] and cell [rows, H] of every row, each
        after its own last step.
    """
    if index is not None:
        inputs = inputs.index_select(0, index)
    outputs: list[Tensor] = []
    finished: list[tuple[Tensor, Tensor]] = []
    # The input projection of all steps at once: one large matmul instead of many small ones.
    for gates in input_proj(inputs).split(list(batch_sizes)) if batch_sizes else ():
        running = gates.shape[0]
        if running < hidden.shape[0]:
            finished.append((hidden[running:], cell[running:]))
            hidden, cell = hidden[:running], cell[:running]
        input_gate, forget_gate, candidate, output_gate = (gates + hidden_proj(hidden)).to(cell.dtype).chunk(4, -1)
        cell = torch.sigmoid(forget_gate + forget_bias) * cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
        if cell_clip is not None:
            cell = cell.clamp(-cell_clip, cell_clip)
        exposed = (torch.sigmoid(output_gate) * torch.tanh(cell)).to(inputs.dtype)
        if output_proj is None:
            hidden = exposed
        else:
            hidden = output_proj(exposed)
            if projection_clip is not None:
                hidden = hidden.clamp(-projection_clip, projection_clip)
        outputs.append(hidden)
    finished.append((hidden, cell))
    # Rows ended shortest first, so the pieces are in reverse row order.
    final_hidden = torch.cat([piece[0].to(outputs[0].dtype if outputs else hidden.dtype) for piece in finished[::-1]])
    final_cell = torch.cat([piece[1] for piece in finished[::-1]])
    packed = torch.cat(outputs) if outputs else inputs.new_zeros(0, hidden.shape[-1])
    return packed, final_hidden, final_cell


def reference_maxima(rows: Tensor, table: nn.Module, convolutions: Sequence[nn.Module]) -> Tensor:
    """Character convolutions and max-pooling over the word.

    Args:
        rows: (n, characters), int64 ids of n words, at least as long as the widest filter.
        table: the character table, ids -> (..., D).
        convolutions: of widths w_k, (n, D, characters) -> (n, F_k, characters - w_k + 1).

    Returns:
        (n, sum of F_k), the maximum of each filter over all windows of a word.
    """
    characters = table(rows).transpose(1, 2)  # [n, D, characters]
    return torch.cat([convolution(characters).amax(dim=-1) for convolution in convolutions], dim=-1)


# ------------------------------------------------------------------------------------------------ kernels


class LinearMap(NamedTuple):
    """Tensors of a plain linear layer, as passed to kernels.

    Attributes:
        weight: [out, in], floating point or int8.
        bias: [out], or `None`.
        scale: [out], of an int8 weight; otherwise `None`.
        keep: `keep(layout, make)` returns the cached result of `make()`, which is called again after a change of the
            weight; `None` if nothing may be cached, as while the layer is trained.
    """

    weight: Tensor
    bias: Tensor | None
    scale: Tensor | None
    keep: Keep | None


class LstmTensors(NamedTuple):
    """Weights of one direction of one layer: [4H, width], [4H], [4H, P], and [P, H] or `None`."""

    input_weight: Tensor
    input_bias: Tensor | None
    hidden_weight: Tensor
    output_weight: Tensor | None


@functools.cache
def _kernels() -> ModuleType | None:
    """The kernels of the installed package; `None` without the package, or if their version differs."""
    kernels = package_part("kernels")
    return kernels if getattr(kernels, "VERSION", None) == KERNELS_VERSION else None


def _ask(operator: str, *args: Any, **keywords: Any) -> Any:
    """Result of the first kernel that supports the call; `None` if none does, so that the reference must run."""
    kernels = _kernels()
    return None if kernels is None else kernels.ask(operator, *args, **keywords)


def _keeper(module: nn.Module, read: Sequence[Tensor | None], *beside: Tensor | None) -> Keep | None:
    """A `keep` function for weights prepared from the tensors `read`; `None` if these or `beside` are trained."""
    kernels = _kernels()
    return None if kernels is None else kernels.keeper(module, read, *beside)


def release(module: nn.Module, *, only_trainable: bool = False) -> None:
    """Drop the prepared weights of a module and its submodules, or only of those that are trainable."""
    kernels = _kernels()
    if kernels is not None:
        kernels.release(module, only_trainable=only_trainable)


def register(model: nn.Module) -> int | None:
    """Register a model for the custom operator of `opaque_parts` and return its number; `None` without the package."""
    kernels = _kernels()
    return None if kernels is None else kernels.register(model)


def kept_vectors(
    layer: nn.Module, max_megabytes: float, rows: Tensor, weights: Sequence[Tensor], encode: TensorFunction
) -> Tensor:
    """Encode distinct rows of integers through the installed package's word cache, if there is one.

    Args:
        layer: the word layer, the key of the cache.
        max_megabytes: maximum size of the layer's cache.
        rows: (n, length), int64, distinct.
        weights: all weights that `encode` reads; the cache is cleared when one changes.
        encode: (m, length) rows -> (m, width) vectors.

    Returns:
        (n, width).
    """
    kernels = _kernels()
    return encode(rows) if kernels is None else kernels.kept_vectors(layer, max_megabytes, rows, weights, encode)


def linear_map(layer: nn.Module) -> LinearMap | None:
    """Tensors of a plain `nn.Linear` or an int8 layer without hooks; `None` for any other layer.

    Prepared weights of a layer in training are released, because the next step makes them stale.
    """
    given: Any = layer
    if is_plain(layer, nn.Linear):
        weight, scale = given.weight, None
    elif vars(type(layer)).get("is_int8_linear", False) and has_nothing_attached(layer):  # not of a subclass
        weight, scale = given.quantized_weight, given.weight_scale
    else:
        return None
    read = (weight,) if scale is None else (weight, scale)
    return LinearMap(weight, given.bias, scale, _keeper(layer, read, given.bias))


def _lstm_tensors(lstm: Any) -> LstmTensors | None:
    """Weights of a direction whose three projections are plain `nn.Linear`; `None` for any other."""
    layers = lstm.input_proj, lstm.hidden_proj, lstm.output_proj
    if not has_nothing_attached(lstm) or not all(layer is None or is_plain(layer, nn.Linear) for layer in layers):
        return None
    if any(layer is not None and layer.bias is not None for layer in layers[1:]):
        return None
    first, second, third = layers
    return LstmTensors(first.weight, first.bias, second.weight, None if third is None else third.weight)


# ------------------------------------------------------------------------------------------------ dispatch


def bidirectional_lstm(
    inputs: tuple[Tensor, Tensor],
    batch_sizes: list[int],
    hidden: Tensor,
    cell: Tensor,
    forward_lstm: nn.Module,
    backward_lstm: nn.Module,
    indices: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Run both directions of a layer, which are independent of each other.

    Args:
        inputs: packed [total, P], forward and backward, each in its own reading order; with `indices`, [n, P].
        batch_sizes: number of rows at each step, never increasing.
        hidden: (2, rows, P); cell: (2, rows, H): initial states, forward and backward.
        forward_lstm, backward_lstm: modules, each called with words, batch sizes, hidden and cell; they return outputs,
            hidden and cell. They have the attributes `input_proj`, `hidden_proj`, `output_proj`, `cell_clip`,
            `projection_clip` and `forget_bias`.
        indices: for each direction [total], int64: word k is row `index[k]` of its `inputs`.

    Returns:
        The outputs of both directions [total, P], in the order of their words; the final hidden and cell, shaped as
        the initial ones.
    """
    lengths = getattr(batch_sizes, "lengths", None)
    pair = None if is_traced() or not len(inputs[0]) else _pair_of_tensors(forward_lstm, backward_lstm)
    if pair is not None:
        more = {**constants(forward_lstm), "indices": indices, "lengths": lengths}
        results = _ask("bidirectional_lstm", inputs, batch_sizes, hidden, cell, *pair, **more)
        if results is not None:
            return results
    if lengths is not None:
        raise RuntimeError("the batch was packed with padding, which no kernel supports here: call reads_padding first")
    outputs, finals = [], []
    for direction, lstm in enumerate((forward_lstm, backward_lstm)):
        keywords = {} if indices is None else {"index": indices[direction]}
        output, *final = lstm(inputs[direction], batch_sizes, hidden[direction], cell[direction], **keywords)
        outputs.append(output)
        finals.append(final)
    last_hidden, last_cell = (torch.stack(pair) for pair in zip(*finals, strict=True))
    return outputs[0], outputs[1], last_hidden, last_cell


def reads_padding(words: Tensor, cell: Tensor, layers: Sequence[tuple[Any, Any]]) -> bool:
    """True if a kernel runs all layers of a batch packed with padding, without copying its lengths from the GPU.

    Args:
        words: (batch, words, width).
        cell: (layers, 2, rows, H), with at least as many rows as the batch.
        layers: the forward and the backward module of each layer.
    """
    # On a CPU, reading the lengths costs nothing.
    if words.device.type != "cuda" or is_traced():
        return False
    pairs = [_pair_of_tensors(*layer) for layer in layers]
    return all(pair is not None for pair in pairs) and bool(_ask("reads_padding", words, cell, pairs))


def _pair_of_tensors(forward_lstm: Any, backward_lstm: Any) -> tuple[LstmTensors, LstmTensors] | None:
    """Weights of both directions; `None` unless all layers are plain and both directions have the same constants."""
    if constants(forward_lstm) != constants(backward_lstm):
        return None
    first, second = _lstm_tensors(forward_lstm), _lstm_tensors(backward_lstm)
    if first is None or second is None or (first.output_weight is None) != (second.output_weight is None):
        return None
    return first, second


def constants(lstm: Any) -> dict[str, Any]:
    """Clipping bounds and forget bias of a direction."""
    return {name: getattr(lstm, name) for name in ("cell_clip", "projection_clip", "forget_bias")}


def projected_lstm(
    inputs: Tensor,
    batch_sizes: Sequence[int],
    hidden: Tensor,
    cell: Tensor,
    *layers: nn.Module | None,
    **settings: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one direction of one layer; arguments and results as in `reference_lstm`.

    Takes modules instead of weights, because a layer wrapped by an adapter (LoRA), a quantizer or an offloading hook
    must be called.

    Args:
        layers: the projections of the input, the hidden state and the output; the last is `None` for no projection.
        settings: `cell_clip`, `projection_clip`, `forget_bias`; `index`.
    """
    settings = {"index": None, **settings}
    if not is_traced() and len(inputs):
        maps = [None if layer is None else linear_map(layer) for layer in layers]
        if all(layer is None or found is not None for layer, found in zip(layers, maps, strict=True)):
            results = _ask("projected_lstm", inputs, batch_sizes, hidden, cell, *maps, **settings)
            if results is not None:
                return results
    given: Any = layers
    return reference_lstm(inputs, batch_sizes, hidden, cell, *given, **settings)


def fast_linear(layer: nn.Module) -> Any | None:
    """A faster function for a plain `nn.Linear`, called like the layer; `None` if the layer itself must be called.

    It has an attribute `dtype`, that of its results. Valid only while the layer is unchanged: request it per batch.
    """
    if is_traced():
        return None
    found = linear_map(layer)
    return None if found is None or found.keep is None or found.scale is not None else _ask("linear", found)


def fast_int8_linear(layer: nn.Module) -> Any | None:
    """A faster function for an int8 layer, float32 [n, in] -> [n, out]; `None` if the reference must run."""
    if is_traced():
        return None
    found = linear_map(layer)
    return None if found is None or found.keep is None else _ask("int8_linear", found)


def signed_levels(levels: int) -> int:
    """Largest absolute integer of quantized inputs with negative values on this CPU (see [`quantized_linear`]).

    Equal to `levels` without an int8 kernel.
    """
    kernels = _kernels()
    return levels if kernels is None else kernels.signed_levels()


def character_maxima(rows: Tensor, table: nn.Module, convolutions: Sequence[nn.Module]) -> Tensor:
    """Character convolutions and max-pooling; arguments and result as in `reference_maxima`, but kernels return float32
    for half-precision weights."""
    # Tracing is tested first: `len(rows)` would become a constant in an exported graph.
    parts = [(table, nn.Embedding), *((convolution, nn.Conv1d) for convolution in convolutions)]
    if not is_traced() and len(rows) and all(is_plain(part, kind) for part, kind in parts):
        weights: list[Any] = [convolution.weight for convolution in convolutions]
        biases: list[Any] = [convolution.bias for convolution in convolutions]
        read: list[Any] = [table.weight, *weights, *biases]
        keep = _keeper(table, read)
        maxima = _ask("character_maxima", rows, table.weight, table.padding_idx, weights, biases, keep)
        if maxima is not None:
            return maxima
    return reference_maxima(rows, table, convolutions)

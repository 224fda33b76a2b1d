"""Triton kernels of one step of ELMo's recurrence: what stands between the matrix products, each read and written once.

Tensors are [2, rows, width], forward direction first, with rows next to each other; the stride between the directions
is an argument, so that a step may be a slice of a sequence. A program takes one block of one row. Everything is
computed in float32 whatever the dtype of the tensors, and the cell is float32. Each kernel also runs on processor
tensors under `TRITON_INTERPRET=1`.
"""

try:  # Within `try`, or loading a checkpoint with its code would demand it.
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("the LSTM kernels for GPUs need Triton: pip install 'elmo-hf[gpu]'") from error


@triton.jit
def sigmoid(x):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):  # type: ignore[no-untyped-def]
    """Exact to two units in the last place, near zero too: a polynomial there (Cephes, `tanhf`)."""
    size = tl.abs(x)
    square = x * x
    series = -5.70498872745e-3 * square + 2.06390887954e-2
    series = series * square - 5.37397155531e-2
    series = series * square + 1.33314422036e-1
    series = series * square - 3.33332819422e-1
    far = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    return tl.where(size < 0.625, x + x * square * series, tl.where(x < 0.0, -far, far))


@triton.jit
def clip(x, bound):  # type: ignore[no-untyped-def]
    """NaN stays, as in `torch.clamp`."""
    return tl.where(x > bound, bound, tl.where(x < -bound, -bound, x))


@triton.jit
def passes(x, bound):  # type: ignore[no-untyped-def]
    """Where a gradient passes `clip`: at the very bounds too, as in `torch.clamp`."""
    return (x >= -bound) & (x <= bound)


@triton.jit
def gate(gates, recurrent, bias, columns, inside):  # type: ignore[no-untyped-def]
    """The sum of a gate's three terms, rounded to the dtype in which it is kept."""
    total = tl.load(gates + columns, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(recurrent + columns, mask=inside, other=0.0).to(tl.float32)
    total += tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    return total.to(gates.dtype.element_ty).to(tl.float32)


@triton.jit(do_not_specialize=["step"])
def cell_forward(  # type: ignore[no-untyped-def]
    gates,
    gates_direction,
    recurrent,
    recurrent_direction,
    bias,
    cell,
    cell_direction,
    raw_cells,
    raw_direction,
    exposed,
    exposed_direction,
    remaining,
    step,
    size,
    cell_clip,
    forget_bias,
    CLIPS: tl.constexpr,
    SAVES: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gates i, f, g, o of [4 * size] and the cell before -> the cell after (in place) and output gate * tanh(cell).

    SAVES: the sums of the gates replace their input terms, and the cell before clipping goes to `raw_cells`.
    MASKED: a row whose `remaining` is not above `step` keeps its cell, and its `exposed` means nothing.
    """
    row = tl.program_id(0).to(tl.int64)
    direction = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    gates += direction * gates_direction + row * 4 * size
    recurrent += direction * recurrent_direction + row * 4 * size
    bias += direction * 4 * size
    cell += direction * cell_direction + row * size
    input_sum = gate(gates, recurrent, bias, columns, inside)
    forget_sum = gate(gates, recurrent, bias, columns + size, inside)
    candidate_sum = gate(gates, recurrent, bias, columns + 2 * size, inside)
    output_sum = gate(gates, recurrent, bias, columns + 3 * size, inside)
    before = tl.load(cell + columns, mask=inside, other=0.0)
    after = sigmoid(forget_sum + forget_bias) * before + sigmoid(input_sum) * tanh(candidate_sum)
    if SAVES:
        tl.store(gates + columns, input_sum, mask=inside)
        tl.store(gates + columns + size, forget_sum, mask=inside)
        tl.store(gates + columns + 2 * size, candidate_sum, mask=inside)
        tl.store(gates + columns + 3 * size, output_sum, mask=inside)
        tl.store(raw_cells + direction * raw_direction + row * size + columns, after, mask=inside)
    if CLIPS:
        after = clip(after, cell_clip)
    kept = size
    if MASKED:
        kept = tl.where(tl.load(remaining + row) > step, size, 0)
    tl.store(cell + columns, after, mask=columns < kept)
    exposed += direction * exposed_direction + row * size
    tl.store(exposed + columns, sigmoid(output_sum) * tanh(after), mask=inside)


@triton.jit(do_not_specialize=["following_rows", "step"])
def output_forward(  # type: ignore[no-untyped-def]
    raw,
    raw_direction,
    outputs,
    outputs_direction,
    following,
    following_direction,
    following_rows,
    final,
    final_direction,
    remaining,
    step,
    size,
    projection_clip,
    CLIPS: tl.constexpr,
    MASKED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Clip a step's raw outputs into `outputs` and into the hidden state that the next step reads.

    The first `following_rows` rows run on and go to `following`, the others have ended and go to `final`.
    MASKED: a row whose `remaining` is not above `step` puts out zeros and keeps its hidden state.
    """
    row = tl.program_id(0).to(tl.int64)
    direction = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    value = tl.load(raw + direction * raw_direction + row * size + columns, mask=inside, other=0.0).to(tl.float32)
    if CLIPS:
        value = clip(value, projection_clip)
    # How many columns of this row each destination takes.
    kept = size
    if MASKED:
        kept = tl.where(tl.load(remaining + row) > step, size, 0)
        value = tl.where(columns < kept, value, 0.0)
    runs_on = tl.where(row < following_rows, kept, 0)
    place = row * size + columns
    tl.store(outputs + direction * outputs_direction + place, value, mask=inside)
    tl.store(following + direction * following_direction + place, value, mask=columns < runs_on)
    tl.store(final + direction * final_direction + place, value, mask=columns < kept - runs_on)


@triton.jit
def output_backward(  # type: ignore[no-untyped-def]
    output_gradient,
    output_direction,
    hidden_gradient,
    hidden_direction,
    raw,
    raw_direction,
    raw_gradient,
    raw_gradient_direction,
    size,
    projection_clip,
    CLIPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of a step's output and of the hidden state after it -> `raw_gradient`, of the raw output."""
    row = tl.program_id(0).to(tl.int64)
    direction = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    place = row * size + columns
    gradient = tl.load(output_gradient + direction * output_direction + place, mask=inside, other=0.0).to(tl.float32)
    gradient += tl.load(hidden_gradient + direction * hidden_direction + place, mask=inside, other=0.0).to(tl.float32)
    if CLIPS:
        value = tl.load(raw + direction * raw_direction + place, mask=inside, other=0.0).to(tl.float32)
        gradient = tl.where(passes(value, projection_clip), gradient, 0.0)
    tl.store(raw_gradient + direction * raw_gradient_direction + place, gradient, mask=inside)


@triton.jit
def cell_backward(  # type: ignore[no-untyped-def]
    gates,
    gates_direction,
    raw_cells,
    raw_direction,
    before,
    before_direction,
    exposed_gradient,
    exposed_gradient_direction,
    cell_gradient,
    cell_direction,
    gate_gradient,
    gate_gradient_direction,
    exposed,
    exposed_direction,
    size,
    cell_clip,
    forget_bias,
    CLIPS: tl.constexpr,
    CLIPS_BEFORE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradient of what a step exposed -> of the sums of its gates; that of the cell goes one step back, in place.

    `gates` and `raw_cells` are as `cell_forward` saved them; `before` is the cell of the step before, not yet clipped
    if CLIPS_BEFORE. `exposed` is computed anew, for the gradient of the output weights.
    """
    row = tl.program_id(0).to(tl.int64)
    direction = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    place = row * size + columns
    gates += direction * gates_direction + row * 4 * size + columns
    input_gate = sigmoid(tl.load(gates, mask=inside, other=0.0).to(tl.float32))
    forget_gate = sigmoid(tl.load(gates + size, mask=inside, other=0.0).to(tl.float32) + forget_bias)
    candidate = tanh(tl.load(gates + 2 * size, mask=inside, other=0.0).to(tl.float32))
    output_gate = sigmoid(tl.load(gates + 3 * size, mask=inside, other=0.0).to(tl.float32))
    raw = tl.load(raw_cells + direction * raw_direction + place, mask=inside, other=0.0)
    cell_before = tl.load(before + direction * before_direction + place, mask=inside, other=0.0)
    if CLIPS_BEFORE:
        cell_before = clip(cell_before, cell_clip)
    cell = raw
    if CLIPS:
        cell = clip(raw, cell_clip)
    cell_tanh = tanh(cell)
    tl.store(exposed + direction * exposed_direction + place, output_gate * cell_tanh, mask=inside)
    d_exposed = tl.load(exposed_gradient + direction * exposed_gradient_direction + place, mask=inside, other=0.0)
    d_exposed = d_exposed.to(tl.float32)
    d_output = d_exposed * cell_tanh * output_gate * (1.0 - output_gate)
    carried = cell_gradient + direction * cell_direction + place
    d_cell = d_exposed * output_gate * (1.0 - cell_tanh * cell_tanh)
    d_cell += tl.load(carried, mask=inside, other=0.0)
    if CLIPS:
        d_cell = tl.where(passes(raw, cell_clip), d_cell, 0.0)
    tl.store(carried, d_cell * forget_gate, mask=inside)
    gate_gradient += direction * gate_gradient_direction + row * 4 * size + columns
    tl.store(gate_gradient, d_cell * candidate * input_gate * (1.0 - input_gate), mask=inside)
    tl.store(gate_gradient + size, d_cell * cell_before * forget_gate * (1.0 - forget_gate), mask=inside)
    tl.store(gate_gradient + 2 * size, d_cell * input_gate * (1.0 - candidate * candidate), mask=inside)
    tl.store(gate_gradient + 3 * size, d_output, mask=inside)

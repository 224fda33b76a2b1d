"""Triton kernels of one step of ELMo's recurrence: everything between the matmuls, fused.

Tensors per row are [rows, 2, width], forward direction first, contiguous; tensors per word are [total, 2, width] in
packed order. A program computes one block of one row and direction. Arithmetic and the cell are float32, whatever the
dtype of the tensors. Each kernel also runs on CPU tensors under `TRITON_INTERPRET=1`.

A CUDA graph replays kernels with fixed arguments, so everything that changes between calls is read from memory:
`table`, int64, holds the addresses of the tensors per word, in the order of `workspace.Words`; the current step is
`clock` plus (in the backward pass: minus) `position`; row r is active while the step is below `lengths[r]`, and keeps
its state afterwards.
"""

try:  # In `try`, because Transformers requires all other imports of a checkpoint's code.
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("the LSTM kernels for GPUs need Triton: pip install 'elmo-hf[gpu]'") from error

# Indices in the table of addresses.
OFFSETS = tl.constexpr(0)
GATES = tl.constexpr(1)
OUTPUTS = tl.constexpr(2)
RAW_CELLS = tl.constexpr(3)
RAW_OUTPUTS = tl.constexpr(4)
HIDDEN_BEFORE = tl.constexpr(5)
OUTPUT_GRADIENT = tl.constexpr(6)
GATE_GRADIENT = tl.constexpr(7)
RAW_OUTPUT_GRADIENT = tl.constexpr(8)
EXPOSED = tl.constexpr(9)


@triton.jit
def sigmoid(x):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):  # type: ignore[no-untyped-def]
    """Hyperbolic tangent, exact to two units in the last place; near zero by a polynomial (Cephes, `tanhf`)."""
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
    """Clip to [-bound, bound]; NaN is kept, as in `torch.clamp`."""
    return tl.where(x > bound, bound, tl.where(x < -bound, -bound, x))


@triton.jit
def passes(x, bound):  # type: ignore[no-untyped-def]
    """True if `clip` passes the gradient; it does at the exact bounds too, as `torch.clamp`."""
    return (x >= -bound) & (x <= bound)


@triton.jit
def word_of(table, step, row, takes_part):  # type: ignore[no-untyped-def]
    """Index of a row's word at a step; undefined if the row is not active."""
    offsets = tl.load(table + OFFSETS).to(tl.pointer_type(tl.int64))
    return tl.load(offsets + tl.where(takes_part, step, 0)) + row


@triton.jit
def of_words(table, SLOT: tl.constexpr, like):  # type: ignore[no-untyped-def]
    """Pointer to a tensor per word, with the element type of `like`; tensors are aligned to 16 bytes."""
    return tl.multiple_of(tl.load(table + SLOT).to(like.dtype), 16)


@triton.jit
def gate(terms, recurrent, bias, columns, inside, within):  # type: ignore[no-untyped-def]
    """Sum of a gate's three terms, rounded to the dtype in which it is saved."""
    total = tl.load(terms + columns, mask=inside, other=0.0).to(tl.float32)
    total += recurrent
    total += tl.load(bias + columns, mask=within, other=0.0).to(tl.float32)
    return total.to(bias.dtype.element_ty).to(tl.float32)


@triton.jit
def update_cell(  # type: ignore[no-untyped-def]
    table,
    first,
    step,
    row,
    direction,
    takes_part,
    columns,
    inside,
    recurrent,
    bias,
    cell,
    exposed,
    size,
    cell_clip,
    forget_bias,
    CLIPS: tl.constexpr,
    SAVES: tl.constexpr,
):
    """Recurrent terms i, f, g, o and previous cell -> new cell (in place) and output gate * tanh(cell) (`exposed`).

    `row`, `takes_part` and `columns` broadcast to the shape of `inside` and of each of the four `recurrent`. GATES
    holds the input terms of the gates. With SAVES, it covers the whole batch; the sums overwrite the terms, and the
    unclipped cell is written to RAW_CELLS. Without, it covers the words from step `first` on.
    """
    within = columns < size
    word = word_of(table, step, row, takes_part)
    place = row * 2 + direction
    terms = of_words(table, GATES, exposed)
    if SAVES:
        terms += (word * 2 + direction) * 4 * size
    else:
        terms += ((word - word_of(table, first, 0, takes_part)) * 2 + direction) * 4 * size
    bias += direction * 4 * size
    cell += place * size
    input_sum = gate(terms, recurrent[0], bias, columns, inside, within)
    forget_sum = gate(terms, recurrent[1], bias, columns + size, inside, within)
    candidate_sum = gate(terms, recurrent[2], bias, columns + 2 * size, inside, within)
    output_sum = gate(terms, recurrent[3], bias, columns + 3 * size, inside, within)
    before = tl.load(cell + columns, mask=inside, other=0.0)
    after = sigmoid(forget_sum + forget_bias) * before + sigmoid(input_sum) * tanh(candidate_sum)
    if SAVES:
        tl.store(terms + columns, input_sum, mask=inside)
        tl.store(terms + columns + size, forget_sum, mask=inside)
        tl.store(terms + columns + 2 * size, candidate_sum, mask=inside)
        tl.store(terms + columns + 3 * size, output_sum, mask=inside)
        raw_cells = of_words(table, RAW_CELLS, cell) + (word * 2 + direction) * size
        tl.store(raw_cells + columns, after, mask=inside)
    if CLIPS:
        after = clip(after, cell_clip)
    tl.store(cell + columns, after, mask=inside)
    tl.store(exposed + place * size + columns, sigmoid(output_sum) * tanh(after), mask=inside)


@triton.jit(do_not_specialize=["position"])
def cell_forward(  # type: ignore[no-untyped-def]
    table,
    clock,
    position,
    lengths,
    recurrent,
    bias,
    cell,
    exposed,
    size,
    cell_clip,
    forget_bias,
    CLIPS: tl.constexpr,
    SAVES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Apply `update_cell` to the recurrent terms of the gates, [rows, 2, 4 * size]."""
    row = tl.program_id(0).to(tl.int64)
    direction = tl.program_id(2).to(tl.int64)
    first = tl.load(clock)
    step = first + position
    takes_part = step < tl.load(lengths + row)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < tl.where(takes_part, size, 0)
    recurrent += (row * 2 + direction) * 4 * size + columns
    sums = (
        tl.load(recurrent, mask=inside, other=0.0).to(tl.float32),
        tl.load(recurrent + size, mask=inside, other=0.0).to(tl.float32),
        tl.load(recurrent + 2 * size, mask=inside, other=0.0).to(tl.float32),
        tl.load(recurrent + 3 * size, mask=inside, other=0.0).to(tl.float32),
    )
    update_cell(
        table, first, step, row, direction, takes_part, columns, inside, sums,
        bias, cell, exposed, size, cell_clip, forget_bias, CLIPS, SAVES,
    )  # fmt: skip


@triton.jit(do_not_specialize=["position", "rows"])
def fused_cell_forward(  # type: ignore[no-untyped-def]
    table,
    clock,
    position,
    lengths,
    hidden,
    weight,
    bias,
    cell,
    exposed,
    rows,
    size,
    cell_clip,
    forget_bias,
    WIDTH: tl.constexpr,
    CLIPS: tl.constexpr,
    SAVES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    """Matmul of the gates, hidden [rows, 2, WIDTH] by weight [2, 4 * size, WIDTH], fused with `cell_forward`.

    A program computes all four gates of COLUMNS cells of ROWS rows. The gates i, f, g, o are interleaved in groups of
    eight columns, so that in the accumulator registers of a tensor core one thread holds the four gates of a cell.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    direction = tl.program_id(2).to(tl.int64)
    is_row = row < rows
    first_column = tl.program_id(1) * COLUMNS
    place = tl.arange(0, 4 * COLUMNS)
    column = first_column + place // 32 * 8 + place % 8
    is_column = column < size
    hidden_rows = hidden + (row * 2 + direction) * WIDTH
    weight_rows = weight + (direction * 4 * size + place // 8 % 4 * size + column) * WIDTH
    sums = tl.full((ROWS, 4 * COLUMNS), 0.0, tl.float32)
    for start in range(0, WIDTH, INNER):
        inner = start + tl.arange(0, INNER)
        left = tl.load(
            hidden_rows[:, None] + inner[None, :], mask=is_row[:, None] & (inner < WIDTH)[None, :], other=0.0
        )
        right = tl.load(
            weight_rows[None, :] + inner[:, None], mask=is_column[None, :] & (inner < WIDTH)[:, None], other=0.0
        )
        sums = tl.dot(left, right, sums, input_precision="ieee")
    sums = sums.reshape(ROWS, COLUMNS // 8, 4, 8).permute(0, 1, 3, 2).reshape(ROWS, COLUMNS, 2, 2)
    even, odd = tl.split(sums)
    input_sum, candidate_sum = tl.split(even)
    forget_sum, output_sum = tl.split(odd)
    first = tl.load(clock)
    step = first + position
    takes_part = (is_row & (step < tl.load(lengths + row, mask=is_row, other=0)))[:, None]
    columns = (first_column + tl.arange(0, COLUMNS))[None, :]
    update_cell(
        table, first, step, row[:, None], direction, takes_part, columns, takes_part & (columns < size),
        (input_sum, forget_sum, candidate_sum, output_sum),
        bias, cell, exposed, size, cell_clip, forget_bias, CLIPS, SAVES,
    )  # fmt: skip


@triton.jit(do_not_specialize=["position"])
def output_forward(  # type: ignore[no-untyped-def]
    table,
    clock,
    position,
    lengths,
    parts,
    hidden,
    size,
    projection_clip,
    SPLITS: tl.constexpr,
    CLIPS: tl.constexpr,
    SAVES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sum the split-K parts of a step's raw outputs, [rows, 2, SPLITS, size], clip, and write OUTPUTS and `hidden`.

    With SAVES, the result is also written to HIDDEN_BEFORE of the row's next word, and with CLIPS the unclipped output
    to RAW_OUTPUTS.
    """
    row = tl.program_id(0).to(tl.int64)
    direction = tl.program_id(2).to(tl.int64)
    step = tl.load(clock) + position
    length = tl.load(lengths + row)
    takes_part = step < length
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < tl.where(takes_part, size, 0)
    place = row * 2 + direction
    parts += place * SPLITS * size
    value = tl.load(parts + columns, mask=inside, other=0.0).to(tl.float32)
    for split in tl.static_range(1, SPLITS):
        value += tl.load(parts + split * size + columns, mask=inside, other=0.0).to(tl.float32)
    value = value.to(hidden.dtype.element_ty).to(tl.float32)
    here = (word_of(table, step, row, takes_part) * 2 + direction) * size
    if CLIPS:
        if SAVES:
            tl.store(of_words(table, RAW_OUTPUTS, hidden) + here + columns, value, mask=inside)
        value = clip(value, projection_clip)
    tl.store(of_words(table, OUTPUTS, hidden) + here + columns, value, mask=inside)
    tl.store(hidden + place * size + columns, value, mask=inside)
    if SAVES:
        goes_on = step + 1 < length
        following = (word_of(table, step + 1, row, goes_on) * 2 + direction) * size
        within = columns < tl.where(goes_on, size, 0)
        tl.store(of_words(table, HIDDEN_BEFORE, hidden) + following + columns, value, mask=within)


@triton.jit(do_not_specialize=["position"])
def output_backward(  # type: ignore[no-untyped-def]
    table,
    clock,
    position,
    lengths,
    parts,
    hidden_gradient,
    raw_gradient,
    size,
    projection_clip,
    SPLITS: tl.constexpr,
    CLIPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradient of a step's raw output from those of its output and of the hidden state after it.

    The latter is the sum of the split-K `parts` of the following step, [rows, 2, SPLITS, size]; at a row's last step it
    is `hidden_gradient`, that of the final state. The result is written to `raw_gradient`, for the next matmul, and to
    RAW_OUTPUT_GRADIENT.
    """
    row = tl.program_id(0).to(tl.int64)
    direction = tl.program_id(2).to(tl.int64)
    step = tl.load(clock) - position
    length = tl.load(lengths + row)
    takes_part = step < length
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < tl.where(takes_part, size, 0)
    place = row * 2 + direction
    goes_on = columns < tl.where(step + 1 < length, size, 0)
    ends = columns < tl.where(step + 1 == length, size, 0)
    here = (word_of(table, step, row, takes_part) * 2 + direction) * size
    gradient = tl.load(hidden_gradient + place * size + columns, mask=ends, other=0.0).to(tl.float32)
    parts += place * SPLITS * size
    for split in tl.static_range(SPLITS):
        gradient += tl.load(parts + split * size + columns, mask=goes_on, other=0.0).to(tl.float32)
    of_output = of_words(table, OUTPUT_GRADIENT, raw_gradient) + here
    gradient += tl.load(of_output + columns, mask=inside, other=0.0).to(tl.float32)
    if CLIPS:
        raw = tl.load(of_words(table, RAW_OUTPUTS, raw_gradient) + here + columns, mask=inside, other=0.0)
        gradient = tl.where(passes(raw.to(tl.float32), projection_clip), gradient, 0.0)
    tl.store(raw_gradient + place * size + columns, gradient, mask=inside)
    tl.store(of_words(table, RAW_OUTPUT_GRADIENT, raw_gradient) + here + columns, gradient, mask=inside)


@triton.jit(do_not_specialize=["position"])
def cell_backward(  # type: ignore[no-untyped-def]
    table,
    clock,
    position,
    lengths,
    exposed_gradient,
    initial_cell,
    cell_gradient,
    gate_gradient,
    size,
    cell_clip,
    forget_bias,
    CLIPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Gradients of a step's gates before activation from that of `exposed`; updates the cell gradient in place.

    GATES and RAW_CELLS hold the values saved by `cell_forward`. The result is written to `gate_gradient`, for the next
    matmul, and to GATE_GRADIENT. `exposed` is recomputed into EXPOSED, for the gradient of the output weights.
    """
    row = tl.program_id(0).to(tl.int64)
    direction = tl.program_id(2).to(tl.int64)
    step = tl.load(clock) - position
    takes_part = step < tl.load(lengths + row)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < tl.where(takes_part, size, 0)
    place = row * 2 + direction
    here = word_of(table, step, row, takes_part) * 2 + direction
    gates = of_words(table, GATES, gate_gradient) + here * 4 * size + columns
    input_gate = sigmoid(tl.load(gates, mask=inside, other=0.0).to(tl.float32))
    forget_gate = sigmoid(tl.load(gates + size, mask=inside, other=0.0).to(tl.float32) + forget_bias)
    candidate = tanh(tl.load(gates + 2 * size, mask=inside, other=0.0).to(tl.float32))
    output_gate = sigmoid(tl.load(gates + 3 * size, mask=inside, other=0.0).to(tl.float32))
    raw_cells = of_words(table, RAW_CELLS, cell_gradient)
    raw = tl.load(raw_cells + here * size + columns, mask=inside, other=0.0)
    # The previous cell is clipped, except the initial one.
    has_before = takes_part & (step > 0)
    within = columns < tl.where(has_before, size, 0)
    at_start = columns < tl.where(takes_part & (step == 0), size, 0)
    earlier = word_of(table, step - 1, row, has_before) * 2 + direction
    before = tl.load(raw_cells + earlier * size + columns, mask=within, other=0.0)
    if CLIPS:
        before = clip(before, cell_clip)
    before += tl.load(initial_cell + place * size + columns, mask=at_start, other=0.0)
    cell = raw
    if CLIPS:
        cell = clip(raw, cell_clip)
    cell_tanh = tanh(cell)
    exposed = of_words(table, EXPOSED, gate_gradient) + here * size + columns
    tl.store(exposed, output_gate * cell_tanh, mask=inside)
    d_exposed = tl.load(exposed_gradient + place * size + columns, mask=inside, other=0.0).to(tl.float32)
    d_output = d_exposed * cell_tanh * output_gate * (1.0 - output_gate)
    carried = cell_gradient + place * size + columns
    d_cell = d_exposed * output_gate * (1.0 - cell_tanh * cell_tanh)
    d_cell += tl.load(carried, mask=inside, other=0.0)
    if CLIPS:
        d_cell = tl.where(passes(raw, cell_clip), d_cell, 0.0)
    tl.store(carried, d_cell * forget_gate, mask=inside)
    d_input = d_cell * candidate * input_gate * (1.0 - input_gate)
    d_forget = d_cell * before * forget_gate * (1.0 - forget_gate)
    d_candidate = d_cell * input_gate * (1.0 - candidate * candidate)
    gate_gradient += place * 4 * size + columns
    tl.store(gate_gradient, d_input, mask=inside)
    tl.store(gate_gradient + size, d_forget, mask=inside)
    tl.store(gate_gradient + 2 * size, d_candidate, mask=inside)
    tl.store(gate_gradient + 3 * size, d_output, mask=inside)
    kept = of_words(table, GATE_GRADIENT, gate_gradient) + here * 4 * size + columns
    tl.store(kept, d_input, mask=inside)
    tl.store(kept + size, d_forget, mask=inside)
    tl.store(kept + 2 * size, d_candidate, mask=inside)
    tl.store(kept + 3 * size, d_output, mask=inside)


@triton.jit
def write_addresses(table, a, b, c, d, e, f, g, h, i, j):  # type: ignore[no-untyped-def]
    """Write the addresses of ten tensors into a table on the device, without a copy from the host."""
    tl.store(table + 0, a.to(tl.int64))
    tl.store(table + 1, b.to(tl.int64))
    tl.store(table + 2, c.to(tl.int64))
    tl.store(table + 3, d.to(tl.int64))
    tl.store(table + 4, e.to(tl.int64))
    tl.store(table + 5, f.to(tl.int64))
    tl.store(table + 6, g.to(tl.int64))
    tl.store(table + 7, h.to(tl.int64))
    tl.store(table + 8, i.to(tl.int64))
    tl.store(table + 9, j.to(tl.int64))

/* The projected, clipped LSTM in training: a forward pass that keeps what the backward pass needs, and the backward
   pass.

   Everything as wide as the cell is kept in panels, [units / NR][words][NR]. Register tiles write this layout, the
   point-wise code reads it, and further matmuls take it without repacking: as panels of a weight in sums over words, as
   rows in sums over units.

   Weights change with every optimizer step, so they are packed in every call.

   Threads divide the units, then the outputs of the projection, of a step, and synchronize in between. Each sum is
   computed by one thread in a fixed order, whatever the number of threads. */

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "activations.h"
#include "float_panels.h"
#include "library.h"
#include "memory.h"
#include "packing.h"
#include "threads.h"

/* Row of a gate weight [4H][...] at which the NR rows of a panel begin. */
INLINE int64_t gate_row(int64_t panel, int64_t size) { return panel % 4 * size + panel / 4 * NR; }

/* Forward pass */

typedef struct {
    const TrainingForward *job;
    int64_t total;
    float *joined;        /* [ceil(running[0] / MR)][I + P][MR]: inputs and hidden states in tiles of rows */
    float *gate_panels;   /* [4H / NR][I + P][NR]: input and hidden weights */
    float *bias;          /* [4H / NR][NR] */
    float *output_panels; /* [P / NR][H][NR] */
} ForwardTask;

static void pack_forward_weights(const ForwardTask *task, int64_t thread, const Team *team)
{
    const TrainingForward *job = task->job;
    const int64_t inputs = job->input_width, width = job->width, size = job->size;
    const Share gates = share_of(4 * size / NR, thread, team);
    for (int64_t panel = gates.first; panel < gates.end; panel++) {
        const int64_t row = gate_row(panel, size);
        float *target = task->gate_panels + panel * (inputs + width) * NR;
        pack_transposed(job->input_weight + row * inputs, inputs, NR, target);
        pack_transposed(job->hidden_weight + row * width, width, NR, target + inputs * NR);
        for (int64_t l = 0; l < NR; l++)
            task->bias[panel * NR + l] = job->bias[row + l] + (panel % 4 == 1 ? job->forget_bias : 0.0f);
    }
    if (!job->output_weight) return;
    const Share outputs = share_of(width / NR, thread, team);
    for (int64_t panel = outputs.first; panel < outputs.end; panel++)
        pack_transposed(job->output_weight + panel * NR * size, size, NR, task->output_panels + panel * size * NR);
}

/* Address of value k of a row in `joined`. */
INLINE float *joined_place(const ForwardTask *task, int64_t row, int64_t k)
{
    return task->joined + (row / MR * (task->job->input_width + task->job->width) + k) * MR + row % MR;
}

/* Copy values of a row into `joined`, from value k on. */
static void join_row(const ForwardTask *task, int64_t row, int64_t k, const float *values, int64_t count)
{
    float *target = joined_place(task, row, k);
    for (int64_t value = 0; value < count; value++) target[value * MR] = values[value];
}

static void join_inputs(const ForwardTask *task, int64_t word, Share rows)
{
    const int64_t inputs = task->job->input_width;
    for (int64_t row = rows.first; row < rows.end; row++)
        join_row(task, row, 0, task->job->inputs + (word + row) * inputs, inputs);
}

/* For NR units of a step's rows, activate the gates, `panel_stride` apart, and write the new cells and their outputs.
   `before` holds the previous cells, `before_stride` apart: raw ones, to be clipped, or those of the initial state. */
static void update_cells(int64_t rows, float *gates, int64_t panel_stride, const float *before, int64_t before_stride,
                         float before_clip, float cell_clip, float *raw_cells, float *cell_outputs)
{
    for (int64_t r = 0; r < rows; r++) {
        UNROLL
        for (int half = 0; half < NR; half += LANES) {
            const int64_t place = r * NR + half;
            const vfloat input_gate = sigmoid(load(gates + place));
            const vfloat forget_gate = sigmoid(load(gates + panel_stride + place));
            const vfloat candidate = hyperbolic_tangent(load(gates + 2 * panel_stride + place));
            const vfloat output_gate = sigmoid(load(gates + 3 * panel_stride + place));
            const vfloat cell = clip(load(before + r * before_stride + half), before_clip);
            const vfloat raw_cell = forget_gate * cell + input_gate * candidate;
            store(gates + place, input_gate);
            store(gates + panel_stride + place, forget_gate);
            store(gates + 2 * panel_stride + place, candidate);
            store(gates + 3 * panel_stride + place, output_gate);
            store(raw_cells + place, raw_cell);
            store(cell_outputs + place, output_gate * hyperbolic_tangent(clip(raw_cell, cell_clip)));
        }
    }
}

static void forward_units(const ForwardTask *task, int64_t word, int64_t word_before, int64_t running, Share groups)
{
    const TrainingForward *job = task->job;
    const int64_t inputs = job->input_width + job->width, panel_stride = task->total * NR;
    for (int64_t group = groups.first; group < groups.end; group++) {
        float *gates = job->gates + 4 * group * panel_stride + word * NR;
        for (int64_t gate = 0; gate < 4; gate++) {
            const int64_t panel = 4 * group + gate;
            for (int64_t k = 0; k < inputs; k += K_BLOCK)
                multiply_rows_of_tiles(task->joined + k * MR, running, inputs * MR,
                                       task->gate_panels + (panel * inputs + k) * NR, smaller(inputs - k, K_BLOCK),
                                       gates + gate * panel_stride, NR, k ? NULL : task->bias + panel * NR, k > 0,
                                       task->gate_panels + ((panel + 1) * inputs + k) * NR);
        }
        float *cells = job->raw_cells + group * panel_stride;
        float *cell_outputs = job->cell_outputs + group * panel_stride + word * NR;
        if (word_before < 0)
            update_cells(running, gates, panel_stride, job->cell + group * NR, job->size, HUGE_VALF, job->cell_clip,
                         cells + word * NR, cell_outputs);
        else
            update_cells(running, gates, panel_stride, cells + word_before * NR, NR, job->cell_clip, job->cell_clip,
                         cells + word * NR, cell_outputs);
    }
}

/* Compute columns of a step's outputs, and the hidden state for the next step. */
static void forward_outputs(const ForwardTask *task, int64_t word, int64_t running, Share panels)
{
    const TrainingForward *job = task->job;
    const int64_t width = job->width, size = job->size, panel_stride = task->total * NR;
    if (job->output_weight) {
        for (int64_t k = 0; k < size; k += K_BLOCK) {
            for (int64_t panel = panels.first; panel < panels.end; panel++) {
                const float *part = task->output_panels + (panel * size + k) * NR;
                multiply_rows_of_panels(job->cell_outputs + k / NR * panel_stride + word * NR, running, panel_stride,
                                        part, smaller(size - k, K_BLOCK), job->raw_outputs + word * width + panel * NR,
                                        width, k > 0, part + size * NR);
            }
        }
    }
    for (int64_t panel = panels.first; panel < panels.end; panel++) {
        const float *cell_outputs = job->cell_outputs + panel * panel_stride + word * NR;
        for (int64_t row = 0; row < running; row++) {
            UNROLL
            for (int half = 0; half < NR; half += LANES) {
                const int64_t place = (word + row) * width + panel * NR + half;
                const vfloat output = job->output_weight ? clip(load(job->raw_outputs + place), job->projection_clip)
                                                         : load(cell_outputs + row * NR + half);
                store(job->outputs + place, output);
            }
            join_row(task, row, job->input_width + panel * NR, job->outputs + (word + row) * width + panel * NR, NR);
        }
    }
}

/* Write the state of each row after its own last word. */
static void final_states(const ForwardTask *task, Share rows)
{
    const TrainingForward *job = task->job;
    const int64_t width = job->width, size = job->size, panel_stride = task->total * NR;
    int64_t word = task->total;
    int64_t finished = 0;
    for (int64_t step = job->steps - 1; step >= 0; step--) {
        word -= job->running[step];
        const int64_t end = smaller(job->running[step], rows.end);
        for (int64_t row = larger(finished, rows.first); row < end; row++) {
            memcpy(job->final_hidden + row * width, job->outputs + (word + row) * width, (size_t)width * sizeof(float));
            for (int64_t unit = 0; unit < size; unit += LANES)
                store(job->final_cell + row * size + unit,
                      clip(load(job->raw_cells + unit / NR * panel_stride + (word + row) * NR + unit % NR),
                           job->cell_clip));
        }
        finished = job->running[step];
    }
}

static void run_forward(void *argument, int64_t thread, Team *team)
{
    const ForwardTask *task = argument;
    const TrainingForward *job = task->job;
    const Share groups = share_of(job->size / NR, thread, team), panels = share_of(job->width / NR, thread, team);
    pack_forward_weights(task, thread, team);
    const Share first_rows = share_of(job->running[0], thread, team);
    join_inputs(task, 0, first_rows);
    for (int64_t row = first_rows.first; row < first_rows.end; row++)
        join_row(task, row, job->input_width, job->hidden + row * job->width, job->width);
    team_barrier(team);
    int64_t word = 0, word_before = -1;
    for (int64_t step = 0; step < job->steps; step++) {
        const int64_t running = job->running[step];
        forward_units(task, word, word_before, running, groups);
        team_barrier(team);
        forward_outputs(task, word, running, panels);
        word_before = word;
        word += running;
        if (step + 1 < job->steps) join_inputs(task, word, share_of(job->running[step + 1], thread, team));
        team_barrier(team);
    }
    final_states(task, first_rows);
}

static int64_t total_words(const TrainingForward *job)
{
    int64_t total = 0;
    for (int64_t step = 0; step < job->steps; step++) total += job->running[step];
    return total;
}

static void lay_out_forward(ForwardTask *task, Scratch *scratch)
{
    const TrainingForward *job = task->job;
    const int64_t inputs = job->input_width + job->width, size = job->size;
    task->joined = scratch_floats(scratch, ceil_divide(job->running[0], MR) * inputs * MR);
    task->gate_panels = scratch_floats(scratch, 4 * size * inputs);
    task->bias = scratch_floats(scratch, 4 * size);
    task->output_panels = scratch_floats(scratch, job->output_weight ? job->width * size : 0);
}

int elmo_training_forward(const TrainingForward *job, int64_t threads)
{
    ForwardTask task = {.job = job, .total = total_words(job)};
    Scratch scratch = {0};
    lay_out_forward(&task, &scratch);
    if (!reserve_scratch(&scratch)) return 1;
    lay_out_forward(&task, &scratch);
    run_team(run_forward, &task, threads);
    release_scratch(&scratch);
    return 0;
}

/* Backward pass

   It runs backwards over chunks of steps. Within a chunk, gate gradients are computed step by step; then the gradients
   of weights and inputs are computed for the whole chunk, while its gate gradients are in the caches. */

typedef struct {
    const TrainingBackward *job;
    int64_t total, capacity; /* number of words, and the maximum per chunk */
    int64_t chunk_stride,
        row_stride;            /* floats from panel to panel of `gate_gradients`, row to row of `raw_gradients` */
    float *hidden_panels;      /* [P / NR][4H][NR]: inputs in the order of the gate panels */
    float *input_panels;       /* [I / NR][4H][NR] */
    float *output_panels;      /* [H / NR][P][NR] */
    float *cell_gradient;      /* [H / NR][running[0]][NR] */
    float *unit_gradients;     /* [threads][running[0]][NR]: gradients of cell outputs */
    float *gate_gradients;     /* [4H / NR][chunk][NR], before the activation */
    float *raw_gradients;      /* [chunk][row_stride]: gradients of raw outputs */
    float *raw_gradient_tiles; /* [ceil(P / MR)][chunk][MR]: the same */
    float *input_tiles, *hidden_tiles; /* [ceil(I / MR)][chunk][MR] and P: operands of the gate weights */
    /* Sums of weight gradients: [4H / NR][I][NR], [4H / NR][P][NR], [H / NR][P][NR], [4H]. */
    float *input_weight_sums, *hidden_weight_sums, *output_weight_sums, *bias_sums;
} BackwardTask;

static void pack_backward_weights(const BackwardTask *task, int64_t thread, const Team *team)
{
    const TrainingBackward *job = task->job;
    const TrainingForward *forward = &job->forward;
    const int64_t inputs = forward->input_width, width = forward->width, size = forward->size;
    const Share gates = share_of(4 * size / NR, thread, team), groups = share_of(size / NR, thread, team);
    for (int64_t gate = gates.first; gate < gates.end; gate++) {
        const int64_t row = gate_row(gate, size);
        for (int64_t panel = 0; panel < width / NR; panel++)
            pack_columns(forward->hidden_weight + row * width + panel * NR, NR, width,
                         task->hidden_panels + (panel * 4 * size + gate * NR) * NR);
        for (int64_t panel = 0; job->input_gradient && panel < inputs / NR; panel++)
            pack_columns(forward->input_weight + row * inputs + panel * NR, NR, inputs,
                         task->input_panels + (panel * 4 * size + gate * NR) * NR);
    }
    for (int64_t group = groups.first; forward->output_weight && group < groups.end; group++)
        pack_columns(forward->output_weight + group * NR, width, size, task->output_panels + group * width * NR);
}

/* Compute gradients of NR columns of a step's raw outputs; they are zero where the clip acted. `chunk_word` is the
   index of the step's first row in the chunk. */
static void backward_outputs(const BackwardTask *task, int64_t word, int64_t chunk_word, int64_t running, Share panels)
{
    const TrainingForward *forward = &task->job->forward;
    const int64_t width = forward->width;
    const float bound = forward->projection_clip;
    for (int64_t row = 0; row < running; row++) {
        for (int64_t column = panels.first * NR; column < panels.end * NR; column += LANES) {
            const int64_t place = (word + row) * width + column;
            vfloat gradient =
                load(task->job->hidden_gradient + row * width + column) + load(task->job->output_gradient + place);
            if (forward->output_weight) {
                const vfloat raw = load(forward->raw_outputs + place);
                const vint clipped = (raw > broadcast(bound)) | (raw < broadcast(-bound));
                gradient = select_lanes(clipped, (vfloat){0}, gradient);
            }
            store(task->raw_gradients + (chunk_word + row) * task->row_stride + column, gradient);
        }
    }
}

/* Operands and results of the point-wise part of the backward pass, for NR units of a step's rows. */
typedef struct {
    int64_t rows, panel_stride, gradient_stride; /* strides, in floats, of gate panels and of their gradients */
    const float *gates, *raw_cells;
    const float *before;
    int64_t before_stride;
    float before_clip, cell_clip;
    const float *output_gradient; /* gradient of cell outputs */
    int64_t output_stride;
    float *cell_gradient;  /* [rows][NR]: of the cell after the step, overwritten by that of the cell before it */
    float *gate_gradients; /* [4][...][NR] */
    float *bias_sums;      /* [4][NR] */
} UnitGradients;

static void backward_cells(const UnitGradients *units)
{
    const int64_t stride = units->panel_stride, gradient_stride = units->gradient_stride;
    for (int half = 0; half < NR; half += LANES) {
        vfloat sums[4];
        for (int gate = 0; gate < 4; gate++) sums[gate] = load(units->bias_sums + gate * NR + half);
        for (int64_t r = 0; r < units->rows; r++) {
            const int64_t place = r * NR + half;
            const vfloat input_gate = load(units->gates + place);
            const vfloat forget_gate = load(units->gates + stride + place);
            const vfloat candidate = load(units->gates + 2 * stride + place);
            const vfloat output_gate = load(units->gates + 3 * stride + place);
            const vfloat raw_cell = load(units->raw_cells + place);
            const vfloat before = clip(load(units->before + r * units->before_stride + half), units->before_clip);
            const vfloat output_gradient = load(units->output_gradient + r * units->output_stride + half);
            /* cell output = output gate * tanh(clip(raw cell)) */
            const vfloat cell_tanh = hyperbolic_tangent(clip(raw_cell, units->cell_clip));
            vfloat cell_gradient =
                load(units->cell_gradient + place) + output_gradient * output_gate * (1.0f - cell_tanh * cell_tanh);
            const vint clipped = (raw_cell > broadcast(units->cell_clip)) | (raw_cell < broadcast(-units->cell_clip));
            cell_gradient = select_lanes(clipped, (vfloat){0}, cell_gradient);
            /* raw cell = forget gate * cell before + input gate * candidate */
            const vfloat gradients[4] = {
                cell_gradient * candidate * input_gate * (1.0f - input_gate),
                cell_gradient * before * forget_gate * (1.0f - forget_gate),
                cell_gradient * input_gate * (1.0f - candidate * candidate),
                output_gradient * cell_tanh * output_gate * (1.0f - output_gate),
            };
            store(units->cell_gradient + place, cell_gradient * forget_gate);
            UNROLL
            for (int gate = 0; gate < 4; gate++) {
                store(units->gate_gradients + gate * gradient_stride + place, gradients[gate]);
                sums[gate] += gradients[gate];
            }
        }
        for (int gate = 0; gate < 4; gate++) store(units->bias_sums + gate * NR + half, sums[gate]);
    }
}

static void backward_units(const BackwardTask *task, int64_t word, int64_t word_before, int64_t chunk_word,
                           int64_t running, Share groups, float *unit_gradients)
{
    const TrainingForward *forward = &task->job->forward;
    const int64_t width = forward->width, panel_stride = task->total * NR;
    const float *raw_gradients = task->raw_gradients + chunk_word * task->row_stride;
    for (int64_t group = groups.first; group < groups.end; group++) {
        for (int64_t k = 0; forward->output_weight && k < width; k += K_BLOCK)
            multiply_float_panel(raw_gradients + k, running, task->row_stride,
                                 task->output_panels + (group * width + k) * NR, 0, smaller(width - k, K_BLOCK),
                                 unit_gradients, NR, NULL, k > 0, NULL);
        const float *cells = forward->raw_cells + group * panel_stride;
        const UnitGradients units = {
            .rows = running,
            .panel_stride = panel_stride,
            .gradient_stride = task->chunk_stride,
            .gates = forward->gates + 4 * group * panel_stride + word * NR,
            .raw_cells = cells + word * NR,
            .before = word_before < 0 ? forward->cell + group * NR : cells + word_before * NR,
            .before_stride = word_before < 0 ? forward->size : NR,
            .before_clip = word_before < 0 ? HUGE_VALF : forward->cell_clip,
            .cell_clip = forward->cell_clip,
            .output_gradient = forward->output_weight ? unit_gradients : raw_gradients + group * NR,
            .output_stride = forward->output_weight ? NR : task->row_stride,
            .cell_gradient = task->cell_gradient + group * forward->running[0] * NR,
            .gate_gradients = task->gate_gradients + 4 * group * task->chunk_stride + chunk_word * NR,
            .bias_sums = task->bias_sums + 4 * group * NR,
        };
        backward_cells(&units);
    }
}

/* target [rows][target_stride] = gate gradients of `rows` words of the chunk * weight [...][4H][NR], for a thread's
   share of the panels. */
static void backward_through_gates(const BackwardTask *task, int64_t chunk_word, int64_t rows, const float *weight,
                                   Share panels, float *target, int64_t target_stride)
{
    const int64_t gates = 4 * task->job->forward.size;
    for (int64_t k = 0; k < gates; k += K_BLOCK) {
        for (int64_t panel = panels.first; panel < panels.end; panel++) {
            const float *part = weight + (panel * gates + k) * NR;
            multiply_rows_of_panels(task->gate_gradients + k / NR * task->chunk_stride + chunk_word * NR, rows,
                                    task->chunk_stride, part, smaller(gates - k, K_BLOCK), target + panel * NR,
                                    target_stride, k > 0, part + gates * NR);
        }
    }
}

/* Pack the matmul operands of a step's rows, and the gradients of their outputs, into tiles. */
static void pack_step(const BackwardTask *task, int64_t word, int64_t word_before, int64_t chunk_word, int64_t running,
                      int64_t thread, const Team *team)
{
    const TrainingBackward *job = task->job;
    const TrainingForward *forward = &job->forward;
    const int64_t inputs = forward->input_width, width = forward->width, tile_stride = task->capacity * MR;
    const Share of_width = share_of(ceil_divide(width, MR), thread, team);
    const float *hidden = word_before < 0 ? forward->hidden : forward->outputs + word_before * width;
    if (job->input_weight_gradient)
        pack_tiles(forward->inputs + word * inputs, running, inputs, inputs, task->input_tiles + chunk_word * MR,
                   tile_stride, share_of(ceil_divide(inputs, MR), thread, team));
    if (job->hidden_weight_gradient)
        pack_tiles(hidden, running, width, width, task->hidden_tiles + chunk_word * MR, tile_stride, of_width);
    if (job->output_weight_gradient)
        pack_tiles(task->raw_gradients + chunk_word * task->row_stride, running, task->row_stride, width,
                   task->raw_gradient_tiles + chunk_word * MR, tile_stride, of_width);
}

/* sums [panels][rows][NR] += tiles [rows over words] * panels [words][NR], over the words of a chunk. */
static void add_weight_gradient(const BackwardTask *task, const float *tiles, int64_t rows, const float *panels,
                                int64_t panel_stride, int64_t words, Share of_panels, int is_first, float *sums)
{
    for (int64_t panel = of_panels.first; panel < of_panels.end; panel++) {
        for (int64_t word = 0; word < words; word += K_BLOCK) {
            const float *part = panels + panel * panel_stride + word * NR;
            multiply_rows_of_tiles(tiles + word * MR, rows, task->capacity * MR, part, smaller(words - word, K_BLOCK),
                                   sums + panel * rows * NR, NR, NULL, !is_first || word > 0, part + panel_stride);
        }
    }
}

static void write_weight_gradients(const BackwardTask *task, Share gates, Share groups)
{
    const TrainingBackward *job = task->job;
    const TrainingForward *forward = &job->forward;
    const int64_t inputs = forward->input_width, width = forward->width, size = forward->size;
    for (int64_t panel = gates.first; panel < gates.end; panel++) {
        const int64_t row = gate_row(panel, size);
        if (job->input_weight_gradient)
            unpack_transposed(task->input_weight_sums + panel * inputs * NR, inputs, NR,
                              job->input_weight_gradient + row * inputs);
        if (job->hidden_weight_gradient)
            unpack_transposed(task->hidden_weight_sums + panel * width * NR, width, NR,
                              job->hidden_weight_gradient + row * width);
        if (job->bias_gradient) memcpy(job->bias_gradient + row, task->bias_sums + panel * NR, NR * sizeof(float));
    }
    for (int64_t group = groups.first; job->output_weight_gradient && group < groups.end; group++)
        for (int64_t row = 0; row < width; row++)
            memcpy(job->output_weight_gradient + row * size + group * NR,
                   task->output_weight_sums + (group * width + row) * NR, NR * sizeof(float));
}

/* Copy the cell gradient between its plain layout [rows][H] and panels [H / NR][rows][NR]. */
static void exchange_cell_gradient(const BackwardTask *task, Share groups, int to_panels)
{
    const int64_t size = task->job->forward.size, rows = task->job->forward.running[0];
    for (int64_t group = groups.first; group < groups.end; group++) {
        for (int64_t row = 0; row < rows; row++) {
            float *plain = task->job->cell_gradient + row * size + group * NR;
            float *panel = task->cell_gradient + (group * rows + row) * NR;
            if (to_panels) memcpy(panel, plain, NR * sizeof(float));
            else memcpy(plain, panel, NR * sizeof(float));
        }
    }
}

/* First step of the chunk that ends before `end` and has as many steps as fit. Also counts its words. */
static int64_t chunk_start(const BackwardTask *task, int64_t end, int64_t *words)
{
    const int64_t *running = task->job->forward.running;
    int64_t step = end;
    for (*words = 0; step > 0 && *words + running[step - 1] <= task->capacity; step--) *words += running[step - 1];
    return step;
}

/* Compute gradients of weights and inputs from the gate gradients of a chunk. */
static void finish_chunk(const BackwardTask *task, int64_t first_word, int64_t words, int is_first, int64_t thread,
                         const Team *team)
{
    const TrainingBackward *job = task->job;
    const TrainingForward *forward = &job->forward;
    const int64_t inputs = forward->input_width, width = forward->width, size = forward->size;
    const Share gates = share_of(4 * size / NR, thread, team);
    if (job->input_gradient)
        backward_through_gates(task, 0, words, task->input_panels, share_of(inputs / NR, thread, team),
                               job->input_gradient + first_word * inputs, inputs);
    if (job->input_weight_gradient)
        add_weight_gradient(task, task->input_tiles, inputs, task->gate_gradients, task->chunk_stride, words, gates,
                            is_first, task->input_weight_sums);
    if (job->hidden_weight_gradient)
        add_weight_gradient(task, task->hidden_tiles, width, task->gate_gradients, task->chunk_stride, words, gates,
                            is_first, task->hidden_weight_sums);
    if (job->output_weight_gradient)
        add_weight_gradient(task, task->raw_gradient_tiles, width, forward->cell_outputs + first_word * NR,
                            task->total * NR, words, share_of(size / NR, thread, team), is_first,
                            task->output_weight_sums);
}

static void run_backward(void *argument, int64_t thread, Team *team)
{
    const BackwardTask *task = argument;
    const TrainingBackward *job = task->job;
    const TrainingForward *forward = &job->forward;
    const int64_t width = forward->width, size = forward->size;
    const Share groups = share_of(size / NR, thread, team), outputs = share_of(width / NR, thread, team);
    float *unit_gradients = task->unit_gradients + thread * forward->running[0] * NR;
    pack_backward_weights(task, thread, team);
    exchange_cell_gradient(task, groups, 1);
    memset(task->bias_sums + 4 * groups.first * NR, 0, (size_t)(4 * (groups.end - groups.first) * NR) * sizeof(float));
    team_barrier(team);
    int64_t word = task->total, chunk_words;
    for (int64_t end = forward->steps, start; end > 0; end = start) {
        start = chunk_start(task, end, &chunk_words);
        const int64_t first_word = word - chunk_words;
        for (int64_t step = end - 1; step >= start; step--) {
            const int64_t running = forward->running[step];
            word -= running;
            const int64_t word_before = step ? word - forward->running[step - 1] : -1, chunk_word = word - first_word;
            backward_outputs(task, word, chunk_word, running, outputs);
            team_barrier(team);
            backward_units(task, word, word_before, chunk_word, running, groups, unit_gradients);
            pack_step(task, word, word_before, chunk_word, running, thread, team);
            team_barrier(team);
            backward_through_gates(task, chunk_word, running, task->hidden_panels, outputs, job->hidden_gradient,
                                   width);
        }
        finish_chunk(task, first_word, chunk_words, end == forward->steps, thread, team);
        team_barrier(team);
    }
    write_weight_gradients(task, share_of(4 * size / NR, thread, team), groups);
    exchange_cell_gradient(task, groups, 0);
}

static void lay_out_backward(BackwardTask *task, int64_t threads, Scratch *scratch)
{
    const TrainingBackward *job = task->job;
    const TrainingForward *forward = &job->forward;
    const int64_t inputs = forward->input_width, width = forward->width, size = forward->size;
    const int64_t rows = forward->running[0], words = task->capacity = smaller(task->total, larger(rows, K_BLOCK));
    /* Odd strides, in cache lines, spread panels over the sets of the caches. */
    task->chunk_stride = (words | 1) * NR;
    task->row_stride = width + NR;
    task->hidden_panels = scratch_floats(scratch, 4 * size * width);
    task->input_panels = scratch_floats(scratch, job->input_gradient ? 4 * size * inputs : 0);
    task->output_panels = scratch_floats(scratch, forward->output_weight ? size * width : 0);
    task->cell_gradient = scratch_floats(scratch, rows * size);
    task->unit_gradients = scratch_floats(scratch, threads * rows * NR);
    task->gate_gradients = scratch_floats(scratch, 4 * size / NR * task->chunk_stride);
    task->raw_gradients = scratch_floats(scratch, words * task->row_stride);
    task->raw_gradient_tiles = scratch_floats(scratch, ceil_divide(width, MR) * MR * words);
    task->input_tiles = scratch_floats(scratch, ceil_divide(inputs, MR) * MR * words);
    task->hidden_tiles = scratch_floats(scratch, ceil_divide(width, MR) * MR * words);
    task->input_weight_sums = scratch_floats(scratch, job->input_weight_gradient ? 4 * size * inputs : 0);
    task->hidden_weight_sums = scratch_floats(scratch, job->hidden_weight_gradient ? 4 * size * width : 0);
    task->output_weight_sums = scratch_floats(scratch, job->output_weight_gradient ? size * width : 0);
    task->bias_sums = scratch_floats(scratch, 4 * size);
}

int elmo_training_backward(const TrainingBackward *job, int64_t threads)
{
    BackwardTask task = {.job = job, .total = total_words(&job->forward)};
    Scratch scratch = {0};
    threads = smaller(threads, MAX_THREADS);
    lay_out_backward(&task, threads, &scratch);
    if (!reserve_scratch(&scratch)) return 1;
    lay_out_backward(&task, threads, &scratch);
    run_team(run_backward, &task, threads);
    release_scratch(&scratch);
    return 0;
}

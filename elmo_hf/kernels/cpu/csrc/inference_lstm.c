/* The projected, clipped LSTM without gradients.

   The four gates of NR units are four consecutive panels, so that the point-wise arithmetic of these units runs while
   their gates are in the caches. Threads divide the units of a step, synchronize, divide the outputs of its projection,
   and synchronize again. */

#include <stddef.h>

#include "activations.h"
#include "library.h"
#include "memory.h"
#include "threads.h"

INLINE int64_t smaller(int64_t one, int64_t other) { return one < other ? one : other; }

/* Input matmul */

typedef struct {
    const InputMatmul *job;
    float *expanded;     /* [threads][KC][NR] */
    char *rounded;       /* [rows][weight.inputs], if rows are rounded */
    Rounding *roundings; /* [rows], likewise */
} InputMatmulTask;

static void run_input_matmul(void *argument, int64_t thread, Team *team)
{
    const InputMatmulTask *task = argument;
    const InputMatmul *job = task->job;
    const Weight *weight = &job->weight;
    const int64_t bytes = rounded_bytes(weight), width = weight->inputs, groups = weight->outputs / (4 * NR);
    const int64_t first_panel = 4 * share_start(groups, thread, team->size);
    const int64_t end_panel = 4 * share_start(groups, thread + 1, team->size);
    float *expanded = task->expanded + thread * KC * NR;
    if (bytes) {
        const int64_t end = share_start(job->rows, thread + 1, team->size);
        for (int64_t row = share_start(job->rows, thread, team->size); row < end; row++)
            task->roundings[row] =
                round_row(weight, job->inputs + row * width, width, KC, task->rounded + row * width * bytes);
        team_barrier(team);
    }
    for (int64_t row = 0; row < job->rows; row += ROW_BLOCK) {
        const int64_t rows = smaller(job->rows - row, ROW_BLOCK);
        for (int64_t panel = first_panel; panel < end_panel; panel++) {
            float *gates = job->gates + (panel / 4 * job->rows + row) * 4 * NR + panel % 4 * NR;
            const float *bias = job->bias + panel * NR;
            for (int64_t k = 0; k < width; k += KC) {
                const int64_t offset = row * width + k;
                const void *input = bytes ? (const void *)(task->rounded + offset * bytes) : job->inputs + offset;
                multiply_panel(weight, panel_at(weight, panel, k), input, rows, width, smaller(width - k, KC), gates,
                               4 * NR, k ? NULL : bias, k > 0, expanded);
            }
            dequantize_outputs(weight, panel, task->roundings + row, bias, rows, gates, 4 * NR);
        }
    }
}

static void lay_out_input_matmul(InputMatmulTask *task, int64_t threads, Scratch *scratch)
{
    const InputMatmul *job = task->job;
    task->expanded = scratch_floats(scratch, threads * KC * NR);
    const int64_t bytes = rounded_bytes(&job->weight);
    if (!bytes) return;
    task->rounded = scratch_array(scratch, job->rows * job->weight.inputs, bytes);
    task->roundings = scratch_array(scratch, job->rows, sizeof(Rounding));
}

int elmo_input_matmul(const InputMatmul *job, int64_t threads)
{
    InputMatmulTask task = {.job = job};
    Scratch scratch = {0};
    threads = smaller(threads, MAX_THREADS);
    lay_out_input_matmul(&task, threads, &scratch);
    if (!reserve_scratch(&scratch)) return 1;
    lay_out_input_matmul(&task, threads, &scratch);
    run_team(run_input_matmul, &task, threads);
    release_scratch(&scratch);
    return 0;
}

/* Recurrence */

typedef struct {
    const Recurrence *job;
    float *cell_outputs; /* [ceil(H / KC)][running[0]][KC]: input of the projection, sigmoid(o) * tanh(cell) */
    float *scratch;      /* [threads][KC * NR + ROW_BLOCK * 4 * NR] */
    char *rounded;       /* if rows are rounded: operand of the next matmul, [running[0]][P] or as `cell_outputs` */
    Rounding *roundings; /* [running[0]], likewise */
} RecurrenceTask;

/* Compute the new cell and its output from the gates, for NR units of one row. */
INLINE void update_cell(const float *input_gates, const float *hidden_gates, float *cell, float *cell_output,
                        float cell_clip)
{
    UNROLL
    for (int half = 0; half < NR; half += LANES) {
        vfloat gate[4];
        UNROLL
        for (int g = 0; g < 4; g++) {
            gate[g] = load(input_gates + g * NR + half);
            if (hidden_gates) gate[g] += load(hidden_gates + g * NR + half);
        }
        vfloat new_cell = sigmoid(gate[1]) * load(cell + half) + sigmoid(gate[0]) * hyperbolic_tangent(gate[2]);
        new_cell = clip(new_cell, cell_clip);
        store(cell + half, new_cell);
        store(cell_output + half, sigmoid(gate[3]) * hyperbolic_tangent(new_cell));
    }
}

/* Compute gates and cells of a thread's groups of NR units, for one step's rows. `word` is the first row's word. */
static void run_units(const RecurrenceTask *task, const float *hidden, int64_t word, int64_t running, int64_t thread,
                      const Team *team)
{
    const Recurrence *job = task->job;
    const Weight *weight = &job->hidden_weight;
    const int64_t width = weight->inputs, size = weight->outputs / 4, all_rows = job->running[0];
    const int64_t bytes = rounded_bytes(weight);
    const int is_projected = job->output_weight.outputs > 0;
    const int64_t first_group = share_start(size / NR, thread, team->size);
    const int64_t end_group = share_start(size / NR, thread + 1, team->size);
    float *expanded = task->scratch + thread * (KC * NR + ROW_BLOCK * 4 * NR), *hidden_gates = expanded + KC * NR;
    for (int64_t row = 0; row < running; row += ROW_BLOCK) {
        const int64_t rows = smaller(running - row, ROW_BLOCK);
        for (int64_t group = first_group; group < end_group; group++) {
            if (hidden && rows == 1 && weight->kind == BFLOAT16 && !bytes) {
                multiply_row_by_four_panels(hidden + row * width, KC, weight, 4 * group, hidden_gates);
            } else if (hidden) {
                for (int64_t gate = 0; gate < 4; gate++) {
                    const int64_t panel = 4 * group + gate;
                    float *output = hidden_gates + gate * NR;
                    for (int64_t k = 0; k < width; k += KC) {
                        const int64_t offset = row * width + k;
                        const void *input = bytes ? (const void *)(task->rounded + offset * bytes) : hidden + offset;
                        multiply_panel(weight, panel_at(weight, panel, k), input, rows, width, smaller(width - k, KC),
                                       output, 4 * NR, NULL, k > 0, expanded);
                    }
                    dequantize_outputs(weight, panel, task->roundings + row, NULL, rows, output, 4 * NR);
                }
            }
            const float *input_gates = job->gates + group * job->words * 4 * NR;
            const int64_t unit = group * NR;
            for (int64_t r = row; r < row + rows; r++) {
                const int64_t place = job->index ? job->index[word + r] : word + r;
                float *cell_output = is_projected ? task->cell_outputs + (unit / KC * all_rows + r) * KC + unit % KC
                                                  : job->outputs + (word + r) * width + unit;
                update_cell(input_gates + place * 4 * NR, hidden ? hidden_gates + (r - row) * 4 * NR : NULL,
                            job->cell + r * size + unit, cell_output, job->cell_clip);
            }
        }
    }
}

/* Compute a thread's panels of the projection, for the rows of one step; outputs are [running][P]. */
static void run_projection(const RecurrenceTask *task, float *outputs, int64_t running, int64_t thread,
                           const Team *team)
{
    const Recurrence *job = task->job;
    const Weight *weight = &job->output_weight;
    const int64_t size = weight->inputs, width = weight->outputs, all_rows = job->running[0];
    const int64_t bytes = rounded_bytes(weight);
    const int is_widened = weight->kind == BFLOAT16 && !bytes;
    const int64_t first_panel = share_start(width / NR, thread, team->size);
    const int64_t end_panel = share_start(width / NR, thread + 1, team->size);
    float *expanded = task->scratch + thread * (KC * NR + ROW_BLOCK * 4 * NR);
    for (int64_t panel = first_panel; panel < end_panel; panel++) {
        float *output = outputs + panel * NR;
        const int64_t number_in_four = (panel - first_panel) % 4;
        const int four_at_once = running == 1 && is_widened && panel - number_in_four + 4 <= end_panel;
        if (four_at_once) {
            /* The first of four panels computes all four. */
            if (number_in_four == 0)
                multiply_row_by_four_panels(task->cell_outputs, all_rows * KC, weight, panel, output);
        } else {
            for (int64_t k = 0; k < size; k += KC) {
                const int64_t offset = k * all_rows;
                const void *input =
                    bytes ? (const void *)(task->rounded + offset * bytes) : task->cell_outputs + offset;
                multiply_panel(weight, panel_at(weight, panel, k), input, running, KC, smaller(size - k, KC), output,
                               width, NULL, k > 0, expanded);
            }
        }
        dequantize_outputs(weight, panel, task->roundings, NULL, running, output, width);
        for (int64_t row = 0; row < running; row++) {
            UNROLL
            for (int half = 0; half < NR; half += LANES) {
                float *value = output + row * width + half;
                store(value, clip(load(value), job->projection_clip));
            }
        }
    }
}

static void run_recurrence(void *argument, int64_t thread, Team *team)
{
    const RecurrenceTask *task = argument;
    const Recurrence *job = task->job;
    const Weight *hidden_weight = &job->hidden_weight, *output_weight = &job->output_weight;
    const int64_t width = hidden_weight->inputs, size = hidden_weight->outputs / 4, all_rows = job->running[0];
    const int64_t bytes = rounded_bytes(hidden_weight);
    const int is_projected = output_weight->outputs > 0;
    const float *hidden = job->hidden;
    int64_t word = 0;
    for (int64_t step = 0; step < job->steps; step++) {
        const int64_t running = job->running[step];
        const int64_t first = share_start(running, thread, team->size);
        const int64_t end = share_start(running, thread + 1, team->size);
        if (bytes && hidden) {
            for (int64_t row = first; row < end; row++)
                task->roundings[row] =
                    round_row(hidden_weight, hidden + row * width, width, KC, task->rounded + row * width * bytes);
            team_barrier(team);
        }
        run_units(task, hidden, word, running, thread, team);
        team_barrier(team);
        float *outputs = job->outputs + word * width;
        if (is_projected) {
            if (bytes) {
                for (int64_t row = first; row < end; row++)
                    task->roundings[row] = round_row(output_weight, task->cell_outputs + row * KC, size, all_rows * KC,
                                                     task->rounded + row * KC * bytes);
                team_barrier(team);
            }
            run_projection(task, outputs, running, thread, team);
            team_barrier(team);
        }
        hidden = outputs;
        word += running;
    }
}

static void lay_out_recurrence(RecurrenceTask *task, int64_t threads, Scratch *scratch)
{
    const Recurrence *job = task->job;
    const int64_t size = job->hidden_weight.outputs / 4, width = job->hidden_weight.inputs, rows = job->running[0];
    const int64_t cell_outputs = job->output_weight.outputs ? rows * ((size + KC - 1) / KC) * KC : 0;
    task->scratch = scratch_floats(scratch, threads * (KC * NR + ROW_BLOCK * 4 * NR));
    task->cell_outputs = scratch_floats(scratch, cell_outputs);
    const int64_t bytes = rounded_bytes(&job->hidden_weight);
    if (!bytes) return;
    const int64_t largest = cell_outputs > rows * width ? cell_outputs : rows * width;
    task->rounded = scratch_array(scratch, largest, bytes);
    task->roundings = scratch_array(scratch, rows, sizeof(Rounding));
}

int elmo_recurrence(const Recurrence *job, int64_t threads)
{
    RecurrenceTask task = {.job = job};
    Scratch scratch = {0};
    threads = smaller(threads, MAX_THREADS);
    lay_out_recurrence(&task, threads, &scratch);
    if (!reserve_scratch(&scratch)) return 1;
    lay_out_recurrence(&task, threads, &scratch);
    run_team(run_recurrence, &task, threads);
    release_scratch(&scratch);
    return 0;
}

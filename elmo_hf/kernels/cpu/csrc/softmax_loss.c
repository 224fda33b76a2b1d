/* The loss of a softmax over many columns, and its gradients, computed by blocks of words: the logits of only one block
   exist at a time, and they stay in the caches until their last use.

   Logits lie in panels, [columns / NR][words of the block][NR]: outputs of the weight's panels, rows for the gradient
   of the contexts, panels for the gradient of the weight. With e = exp(logit - largest logit of the word), the gradient
   of a logit is e times a factor that depends on the word alone, so factors are applied to the thin operands.

   Threads divide a block's words, synchronize, and divide the columns. */

#include <float.h>
#include <math.h>
#include <stddef.h>

#include "activations.h"
#include "float_panels.h"
#include "library.h"
#include "memory.h"
#include "packing.h"

/* Words per block: with few columns the logits fit the L2 cache, with very many a block has at most 2 ** 22 logits or
   32 words. Independent of the number of threads, because weight gradients are summed block by block. */
#define BLOCK_WORDS 256
#define BLOCK_LOGITS (1 << 22)
#define SMALLEST_BLOCK 32

typedef struct {
    const SoftmaxLoss *job;
    int64_t panels, block; /* number of panels of columns; words per block */
    int64_t logit_stride;  /* floats from panel to panel of `logits` */
    float *column_panels;  /* [panels][P][NR]: the weight, for logits */
    float *bias;           /* [panels][NR], -infinity for missing columns */
    float *width_panels;   /* [P / NR][panels * NR][NR]: the weight, for gradients of contexts */
    float *logits;         /* [panels][block][NR] */
    float *factors;        /* [block]: gradient of a word's logits / e */
    float *context_tiles;  /* [ceil((P + 1) / MR)][block][MR]: contexts and 1, times the factor of the word */
    float *weight_sums;    /* [panels][P + 1][NR]: gradients of weight and bias */
} SoftmaxTask;

static void pack_weight(const SoftmaxTask *task, Share panels)
{
    const SoftmaxLoss *job = task->job;
    const int64_t width = job->width;
    for (int64_t panel = panels.first; panel < panels.end; panel++) {
        const int64_t column = panel * NR, count = smaller(job->columns - column, NR);
        pack_transposed(job->weight + column * width, width, count, task->column_panels + panel * width * NR);
        for (int64_t l = 0; l < NR; l++) task->bias[column + l] = l < count ? job->bias[column + l] : -HUGE_VALF;
        if (!job->hidden_gradient) continue;
        for (int64_t part = 0; part < width / NR; part++) {
            float *target = task->width_panels + (part * task->panels + panel) * NR * NR;
            pack_columns(job->weight + column * width + part * NR, count, width, target);
            memset(target + count * NR, 0, (size_t)((NR - count) * NR) * sizeof(float));
        }
    }
}

INLINE float *logit_of(const SoftmaxTask *task, int64_t row, int64_t column)
{
    return task->logits + column / NR * task->logit_stride + row * NR + column % NR;
}

INLINE float sum_of_lanes(vfloat value)
{
    float sum = 0.0f;
    for (int l = 0; l < LANES; l++) sum += value[l];
    return sum;
}

INLINE float largest_lane(vfloat value)
{
    float largest = value[0];
    for (int l = 1; l < LANES; l++) largest = value[l] > largest ? value[l] : largest;
    return largest;
}

/* Replace the logits of one word by e, in place, and write the word's loss and factor. */
static void loss_of_word(const SoftmaxTask *task, int64_t first_word, int64_t row)
{
    const SoftmaxLoss *job = task->job;
    const int64_t word = first_word + row, target = job->targets[word];
    const int is_hit = job->true_logits && target >= 0;
    float truth = job->true_logits ? job->true_logits[word] : *logit_of(task, row, target);
    if (is_hit) *logit_of(task, row, target) = -HUGE_VALF;
    float *const logits = logit_of(task, row, 0);
    vfloat low = broadcast(-FLT_MAX), high = low;
    for (int64_t panel = 0; panel < task->panels; panel++) {
        const vfloat first = load(logits + panel * task->logit_stride);
        const vfloat second = load(logits + panel * task->logit_stride + LANES);
        low = select_lanes(first > low, first, low), high = select_lanes(second > high, second, high);
    }
    const float largest = fmaxf(largest_lane(low), largest_lane(high));
    low = high = (vfloat){0};
    for (int64_t panel = 0; panel < task->panels; panel++) {
        UNROLL
        for (int half = 0; half < NR; half += LANES) {
            float *place = logits + panel * task->logit_stride + half;
            const vfloat difference = load(place) - largest;
            /* `exponential` is never zero, but a logit of -infinity must have probability zero. */
            const vfloat e = select_lanes(difference < broadcast(-87.0f), (vfloat){0}, exponential(difference));
            store(place, e);
            if (half) high += e;
            else low += e;
        }
    }
    const float sum = sum_of_lanes(low + high), among_columns = largest + logf(sum);
    float normalizer = among_columns;
    if (job->true_logits) {
        /* Log of a sum of exponentials; NaN on either side stays NaN. */
        const float most = truth > among_columns ? truth : among_columns;
        const float least = truth > among_columns ? among_columns : truth;
        normalizer = most + log1pf(expf(least - most));
    }
    const float nll = normalizer - truth;
    job->nll[word] = nll;
    if (!job->hidden_gradient) return;
    /* d nll / d logit = exp(logit - normalizer) - [the true one] */
    if (job->true_logits) {
        task->factors[row] = job->shares[word] * expf(largest - normalizer);
        job->true_logit_gradient[word] = job->shares[word] * expm1f(-nll);
    } else {
        task->factors[row] = job->shares[word] / sum;
        *logit_of(task, row, target) -= sum;
    }
}

/* Compute logits, losses, and context gradients of some words of a block. */
static void run_words(const SoftmaxTask *task, int64_t first_word, Share rows)
{
    const SoftmaxLoss *job = task->job;
    const int64_t width = job->width, count = rows.end - rows.first;
    if (!count) return;
    const float *hidden = job->hidden + (first_word + rows.first) * width;
    for (int64_t panel = 0; panel < task->panels; panel++)
        for (int64_t k = 0; k < width; k += K_BLOCK)
            multiply_float_panel(hidden + k, count, width, task->column_panels + (panel * width + k) * NR, 0,
                                 smaller(width - k, K_BLOCK), logit_of(task, rows.first, panel * NR), NR,
                                 k ? NULL : task->bias + panel * NR, k > 0, NULL);
    for (int64_t row = rows.first; row < rows.end; row++) loss_of_word(task, first_word, row);
    if (!job->hidden_gradient) return;
    const int64_t columns = task->panels * NR;
    float *gradient = job->hidden_gradient + (first_word + rows.first) * width;
    for (int64_t k = 0; k < columns; k += K_BLOCK) {
        for (int64_t part = 0; part < width / NR; part++) {
            const float *panel = task->width_panels + (part * columns + k) * NR;
            multiply_rows_of_panels(logit_of(task, rows.first, k), count, task->logit_stride, panel,
                                    smaller(columns - k, K_BLOCK), gradient + part * NR, width, k > 0,
                                    panel + columns * NR);
        }
    }
    for (int64_t row = 0; row < count; row++) {
        const float factor = task->factors[rows.first + row];
        float *const of_row = gradient + row * width;
        for (int64_t column = 0; column < width; column += LANES)
            store(of_row + column, load(of_row + column) * factor);
        /* The last of the tiles' columns is 1, for the bias. */
        for (int64_t column = 0; column <= width; column++)
            task->context_tiles[(column / MR * task->block + rows.first + row) * MR + column % MR] =
                factor * (column < width ? hidden[row * width + column] : 1.0f);
    }
}

static void run_softmax_loss(void *argument, int64_t thread, Team *team)
{
    const SoftmaxTask *task = argument;
    const SoftmaxLoss *job = task->job;
    const int64_t width = job->width;
    const Share panels = share_of(task->panels, thread, team);
    pack_weight(task, panels);
    team_barrier(team);
    for (int64_t word = 0; word < job->words; word += task->block) {
        const int64_t words = smaller(job->words - word, task->block);
        run_words(task, word, share_of(words, thread, team));
        if (!job->hidden_gradient) continue;
        team_barrier(team);
        for (int64_t panel = panels.first; panel < panels.end; panel++)
            multiply_rows_of_tiles(task->context_tiles, width + 1, task->block * MR, logit_of(task, 0, panel * NR),
                                   words, task->weight_sums + panel * (width + 1) * NR, NR, NULL, word > 0,
                                   logit_of(task, 0, (panel + 1) * NR));
        team_barrier(team);
    }
    for (int64_t panel = panels.first; job->hidden_gradient && panel < panels.end; panel++) {
        const int64_t column = panel * NR, count = smaller(job->columns - column, NR);
        const float *sums = task->weight_sums + panel * (width + 1) * NR;
        unpack_transposed(sums, width, count, job->weight_gradient + column * width);
        memcpy(job->bias_gradient + column, sums + width * NR, (size_t)count * sizeof(float));
    }
}

static void lay_out_softmax_loss(SoftmaxTask *task, Scratch *scratch)
{
    const SoftmaxLoss *job = task->job;
    const int64_t width = job->width, panels = task->panels = ceil_divide(job->columns, NR);
    const int64_t block = larger(SMALLEST_BLOCK, smaller(BLOCK_WORDS, BLOCK_LOGITS / job->columns));
    task->block = smaller(job->words, block);
    /* An odd number of cache lines spreads panels over the sets of the caches. */
    task->logit_stride = (task->block | 1) * NR;
    task->column_panels = scratch_floats(scratch, panels * width * NR);
    task->bias = scratch_floats(scratch, panels * NR);
    task->logits = scratch_floats(scratch, panels * task->logit_stride);
    if (!job->hidden_gradient) return;
    task->width_panels = scratch_floats(scratch, panels * width * NR);
    task->factors = scratch_floats(scratch, task->block);
    task->context_tiles = scratch_floats(scratch, ceil_divide(width + 1, MR) * MR * task->block);
    task->weight_sums = scratch_floats(scratch, panels * (width + 1) * NR);
}

int elmo_softmax_loss(const SoftmaxLoss *job, int64_t threads)
{
    SoftmaxTask task = {.job = job};
    Scratch scratch = {0};
    lay_out_softmax_loss(&task, &scratch);
    if (!reserve_scratch(&scratch)) return 1;
    lay_out_softmax_loss(&task, &scratch);
    run_team(run_softmax_loss, &task, threads);
    release_scratch(&scratch);
    return 0;
}

/* The interface called from Python; `kernels/cpu/builder.py` declares the same structures to ctypes.

   Functions that compute return 0, or 1 if they ran out of memory and did nothing. Pointers refer to contiguous arrays
   of the given shapes. */

#ifndef ELMO_LIBRARY_H
#define ELMO_LIBRARY_H

#include <stdint.h>

#include "panels.h"

#define EXPORT __attribute__((visibility("default")))

/* Number of outputs of a panel. */
EXPORT int64_t elmo_panel(void);

/* Bits in which the products of int8 weights are added: 32, or 16, where only rows with reduced levels do not overflow.
   0: int8 weights are not supported. */
EXPORT int64_t elmo_int8_sum_bits(void);

/* 1 if bfloat16 weights are multiplied by rows rounded to bfloat16; 0: they are widened to float32. */
EXPORT int64_t elmo_multiplies_bfloat16(void);

/* Use the threads of an OpenMP library, given by its GOMP_parallel and omp_get_num_threads; NULL to start new threads
   in every call. */
EXPORT void elmo_use_open_mp(void *parallel, void *num_threads);

/* The gates that come from a layer's inputs, for all words at once. */
typedef struct {
    const float *inputs; /* [rows][weight.inputs] */
    int64_t rows;
    Weight weight;     /* panels in groups of four: the four gates of NR units */
    const float *bias; /* [weight.outputs], in panel order */
    float *gates;      /* [groups][rows][4][NR] */
} InputMatmul;

EXPORT int elmo_input_matmul(const InputMatmul *job, int64_t threads);

/* One direction of a layer over packed sequences. */
typedef struct {
    int64_t steps;
    const int64_t *running; /* [steps]: number of active rows, never growing */
    const float *gates;     /* [groups][words][4][NR]: the input matmul of words */
    int64_t words;
    const int64_t *index; /* [total]: entry of `gates` for each word; NULL: word k is entry k */
    const float *hidden;  /* [running[0]][P] before the first word; NULL: zero */
    float *cell;          /* [running[0]][H]; overwritten with the last cell */
    float *outputs;       /* [total][P] */
    Weight hidden_weight; /* panels in groups of four */
    Weight output_weight; /* outputs 0: no projection, H == P */
    float cell_clip, projection_clip;
} Recurrence;

EXPORT int elmo_recurrence(const Recurrence *job, int64_t threads);

/* One direction of a layer in training. The forward pass writes `gates` and the fields after it for the backward pass.

   total = sum of running. H and P are multiples of NR, and so is the input width I if its gradient is requested. */
typedef struct {
    int64_t steps;
    const int64_t *running;                           /* [steps]: number of active rows, never growing */
    int64_t input_width, width, size;                 /* I, P, H */
    const float *inputs;                              /* [total][I] */
    const float *hidden, *cell;                       /* [running[0]][P] and [running[0]][H] before the first word */
    const float *input_weight, *bias, *hidden_weight; /* [4H][I], [4H], [4H][P] */
    const float *output_weight;                       /* [P][H]; NULL: no projection, H == P */
    float cell_clip, projection_clip, forget_bias;
    float *gates;        /* [4H / NR][total][NR]: activated; the four gates of NR units are four consecutive panels */
    float *raw_cells;    /* [H / NR][total][NR]: before clipping */
    float *cell_outputs; /* [H / NR][total][NR]: input of the projection, sigmoid(o) * tanh(cell) */
    float *raw_outputs;  /* [total][P]: before clipping; may be the same as `outputs` without a clip */
    float *outputs;      /* [total][P] */
    float *final_hidden, *final_cell; /* [running[0]][P] and [running[0]][H]: of each row after its own last word */
} TrainingForward;

EXPORT int elmo_training_forward(const TrainingForward *job, int64_t threads);

/* Gradients of `TrainingForward`; NULL for gradients that are not requested. */
typedef struct {
    TrainingForward forward;
    const float *output_gradient;           /* [total][P] */
    float *hidden_gradient, *cell_gradient; /* [running[0]][P], [..][H]: of the final state, then of the initial one */
    float *input_gradient;                  /* [total][I] */
    float *input_weight_gradient, *bias_gradient, *hidden_weight_gradient, *output_weight_gradient;
} TrainingBackward;

EXPORT int elmo_training_backward(const TrainingBackward *job, int64_t threads);

/* The weighted sum of the negative log-likelihoods of words under a softmax, and its gradients.

   P is a multiple of NR. Either all gradients are given or all are NULL. */
typedef struct {
    int64_t words, columns, width;          /* n, columns, P */
    const float *hidden;                    /* [n][P] */
    const float *weight, *bias;             /* [columns][P], [columns]; a bias of -infinity excludes a column */
    const float *true_logits;               /* [n], if true words are not columns; else NULL */
    const int64_t *targets;                 /* [n]: the true column; with true logits, the column to exclude, or -1 */
    const float *shares;                    /* [n]: weight of each word in the loss */
    float *nll;                             /* [n] */
    float *hidden_gradient;                 /* [n][P] */
    float *weight_gradient, *bias_gradient; /* [columns][P], [columns] */
    float *true_logit_gradient;             /* [n]; NULL without true logits */
} SoftmaxLoss;

EXPORT int elmo_softmax_loss(const SoftmaxLoss *job, int64_t threads);

/* Max-pooled convolutions over the characters of words. F = sum of filters. */
typedef struct {
    int64_t words, characters, table_rows, tables; /* n, length of a row of ids, number of ids, number of tables */
    const int64_t *rows;                           /* [n][characters] */
    const int64_t *widths, *filters;               /* [tables] */
    float *const *products; /* [tables] of [width][table_rows][filters], read; backward: their gradients, written */
    float *maxima;          /* [n][F], written; backward: their gradients, read */
    int16_t *positions;     /* [n][F] of the first largest window, written, or NULL; backward: read */
} CharacterTables;

EXPORT int elmo_character_maxima(const CharacterTables *job, int64_t threads);

/* Compute the gradients of the tables from those of the maxima. */
EXPORT int elmo_character_gradients(const CharacterTables *job, int64_t threads);

#endif

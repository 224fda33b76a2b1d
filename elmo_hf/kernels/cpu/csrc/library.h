/* What Python calls; `kernels/cpu/builder.py` declares the same structures to ctypes.

   Functions that compute return 0, or 1 where memory ran out and nothing was done. Pointers are to contiguous arrays of
   the shapes given. */

#ifndef ELMO_LIBRARY_H
#define ELMO_LIBRARY_H

#include <stdint.h>

#include "panels.h"

#define EXPORT __attribute__((visibility("default")))

/* Outputs of a panel. */
EXPORT int64_t elmo_panel(void);

/* Whether weights of 8-bit integers are served. */
EXPORT int64_t elmo_has_integers(void);

/* Use the threads of an OpenMP library, given by its GOMP_parallel and omp_get_num_threads; NULL for new threads in
   every call. */
EXPORT void elmo_use_open_mp(void *parallel, void *num_threads);

/* The gates that come from a layer's inputs, for all words at once. */
typedef struct {
    const float *inputs; /* [rows][weight.inputs] */
    int64_t rows;
    Weight weight;     /* its panels in groups of four: the four gates of NR units */
    const float *bias; /* [weight.outputs], in the order of the panels */
    float *gates;      /* [groups][rows][4][NR] */
} InputProduct;

EXPORT int elmo_input_product(const InputProduct *job, int64_t threads);

/* One direction of a layer over packed sequences. */
typedef struct {
    int64_t steps;
    const int64_t *running; /* [steps]: rows that run, never growing */
    const float *gates;     /* [groups][words][4][NR]: the input product of words */
    int64_t words;
    const int64_t *index; /* [total]: which of them each word is; NULL: each its own */
    const float *hidden;  /* [running[0]][P] before the first word; NULL: zero */
    float *cell;          /* [running[0]][H]; becomes the last */
    float *outputs;       /* [total][P] */
    Weight hidden_weight; /* its panels in groups of four */
    Weight output_weight; /* outputs 0: no projection, H == P */
    float cell_clip, projection_clip;
} Recurrence;

EXPORT int elmo_recurrence(const Recurrence *job, int64_t threads);

/* One direction of a layer in training. What the forward pass writes from `gates` on is what the backward pass reads.

   total = sum of running; H and P are multiples of NR, and so is the input width I where its gradient is wanted. */
typedef struct {
    int64_t steps;
    const int64_t *running;                           /* [steps]: rows that run, never growing */
    int64_t input_width, width, size;                 /* I, P, H */
    const float *inputs;                              /* [total][I] */
    const float *hidden, *cell;                       /* [running[0]][P] and [running[0]][H] before the first word */
    const float *input_weight, *bias, *hidden_weight; /* [4H][I], [4H], [4H][P] */
    const float *output_weight;                       /* [P][H]; NULL: no projection, H == P */
    float cell_clip, projection_clip, forget_bias;
    float *gates;        /* [4H / NR][total][NR]: activated; the four gates of NR units are four panels in a row */
    float *raw_cells;    /* [H / NR][total][NR]: before they are clipped */
    float *cell_outputs; /* [H / NR][total][NR]: what is projected, sigmoid(o) * tanh(cell) */
    float *raw_outputs;  /* [total][P]: before they are clipped; may be the same as `outputs` where nothing is */
    float *outputs;      /* [total][P] */
    float *final_hidden, *final_cell; /* [running[0]][P] and [running[0]][H]: of each row after its own last word */
} TrainingForward;

EXPORT int elmo_training_forward(const TrainingForward *job, int64_t threads);

/* Its gradients; those that are NULL are not wanted. */
typedef struct {
    TrainingForward forward;
    const float *output_gradient;           /* [total][P] */
    float *hidden_gradient, *cell_gradient; /* [running[0]][P] and [..][H]: of the final state; becomes the initial's */
    float *input_gradient;                  /* [total][I] */
    float *input_weight_gradient, *bias_gradient, *hidden_weight_gradient, *output_weight_gradient;
} TrainingBackward;

EXPORT int elmo_training_backward(const TrainingBackward *job, int64_t threads);

/* The weighted sum of the negative log-likelihoods of words under a softmax, and its gradients.

   P is a multiple of NR. Gradients may be NULL, all together. */
typedef struct {
    int64_t words, columns, width;          /* n, columns, P */
    const float *hidden;                    /* [n][P] */
    const float *weight, *bias;             /* [columns][P], [columns]; a bias of minus infinity: no probability */
    const float *true_logits;               /* [n] of words that are no columns; NULL: the true words are columns */
    const int64_t *targets;                 /* [n] the true column; with true logits, one without probability, or -1 */
    const float *shares;                    /* [n]: of each word in the loss */
    float *nll;                             /* [n] */
    float *hidden_gradient;                 /* [n][P] */
    float *weight_gradient, *bias_gradient; /* [columns][P], [columns] */
    float *true_logit_gradient;             /* [n]; NULL without true logits */
} SoftmaxLoss;

EXPORT int elmo_softmax_loss(const SoftmaxLoss *job, int64_t threads);

/* The largest value of each filter of convolutions over the characters of words. F = sum of filters. */
typedef struct {
    int64_t words, characters, table_rows, tables; /* n, the length of a row of ids, the number of ids, of tables */
    const int64_t *rows;                           /* [n][characters] */
    const int64_t *widths, *filters;               /* [tables] */
    float *const *products; /* [tables] of [width][table_rows][filters]; or the gradients, written */
    float *maxima;          /* [n][F], written; or the gradient */
    int16_t *positions;     /* [n][F], of the first largest window; NULL: not wanted; or read with the gradient */
} CharacterTables;

EXPORT int elmo_character_maxima(const CharacterTables *job, int64_t threads);

/* From the gradient of the maxima to those of the tables. */
EXPORT int elmo_character_gradients(const CharacterTables *job, int64_t threads);

#endif

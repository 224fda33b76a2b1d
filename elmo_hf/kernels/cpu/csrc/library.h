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

#endif

/* A team of threads that lives as long as one call. */

#ifndef ELMO_THREADS_H
#define ELMO_THREADS_H

#include <stdatomic.h>
#include <stdint.h>

#define MAX_THREADS 256

typedef struct Team Team;

/* Function run by every thread of a team; `thread` counts from 0 to team_size - 1. */
typedef void TeamFunction(void *task, int64_t thread, Team *team);

struct Team {
    TeamFunction *function;
    void *task;
    int64_t size;
    atomic_int joined, go, arrived, phase;
};

/* Run a function in a team of at most `threads` threads: those of PyTorch's OpenMP, or new ones. */
void run_team(TeamFunction *function, void *task, int64_t threads);

/* Wait until all threads of the team have arrived. */
void team_barrier(Team *team);

/* The first of a thread's items; `thread` + 1 gives their end. Items are divided evenly and in order. */
static inline int64_t share_start(int64_t items, int64_t thread, int64_t threads) { return items * thread / threads; }

#endif

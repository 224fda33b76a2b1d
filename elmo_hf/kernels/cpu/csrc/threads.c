#include "threads.h"

#include <pthread.h>
#include <sched.h>
#include <stddef.h>

#include "library.h"

/* Functions of the OpenMP library that PyTorch uses. Its threads busy-wait after each operator and would compete with
   other threads for the cores. NULL if PyTorch uses a different library. */
typedef void OpenMpParallel(void (*function)(void *), void *argument, unsigned threads, unsigned flags);
typedef int OpenMpNumThreads(void);
EXPORT OpenMpParallel *open_mp_parallel;
static OpenMpNumThreads *open_mp_num_threads;

void elmo_use_open_mp(void *parallel, void *num_threads)
{
    open_mp_parallel = (OpenMpParallel *)parallel;
    open_mp_num_threads = (OpenMpNumThreads *)num_threads;
}

/* One iteration of a busy wait; after some microseconds it yields the core. */
static inline void spin(int *turns)
{
    if (++*turns < 4000) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    } else sched_yield();
}

void team_barrier(Team *team)
{
    if (team->size == 1) return;
    int phase = atomic_load(&team->phase), turns = 0;
    if (atomic_fetch_add(&team->arrived, 1) + 1 == team->size) {
        atomic_store(&team->arrived, 0);
        atomic_store(&team->phase, phase + 1);
    } else {
        while (atomic_load_explicit(&team->phase, memory_order_acquire) == phase) spin(&turns);
    }
}

static void wait_for_start(Team *team)
{
    int turns = 0;
    while (!atomic_load_explicit(&team->go, memory_order_acquire)) spin(&turns);
}

static void *run_posix_thread(void *argument)
{
    Team *team = argument;
    wait_for_start(team);
    team->function(team->task, atomic_fetch_add(&team->joined, 1), team);
    return NULL;
}

static void run_open_mp_thread(void *argument)
{
    Team *team = argument;
    int thread = atomic_fetch_add(&team->joined, 1);
    if (thread == 0) {
        /* OpenMP may start fewer threads than requested, and only its own threads can tell how many. */
        team->size = open_mp_num_threads();
        atomic_store(&team->go, 1);
    }
    wait_for_start(team);
    team->function(team->task, thread, team);
}

void run_team(TeamFunction *function, void *task, int64_t threads)
{
    Team team = {.function = function, .task = task, .size = 1};
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > 1 && open_mp_parallel) {
        open_mp_parallel(run_open_mp_thread, &team, (unsigned)threads, 0);
        return;
    }
    pthread_t others[MAX_THREADS];
    /* Start as many threads as the system allows. */
    while (team.size < threads && !pthread_create(&others[team.size], NULL, run_posix_thread, &team)) team.size++;
    atomic_store(&team.go, 1);
    run_posix_thread(&team);
    for (int64_t thread = 1; thread < team.size; thread++) pthread_join(others[thread], NULL);
}

/* Calls of the library by another process: a program for CPUs that are emulated.

   It reads calls from standard input and answers on standard output, as `library.py` beside it writes and reads them:
   integers of 64 bits, and bytes. */

#include <stdio.h>
#include <stdlib.h>

#include "library.h"

static void read_bytes(void *target, int64_t bytes)
{
    if (bytes && fread(target, 1, (size_t)bytes, stdin) != (size_t)bytes) exit(0); /* the other side has ended */
}

static int64_t read_integer(void)
{
    int64_t value;
    read_bytes(&value, sizeof value);
    return value;
}

static void write_bytes(const void *source, int64_t bytes)
{
    if (fwrite(source, 1, (size_t)bytes, stdout) != (size_t)bytes) exit(1);
}

/* Cast to one type, as the ABI of the platforms at hand allows: two integer registers in, one out. */
typedef int Function(const void *job, int64_t threads);
static Function *const functions[] = {
    (Function *)elmo_input_matmul,       (Function *)elmo_recurrence,   (Function *)elmo_training_forward,
    (Function *)elmo_training_backward,   (Function *)elmo_softmax_loss, (Function *)elmo_character_maxima,
    (Function *)elmo_character_gradients,
};

static int64_t call(int64_t function, const void *job, int64_t threads)
{
    if (function == 0) return elmo_panel();
    if (function == 1) return elmo_int8_sum_bits();
    if (function == 2) return elmo_multiplies_bfloat16();
    return functions[function - 3](job, threads);
}

int main(void)
{
    for (;;) {
        const int64_t function = read_integer(), threads = read_integer(), blocks = read_integer();
        /* The first block is the job, the others are the arrays that it points to. */
        char **memory = calloc((size_t)blocks, sizeof *memory);
        int64_t *sizes = calloc((size_t)blocks, sizeof *sizes);
        for (int64_t b = 0; b < blocks; b++) {
            sizes[b] = read_integer();
            memory[b] = aligned_alloc(64, (size_t)(sizes[b] + 64) / 64 * 64);
            read_bytes(memory[b], sizes[b]);
        }
        for (int64_t pointers = read_integer(); pointers > 0; pointers--) {
            const int64_t block = read_integer(), offset = read_integer();
            const int64_t target = read_integer(), place = read_integer();
            *(void **)(memory[block] + offset) = memory[target] + place;
        }
        const int64_t result = call(function, memory[0], threads);
        write_bytes(&result, sizeof result);
        for (int64_t b = 1; b < blocks; b++) write_bytes(memory[b], sizes[b]);
        fflush(stdout);
        for (int64_t b = 0; b < blocks; b++) free(memory[b]);
        free(memory), free(sizes);
    }
}

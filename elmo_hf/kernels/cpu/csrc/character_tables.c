/* Max-pooled convolutions over the characters of words, by tables of dot products.

   A filter of width w sees one of `table_rows` vectors at each of its w positions, so the value of a window is the sum
   of w table rows. After the last character that differs from the end of its row, all windows are equal, and one of
   them stands for all. */

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "library.h"
#include "packing.h"
#include "vectors.h"

/* Operands and results of one word's filters of one width. */
typedef struct {
    const int64_t *characters;
    int64_t windows, width, filters, table_rows;
    const float *products;
    float *maxima;
    int16_t *positions; /* of the first largest window; NULL if not requested */
} Filters;

/* Compute as many filters, from `first` on, as `vectors` vectors hold. `vectors` is a compile-time constant. */
INLINE void maxima_of_vectors(const int vectors, const Filters *of, int64_t first)
{
    vfloat best[4];
    vint position[4];
    UNROLL
    for (int v = 0; v < vectors; v++) best[v] = broadcast(-HUGE_VALF), position[v] = (vint){0};
    for (int64_t window = 0; window < of->windows; window++) {
        vfloat sum[4];
        const float *row = of->products + of->characters[window] * of->filters + first;
        UNROLL
        for (int v = 0; v < vectors; v++) sum[v] = load(row + v * LANES);
        for (int64_t place = 1; place < of->width; place++) {
            row = of->products + (place * of->table_rows + of->characters[window + place]) * of->filters + first;
            UNROLL
            for (int v = 0; v < vectors; v++) sum[v] += load(row + v * LANES);
        }
        UNROLL
        for (int v = 0; v < vectors; v++) {
            /* NaN counts as larger than everything, so it propagates. */
            const vint is_larger = (sum[v] > best[v]) | (sum[v] != sum[v]);
            best[v] = select_lanes(is_larger, sum[v], best[v]);
            position[v] = (is_larger & ((vint){0} + (int32_t)window)) | (~is_larger & position[v]);
        }
    }
    UNROLL
    for (int v = 0; v < vectors; v++) {
        store(of->maxima + first + v * LANES, best[v]);
        if (of->positions)
            *(vshort_memory *)(of->positions + first + v * LANES) = __builtin_convertvector(position[v], vshort_memory);
    }
}

static void maximum_of_filter(const Filters *of, int64_t filter)
{
    float best = -HUGE_VALF;
    int16_t position = 0;
    for (int64_t window = 0; window < of->windows; window++) {
        float sum = 0.0f;
        for (int64_t place = 0; place < of->width; place++)
            sum += of->products[(place * of->table_rows + of->characters[window + place]) * of->filters + filter];
        if (sum > best || sum != sum) best = sum, position = (int16_t)window;
    }
    of->maxima[filter] = best;
    if (of->positions) of->positions[filter] = position;
}

/* Number of characters of a row up to the last one that differs from the end. */
static int64_t differing_length(const int64_t *characters, int64_t count)
{
    int64_t length = count;
    while (length > 0 && characters[length - 1] == characters[count - 1]) length--;
    return length;
}

static int64_t filters_in_all(const CharacterTables *job)
{
    int64_t filters = 0;
    for (int64_t table = 0; table < job->tables; table++) filters += job->filters[table];
    return filters;
}

static void run_maxima(void *argument, int64_t thread, Team *team)
{
    const CharacterTables *job = argument;
    const Share words = share_of(job->words, thread, team);
    const int64_t all_filters = filters_in_all(job);
    for (int64_t word = words.first; word < words.end; word++) {
        const int64_t *characters = job->rows + word * job->characters;
        const int64_t length = differing_length(characters, job->characters);
        int64_t place = word * all_filters;
        for (int64_t table = 0; table < job->tables; table++) {
            const Filters filters = {
                .characters = characters,
                .windows = smaller(length, job->characters - job->widths[table]) + 1,
                .width = job->widths[table],
                .filters = job->filters[table],
                .table_rows = job->table_rows,
                .products = job->products[table],
                .maxima = job->maxima + place,
                .positions = job->positions ? job->positions + place : NULL,
            };
            int64_t first = 0;
            for (; first + 4 * LANES <= filters.filters; first += 4 * LANES) maxima_of_vectors(4, &filters, first);
            for (; first + LANES <= filters.filters; first += LANES) maxima_of_vectors(1, &filters, first);
            for (; first < filters.filters; first++) maximum_of_filter(&filters, first);
            place += filters.filters;
        }
    }
}

int elmo_character_maxima(const CharacterTables *job, int64_t threads)
{
    run_team(run_maxima, (void *)job, threads);
    return 0;
}

/* Threads divide the filters of every width, so that each sum belongs to one thread. */
static void run_gradients(void *argument, int64_t thread, Team *team)
{
    const CharacterTables *job = argument;
    const int64_t all_filters = filters_in_all(job);
    int64_t column = 0;
    for (int64_t table = 0; table < job->tables; table++) {
        const int64_t width = job->widths[table], filters = job->filters[table];
        const Share share = share_of(filters, thread, team);
        float *const gradients = job->products[table];
        for (int64_t row = 0; row < width * job->table_rows; row++)
            memset(gradients + row * filters + share.first, 0, (size_t)(share.end - share.first) * sizeof(float));
        for (int64_t word = 0; word < job->words; word++) {
            const int64_t *characters = job->rows + word * job->characters;
            const float *gradient = job->maxima + word * all_filters + column;
            const int16_t *positions = job->positions + word * all_filters + column;
            for (int64_t filter = share.first; filter < share.end; filter++)
                for (int64_t place = 0; place < width; place++)
                    gradients[(place * job->table_rows + characters[positions[filter] + place]) * filters + filter] +=
                        gradient[filter];
        }
        column += filters;
    }
}

int elmo_character_gradients(const CharacterTables *job, int64_t threads)
{
    run_team(run_gradients, (void *)job, threads);
    return 0;
}

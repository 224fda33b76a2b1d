r"""The C code of the processor's fast path: products of packed weights, and the recurrence around them.

`builder` compiles it, `native_lstm` calls it. It is one string so that it travels with a checkpoint,
whose code is Python files only.

A weight is laid out as the inner loop reads it: in *panels* of NR outputs (two vector registers), input by input. Few
rows are bound by the memory that a weight takes: a panel is read once, in order, well ahead of its use. Many rows are
bound by arithmetic: a panel stays in the first caches while MR rows at a time are multiplied with it. The four gates of
NR units are four panels in a row, so that a unit's point-wise arithmetic follows while its gates are in the caches.

Weights are float32, bfloat16 (widened as they are read) or 8-bit integers. These are multiplied with integers too, to
which every row of inputs is rounded as `quantized_linear` defines it; 16-bit registers keep the sums exact.

Threads divide the units of a step, meet, divide the outputs of its projection, and meet again. They live as long as a
call.
"""

SOURCE = r"""
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#define VL 16 /* floats in a vector register */
#define MR 12 /* rows that are multiplied at once: 2 * MR sums, and what they are made of, fill the registers */
#elif defined(__AVX2__)
#define VL 8
#define MR 6
#else
#define VL 4
#define MR 6
#endif
#define NR (2 * VL) /* outputs of a panel */
#define KC 512      /* inputs that are summed in one go: the part of a panel that stays in the first cache */
#define ROWS 96     /* rows of which inputs and gates stay in the second cache */
#define AHEAD 128   /* inputs between the prefetch of a panel and its use, where it is used once */
#define MAX_THREADS 256
#if defined(__AVX512BW__) || (defined(__AVX2__) && !defined(__AVX512F__))
#include <immintrin.h>
#define HAS_INTEGERS 1
#else
#define HAS_INTEGERS 0
#endif

typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef float vf_at __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef uint32_t vu_at __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef int32_t vi_at __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef int16_t vs_at __attribute__((vector_size(2 * VL), aligned(2), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2 };

/* Point-wise functions */

INLINE vf load(const float *from) { return *(const vf_at *)from; }
INLINE void store(float *to, vf value) { *(vf_at *)to = value; }
INLINE vf all(float value) { return value - (vf){0}; }
INLINE vf where(vi chosen, vf yes, vf no) { return (vf)((chosen & (vi)yes) | (~chosen & (vi)no)); }

/* NaN stays NaN. */
INLINE vf clip(vf x, float bound)
{
    x = where(x > all(bound), all(bound), x);
    return where(x < all(-bound), all(-bound), x);
}

/* Cephes' expf: 2 ** n times a polynomial of what is left, which is at most ln(2) / 2. */
INLINE vf exponential(vf x)
{
    x = where(x > all(88.0f), all(88.0f), x);
    x = where(x < all(-87.3f), all(-87.3f), x);
    const float to_integer = 12582912.0f; /* 1.5 * 2 ** 23: nothing behind the point is left beside it */
    vf n = (x * 1.44269504f + to_integer) - to_integer;
    vf r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vf p = all(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    vi power = (__builtin_convertvector(n, vi) + 127) << 23;
    return p * (vf)power;
}

INLINE vf sigmoid(vf x) { return 1.0f / (1.0f + exponential(-x)); }

/* Cephes' tanhf: near zero a polynomial, which keeps small values exact. */
INLINE vf hyperbolic_tangent(vf x)
{
    vi sign = (vi)x & (vi)all(-0.0f);
    vf size = (vf)((vi)x ^ sign);
    vf z = x * x;
    vf p = all(-5.70498872745e-3f);
    p = p * z + 2.06390887954e-2f;
    p = p * z - 5.37397155531e-2f;
    p = p * z + 1.33314422036e-1f;
    p = p * z - 3.33332819422e-1f;
    p = p * z * x + x;
    vf far = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
    return where(size < all(0.625f), p, (vf)((vi)far | sign));
}

/* Products */

/* Panels are [outputs / NR][inputs][NR]. In bfloat16 a word holds outputs l (low half) and VL + l; 8-bit integers are
   [outputs / NR][inputs / 2][NR][2]. */
typedef struct {
    const void *panels;
    const float *scale; /* [outputs], of integers */
    int64_t kind, outputs, inputs;
    int64_t signed_levels; /* largest absolute integer of a row with negative values */
} Weight;

INLINE int64_t bytes_of(int64_t kind) { return kind == INT8 ? 1 : kind == BFLOAT16 ? 2 : 4; }

INLINE void widen(const uint32_t *pair, vf *low, vf *high)
{
    vu_at both = *(const vu_at *)pair;
    *low = (vf)(both << 16);
    *high = (vf)(both & 0xffff0000u);
}

/* Where to prefetch while a panel is multiplied. What few rows read once is fetched shortly before; while many rows use
   a panel, each MR of them fetch their share of the next, so that memory is never waited for and never idle. */
typedef struct {
    const char *start;
    int64_t step, of_block; /* bytes for each input, and for each MR rows */
    int second_cache;       /* the first has no room for another panel, where this one is hardly used */
} Ahead;

INLINE Ahead ahead_of(const void *panel, int64_t count, int64_t bytes, int64_t blocks)
{
    if (blocks == 1) return (Ahead){(const char *)panel + AHEAD * bytes, bytes, 0, 0};
    return (Ahead){(const char *)panel + count * bytes, bytes / blocks, count * bytes / blocks, blocks == 2};
}

INLINE Ahead for_block(Ahead ahead, int64_t block, int64_t inputs)
{
    return (Ahead){ahead.start + block * ahead.of_block, inputs * ahead.step, 0, ahead.second_cache};
}

INLINE void fetch(Ahead ahead)
{
    if (ahead.second_cache) __builtin_prefetch(ahead.start, 0, 2);
    else __builtin_prefetch(ahead.start);
}

/* MR rows or fewer, a number known to the compiler, times one part of a panel. */
INLINE void rows_times_panel(const int rows, const int kind, const float *input, int64_t input_stride,
                             const void *panel, int64_t count, float *output, int64_t output_stride,
                             const float *start, int add, Ahead ahead)
{
    const int64_t step = bytes_of(kind) * NR; /* of a panel for each input */
    const char *here = panel;
    vf sums[MR][2];
    const vf start_low = start ? load(start) : (vf){0}, start_high = start ? load(start + VL) : (vf){0};
    UNROLL for (int r = 0; r < rows; r++) sums[r][0] = start_low, sums[r][1] = start_high;
    for (int64_t k = 0; k < count; k++) {
        fetch(ahead);
        ahead.start += ahead.step;
        vf low, high;
        if (kind == BFLOAT16) widen((const uint32_t *)here, &low, &high);
        else low = load((const float *)here), high = load((const float *)here + VL);
        here += step;
        UNROLL for (int r = 0; r < rows; r++) {
            float value = input[r * input_stride + k];
            sums[r][0] += value * low;
            sums[r][1] += value * high;
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        float *to = output + r * output_stride;
        if (add) sums[r][0] += load(to), sums[r][1] += load(to + VL);
        store(to, sums[r][0]);
        store(to + VL, sums[r][1]);
    }
}

static void some_rows(int rows, int kind, const float *input, int64_t input_stride, const void *panel, int64_t count,
                      float *output, int64_t output_stride, const float *start, int add, Ahead ahead)
{
#define FOR(n, kind)                                                                                                  \
    case n:                                                                                                           \
        rows_times_panel(n, kind, input, input_stride, panel, count, output, output_stride, start, add, ahead); \
        return;
#define FOR_SIX(from, kind) \
    FOR(from, kind) FOR(from + 1, kind) FOR(from + 2, kind) FOR(from + 3, kind) FOR(from + 4, kind) FOR(from + 5, kind)
    if (kind == BFLOAT16) {
        switch (rows) {
            FOR_SIX(1, BFLOAT16)
#if MR > 6
            FOR_SIX(7, BFLOAT16)
#endif
        }
    } else {
        switch (rows) {
            FOR_SIX(1, FLOAT32)
#if MR > 6
            FOR_SIX(7, FLOAT32)
#endif
        }
    }
}

#if HAS_INTEGERS
#if VL == 16
typedef __m512i vw; /* of pairs of 16-bit integers */
INLINE vw wide_pairs(const char *from) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)from)); }
INLINE vw load_pairs(const char *from) { return _mm512_loadu_si512(from); }
INLINE void store_pairs(char *to, vw pairs) { _mm512_storeu_si512(to, pairs); }
INLINE vw same_pair(int32_t pair) { return _mm512_set1_epi32(pair); }
INLINE vw add_products(vw sum, vw left, vw right) { return _mm512_add_epi32(sum, _mm512_madd_epi16(left, right)); }
#else
typedef __m256i vw;
INLINE vw wide_pairs(const char *from) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from)); }
INLINE vw load_pairs(const char *from) { return _mm256_loadu_si256((const __m256i *)from); }
INLINE void store_pairs(char *to, vw pairs) { _mm256_storeu_si256((__m256i *)to, pairs); }
INLINE vw same_pair(int32_t pair) { return _mm256_set1_epi32(pair); }
INLINE vw add_products(vw sum, vw left, vw right) { return _mm256_add_epi32(sum, _mm256_madd_epi16(left, right)); }
#endif

/* Keeps a compiler from loading all rows' inputs at once, for which sums would leave their registers. */
#if defined(__AVX512F__)
#define STAYS(one, other) __asm__("" : "+v"(one), "+v"(other))
#else
#define STAYS(one, other) __asm__("" : "+x"(one), "+x"(other))
#endif

/* As above with integers; the sums are kept as integers in the place of the outputs. `size` is 1 for a panel as it is,
   2 for one that was widened to 16 bits. */
INLINE void units_times_panel(const int rows, const int size, const int16_t *input, int64_t input_stride,
                              const char *panel, int64_t count, float *output, int64_t output_stride, int add,
                              Ahead ahead)
{
    const int64_t step = 2 * size * NR; /* bytes of a panel for two inputs */
    vw sums[MR][2];
    UNROLL for (int r = 0; r < rows; r++) sums[r][0] = sums[r][1] = same_pair(0);
    for (int64_t k = 0; k < count; k += 2) {
        fetch(ahead);
        ahead.start += ahead.step;
        vw low = size == 1 ? wide_pairs(panel) : load_pairs(panel);
        vw high = size == 1 ? wide_pairs(panel + NR) : load_pairs(panel + 2 * NR);
        panel += step;
        UNROLL for (int r = 0; r < rows; r++) {
            int32_t pair;
            memcpy(&pair, input + r * input_stride + k, sizeof pair);
            vw value = same_pair(pair);
            sums[r][0] = add_products(sums[r][0], value, low);
            sums[r][1] = add_products(sums[r][1], value, high);
            STAYS(sums[r][0], sums[r][1]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        vi_at *to = (vi_at *)(output + r * output_stride), *behind = (vi_at *)(output + r * output_stride + VL);
        vi low = (vi)sums[r][0], high = (vi)sums[r][1];
        if (add) low += *to, high += *behind;
        *to = low, *behind = high;
    }
}

static void some_units(int rows, int size, const int16_t *input, int64_t input_stride, const char *panel,
                       int64_t count, float *output, int64_t output_stride, int add, Ahead ahead)
{
#define UNITS(n, size)                                                                                           \
    case n:                                                                                                      \
        units_times_panel(n, size, input, input_stride, panel, count, output, output_stride, add, ahead); \
        return;
#define UNITS_SIX(from, size)                                                                      \
    UNITS(from, size) UNITS(from + 1, size) UNITS(from + 2, size) UNITS(from + 3, size) UNITS(from + 4, size) \
    UNITS(from + 5, size)
    if (size == 1) {
        switch (rows) {
            UNITS_SIX(1, 1)
#if MR > 6
            UNITS_SIX(7, 1)
#endif
        }
    } else {
        switch (rows) {
            UNITS_SIX(1, 2)
#if MR > 6
            UNITS_SIX(7, 2)
#endif
        }
    }
}

static void integers_times_panel(const int16_t *input, int64_t rows, int64_t input_stride, const char *panel,
                                 int64_t count, float *output, int64_t output_stride, int add, char *widened)
{
    int64_t blocks = (rows + MR - 1) / MR;
    const Ahead ahead = ahead_of(panel, count, NR, blocks);
    int size = 1;
    if (blocks > 1) {
        for (int64_t byte = 0; byte < count * NR; byte += NR)
            store_pairs(widened + 2 * byte, wide_pairs(panel + byte));
        panel = widened, size = 2;
    }
    for (int64_t block = 0, row = 0; block < blocks; block++) {
        int some = (int)((rows - row + blocks - block - 1) / (blocks - block));
        some_units(some, size, input + row * input_stride, input_stride, panel, count, output + row * output_stride,
                   output_stride, add, for_block(ahead, block, 2));
        row += some;
    }
}
#endif

/* Any number of rows times `count` inputs of a panel: output = input * panel + (start or output).
   Rows are floats, or 16-bit integers for a weight of integers, whose sums become floats in `finish`. */
static void times_panel(const void *rows_of_input, int64_t rows, int64_t input_stride, const void *panel, int kind,
                        int64_t count, float *output, int64_t output_stride, const float *start, int add,
                        float *widened)
{
#if HAS_INTEGERS
    if (kind == INT8) {
        integers_times_panel(rows_of_input, rows, input_stride, panel, count, output, output_stride, add,
                             (char *)widened);
        return;
    }
#endif
    const float *input = rows_of_input;
    int64_t blocks = (rows + MR - 1) / MR;
    const Ahead ahead = ahead_of(panel, count, NR * bytes_of(kind), blocks);
    if (kind == BFLOAT16 && blocks > 1) {
        /* Once for all rows. */
        for (int64_t k = 0; k < count; k++) {
            vf low, high;
            const uint32_t *here = (const uint32_t *)panel + k * VL;
            widen(here, &low, &high);
            store(widened + k * NR, low);
            store(widened + k * NR + VL, high);
        }
        panel = widened;
        kind = FLOAT32;
    }
    for (int64_t block = 0, row = 0; block < blocks; block++) {
        int some = (int)((rows - row + blocks - block - 1) / (blocks - block));
        some_rows(some, kind, input + row * input_stride, input_stride, panel, count, output + row * output_stride,
                  output_stride, start, add, for_block(ahead, block, 1));
        row += some;
    }
}

INLINE const void *part_of_panel(const Weight *weight, int64_t panel, int64_t input)
{
    return (const char *)weight->panels + (panel * weight->inputs + input) * NR * bytes_of(weight->kind);
}

/* One row times four panels of bfloat16 at once: one by one, each sum would wait for its last addition. (In float32 the
   memory is waited for, and is best read in one stream.) The order of additions is that of `times_panel`, so that a row
   has the same bits alone and among others.

   The row is [inputs], in stretches of KC that lie `stride` apart; the panels are `panel` to `panel` + 3. */
static void row_times_four_panels(const float *row, int64_t stride, const Weight *weight, int64_t panel, float *output)
{
    const int64_t panel_stride = weight->inputs * VL; /* words of two outputs */
    for (int64_t start = 0; start < weight->inputs; start += KC) {
        int64_t count = weight->inputs - start < KC ? weight->inputs - start : KC;
        const float *input = row + start / KC * stride;
        const uint32_t *first = part_of_panel(weight, panel, start);
        vf sums[4][2];
        UNROLL for (int p = 0; p < 4; p++) sums[p][0] = sums[p][1] = (vf){0};
        for (int64_t k = 0; k < count; k++) {
            UNROLL for (int p = 0; p < 4; p++) {
                const uint32_t *here = first + p * panel_stride + k * VL;
                __builtin_prefetch(here + AHEAD * VL);
                vf low, high;
                widen(here, &low, &high);
                sums[p][0] += input[k] * low;
                sums[p][1] += input[k] * high;
            }
        }
        UNROLL for (int p = 0; p < 4; p++) {
            float *to = output + p * NR;
            if (start) sums[p][0] += load(to), sums[p][1] += load(to + VL);
            store(to, sums[p][0]);
            store(to + VL, sums[p][1]);
        }
    }
}

/* From sums of integers in a panel's outputs to floats; nothing is left to do for other weights. */
static void finish(const Weight *weight, int64_t panel, const float *sizes, const float *bias, int64_t rows,
                   float *output, int64_t output_stride)
{
    if (weight->kind != INT8) return;
    UNROLL for (int half = 0; half < NR; half += VL) {
        vf scale = load(weight->scale + panel * NR + half), start = bias ? load(bias + half) : (vf){0};
        for (int64_t r = 0; r < rows; r++) {
            float *to = output + r * output_stride + half;
            store(to, __builtin_convertvector(*(vi_at *)to, vf) * scale * sizes[r] + start);
        }
    }
}

/* The nearest integers of one row, in stretches of KC that lie `stride` apart, and the size of one. */
static float round_row(const float *row, int64_t count, int64_t stride, int64_t signed_levels, int16_t *units)
{
    vf low = (vf){0}, high = (vf){0};
    vi odd = (vi){0}; /* NaN */
    for (int64_t k = 0; k < count; k += VL) {
        vf value = load(row + k / KC * stride + k % KC);
        low = where(value < low, value, low), high = where(value > high, value, high);
        odd |= value != value;
    }
    int is_nan = 0;
    for (int l = 0; l < VL; l++) is_nan |= odd[l];
    float least = 0.0f, most = 0.0f;
    for (int l = 0; l < VL; l++) least = fminf(least, low[l]), most = fmaxf(most, high[l]);
    int64_t levels = least < 0.0f ? signed_levels : 127;
    float step = fmaxf(fmaxf(most, -least) / levels, 1e-36f), inverse = 1.0f / step;
    float zero = least < 0.0f ? levels + levels % 2 : 0.0f;
    const float to_integer = 12582912.0f;
    for (int64_t k = 0; k < count; k += VL) {
        int64_t at = k / KC * stride + k % KC;
        vf value = load(row + at) * inverse;
        __asm__("" : "+m"(value)); /* rounded before the zero is added, as the definition has it */
        value = value + zero;
        value = ((value + to_integer) - to_integer) - zero;
        *(vs_at *)(units + at) = __builtin_convertvector(__builtin_convertvector(value, vi), vs_at);
    }
    return is_nan ? NAN : step;
}

/* Threads */

typedef struct Team Team;
typedef void Work(void *task, int64_t thread, Team *team);
struct Team {
    Work *work;
    void *task;
    int64_t size;
    atomic_int joined, go, arrived, phase;
};

/* OpenMP's own functions, of the library that PyTorch uses: its threads are awake, and busy waiting for work, when
   others would want their processors. NULL where it is another library. */
typedef void OpenMpParallel(void (*work)(void *), void *task, unsigned threads, unsigned flags);
typedef int OpenMpNumber(void);
OpenMpParallel *open_mp_parallel;
static OpenMpNumber *open_mp_num_threads;

INLINE void wait_a_little(int *waited)
{
    if (++*waited < 4000) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    } else sched_yield();
}

/* All threads of a team wait for each other. */
static void meet(Team *team)
{
    if (team->size == 1) return;
    int phase = atomic_load(&team->phase), waited = 0;
    if (atomic_fetch_add(&team->arrived, 1) + 1 == team->size) {
        atomic_store(&team->arrived, 0);
        atomic_store(&team->phase, phase + 1);
    } else {
        while (atomic_load_explicit(&team->phase, memory_order_acquire) == phase) wait_a_little(&waited);
    }
}

static void work_for(Team *team) { team->work(team->task, atomic_fetch_add(&team->joined, 1), team); }

static void open_mp_member(void *team)
{
    Team *mine = team;
    /* The first of all knows how many came. */
    int number = atomic_fetch_add(&mine->joined, 1), waited = 0;
    if (number == 0) {
        mine->size = open_mp_num_threads();
        atomic_store(&mine->go, 1);
    }
    while (!atomic_load_explicit(&mine->go, memory_order_acquire)) wait_a_little(&waited);
    mine->work(mine->task, number, mine);
}

static void *member(void *team)
{
    Team *mine = team;
    int waited = 0;
    while (!atomic_load_explicit(&mine->go, memory_order_acquire)) wait_a_little(&waited);
    work_for(mine);
    return NULL;
}

static void in_parallel(Work *work, void *task, int64_t threads)
{
    Team team = {.work = work, .task = task, .size = 1};
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads > 1 && open_mp_parallel) {
        open_mp_parallel(open_mp_member, &team, (unsigned)threads, 0);
        return;
    }
    pthread_t others[MAX_THREADS];
    /* With as many as the system gives. */
    while (team.size < threads && !pthread_create(&others[team.size], NULL, member, &team)) team.size++;
    atomic_store(&team.go, 1);
    work_for(&team);
    for (int64_t thread = 1; thread < team.size; thread++) pthread_join(others[thread], NULL);
}

INLINE int64_t share(int64_t all_of_it, int64_t thread, int64_t threads) { return all_of_it * thread / threads; }

/* Input products */

typedef struct {
    const float *inputs; /* [rows][weight.inputs] */
    int64_t rows;
    Weight weight;     /* its panels in groups of four */
    const float *bias; /* [weight.outputs], in the order of the panels */
    float *gates;      /* [groups][rows][4][NR] */
    float *scratch;    /* [threads][KC * NR] */
    int16_t *units;    /* [rows][weight.inputs], of integers */
    float *sizes;      /* [rows], of a unit */
} InputProduct;

static void input_product_work(void *task, int64_t thread, Team *team)
{
    const InputProduct *job = task;
    const Weight *weight = &job->weight;
    int64_t groups = weight->outputs / (4 * NR);
    float *widened = job->scratch + thread * KC * NR;
    if (weight->kind == INT8) {
        for (int64_t row = share(job->rows, thread, team->size); row < share(job->rows, thread + 1, team->size); row++)
            job->sizes[row] = round_row(job->inputs + row * weight->inputs, weight->inputs, KC, weight->signed_levels,
                                        job->units + row * weight->inputs);
        meet(team);
    }
    for (int64_t row = 0; row < job->rows; row += ROWS) {
        int64_t rows = job->rows - row < ROWS ? job->rows - row : ROWS;
        for (int64_t panel = 4 * share(groups, thread, team->size); panel < 4 * share(groups, thread + 1, team->size);
             panel++) {
            float *to = job->gates + (panel / 4 * job->rows + row) * 4 * NR + panel % 4 * NR;
            for (int64_t k = 0; k < weight->inputs; k += KC) {
                int64_t count = weight->inputs - k < KC ? weight->inputs - k : KC;
                int64_t at = row * weight->inputs + k;
                const void *input = weight->kind == INT8 ? (const void *)(job->units + at) : job->inputs + at;
                times_panel(input, rows, weight->inputs, part_of_panel(weight, panel, k), weight->kind, count, to,
                            4 * NR, k ? NULL : job->bias + panel * NR, k > 0, widened);
            }
            finish(weight, panel, job->sizes + row, job->bias + panel * NR, rows, to, 4 * NR);
        }
    }
}

/* The recurrence */

typedef struct {
    int64_t steps;
    const int64_t *running; /* [steps]: rows that run, never growing */
    const float *gates;     /* [groups][words][4][NR], the input product of words */
    int64_t words;
    const int64_t *index;    /* [total]: which of them each word is; NULL: each its own */
    const float *hidden;     /* [running[0]][P] before the first word; NULL: zero */
    float *cell;             /* [running[0]][H]; becomes the last */
    float *outputs;          /* [total][P] */
    Weight hidden_weight;    /* its panels in groups of four */
    Weight output_weight;    /* outputs 0: no projection, H == P */
    float cell_clip, projection_clip;
    float *exposed; /* [ceil(H / KC)][running[0]][KC]: what is projected */
    float *scratch; /* [threads][KC * NR + ROWS * 4 * NR] */
    int16_t *units; /* of integers: [running[0]][P] or as `exposed`, whichever is projected next */
    float *sizes;   /* [running[0]], of a unit */
} Recurrence;

/* NR units of one row: from gates to a new cell and what it exposes. */
INLINE void one_row(const float *input, const float *recurrent, float *cell, float *exposed, float cell_clip)
{
    UNROLL for (int half = 0; half < NR; half += VL) {
        vf gate[4];
        UNROLL for (int g = 0; g < 4; g++) {
            gate[g] = load(input + g * NR + half);
            if (recurrent) gate[g] += load(recurrent + g * NR + half);
        }
        vf kept = sigmoid(gate[1]) * load(cell + half) + sigmoid(gate[0]) * hyperbolic_tangent(gate[2]);
        kept = clip(kept, cell_clip);
        store(cell + half, kept);
        store(exposed + half, sigmoid(gate[3]) * hyperbolic_tangent(kept));
    }
}

static void recurrence_work(void *task, int64_t thread, Team *team)
{
    const Recurrence *job = task;
    const Weight *hidden_weight = &job->hidden_weight, *output_weight = &job->output_weight;
    const int64_t width = hidden_weight->inputs, units = hidden_weight->outputs / 4, all_rows = job->running[0];
    const int64_t groups = units / NR, panels = output_weight->outputs / NR;
    float *widened = job->scratch + thread * (KC * NR + ROWS * 4 * NR), *recurrent = widened + KC * NR;
    const float *hidden = job->hidden;
    int64_t word = 0;
    const int integers = hidden_weight->kind == INT8;
    for (int64_t step = 0; step < job->steps; step++) {
        int64_t running = job->running[step];
        const int64_t first = share(running, thread, team->size), end = share(running, thread + 1, team->size);
        if (integers && hidden) {
            for (int64_t row = first; row < end; row++)
                job->sizes[row] = round_row(hidden + row * width, width, KC, hidden_weight->signed_levels,
                                            job->units + row * width);
            meet(team);
        }
        float *outputs = job->outputs + word * width;
        for (int64_t row = 0; row < running; row += ROWS) {
            int64_t rows = running - row < ROWS ? running - row : ROWS;
            for (int64_t group = share(groups, thread, team->size); group < share(groups, thread + 1, team->size);
                 group++) {
                const float *gates = job->gates + group * job->words * 4 * NR;
                if (hidden && rows == 1 && hidden_weight->kind == BFLOAT16)
                    row_times_four_panels(hidden + row * width, KC, hidden_weight, 4 * group, recurrent);
                else for (int64_t gate = 0; hidden && gate < 4; gate++) {
                    for (int64_t k = 0; k < width; k += KC) {
                        int64_t count = width - k < KC ? width - k : KC, at = row * width + k;
                        const void *input = integers ? (const void *)(job->units + at) : hidden + at;
                        times_panel(input, rows, width, part_of_panel(hidden_weight, 4 * group + gate, k),
                                    hidden_weight->kind, count, recurrent + gate * NR, 4 * NR, NULL, k > 0, widened);
                    }
                    finish(hidden_weight, 4 * group + gate, job->sizes + row, NULL, rows, recurrent + gate * NR,
                           4 * NR);
                }
                int64_t unit = group * NR;
                for (int64_t r = 0; r < rows; r++) {
                    int64_t at = word + row + r;
                    float *exposed = panels ? job->exposed + (unit / KC * all_rows + row + r) * KC + unit % KC
                                            : outputs + (row + r) * width + unit;
                    one_row(gates + (job->index ? job->index[at] : at) * 4 * NR, hidden ? recurrent + r * 4 * NR : NULL,
                            job->cell + (row + r) * units + unit, exposed, job->cell_clip);
                }
            }
        }
        meet(team);
        if (integers && panels) {
            for (int64_t row = first; row < end; row++)
                job->sizes[row] = round_row(job->exposed + row * KC, units, all_rows * KC,
                                            output_weight->signed_levels, job->units + row * KC);
            meet(team);
        }
        for (int64_t panel = share(panels, thread, team->size); panel < share(panels, thread + 1, team->size);
             panel++) {
            float *to = outputs + panel * NR;
            /* The first of four does for all of them. */
            const int64_t of_four = (panel - share(panels, thread, team->size)) % 4;
            const int at_once = running == 1 && output_weight->kind == BFLOAT16 &&
                                panel - of_four + 4 <= share(panels, thread + 1, team->size);
            if (at_once && of_four == 0) row_times_four_panels(job->exposed, all_rows * KC, output_weight, panel, to);
            for (int64_t k = 0; k < units && !at_once; k += KC) {
                int64_t count = units - k < KC ? units - k : KC;
                const void *input = integers ? (const void *)(job->units + k * all_rows) : job->exposed + k * all_rows;
                times_panel(input, running, KC, part_of_panel(output_weight, panel, k), output_weight->kind, count, to,
                            width, NULL, k > 0, widened);
            }
            finish(output_weight, panel, job->sizes, NULL, running, to, width);
            for (int64_t row = 0; row < running; row++) {
                UNROLL for (int half = 0; half < NR; half += VL) {
                    float *value = to + row * width + half;
                    store(value, clip(load(value), job->projection_clip));
                }
            }
        }
        if (panels) meet(team);
        hidden = outputs;
        word += running;
    }
}

/* What Python calls. Products return 0, or 1 where memory ran out and nothing was done. */

int64_t elmo_panel(void) { return NR; }

void elmo_use_open_mp(void *parallel, void *num_threads)
{
    open_mp_parallel = (OpenMpParallel *)parallel;
    open_mp_num_threads = (OpenMpNumber *)num_threads;
}

int64_t elmo_has_integers(void) { return HAS_INTEGERS; }

static void *memory_for(int64_t count, int64_t bytes)
{
    void *memory = NULL;
    return posix_memalign(&memory, 64, (count + 1) * bytes) ? NULL : memory;
}

int elmo_input_product(InputProduct *job, int64_t threads)
{
    const int integers = job->weight.kind == INT8;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    job->scratch = memory_for(threads * KC * NR, sizeof(float));
    job->units = memory_for(integers ? job->rows * job->weight.inputs : 0, sizeof(int16_t));
    job->sizes = memory_for(integers ? job->rows : 0, sizeof(float));
    int done = job->scratch && job->units && job->sizes;
    if (done) in_parallel(input_product_work, job, threads);
    free(job->scratch), free(job->units), free(job->sizes);
    return !done;
}

int elmo_recurrence(Recurrence *job, int64_t threads)
{
    const int integers = job->hidden_weight.kind == INT8;
    int64_t units = job->hidden_weight.outputs / 4, width = job->hidden_weight.inputs, rows = job->running[0];
    int64_t exposed = rows * ((units + KC - 1) / KC) * KC;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    job->scratch = memory_for(threads * (KC * NR + ROWS * 4 * NR), sizeof(float));
    job->exposed = memory_for(job->output_weight.outputs ? exposed : 0, sizeof(float));
    job->units = memory_for(!integers ? 0 : exposed > rows * width ? exposed : rows * width, sizeof(int16_t));
    job->sizes = memory_for(integers ? rows : 0, sizeof(float));
    int done = job->scratch && job->exposed && job->units && job->sizes;
    if (done) in_parallel(recurrence_work, job, threads);
    free(job->scratch), free(job->exposed), free(job->units), free(job->sizes);
    return !done;
}
"""

/* What a student's step spends its time on, in float32, with first and second derivatives: thin
 * matrix products, the soft head, LayerNorm, GELU, causal attention, a whole block of these, the
 * optimiser's update.
 *
 * Every product is one function, C (+)= A B, whose rows of B and C are contiguous and whose
 * A may have any strides. Logits are kept transposed, a panel of PANEL rows at a time: rows are the
 * vector lanes, so reductions over the vocabulary need no horizontal sums and nothing is packed.
 *
 * The files of this folder are one source, in the order that native.py gives, compiled on first use.
 * Results depend on the number of threads, not on timing.
 */
#include <stdlib.h>
#include <string.h>
#include <math.h>

#if defined(__AVX512F__)
enum { LANES = 16, WIDE = 4, TALL = 6 }; /* 24 of 32 registers accumulate */
#elif defined(__AVX__)
enum { LANES = 8, WIDE = 2, TALL = 6 }; /* 12 of 16 */
#else
enum { LANES = 4, WIDE = 2, TALL = 6 };
#endif
#ifndef PANEL
enum { PANEL = 64 };
#endif
#ifndef DEPTH
enum { DEPTH = 128 };   /* rows of B that stay in L1 */
#endif

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int ivec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

/* One tile: tall rows by wide vectors, summed in registers. What was there before is added last, so
 * that long sums are sums of short ones and round less. */
INLINE void tile(const int tall, const int wide, long K, const float *A, long a_row, long a_col,
                 const float *B, long b_row, float *C, long c_row, int add)
{
    vec sum[2 * TALL][WIDE];
    for (int i = 0; i < tall; i++)
        for (int j = 0; j < wide; j++)
            sum[i][j] = (vec){0};
    for (int i = 0; add && i < tall; i++)
        for (int j = 0; j < wide; j++) __builtin_prefetch(C + i * c_row + j * LANES, 1);
    for (long k = 0; k < K; k++) {
        vec b[WIDE];
        for (int j = 0; j < wide; j++) b[j] = *(const vec *)(B + k * b_row + j * LANES);
        __builtin_prefetch(A + k * a_col + TALL * a_row + 10);
        for (int i = 0; i < tall; i++) {
            float a = A[i * a_row + k * a_col];
            for (int j = 0; j < wide; j++) sum[i][j] += a * b[j];
        }
    }
    for (int i = 0; i < tall; i++)
        for (int j = 0; j < wide; j++) {
            vec *c = (vec *)(C + i * c_row + j * LANES);
            if (add) sum[i][j] += *c;
            *c = sum[i][j];
        }
}

INLINE void column_of_tiles(const int wide, long M, long K, const float *A, long a_row, long a_col,
                            const float *B, long b_row, float *C, long c_row, int add)
{
    long i = 0;
    if (2 * wide <= WIDE) /* as many registers, for twice the rows */
        for (; i + 2 * TALL <= M; i += 2 * TALL)
            tile(2 * TALL, wide, K, A + i * a_row, a_row, a_col, B, b_row, C + i * c_row, c_row, add);
    for (; i + TALL <= M; i += TALL)
        tile(TALL, wide, K, A + i * a_row, a_row, a_col, B, b_row, C + i * c_row, c_row, add);
    A += i * a_row, C += i * c_row;
    switch (M - i) {
    case 1: tile(1, wide, K, A, a_row, a_col, B, b_row, C, c_row, add); break;
    case 2: tile(2, wide, K, A, a_row, a_col, B, b_row, C, c_row, add); break;
    case 3: tile(3, wide, K, A, a_row, a_col, B, b_row, C, c_row, add); break;
    case 4: tile(4, wide, K, A, a_row, a_col, B, b_row, C, c_row, add); break;
    case 5: tile(5, wide, K, A, a_row, a_col, B, b_row, C, c_row, add); break;
    }
}

/* Fewer than LANES columns, through buffers that have LANES. */
static void last_columns(long M, long N, long K, const float *A, long a_row, long a_col,
                         const float *B, long b_row, float *C, long c_row, int add)
{
    float b[DEPTH * LANES] = {0}, c[PANEL * LANES] = {0};
    for (long k = 0; k < K; k++) memcpy(b + k * LANES, B + k * b_row, N * sizeof(float));
    for (long i = 0; i < M; i += PANEL) {
        long rows = M - i < PANEL ? M - i : PANEL;
        for (long r = 0; add && r < rows; r++)
            memcpy(c + r * LANES, C + (i + r) * c_row, N * sizeof(float));
        column_of_tiles(1, rows, K, A + i * a_row, a_row, a_col, b, LANES, c, LANES, add);
        for (long r = 0; r < rows; r++)
            memcpy(C + (i + r) * c_row, c + r * LANES, N * sizeof(float));
    }
}

/* C (M, N) = A (M, K) B (K, N), plus C where `add`. */
static void product(long M, long N, long K, const float *A, long a_row, long a_col,
                    const float *B, long b_row, float *C, long c_row, int add)
{
    for (long k = 0; k < K; k += DEPTH, add = 1, A += DEPTH * a_col, B += DEPTH * b_row) {
        long depth = K - k < DEPTH ? K - k : DEPTH, j = 0;
        for (; j + WIDE * LANES <= N; j += WIDE * LANES)
            column_of_tiles(WIDE, M, depth, A, a_row, a_col, B + j, b_row, C + j, c_row, add);
        for (; j + 2 * LANES <= N; j += 2 * LANES)
            column_of_tiles(2, M, depth, A, a_row, a_col, B + j, b_row, C + j, c_row, add);
        for (; j + LANES <= N; j += LANES)
            column_of_tiles(1, M, depth, A, a_row, a_col, B + j, b_row, C + j, c_row, add);
        if (j < N) last_columns(M, N - j, depth, A, a_row, a_col, B + j, b_row, C + j, c_row, add);
    }
}

INLINE vec larger(vec a, vec b)
{
    ivec first = a > b;
    return (vec)((first & (ivec)a) | (~first & (ivec)b));
}

/* exp to 1 ulp or so for x <= 88, exp(-87) below -87; NaN stays NaN. */
INLINE vec exp_of(vec x)
{
    const float shift = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    ivec tiny = x < -87.0f;
    x = (vec)((tiny & (ivec)((vec){0} - 87.0f)) | (~tiny & (ivec)x));
    vec n = (x * 1.44269504f + shift) - shift;
    vec r = x - n * 0.693145752f - n * 1.42860677e-6f;
    vec p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    ivec scale = (__builtin_convertvector(n, ivec) + 127) << 23;
    return p * (vec)scale;
}

static float *space(size_t count)
{
    void *p = NULL;
    return posix_memalign(&p, 64, count * sizeof(float)) ? NULL : p;
}
static long padded(long W) { return (W + LANES - 1) / LANES * LANES; }

/* C (M, N) = A B, plus C where `add`; rows of B and C are contiguous. Threads split the rows. */
int matrix_product(long threads, long M, long N, long K, const float *A, const float *B, float *C,
                   long a_row, long a_col, long b_row, long c_row, long add)
{
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long t = 0; t < threads; t++) {
        long i = M * t / threads, end = M * (t + 1) / threads;
        product(end - i, N, K, A + i * a_row, a_row, a_col, B, b_row, C + i * c_row, c_row, add);
    }
    return 0;
}

/* W (rows, columns) -> out (columns, rows), a square of a line's width at a time */
static void turned(long rows, long columns, const float *W, float *out)
{
    for (long r = 0; r < rows; r += 16)
        for (long c = 0; c < columns; c += 16)
            for (long k = c; k < columns && k < c + 16; k++)
                for (long i = r; i < rows && i < r + 16; i++) out[k * rows + i] = W[i * columns + k];
}

/* out (columns, rows) = W^T */
int transpose(long threads, long rows, long columns, const float *W, float *out)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long c = 0; c < columns; c += 16)
        for (long r = 0; r < rows; r += 16)
            for (long k = c; k < columns && k < c + 16; k++)
                for (long i = r; i < rows && i < r + 16; i++) out[k * rows + i] = W[i * columns + k];
    return 0;
}

/* y (R, O) = bias + x W^T, plus x2 W2^T where given; W is (O, I). */
int linear(long threads, long R, long I, long O, const float *x, const float *W, const float *x2,
           const float *W2, const float *bias, float *y)
{
    float *Wt = space((x2 ? 2 : 1) * I * O), *Wt2 = Wt + I * O;
    if (!Wt) return 1;
    turned(O, I, W, Wt);
    if (x2) turned(O, I, W2, Wt2);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < R; i += 16 * TALL) {
        long rows = R - i < 16 * TALL ? R - i : 16 * TALL;
        for (long r = i; r < i + rows; r++) memcpy(y + r * O, bias, O * sizeof(float));
        product(rows, O, I, x + i * I, I, 1, Wt, O, y + i * O, O, 1);
        if (x2) product(rows, O, I, x2 + i * I, I, 1, Wt2, O, y + i * O, O, 1);
    }
    free(Wt);
    return 0;
}

/* What a student's step spends its time on, in float32, with first and second derivatives: thin
 * matrix products, the soft head, LayerNorm, GELU, causal attention, the optimiser's update.
 *
 * Every product is one function, C (+)= A B, whose rows of B and C are contiguous and whose
 * A may have any strides. Logits are kept transposed, a panel of PANEL rows at a time: rows are the
 * vector lanes, so reductions over the vocabulary need no horizontal sums and nothing is packed.
 *
 * Compiled on first use by native.py. Results depend on the number of threads, not on timing.
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
    vec sum[TALL][WIDE];
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
    for (; i + TALL <= M; i += TALL)
        tile(TALL, wide, K, A + i * a_row, a_row, a_col, B, b_row, C + i * c_row, c_row, add);
    for (; i + 3 <= M; i += 3)
        tile(3, wide, K, A + i * a_row, a_row, a_col, B, b_row, C + i * c_row, c_row, add);
    for (; i < M; i++)
        tile(1, wide, K, A + i * a_row, a_row, a_col, B, b_row, C + i * c_row, c_row, add);
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

/* Rows first..first+count of X (R, W), times `scale` where given, as columns; zeros up to PANEL. */
static void transposed(const float *X, long W, long count, float *out)
{
    for (long w = 0; w < W; w++) {
        for (long r = 0; r < count; r++) out[w * PANEL + r] = X[r * W + w];
        for (long r = count; r < PANEL; r++) out[w * PANEL + r] = 0;
    }
}
static void scaled_rows(const float *X, long W, long Wp, long count, const float *scale, float *out)
{
    memset(out, 0, PANEL * Wp * sizeof(float));
    for (long r = 0; r < count; r++)
        for (long w = 0; w < W; w++) out[r * Wp + w] = X[r * W + w] * scale[r];
}
static float *space(size_t count)
{
    void *p = NULL;
    return posix_memalign(&p, 64, count * sizeof(float)) ? NULL : p;
}
static long padded(long W) { return (W + LANES - 1) / LANES * LANES; }

/* lse (R,) of H E^T; where SE is given, also softmax(H E^T) E and dE = softmax^T (w H). */
int log_partition(long threads, long R, long V, long W, const float *H, const float *E,
                  const float *weights, float *lse, float *SE, float *dE)
{
    long Wp = padded(W), panels = (R + PANEL - 1) / PANEL;
    if (threads > panels) threads = panels;
    size_t one = (size_t)V * PANEL + 3 * (size_t)Wp * PANEL + (SE ? (size_t)V * Wp : 0);
    float *all = space(one * threads);
    if (!all) return 1;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long t = 0; t < threads; t++) {
        float *S = all + t * one, *Ht = S + V * PANEL, *right = Ht + Wp * PANEL,
              *SEt = right + Wp * PANEL, *sum_dE = SEt + Wp * PANEL;
        if (SE) memset(sum_dE, 0, (size_t)V * Wp * sizeof(float));
        for (long p = panels * t / threads; p < panels * (t + 1) / threads; p++) {
            long first = p * PANEL, count = R - first < PANEL ? R - first : PANEL;
            float top[PANEL], total[PANEL], scale[PANEL];
            transposed(H + first * W, W, count, Ht);
            product(V, PANEL, W, E, W, 1, Ht, PANEL, S, PANEL, 0);
            for (long l = 0; l < PANEL; l += LANES) {
                vec high = *(vec *)(S + l), sum = {0};
                for (long v = 1; v < V; v++) {
                    high = larger(high, *(vec *)(S + v * PANEL + l));
                }
                for (long v = 0; v < V;) {
                    vec part = {0};
                    for (long end = V - v < DEPTH ? V : v + DEPTH; v < end; v++) {
                        vec *z = (vec *)(S + v * PANEL + l);
                        *z = exp_of(*z - high);
                        part += *z;
                    }
                    sum += part;
                }
                *(vec *)(top + l) = high, *(vec *)(total + l) = sum;
            }
            for (long r = 0; r < count; r++) {
                lse[first + r] = top[r] + logf(total[r]);
                scale[r] = weights[first + r] / total[r];
            }
            if (!SE) continue;
            scaled_rows(H + first * W, W, Wp, count, scale, right);
            product(V, Wp, PANEL, S, PANEL, 1, right, Wp, sum_dE, Wp, 1);
            product(W, PANEL, V, E, 1, W, S, PANEL, SEt, PANEL, 0);
            for (long r = 0; r < count; r++)
                for (long w = 0; w < W; w++)
                    SE[(first + r) * W + w] = SEt[w * PANEL + r] / total[r];
        }
    }
    if (SE)
        for (long v = 0; v < V; v++)
            for (long w = 0; w < W; w++) {
                float sum = 0;
                for (long t = 0; t < threads; t++)
                    sum += all[t * one + V * PANEL + 3 * Wp * PANEL + v * Wp + w];
                dE[v * W + w] = sum;
            }
    free(all);
    return 0;
}

/* The derivative of <U, dL/dH> + <C, dL/dE>: see soft_head.py. `w` is the row weight times dL. */
int log_partition_second(long threads, long R, long V, long W, const float *H, const float *E,
                         const float *w_, const float *lse, const float *SE, const float *U,
                         const float *C, float *r_out, float *dH, float *dE)
{
    long Wp = padded(W), panels = (R + PANEL - 1) / PANEL;
    if (threads > panels) threads = panels;
    size_t head = 2 * (size_t)V * PANEL + 6 * (size_t)Wp * PANEL, one = head + (size_t)V * Wp;
    float *all = space(one * threads);
    if (!all) return 1;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long t = 0; t < threads; t++) {
        float *S = all + t * one, *M = S + V * PANEL, *Ht = M + V * PANEL, *Ut = Ht + Wp * PANEL,
              *SCt = Ut + Wp * PANEL, *QEt = SCt + Wp * PANEL, *left = QEt + Wp * PANEL,
              *right = left + Wp * PANEL, *sum_dE = S + head;
        memset(sum_dE, 0, (size_t)V * Wp * sizeof(float));
        for (long p = panels * t / threads; p < panels * (t + 1) / threads; p++) {
            long first = p * PANEL, count = R - first < PANEL ? R - first : PANEL;
            float level[PANEL] = {0}, r[PANEL] = {0};
            const float *h = H + first * W, *u = U + first * W, *w = w_ + first;
            memcpy(level, lse + first, count * sizeof(float));
            transposed(h, W, count, Ht);
            transposed(u, W, count, Ut);
            product(V, PANEL, W, E, W, 1, Ht, PANEL, S, PANEL, 0);
            product(V, PANEL, W, E, W, 1, Ut, PANEL, M, PANEL, 0);
            product(V, PANEL, W, C, W, 1, Ht, PANEL, M, PANEL, 1);
            for (long v = 0; v < V; v++)
                for (long l = 0; l < PANEL; l += LANES) {
                    vec *z = (vec *)(S + v * PANEL + l), *m = (vec *)(M + v * PANEL + l);
                    *z = exp_of(*z - *(vec *)(level + l));
                    *m *= *z;
                }
            product(W, PANEL, V, C, 1, W, S, PANEL, SCt, PANEL, 0);
            product(W, PANEL, V, E, 1, W, M, PANEL, QEt, PANEL, 0);
            memset(left, 0, PANEL * Wp * sizeof(float));
            for (long i = 0; i < count; i++) {
                const float *se = SE + (first + i) * W;
                for (long k = 0; k < W; k++)
                    r[i] += u[i * W + k] * se[k] + h[i * W + k] * SCt[k * PANEL + i];
                for (long k = 0; k < W; k++) {
                    left[i * Wp + k] = w[i] * (u[i * W + k] - r[i] * h[i * W + k]);
                    dH[(first + i) * W + k] =
                        w[i] * (QEt[k * PANEL + i] - r[i] * se[k] + SCt[k * PANEL + i]);
                }
                r_out[first + i] = r[i];
            }
            scaled_rows(h, W, Wp, count, w, right);
            product(V, Wp, PANEL, S, PANEL, 1, left, Wp, sum_dE, Wp, 1);
            product(V, Wp, PANEL, M, PANEL, 1, right, Wp, sum_dE, Wp, 1);
        }
    }
    for (long v = 0; v < V; v++)
        for (long k = 0; k < W; k++) {
            float sum = 0;
            for (long t = 0; t < threads; t++) sum += all[t * one + head + v * Wp + k];
            dE[v * W + k] = sum;
        }
    free(all);
    return 0;
}

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

/* Phi(x), the standard normal distribution function, to 1e-7 (Abramowitz and Stegun 7.1.26);
 * `density` becomes its derivative. */
INLINE vec normal(vec x, vec *density)
{
    vec bell = exp_of(-0.5f * x * x), t = 1.0f / (1.0f + 0.231641889f * larger(x, -x));
    vec p = t * 1.061405429f - 1.453152027f;
    p = (p * t + 1.421413741f) * t - 0.284496736f;
    p = (p * t + 0.254829592f) * t;
    vec upper = 0.5f * p * bell;
    ivec positive = x > 0.0f;
    *density = 0.398942280f * bell;
    return (vec)((positive & (ivec)(1.0f - upper)) | (~positive & (ivec)upper));
}

INLINE void gelu_lanes(const int order, const float *x, const float *g, const float *c, float *out,
                       float *out2)
{
    vec v = *(const vec *)x, density, below = normal(v, &density);
    if (order == 0) {
        *(vec *)out = v * below;
        return;
    }
    vec first = below + v * density, up = *(const vec *)g;
    if (order == 1) {
        *(vec *)out = up * first;
        return;
    }
    vec down = *(const vec *)c;
    *(vec *)out = down * first;
    *(vec *)out2 = down * up * density * (2.0f - v * v);
}

INLINE void gelu_all(const int order, long threads, long count, const float *x, const float *g,
                     const float *c, float *out, float *out2)
{
    long whole = count / LANES * LANES;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < whole; i += LANES)
        gelu_lanes(order, x + i, g + i, c + i, out + i, out2 + i);
    size_t rest = (count - whole) * sizeof(float);
    if (rest) {
        float in[3][LANES] = {{0}}, to[2][LANES];
        const float *from[3] = {x, g, c};
        float *into[2] = {out, out2};
        for (int a = 0; a <= order; a++) memcpy(in[a], from[a] + whole, rest);
        gelu_lanes(order, in[0], in[1], in[2], to[0], to[1]);
        for (int a = 0; a < (order == 2 ? 2 : 1); a++) memcpy(into[a] + whole, to[a], rest);
    }
}

/* order 0: out = gelu(x); 1: out = g gelu'(x); 2: out = c gelu'(x), out2 = c g gelu''(x). */
int gelu(long threads, long order, long count, const float *x, const float *g, const float *c,
          float *out, float *out2)
{
    if (order == 0) gelu_all(0, threads, count, x, g, c, out, out2);
    if (order == 1) gelu_all(1, threads, count, x, g, c, out, out2);
    if (order == 2) gelu_all(2, threads, count, x, g, c, out, out2);
    return 0;
}

INLINE float dot(long n, const float *a, const float *b)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

INLINE float total_of(long n, const float *a)
{
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < n; i++) sum += a[i];
    return sum;
}

/* xh = (x - mean) / deviation; returns 1 / deviation. */
INLINE float standardised(long W, const float *x, float eps, float *xh)
{
    float mean = total_of(W, x) / W;
    for (long k = 0; k < W; k++) xh[k] = x[k] - mean;
    float rstd = 1.0f / sqrtf(dot(W, xh, xh) / W + eps);
    for (long k = 0; k < W; k++) xh[k] *= rstd;
    return rstd;
}

/* out = rstd (a - mean(a) - xh mean(a xh)): the derivative of `standardised`, its own transpose. */
INLINE void through_standard(long W, const float *xh, float rstd, const float *a, float *out)
{
    float mean = total_of(W, a) / W, slope = dot(W, a, xh) / W;
    for (long k = 0; k < W; k++) out[k] = rstd * (a[k] - mean - xh[k] * slope);
}

int layer_norm(long threads, long R, long W, float eps, const float *x, const float *gain,
                const float *bias, float *y)
{
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long r = 0; r < R; r++) {
        float *out = y + r * W;
        standardised(W, x + r * W, eps, out);
        for (long k = 0; k < W; k++) out[k] = out[k] * gain[k] + bias[k];
    }
    return 0;
}

/* d_x, d_gain, d_bias of layer_norm for the cotangent g of y. `sums` has room for 2 W a thread. */
int layer_norm_first(long threads, long R, long W, float eps, const float *x, const float *gain,
                      const float *g, float *d_x, float *d_gain, float *d_bias, float *sums)
{
    memset(sums, 0, 2 * threads * W * sizeof(float));
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long t = 0; t < threads; t++) {
        float xh[W], a[W], *sum_gain = sums + 2 * t * W, *sum_bias = sum_gain + W;
        for (long r = R * t / threads; r < R * (t + 1) / threads; r++) {
            const float *up = g + r * W;
            float rstd = standardised(W, x + r * W, eps, xh);
            for (long k = 0; k < W; k++) {
                a[k] = up[k] * gain[k];
                sum_gain[k] += up[k] * xh[k];
                sum_bias[k] += up[k];
            }
            through_standard(W, xh, rstd, a, d_x + r * W);
        }
    }
    for (long k = 0; k < W; k++) {
        d_gain[k] = d_bias[k] = 0;
        for (long t = 0; t < threads; t++)
            d_gain[k] += sums[2 * t * W + k], d_bias[k] += sums[(2 * t + 1) * W + k];
    }
    return 0;
}

/* The derivative of <A, d_x> + <c_gain, d_gain> + <c_bias, d_bias>. */
int layer_norm_second(long threads, long R, long W, float eps, const float *x, const float *gain,
                       const float *g, const float *A, const float *c_gain, const float *c_bias,
                       float *to_x, float *to_gain, float *to_g, float *sums)
{
    memset(sums, 0, threads * W * sizeof(float));
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long t = 0; t < threads; t++) {
        float xh[W], a[W], B[W], D[W], *sum_gain = sums + t * W;
        for (long r = R * t / threads; r < R * (t + 1) / threads; r++) {
            const float *up = g + r * W, *down = A + r * W;
            float rstd = standardised(W, x + r * W, eps, xh);
            through_standard(W, xh, rstd, down, B);
            for (long k = 0; k < W; k++) {
                a[k] = up[k] * gain[k];
                sum_gain[k] += B[k] * up[k];
                to_g[r * W + k] = B[k] * gain[k] + c_gain[k] * xh[k] + c_bias[k];
            }
            float slope = dot(W, a, xh) / W, other = dot(W, down, xh) / W, joint = dot(W, a, B) / W;
            for (long k = 0; k < W; k++)
                D[k] = c_gain[k] * up[k] - rstd * (other * a[k] + slope * down[k]);
            through_standard(W, xh, rstd, D, to_x + r * W);
            for (long k = 0; k < W; k++) to_x[r * W + k] -= joint * rstd * xh[k];
        }
    }
    for (long k = 0; k < W; k++) {
        to_gain[k] = 0;
        for (long t = 0; t < threads; t++) to_gain[k] += sums[t * W + k];
    }
    return 0;
}

/* Causal self-attention of one head. Q, K, V and the outputs are (L, d) with rows `row` apart; an
 * (L, L) matrix has rows of `side` floats, zeros beyond L. */
typedef struct {
    long L, d, row, side;
    float scale;
    float *turned; /* (d, side): the right factor of a product with a transpose */
} head;

/* out (+)= scale X Y^T */
INLINE void pairwise(const head *h, const float *X, long x_row, const float *Y, long y_row,
                     float *out, int add)
{
    for (long k = 0; k < h->d; k++)
        for (long j = 0; j < h->side; j++)
            h->turned[k * h->side + j] = j < h->L ? Y[j * y_row + k] : 0;
    product(h->L, h->side, h->d, X, x_row, 1, h->turned, h->side, out, h->side, add);
}

/* out (+)= S Y, or S^T Y */
INLINE void mix(const head *h, const float *S, int transpose, const float *Y, long y_row, float *out,
                long out_row, int add)
{
    product(h->L, h->d, h->L, S, transpose ? 1 : h->side, transpose ? h->side : 1, Y, y_row, out,
            out_row, add);
}

/* Scores to weights: the softmax over positions up to the row's own. */
INLINE void weights_of(const head *h, float *S)
{
    for (long i = 0; i < h->L; i++) {
        float *row = S + i * h->side, high = row[0], sum = 0;
        for (long j = 1; j <= i; j++) high = row[j] > high ? row[j] : high;
        for (long j = 0; j < h->side; j += LANES)
            *(vec *)(row + j) = exp_of((*(vec *)(row + j) - high) * h->scale);
        for (long j = i + 1; j < h->side; j++) row[j] = 0;
        sum = 1.0f / total_of(i + 1, row);
        for (long j = 0; j <= i; j++) row[j] *= sum;
    }
}

/* X -> S (X - rowsum(S X)) scale: the derivative of the softmax, its own transpose. */
INLINE void through_softmax(const head *h, const float *S, float *X, float scale)
{
    for (long i = 0; i < h->L; i++) {
        const float *s = S + i * h->side;
        float *x = X + i * h->side, mean = dot(i + 1, s, x);
        for (long j = 0; j < h->side; j++) x[j] = scale * s[j] * (x[j] - mean);
    }
}

INLINE head head_of(long L, long W, long heads, float *turned)
{
    long d = W / heads;
    return (head){L, d, 3 * W, padded(L), 1.0f / sqrtf(d), turned};
}

#define FOR_EACH_HEAD(matrices)                                                                    \
    long d = W / heads, side = padded(L), square = L * side, jobs = B * heads;                     \
    if (threads > jobs) threads = jobs;                                                            \
    size_t one = (matrices) * square + d * side;                                                   \
    float *all = space(one * threads);                                                             \
    if (!all) return 1;                                                                            \
    _Pragma("omp parallel for num_threads(threads) schedule(static, 1)")                           \
    for (long t = 0; t < threads; t++)                                                             \
        for (long job = jobs * t / threads; job < jobs * (t + 1) / threads; job++)

/* qkv (B, L, 3 W) -> out (B, L, W) */
int attention(long threads, long B, long L, long W, long heads, const float *qkv, float *out)
{
    FOR_EACH_HEAD(1)
    {
        float *S = all + t * one;
        head h = head_of(L, W, heads, S + square);
        const float *Q = qkv + job / heads * L * 3 * W + job % heads * d, *K = Q + W, *V = K + W;
        pairwise(&h, Q, 3 * W, K, 3 * W, S, 0);
        weights_of(&h, S);
        mix(&h, S, 0, V, 3 * W, out + job / heads * L * W + job % heads * d, W, 0);
    }
    free(all);
    return 0;
}

/* d_qkv for the cotangent g (B, L, W) of out */
int attention_first(long threads, long B, long L, long W, long heads, const float *qkv,
                    const float *g, float *d_qkv)
{
    FOR_EACH_HEAD(2)
    {
        float *S = all + t * one, *D = S + square;
        head h = head_of(L, W, heads, D + square);
        long at = job / heads * L * 3 * W + job % heads * d;
        const float *Q = qkv + at, *K = Q + W, *V = K + W;
        const float *up = g + job / heads * L * W + job % heads * d;
        float *dQ = d_qkv + at, *dK = dQ + W, *dV = dK + W;
        pairwise(&h, Q, 3 * W, K, 3 * W, S, 0);
        weights_of(&h, S);
        pairwise(&h, up, W, V, 3 * W, D, 0);
        through_softmax(&h, S, D, h.scale);
        mix(&h, D, 0, K, 3 * W, dQ, 3 * W, 0);
        mix(&h, D, 1, Q, 3 * W, dK, 3 * W, 0);
        mix(&h, S, 1, up, W, dV, 3 * W, 0);
    }
    free(all);
    return 0;
}

/* The derivative of <c, d_qkv>, for qkv and for g. With S the weights, G = g V^T, D = S (G - rho),
 * rho = rowsum(S G) and N the cotangent of D, the cotangents of S and G are
 * g cV^T + N (G - rho) - nu G and S (N - nu), where nu = rowsum(S N). */
int attention_second(long threads, long B, long L, long W, long heads, const float *qkv,
                     const float *g, const float *c, float *to_qkv, float *to_g)
{
    FOR_EACH_HEAD(4)
    {
        float *S = all + t * one, *G = S + square, *N = G + square, *T = N + square;
        head h = head_of(L, W, heads, T + square);
        long at = job / heads * L * 3 * W + job % heads * d, out = job / heads * L * W + job % heads * d;
        const float *Q = qkv + at, *K = Q + W, *V = K + W, *cQ = c + at, *cK = cQ + W, *cV = cK + W;
        const float *up = g + out;
        float *tQ = to_qkv + at, *tK = tQ + W, *tV = tK + W, *tg = to_g + out;
        pairwise(&h, Q, 3 * W, K, 3 * W, S, 0);
        weights_of(&h, S);
        pairwise(&h, up, W, V, 3 * W, G, 0);
        pairwise(&h, cQ, 3 * W, K, 3 * W, N, 0);
        pairwise(&h, Q, 3 * W, cK, 3 * W, N, 1);
        pairwise(&h, up, W, cV, 3 * W, T, 0);
        for (long i = 0; i < L; i++) {
            float *s = S + i * side, *gi = G + i * side, *n = N + i * side, *x = T + i * side;
            float rho = dot(i + 1, s, gi), nu = h.scale * dot(i + 1, s, n), both = 0;
            for (long j = 0; j < side; j++) {
                float cot = h.scale * n[j];
                x[j] += cot * (gi[j] - rho) - nu * gi[j];
                n[j] = s[j] * (cot - nu);
                gi[j] = h.scale * s[j] * (gi[j] - rho);
            }
            both = dot(i + 1, s, x);
            for (long j = 0; j < side; j++) x[j] = h.scale * s[j] * (x[j] - both);
        }
        mix(&h, T, 0, K, 3 * W, tQ, 3 * W, 0);
        mix(&h, G, 0, cK, 3 * W, tQ, 3 * W, 1);
        mix(&h, T, 1, Q, 3 * W, tK, 3 * W, 0);
        mix(&h, G, 1, cQ, 3 * W, tK, 3 * W, 1);
        mix(&h, N, 1, up, W, tV, 3 * W, 0);
        mix(&h, N, 0, V, 3 * W, tg, W, 0);
        mix(&h, S, 0, cV, 3 * W, tg, W, 1);
    }
    free(all);
    return 0;
}

/* Adam with L2 decay `l2` (AdamW: 0) whose parameter is first multiplied by `keep` (Adam: 1). b1, b2
 * and a1, a2 weigh the old moments and the new gradient; rate is lr / c1. */
typedef struct {
    float b1, b2, a1, a2, rate, inv_c2, eps, eps_root, l2, keep, decoupled;
} adam;

enum { SUMS = 9, BLOCK = 512 }; /* sums of BLOCK elements in float, of blocks in double */

int adam_update(long threads, long n, const adam *o, const float *w, const float *m, const float *v,
                const float *g, float *new_w, float *new_m, float *new_v)
{
    const adam c = *o;
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (long i = 0; i < n; i++) {
        float h = g[i] + c.l2 * w[i];
        float first = c.b1 * m[i] + c.a1 * h, second = c.b2 * v[i] + c.a2 * h * h;
        float r = sqrtf(second * c.inv_c2 + c.eps_root) + c.eps;
        new_m[i] = first, new_v[i] = second;
        new_w[i] = c.keep * w[i] - c.rate * first / r;
    }
    return 0;
}

/* Elements `from` to `to` of adam_pull_back. */
INLINE void adam_block(const int known, long from, long to, const adam *o, const float *w,
                       const float *m, const float *v, const float *m_after, const float *v_after,
                       const float *g, const float *dw, const float *dm, const float *dv, float *u,
                       float *to_w, float *to_m, float *to_v, double *sums)
{
    const adam c = *o;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0, s8 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, s4, s5, s6, s7, s8)
    for (long i = from; i < to; i++) {
        float h = g[i] + c.l2 * w[i];
        float first = known ? m_after[i] : c.b1 * m[i] + c.a1 * h;
        float second = known ? v_after[i] : c.b2 * v[i] + c.a2 * h * h;
        float s = sqrtf(second * c.inv_c2 + c.eps_root), r = s + c.eps, q = dw[i] / r;
        float d_r = c.rate * first * q / r, z = 0.5f * d_r / s;
        float d_m = dm[i] - c.rate * q, d_v = dv[i] + z * c.inv_c2, t = h * d_v;
        float d_h = c.a1 * d_m + 2 * c.a2 * t;
        s0 += first * q, s1 += d_r, s2 += z, s3 += z * second, s4 += m[i] * d_m, s5 += h * d_m;
        s6 += v[i] * d_v, s7 += h * t, s8 += w[i] * (c.decoupled ? dw[i] : d_h);
        u[i] = d_h, to_w[i] = c.keep * dw[i] + c.l2 * d_h;
        to_m[i] = c.b1 * d_m, to_v[i] = c.b2 * d_v;
    }
    const float part[SUMS] = {s0, s1, s2, s3, s4, s5, s6, s7, s8};
    for (int k = 0; k < SUMS; k++) sums[k] += part[k];
}

/* The vector-Jacobian product of adam_update: the cotangents u of g, and of w, m and v, and the sums
 * that those of the hyper-parameters are made of. The moments after the step may be given. */
int adam_pull_back(long threads, long n, const adam *o, const float *w, const float *m,
                   const float *v, const float *m_after, const float *v_after, const float *g,
                   const float *dw, const float *dm, const float *dv, float *u, float *to_w,
                   float *to_m, float *to_v, double *sums)
{
    double *all = calloc(threads * SUMS, sizeof(double));
    if (!all) return 1;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long t = 0; t < threads; t++) {
        long end = n * (t + 1) / threads;
        for (long i = n * t / threads; i < end; i += BLOCK) {
            long to = end - i < BLOCK ? end : i + BLOCK;
            if (m_after)
                adam_block(1, i, to, o, w, m, v, m_after, v_after, g, dw, dm, dv, u, to_w, to_m,
                           to_v, all + t * SUMS);
            else
                adam_block(0, i, to, o, w, m, v, NULL, NULL, g, dw, dm, dv, u, to_w, to_m, to_v,
                           all + t * SUMS);
        }
    }
    for (int k = 0; k < SUMS; k++) {
        sums[k] = 0;
        for (long t = 0; t < threads; t++) sums[k] += all[t * SUMS + k];
    }
    free(all);
    return 0;
}

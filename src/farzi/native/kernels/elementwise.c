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

/* The activation of x, and its first and second derivative: GELU, or where `relu` max(x, 0). */
INLINE vec activation(const int relu, vec x, vec *first, vec *second)
{
    if (relu) {
        ivec positive = x > 0.0f;
        *first = (vec)(positive & (ivec)((vec){0} + 1.0f)), *second = (vec){0};
        return (vec)(positive & (ivec)x);
    }
    vec density, below = normal(x, &density);
    *first = below + x * density, *second = density * (2.0f - x * x);
    return x * below;
}

/* For `count` elements: order 0: out = f(x); 1: out = a f'(x); 2: out = a f'(x) and
 * out2 = b f'(x) + a2 f''(x) a, where b NULL is 0. */
INLINE void activate_lanes(const int order, const int relu, const float *x, const float *a,
                           const float *a2, const float *b, float *out, float *out2)
{
    vec first, second, value = activation(relu, *(const vec *)x, &first, &second);
    if (order == 0) {
        *(vec *)out = value;
        return;
    }
    vec along = *(const vec *)a;
    *(vec *)out = along * first;
    if (order == 1) return;
    vec bent = *(const vec *)a2 * second * along;
    if (b) bent += *(const vec *)b * first;
    *(vec *)out2 = bent;
}

INLINE void activate(const int order, const int relu, long count, const float *x, const float *a,
                     const float *a2, const float *b, float *out, float *out2)
{
    long whole = count / LANES * LANES;
    for (long i = 0; i < whole; i += LANES)
        activate_lanes(order, relu, x + i, a + i, a2 + i, b ? b + i : b, out + i, out2 + i);
    size_t rest = (count - whole) * sizeof(float);
    if (!rest) return;
    float in[4][LANES] = {{0}}, to[2][LANES];
    memcpy(in[0], x + whole, rest);
    if (order > 0) memcpy(in[1], a + whole, rest);
    if (order > 1) memcpy(in[2], a2 + whole, rest);
    if (order > 1 && b) memcpy(in[3], b + whole, rest);
    activate_lanes(order, relu, in[0], in[1], in[2], in[3], to[0], to[1]);
    memcpy(out + whole, to[0], rest);
    if (order > 1) memcpy(out2 + whole, to[1], rest);
}

/* order 0: out = gelu(x); 1: out = g gelu'(x); 2: out = c gelu'(x), out2 = c g gelu''(x). */
int gelu(long threads, long order, long count, const float *x, const float *g, const float *c,
          float *out, float *out2)
{
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long t = 0; t < threads; t++) {
        long i = count * t / threads / LANES * LANES;
        long n = (t + 1 < threads ? count * (t + 1) / threads / LANES * LANES : count) - i;
        if (order == 0) activate(0, 0, n, x + i, NULL, NULL, NULL, out + i, NULL);
        if (order == 1) activate(1, 0, n, x + i, g + i, NULL, NULL, out + i, NULL);
        if (order == 2) activate(2, 0, n, x + i, c + i, g + i, NULL, out + i, out2 + i);
    }
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

/* A row of LayerNorm for the cotangent `up` of its result, with `xh` and `rstd` of `standardised`:
 * the cotangent of x is added to `d_x`, those of gain and bias to the sums where there are any. `a` is
 * working memory. */
INLINE void norm_first(long W, const float *xh, float rstd, const float *gain, const float *up,
                       float *a, float *d_x, float *sum_gain, float *sum_bias)
{
    for (long k = 0; k < W; k++) a[k] = up[k] * gain[k];
    float mean = total_of(W, a) / W, slope = dot(W, a, xh) / W;
    for (long k = 0; k < W; k++) d_x[k] += rstd * (a[k] - mean - xh[k] * slope);
    for (long k = 0; sum_gain && k < W; k++) sum_gain[k] += up[k] * xh[k], sum_bias[k] += up[k];
}

/* How a row of LayerNorm moves when x, gain and bias move; `moved_xh` is how xh does. Returns how rstd
 * does, as a share of it. */
INLINE float norm_along(long W, const float *xh, float rstd, const float *gain, const float *moved_x,
                        const float *moved_gain, const float *moved_bias, float *moved_xh, float *out)
{
    through_standard(W, xh, rstd, moved_x, moved_xh);
    for (long k = 0; k < W; k++)
        out[k] = moved_xh[k] * gain[k] + xh[k] * moved_gain[k] + moved_bias[k];
    return -rstd * dot(W, moved_x, xh) / W;
}

/* How the results of `norm_first` move when x, gain and `up` do (moved_up NULL: not at all). `a` and
 * `b` are working memory. */
INLINE void norm_first_along(long W, const float *xh, float rstd, float share, const float *moved_xh,
                             const float *gain, const float *moved_gain, const float *up,
                             const float *moved_up, float *a, float *b, float *moved_d_x,
                             float *sum_gain, float *sum_bias)
{
    for (long k = 0; k < W; k++) a[k] = up[k] * gain[k], b[k] = up[k] * moved_gain[k];
    for (long k = 0; moved_up && k < W; k++) b[k] += moved_up[k] * gain[k];
    float mean = total_of(W, a) / W, slope = dot(W, a, xh) / W;
    float moved_mean = total_of(W, b) / W, moved = (dot(W, b, xh) + dot(W, a, moved_xh)) / W;
    for (long k = 0; k < W; k++)
        moved_d_x[k] += rstd * (share * (a[k] - mean - xh[k] * slope) + b[k] - moved_mean -
                                moved_xh[k] * slope - xh[k] * moved);
    for (long k = 0; k < W; k++) sum_gain[k] += up[k] * moved_xh[k];
    for (long k = 0; moved_up && k < W; k++)
        sum_gain[k] += moved_up[k] * xh[k], sum_bias[k] += moved_up[k];
}

/* out (n,) = the sum of `threads` vectors that lie `apart` floats from each other */
static void summed(long threads, long n, const float *all, long apart, float *out)
{
    for (long k = 0; k < n; k++) out[k] = all[k];
    for (long t = 1; t < threads; t++)
        for (long k = 0; k < n; k++) out[k] += all[t * apart + k];
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
        float xh[W], a[W], *sum = sums + 2 * t * W;
        long first = R * t / threads, end = R * (t + 1) / threads;
        memset(d_x + first * W, 0, (end - first) * W * sizeof(float));
        for (long r = first; r < end; r++) {
            float rstd = standardised(W, x + r * W, eps, xh);
            norm_first(W, xh, rstd, gain, g + r * W, a, d_x + r * W, sum, sum + W);
        }
    }
    summed(threads, W, sums, 2 * W, d_gain);
    summed(threads, W, sums + W, 2 * W, d_bias);
    return 0;
}

/* The derivative of <A, d_x> + <c_gain, d_gain> + <c_bias, d_bias>: how d_x, d_gain and y move when x,
 * gain and bias move by A, c_gain and c_bias. */
int layer_norm_second(long threads, long R, long W, float eps, const float *x, const float *gain,
                       const float *g, const float *A, const float *c_gain, const float *c_bias,
                       float *to_x, float *to_gain, float *to_g, float *sums)
{
    memset(sums, 0, threads * W * sizeof(float));
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long t = 0; t < threads; t++) {
        float xh[W], moved_xh[W], a[W], b[W], *sum = sums + t * W;
        long first = R * t / threads, end = R * (t + 1) / threads;
        memset(to_x + first * W, 0, (end - first) * W * sizeof(float));
        for (long r = first; r < end; r++) {
            float rstd = standardised(W, x + r * W, eps, xh);
            float share = norm_along(W, xh, rstd, gain, A + r * W, c_gain, c_bias, moved_xh,
                                     to_g + r * W);
            norm_first_along(W, xh, rstd, share, moved_xh, gain, c_gain, g + r * W, NULL, a, b,
                             to_x + r * W, sum, NULL);
        }
    }
    summed(threads, W, sums, W, to_gain);
    return 0;
}

/* The cross-entropy of soft targets and its first derivative, for training on constant labels.
 *
 * Both derivatives of sum_r w_r (logsumexp(Z_r) - Q_r . Z_r), Z = H E^T, read softmax(Z) - Q and nothing
 * else: with the labels subtracted where the softmax stands, soft labels cost no product more than ids.
 * Logits lie a row after the other here, as the labels do, so that these are read as they are. */
enum { ROWS = 32 };

INLINE float sum_of(vec x)
{
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += x[i];
    return sum;
}

/* z (V, and room up to a whole vector) -> softmax(z) - keep q - spread; returns the cross-entropy. */
static float less_targets(long V, float *z, const float *q, float keep, float spread)
{
    long whole = V / LANES * LANES, Vp = padded(V);
    float highest = z[0], own = 0, all = 0, sum = 0;
    for (long v = V; v < Vp; v++) z[v] = z[0];
    vec high = *(vec *)z;
    for (long v = LANES; v < Vp; v += LANES) high = larger(high, *(vec *)(z + v));
    for (int i = 0; i < LANES; i++) highest = high[i] > highest || high[i] != high[i] ? high[i] : highest;
    for (long v = V; v < Vp; v++) z[v] = highest - 1000.0f; /* its exponential is next to nothing */
    for (long v = 0; v < whole;) { /* long sums are sums of short ones and round less */
        vec part_own = {0}, part_all = {0}, part = {0};
        for (long end = whole - v < 16 * DEPTH ? whole : v + 16 * DEPTH; v < end; v += LANES) {
            vec *x = (vec *)(z + v), shifted = *x - highest;
            part_own += *(const vec *)(q + v) * shifted;
            part_all += shifted;
            *x = exp_of(shifted);
            part += *x;
        }
        own += sum_of(part_own), all += sum_of(part_all), sum += sum_of(part);
    }
    if (whole < V) {
        vec *x = (vec *)(z + whole), shifted = *x - highest;
        for (long v = whole; v < V; v++) own += q[v] * shifted[v - whole], all += shifted[v - whole];
        *x = exp_of(shifted);
        sum += sum_of(*x);
    }
    float inverse = 1.0f / sum;
    for (long v = 0; v < whole; v += LANES) {
        vec *x = (vec *)(z + v);
        *x = *x * inverse - *(const vec *)(q + v) * keep - spread;
    }
    for (long v = whole; v < V; v++) z[v] = z[v] * inverse - q[v] * keep - spread;
    return logf(sum) - keep * own - spread * all;
}

/* For labels Q (R, V) whose rows sum to 1, of which `keep` is kept and `spread` added to each: the
 * cross-entropies (R,), and of their sum with weights w the derivatives dH (R, W) and dE (V, W). */
int soft_targets(long threads, long R, long V, long W, const float *H, const float *E,
                 const float *weights, const float *Q, float keep, float spread, float *losses,
                 float *dH, float *dE)
{
    long Wp = padded(W), Vp = padded(V), panels = (R + ROWS - 1) / ROWS;
    if (threads > panels) threads = panels;
    size_t head = ROWS * ((size_t)Vp + 2 * Wp), one = head + (size_t)V * Wp;
    size_t shared = (size_t)V * W + (size_t)V * Wp;
    float *all = space(shared + one * threads);
    if (!all) return 1;
    float *Et = all, *rows_E = Et + (size_t)V * W, *own = all + shared;
    turned(V, W, E, Et);
    memset(rows_E, 0, (size_t)V * Wp * sizeof(float));
    for (long v = 0; v < V; v++) memcpy(rows_E + v * Wp, E + v * W, W * sizeof(float));
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long t = 0; t < threads; t++) {
        float *Z = own + t * one, *right = Z + ROWS * Vp, *left = right + ROWS * Wp, *sum_dE = left + ROWS * Wp;
        memset(sum_dE, 0, (size_t)V * Wp * sizeof(float));
        long end = panels * (t + 1) / threads * ROWS;
        if (end > R) end = R;
        for (long first = panels * t / threads * ROWS; first < end; first += ROWS) {
            long count = end - first < ROWS ? end - first : ROWS;
            const float *w = weights + first, *h = H + first * W;
            product(count, V, W, h, W, 1, Et, V, Z, Vp, 0);
            for (long r = 0; r < count; r++)
                losses[first + r] = less_targets(V, Z + r * Vp, Q + (first + r) * V, keep, spread);
            product(count, Wp, V, Z, Vp, 1, rows_E, Wp, left, Wp, 0);
            memset(right, 0, ROWS * Wp * sizeof(float));
            for (long r = 0; r < count; r++)
                for (long k = 0; k < W; k++) {
                    right[r * Wp + k] = h[r * W + k] * w[r];
                    dH[(first + r) * W + k] = left[r * Wp + k] * w[r];
                }
            product(V, Wp, count, Z, 1, Vp, right, Wp, sum_dE, Wp, 1);
        }
    }
    sum_of_threads(threads, V, W, own + head, one, dE);
    free(all);
    return 0;
}

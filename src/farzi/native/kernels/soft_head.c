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
/* dE (V, W) = the sum of each thread's rows, padded, `one` floats apart. */
static void sum_of_threads(long threads, long V, long W, const float *sums, size_t one, float *dE)
{
    long Wp = padded(W);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long v = 0; v < V; v++)
        for (long w = 0; w < W; w++) {
            float sum = 0;
            for (long t = 0; t < threads; t++) sum += sums[t * one + v * Wp + w];
            dE[v * W + w] = sum;
        }
}

/* The exponentials of a panel of logits, less the highest of each row: V rows of `side` lanes, and
 * one row more with what they are to be divided by, inverted. Kept, a panel lies at its first row. */
INLINE float *panel_at(float *kept, float *own, long first, long V)
{
    return kept ? kept + first * (V + 1) : own;
}

/* Of H E^T, (R,) each in `levels`: logsumexp, the highest, and 1 / sum exp(logit - highest). Where SE is
 * given, also softmax(H E^T) E and dE = softmax^T (w H). Where `kept` is given, (V + 1, R) floats with R
 * a multiple of LANES, the panels stay there. */
int log_partition(long threads, long R, long V, long W, const float *H, const float *E,
                  const float *weights, float *levels, float *kept, float *SE, float *dE)
{
    long Wp = padded(W), units = (R + LANES - 1) / LANES;
    if (threads > (R + PANEL - 1) / PANEL) threads = (R + PANEL - 1) / PANEL;
    size_t head = (kept ? 0 : (size_t)(V + 1) * PANEL) + 3 * (size_t)Wp * PANEL;
    size_t one = head + (SE ? (size_t)V * Wp : 0);
    float *all = space(one * threads);
    if (!all) return 1;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long t = 0; t < threads; t++) {
        float *Ht = all + t * one, *right = Ht + Wp * PANEL, *SEt = right + Wp * PANEL,
              *own = SEt + Wp * PANEL, *sum_dE = all + t * one + head;
        if (SE) memset(sum_dE, 0, (size_t)V * Wp * sizeof(float));
        long end = units * (t + 1) / threads * LANES, count;
        if (end > R) end = R;
        for (long first = units * t / threads * LANES; first < end; first += PANEL) {
            count = end - first < PANEL ? end - first : PANEL;
            long side = padded(count);
            float *S = panel_at(kept, own, first, V), *inverse = S + V * side, scale[PANEL];
            transposed(H + first * W, W, count, Ht);
            product(V, side, W, E, W, 1, Ht, PANEL, S, side, 0);
            for (long l = 0; l < side; l += LANES) {
                vec high = *(vec *)(S + l), sum = {0};
                for (long v = 1; v < V; v++) high = larger(high, *(vec *)(S + v * side + l));
                for (long v = 0; v < V;) {
                    vec part = {0};
                    for (long end = V - v < DEPTH ? V : v + DEPTH; v < end; v++) {
                        vec *z = (vec *)(S + v * side + l);
                        *z = exp_of(*z - high);
                        part += *z;
                    }
                    sum += part;
                }
                *(vec *)(inverse + l) = 1.0f / sum;
                for (long r = l; r < l + LANES && r < count; r++) {
                    levels[first + r] = high[r - l] + logf(sum[r - l]);
                    levels[R + first + r] = high[r - l];
                    levels[2 * R + first + r] = inverse[r];
                }
            }
            if (!SE) continue;
            for (long r = 0; r < count; r++) scale[r] = weights[first + r] * inverse[r];
            scaled_rows(H + first * W, W, Wp, count, scale, right);
            product(V, Wp, count, S, side, 1, right, Wp, sum_dE, Wp, 1);
            product(W, side, V, E, 1, W, S, side, SEt, PANEL, 0);
            for (long r = 0; r < count; r++)
                for (long w = 0; w < W; w++)
                    SE[(first + r) * W + w] = SEt[w * PANEL + r] * inverse[r];
        }
    }
    if (SE) sum_of_threads(threads, V, W, all + head, one, dE);
    free(all);
    return 0;
}

/* The derivative of <U, dL/dH> + <C, dL/dE>: see soft_head.py. `w` is the row weight times dL; `levels`
 * and `kept` (may be NULL) are those of log_partition. Softmax is what was kept times `inverse`. */
int log_partition_second(long threads, long R, long V, long W, const float *H, const float *E,
                         const float *w_, const float *levels, float *kept, const float *SE,
                         const float *U, const float *C, float *r_out, float *dH, float *dE)
{
    long Wp = padded(W), units = (R + LANES - 1) / LANES;
    if (threads > (R + PANEL - 1) / PANEL) threads = (R + PANEL - 1) / PANEL;
    size_t panel = (size_t)V * PANEL;
    size_t head = (kept ? 1 : 2) * panel + 6 * (size_t)Wp * PANEL, one = head + (size_t)V * Wp;
    float *all = space(one * threads);
    if (!all) return 1;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long t = 0; t < threads; t++) {
        float *M = all + t * one, *Ht = M + panel, *Ut = Ht + Wp * PANEL, *SCt = Ut + Wp * PANEL,
              *QEt = SCt + Wp * PANEL, *left = QEt + Wp * PANEL, *right = left + Wp * PANEL,
              *own = right + Wp * PANEL, *sum_dE = all + t * one + head;
        memset(sum_dE, 0, (size_t)V * Wp * sizeof(float));
        long end = units * (t + 1) / threads * LANES, count;
        if (end > R) end = R;
        for (long first = units * t / threads * LANES; first < end; first += PANEL) {
            count = end - first < PANEL ? end - first : PANEL;
            long side = padded(count);
            float high[PANEL] = {0}, inverse[PANEL] = {0}, r[PANEL] = {0};
            float *S = panel_at(kept, own, first, V);
            const float *h = H + first * W, *u = U + first * W, *w = w_ + first;
            memcpy(high, levels + R + first, count * sizeof(float));
            memcpy(inverse, levels + 2 * R + first, count * sizeof(float));
            transposed(h, W, count, Ht);
            transposed(u, W, count, Ut);
            if (!kept) product(V, side, W, E, W, 1, Ht, PANEL, S, side, 0);
            product(V, side, W, E, W, 1, Ut, PANEL, M, PANEL, 0);
            product(V, side, W, C, W, 1, Ht, PANEL, M, PANEL, 1);
            for (long v = 0; v < V; v++)
                for (long l = 0; l < side; l += LANES) {
                    vec *z = (vec *)(S + v * side + l), *m = (vec *)(M + v * PANEL + l);
                    if (!kept) *z = exp_of(*z - *(vec *)(high + l));
                    *m *= *z * *(vec *)(inverse + l);
                }
            product(W, side, V, C, 1, W, S, side, SCt, PANEL, 0);
            product(W, side, V, E, 1, W, M, PANEL, QEt, PANEL, 0);
            memset(left, 0, PANEL * Wp * sizeof(float));
            for (long i = 0; i < count; i++) {
                const float *se = SE + (first + i) * W;
                for (long k = 0; k < W; k++) {
                    SCt[k * PANEL + i] *= inverse[i];
                    r[i] += u[i * W + k] * se[k] + h[i * W + k] * SCt[k * PANEL + i];
                }
                for (long k = 0; k < W; k++) {
                    left[i * Wp + k] = w[i] * inverse[i] * (u[i * W + k] - r[i] * h[i * W + k]);
                    dH[(first + i) * W + k] =
                        w[i] * (QEt[k * PANEL + i] - r[i] * se[k] + SCt[k * PANEL + i]);
                }
                r_out[first + i] = r[i];
            }
            scaled_rows(h, W, Wp, count, w, right);
            product(V, Wp, count, S, side, 1, left, Wp, sum_dE, Wp, 1);
            product(V, Wp, count, M, PANEL, 1, right, Wp, sum_dE, Wp, 1);
        }
    }
    sum_of_threads(threads, V, W, all + head, one, dE);
    free(all);
    return 0;
}

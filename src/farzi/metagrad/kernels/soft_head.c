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
/* lse (R,) of H E^T; where SE is given, also softmax(H E^T) E and dE = softmax^T (w H). */
int log_partition(long threads, long R, long V, long W, const float *H, const float *E,
                  const float *weights, float *lse, float *SE, float *dE)
{
    long Wp = padded(W), units = (R + LANES - 1) / LANES;
    if (threads > (R + PANEL - 1) / PANEL) threads = (R + PANEL - 1) / PANEL;
    size_t one = (size_t)V * PANEL + 3 * (size_t)Wp * PANEL + (SE ? (size_t)V * Wp : 0);
    float *all = space(one * threads);
    if (!all) return 1;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long t = 0; t < threads; t++) {
        float *S = all + t * one, *Ht = S + V * PANEL, *right = Ht + Wp * PANEL,
              *SEt = right + Wp * PANEL, *sum_dE = SEt + Wp * PANEL;
        if (SE) memset(sum_dE, 0, (size_t)V * Wp * sizeof(float));
        long end = units * (t + 1) / threads * LANES, count;
        if (end > R) end = R;
        for (long first = units * t / threads * LANES; first < end; first += PANEL) {
            count = end - first < PANEL ? end - first : PANEL;
            long lanes = padded(count);
            float top[PANEL], total[PANEL], scale[PANEL];
            transposed(H + first * W, W, count, Ht);
            product(V, lanes, W, E, W, 1, Ht, PANEL, S, PANEL, 0);
            for (long l = 0; l < lanes; l += LANES) {
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
            product(V, Wp, count, S, PANEL, 1, right, Wp, sum_dE, Wp, 1);
            product(W, lanes, V, E, 1, W, S, PANEL, SEt, PANEL, 0);
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
    long Wp = padded(W), units = (R + LANES - 1) / LANES;
    if (threads > (R + PANEL - 1) / PANEL) threads = (R + PANEL - 1) / PANEL;
    size_t head = 2 * (size_t)V * PANEL + 6 * (size_t)Wp * PANEL, one = head + (size_t)V * Wp;
    float *all = space(one * threads);
    if (!all) return 1;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long t = 0; t < threads; t++) {
        float *S = all + t * one, *M = S + V * PANEL, *Ht = M + V * PANEL, *Ut = Ht + Wp * PANEL,
              *SCt = Ut + Wp * PANEL, *QEt = SCt + Wp * PANEL, *left = QEt + Wp * PANEL,
              *right = left + Wp * PANEL, *sum_dE = S + head;
        memset(sum_dE, 0, (size_t)V * Wp * sizeof(float));
        long end = units * (t + 1) / threads * LANES, count;
        if (end > R) end = R;
        for (long first = units * t / threads * LANES; first < end; first += PANEL) {
            count = end - first < PANEL ? end - first : PANEL;
            long lanes = padded(count);
            float level[PANEL] = {0}, r[PANEL] = {0};
            const float *h = H + first * W, *u = U + first * W, *w = w_ + first;
            memcpy(level, lse + first, count * sizeof(float));
            transposed(h, W, count, Ht);
            transposed(u, W, count, Ut);
            product(V, lanes, W, E, W, 1, Ht, PANEL, S, PANEL, 0);
            product(V, lanes, W, E, W, 1, Ut, PANEL, M, PANEL, 0);
            product(V, lanes, W, C, W, 1, Ht, PANEL, M, PANEL, 1);
            for (long v = 0; v < V; v++)
                for (long l = 0; l < lanes; l += LANES) {
                    vec *z = (vec *)(S + v * PANEL + l), *m = (vec *)(M + v * PANEL + l);
                    *z = exp_of(*z - *(vec *)(level + l));
                    *m *= *z;
                }
            product(W, lanes, V, C, 1, W, S, PANEL, SCt, PANEL, 0);
            product(W, lanes, V, E, 1, W, M, PANEL, QEt, PANEL, 0);
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
            product(V, Wp, count, S, PANEL, 1, left, Wp, sum_dE, Wp, 1);
            product(V, Wp, count, M, PANEL, 1, right, Wp, sum_dE, Wp, 1);
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


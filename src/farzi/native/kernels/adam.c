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

/* Causal self-attention of one head. Q, K, V are (L, d) with rows `row` apart; an (L, L) matrix has
 * rows of `side` floats, of which those up to `reach` are in use: rows come BAND at a time, and the
 * future of a band's last row is neither computed nor read. */
enum { BAND = 2 * TALL };
typedef struct {
    long L, d, row, side;
    float scale;
    float *turned; /* (d, side): the right factor of a product with a transpose */
} head;

INLINE long band(const head *h, long first) { return h->L - first < BAND ? h->L - first : BAND; }
INLINE long reach(const head *h, long row)
{
    long first = row / BAND * BAND;
    return padded(first + band(h, first));
}

/* out (+)= X Y^T */
INLINE void pairwise(const head *h, const float *X, long x_row, const float *Y, long y_row,
                     float *out, int add)
{
    for (long k = 0; k < h->d; k++)
        for (long j = 0; j < h->side; j++)
            h->turned[k * h->side + j] = j < h->L ? Y[j * y_row + k] : 0;
    for (long i = 0; i < h->L; i += BAND)
        product(band(h, i), reach(h, i), h->d, X + i * x_row, x_row, 1, h->turned, h->side,
                out + i * h->side, h->side, add);
}

/* out (+)= S Y, or S^T Y, where S is 0 in the future of a row */
INLINE void mix(const head *h, const float *S, int transpose, const float *Y, long y_row, float *out,
                long out_row, int add)
{
    for (long i = 0; i < h->L; i += BAND)
        if (transpose)
            product(band(h, i), h->d, h->L - i, S + i * h->side + i, 1, h->side, Y + i * y_row,
                    y_row, out + i * out_row, out_row, add);
        else
            product(band(h, i), h->d, i + band(h, i), S + i * h->side, h->side, 1, Y, y_row,
                    out + i * out_row, out_row, add);
}

/* Scores to weights: the softmax over positions up to the row's own; 0 from there to `reach`. */
INLINE void weights_of(const head *h, float *S)
{
    for (long i = 0; i < h->L; i++) {
        long end = reach(h, i);
        float *row = S + i * h->side, high, sum;
        for (long j = i + 1; j < end; j++) row[j] = row[0];
        vec top = *(vec *)row;
        for (long j = LANES; j < end; j += LANES) top = larger(top, *(vec *)(row + j));
        high = top[0];
        for (int l = 1; l < LANES; l++) high = top[l] > high ? top[l] : high;
        for (long j = 0; j < end; j += LANES)
            *(vec *)(row + j) = exp_of((*(vec *)(row + j) - high) * h->scale);
        for (long j = i + 1; j < end; j++) row[j] = 0;
        sum = 1.0f / total_of(end, row);
        for (long j = 0; j < end; j++) row[j] *= sum;
    }
}

/* D = scale S (G - rowsum(S G)): the derivative of the softmax. */
INLINE void through_softmax(const head *h, const float *S, const float *G, float *D)
{
    for (long i = 0; i < h->L; i++) {
        const float *s = S + i * h->side, *g = G + i * h->side;
        float *d = D + i * h->side, mean = dot(reach(h, i), s, g);
        for (long j = 0; j < reach(h, i); j++) d[j] = h->scale * s[j] * (g[j] - mean);
    }
}

INLINE head head_of(long L, long W, long heads, float *turned)
{
    long d = W / heads;
    return (head){L, d, 3 * W, padded(L), 1.0f / sqrtf(d), turned};
}

/* The weights S and O = S V of one head; `q` points to its queries, W before keys and 2 W before
 * values, and so do all tensors that are shaped like it. */
INLINE void attend(const head *h, long W, const float *q, float *S, float *o)
{
    pairwise(h, q, h->row, q + W, h->row, S, 0);
    weights_of(h, S);
    mix(h, S, 0, q + 2 * W, h->row, o, W, 0);
}

/* The cotangent d of q for the cotangent g of O. Gives G = g V^T as well; D is working memory. */
INLINE void attend_first(const head *h, long W, const float *q, const float *S, const float *g,
                         float *G, float *D, float *d)
{
    pairwise(h, g, W, q + 2 * W, h->row, G, 0);
    through_softmax(h, S, G, D);
    mix(h, D, 0, q + W, h->row, d, h->row, 0);
    mix(h, D, 1, q, h->row, d + W, h->row, 0);
    mix(h, S, 1, g, W, d + 2 * W, h->row, 0);
}

/* How S and O move when q moves by `along`. */
INLINE void attend_along(const head *h, long W, const float *q, const float *along, const float *S,
                         float *moved_S, float *moved_o)
{
    pairwise(h, along, h->row, q + W, h->row, moved_S, 0);
    pairwise(h, q, h->row, along + W, h->row, moved_S, 1);
    through_softmax(h, S, moved_S, moved_S);
    mix(h, moved_S, 0, q + 2 * W, h->row, moved_o, W, 0);
    mix(h, S, 0, along + 2 * W, h->row, moved_o, W, 1);
}

/* How d, the result of `attend_first`, moves when q moves by `along` and g by `moved_g` (NULL: not at
 * all). M and D are working memory. */
INLINE void attend_first_along(const head *h, long W, const float *q, const float *along,
                               const float *S, const float *moved_S, const float *G, const float *g,
                               const float *moved_g, float *M, float *D, float *moved_d)
{
    pairwise(h, g, W, along + 2 * W, h->row, M, 0);
    if (moved_g) pairwise(h, moved_g, W, q + 2 * W, h->row, M, 1);
    for (long i = 0; i < h->L; i++) {
        const float *s = S + i * h->side, *ms = moved_S + i * h->side, *gi = G + i * h->side;
        float *m = M + i * h->side, *d = D + i * h->side;
        long end = reach(h, i);
        float mean = dot(end, s, gi), moved = dot(end, ms, gi) + dot(end, s, m);
        for (long j = 0; j < end; j++) {
            m[j] = h->scale * (ms[j] * (gi[j] - mean) + s[j] * (m[j] - moved));
            d[j] = h->scale * s[j] * (gi[j] - mean);
        }
    }
    mix(h, M, 0, q + W, h->row, moved_d, h->row, 0);
    mix(h, D, 0, along + W, h->row, moved_d, h->row, 1);
    mix(h, M, 1, q, h->row, moved_d + W, h->row, 0);
    mix(h, D, 1, along, h->row, moved_d + W, h->row, 1);
    mix(h, moved_S, 1, g, W, moved_d + 2 * W, h->row, 0);
    if (moved_g) mix(h, S, 1, moved_g, W, moved_d + 2 * W, h->row, 1);
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
        long seq = job / heads * L * W, at = job % heads * d;
        attend(&h, W, qkv + 3 * seq + at, S, out + seq + at);
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
        long seq = job / heads * L * W, at = job % heads * d;
        const float *q = qkv + 3 * seq + at;
        pairwise(&h, q, 3 * W, q + W, 3 * W, S, 0);
        weights_of(&h, S);
        attend_first(&h, W, q, S, g + seq + at, D, D, d_qkv + 3 * seq + at);
    }
    free(all);
    return 0;
}

/* The derivative of <c, d_qkv>, for qkv and for g: how d_qkv and out move when qkv moves by c. */
int attention_second(long threads, long B, long L, long W, long heads, const float *qkv,
                     const float *g, const float *c, float *to_qkv, float *to_g)
{
    FOR_EACH_HEAD(5)
    {
        float *S = all + t * one, *G = S + square, *N = G + square, *M = N + square, *D = M + square;
        head h = head_of(L, W, heads, D + square);
        long seq = job / heads * L * W, at = job % heads * d;
        const float *q = qkv + 3 * seq + at, *along = c + 3 * seq + at, *up = g + seq + at;
        pairwise(&h, q, 3 * W, q + W, 3 * W, S, 0);
        weights_of(&h, S);
        pairwise(&h, up, W, q + 2 * W, 3 * W, G, 0);
        attend_along(&h, W, q, along, S, N, to_g + seq + at);
        attend_first_along(&h, W, q, along, S, N, G, up, NULL, M, D, to_qkv + 3 * seq + at);
    }
    free(all);
    return 0;
}

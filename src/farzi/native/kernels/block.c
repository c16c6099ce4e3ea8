/* A pre-norm Transformer block, one sequence after the other, so that all it needs stays in cache:
 *
 *     a = norm(x)     q = a Wq^T + bq     o = attention(q)     y = x + o Wo^T + bo
 *     c = norm(y)     p = c Wu^T + bu     f = activation(p)    z = y + f Wd^T + bd
 *
 * The derivative of <moved_x, d_x> + <moved_t, d_t>, where d_x and d_t are the cotangents of x and the
 * parameters for the cotangent g of z, is how z, d_x and d_t move when x and the parameters move by
 * moved_x and moved_t while g stays: the second derivative is a tangent of the first. */
enum { NORM1, NORM1_B, QKV, QKV_B, OUT, OUT_B, NORM2, NORM2_B, UP, UP_B, DOWN, DOWN_B, PARTS };

typedef struct {
    long L, W, heads, F, relu, side, parts[PARTS + 1];
    float eps;
} block;

static block block_of(long L, long W, long heads, long F, long relu, float eps)
{
    block s = {L, W, heads, F, relu, padded(L), {0}, eps};
    long sizes[PARTS] = {W, W, 3 * W * W, 3 * W, W * W, W, W, W, F * W, F, W * F, W};
    for (int k = 0; k < PARTS; k++) s.parts[k + 1] = s.parts[k] + sizes[k];
    return s;
}

/* What one sequence keeps of its way forward, of its way back, and of moving both. */
typedef struct { float *xh1, *rstd1, *a, *q, *S, *o, *xh2, *rstd2, *c, *p, *f; } ahead;
typedef struct { float *df, *dp, *dc, *dy, *go, *G, *dq, *da; } back;

static long ahead_size(const block *s)
{
    return s->L * (8 * s->W + 2 * s->F + 2) + s->heads * s->L * s->side;
}
static long back_size(const block *s)
{
    return s->L * (7 * s->W + 2 * s->F) + s->heads * s->L * s->side;
}
static ahead ahead_at(const block *s, float *at)
{
    long row = s->L * s->W, inner = s->L * s->F;
    ahead m;
    m.xh1 = at, m.a = m.xh1 + row, m.q = m.a + row, m.o = m.q + 3 * row, m.xh2 = m.o + row;
    m.c = m.xh2 + row, m.p = m.c + row, m.f = m.p + inner, m.rstd1 = m.f + inner;
    m.rstd2 = m.rstd1 + s->L, m.S = m.rstd2 + s->L;
    return m;
}
static back back_at(const block *s, float *at)
{
    long row = s->L * s->W, inner = s->L * s->F;
    back m;
    m.df = at, m.dp = m.df + inner, m.dc = m.dp + inner, m.dy = m.dc + row, m.go = m.dy + row;
    m.dq = m.go + row, m.da = m.dq + 3 * row, m.G = m.da + row;
    return m;
}

/* y (L, O) (+)= x W^T, with Wt = W^T; where it is not added, to the bias (NULL: to 0). */
INLINE void affine(long L, long I, long O, const float *x, const float *Wt, const float *bias,
                   float *y, int add)
{
    for (long r = 0; bias && r < L; r++)
        for (long k = 0; k < O; k++) y[r * O + k] = bias[k] + (add ? y[r * O + k] : 0);
    product(L, O, I, x, I, 1, Wt, O, y, O, bias || add);
}

/* d_W (O, I) += g^T x, d_b += columns of g summed (NULL: not wanted) */
INLINE void weigh(long L, long I, long O, const float *g, const float *x, float *d_W, float *d_b)
{
    product(O, I, L, g, 1, O, x, I, d_W, I, 1);
    for (long r = 0; d_b && r < L; r++)
        for (long k = 0; k < O; k++) d_b[k] += g[r * O + k];
}

/* out (L, I) (+)= g W */
INLINE void pull(long L, long I, long O, const float *g, const float *W, float *out, int add)
{
    product(L, I, O, g, O, 1, W, I, out, I, add);
}

/* W^T of the four matrices, laid out as the parameters are */
static void turn_all(const block *s, const float *const *t, float *turned_t)
{
    long W = s->W, F = s->F;
    turned(3 * W, W, t[QKV], turned_t + s->parts[QKV]);
    turned(W, W, t[OUT], turned_t + s->parts[OUT]);
    turned(F, W, t[UP], turned_t + s->parts[UP]);
    turned(W, F, t[DOWN], turned_t + s->parts[DOWN]);
}

static void go_ahead(const block *s, const float *const *t, const float *Wt, const float *x, ahead m,
                     float *work, float *z)
{
    long L = s->L, W = s->W, F = s->F, d = W / s->heads;
    for (long r = 0; r < L; r++) {
        float *xh = m.xh1 + r * W, *a = m.a + r * W;
        m.rstd1[r] = standardised(W, x + r * W, s->eps, xh);
        for (long k = 0; k < W; k++) a[k] = xh[k] * t[NORM1][k] + t[NORM1_B][k];
    }
    affine(L, W, 3 * W, m.a, Wt + s->parts[QKV], t[QKV_B], m.q, 0);
    for (long j = 0; j < s->heads; j++) {
        head h = head_of(L, W, s->heads, work);
        attend(&h, W, m.q + j * d, m.S + j * L * s->side, m.o + j * d);
    }
    memcpy(z, x, L * W * sizeof(float));
    affine(L, W, W, m.o, Wt + s->parts[OUT], t[OUT_B], z, 1);
    for (long r = 0; r < L; r++) {
        float *xh = m.xh2 + r * W, *c = m.c + r * W;
        m.rstd2[r] = standardised(W, z + r * W, s->eps, xh);
        for (long k = 0; k < W; k++) c[k] = xh[k] * t[NORM2][k] + t[NORM2_B][k];
    }
    affine(L, W, F, m.c, Wt + s->parts[UP], t[UP_B], m.p, 0);
    activate(0, s->relu, L * F, m.p, NULL, NULL, NULL, m.f, NULL);
    affine(L, F, W, m.f, Wt + s->parts[DOWN], t[DOWN_B], z, 1);
}

/* `sums` are the cotangents of the parameters, added to; NULL where they are not wanted. */
static void go_back(const block *s, const float *const *t, const ahead m, const float *g, back n,
                    float *work, float *d_x, float *sums)
{
    long L = s->L, W = s->W, F = s->F, d = W / s->heads;
    float *sum[PARTS];
    for (int k = 0; k < PARTS; k++) sum[k] = sums ? sums + s->parts[k] : NULL;
    if (sums) weigh(L, F, W, g, m.f, sum[DOWN], sum[DOWN_B]);
    pull(L, F, W, g, t[DOWN], n.df, 0);
    activate(1, s->relu, L * F, m.p, n.df, NULL, NULL, n.dp, NULL);
    if (sums) weigh(L, W, F, n.dp, m.c, sum[UP], sum[UP_B]);
    pull(L, W, F, n.dp, t[UP], n.dc, 0);
    memcpy(n.dy, g, L * W * sizeof(float));
    for (long r = 0; r < L; r++)
        norm_first(W, m.xh2 + r * W, m.rstd2[r], t[NORM2], n.dc + r * W, work, n.dy + r * W,
                   sum[NORM2], sum[NORM2_B]);
    if (sums) weigh(L, W, W, n.dy, m.o, sum[OUT], sum[OUT_B]);
    pull(L, W, W, n.dy, t[OUT], n.go, 0);
    for (long j = 0; j < s->heads; j++) {
        head h = head_of(L, W, s->heads, work);
        long square = L * s->side;
        attend_first(&h, W, m.q + j * d, m.S + j * square, n.go + j * d, n.G + j * square,
                     work + d * s->side, n.dq + j * d);
    }
    if (sums) weigh(L, W, 3 * W, n.dq, m.a, sum[QKV], sum[QKV_B]);
    pull(L, W, 3 * W, n.dq, t[QKV], n.da, 0);
    memcpy(d_x, n.dy, L * W * sizeof(float));
    for (long r = 0; r < L; r++)
        norm_first(W, m.xh1 + r * W, m.rstd1[r], t[NORM1], n.da + r * W, work, d_x + r * W,
                   sum[NORM1], sum[NORM1_B]);
}

/* How z moves (into `moved_z`) when x moves by `moved_x` and the parameters by u. `mm` gets the moves
 * of `m`; its rstd that of rstd as a share of it. */
static void move_ahead(const block *s, const float *const *t, const float *const *u, const float *Wt,
                       const float *Ut, const ahead m, const float *moved_x, ahead mm, float *work,
                       float *moved_z)
{
    long L = s->L, W = s->W, F = s->F, d = W / s->heads, square = L * s->side;
    for (long r = 0; r < L; r++)
        mm.rstd1[r] = norm_along(W, m.xh1 + r * W, m.rstd1[r], t[NORM1], moved_x + r * W, u[NORM1],
                                 u[NORM1_B], mm.xh1 + r * W, mm.a + r * W);
    affine(L, W, 3 * W, mm.a, Wt + s->parts[QKV], u[QKV_B], mm.q, 0);
    affine(L, W, 3 * W, m.a, Ut + s->parts[QKV], NULL, mm.q, 1);
    for (long j = 0; j < s->heads; j++) {
        head h = head_of(L, W, s->heads, work);
        attend_along(&h, W, m.q + j * d, mm.q + j * d, m.S + j * square, mm.S + j * square,
                     mm.o + j * d);
    }
    memcpy(moved_z, moved_x, L * W * sizeof(float));
    affine(L, W, W, mm.o, Wt + s->parts[OUT], u[OUT_B], moved_z, 1);
    affine(L, W, W, m.o, Ut + s->parts[OUT], NULL, moved_z, 1);
    for (long r = 0; r < L; r++)
        mm.rstd2[r] = norm_along(W, m.xh2 + r * W, m.rstd2[r], t[NORM2], moved_z + r * W, u[NORM2],
                                 u[NORM2_B], mm.xh2 + r * W, mm.c + r * W);
    affine(L, W, F, mm.c, Wt + s->parts[UP], u[UP_B], mm.p, 0);
    affine(L, W, F, m.c, Ut + s->parts[UP], NULL, mm.p, 1);
    activate(1, s->relu, L * F, m.p, mm.p, NULL, NULL, mm.f, NULL);
    affine(L, F, W, mm.f, Wt + s->parts[DOWN], u[DOWN_B], moved_z, 1);
    affine(L, F, W, m.f, Ut + s->parts[DOWN], NULL, moved_z, 1);
}

/* How d_x (into `moved_d_x`) and d_t (added to `sums`) move along with what `move_ahead` moved, while g
 * stays. `nn` gets the moves of `n`. */
static void move_back(const block *s, const float *const *t, const float *const *u, const ahead m,
                      const back n, const float *g, ahead mm, back nn, float *work,
                      float *moved_d_x, float *sums)
{
    long L = s->L, W = s->W, F = s->F, d = W / s->heads, square = L * s->side;
    float *sum[PARTS];
    for (int k = 0; k < PARTS; k++) sum[k] = sums + s->parts[k];
    pull(L, F, W, g, u[DOWN], nn.df, 0);
    activate(2, s->relu, L * F, m.p, mm.p, n.df, nn.df, mm.f, nn.dp);
    weigh(L, F, W, g, mm.f, sum[DOWN], NULL);
    weigh(L, W, F, nn.dp, m.c, sum[UP], sum[UP_B]);
    weigh(L, W, F, n.dp, mm.c, sum[UP], NULL);
    pull(L, W, F, nn.dp, t[UP], nn.dc, 0);
    pull(L, W, F, n.dp, u[UP], nn.dc, 1);
    memset(nn.dy, 0, L * W * sizeof(float));
    for (long r = 0; r < L; r++)
        norm_first_along(W, m.xh2 + r * W, m.rstd2[r], mm.rstd2[r], mm.xh2 + r * W, t[NORM2],
                         u[NORM2], n.dc + r * W, nn.dc + r * W, work, work + W, nn.dy + r * W,
                         sum[NORM2], sum[NORM2_B]);
    weigh(L, W, W, nn.dy, m.o, sum[OUT], sum[OUT_B]);
    weigh(L, W, W, n.dy, mm.o, sum[OUT], NULL);
    pull(L, W, W, nn.dy, t[OUT], nn.go, 0);
    pull(L, W, W, n.dy, u[OUT], nn.go, 1);
    for (long j = 0; j < s->heads; j++) {
        head h = head_of(L, W, s->heads, work);
        attend_first_along(&h, W, m.q + j * d, mm.q + j * d, m.S + j * square, mm.S + j * square,
                           n.G + j * square, n.go + j * d, nn.go + j * d, nn.G + j * square,
                           work + d * s->side, nn.dq + j * d);
    }
    weigh(L, W, 3 * W, nn.dq, m.a, sum[QKV], sum[QKV_B]);
    weigh(L, W, 3 * W, n.dq, mm.a, sum[QKV], NULL);
    pull(L, W, 3 * W, nn.dq, t[QKV], nn.da, 0);
    pull(L, W, 3 * W, n.dq, u[QKV], nn.da, 1);
    memcpy(moved_d_x, nn.dy, L * W * sizeof(float));
    for (long r = 0; r < L; r++)
        norm_first_along(W, m.xh1 + r * W, m.rstd1[r], mm.rstd1[r], mm.xh1 + r * W, t[NORM1],
                         u[NORM1], n.da + r * W, nn.da + r * W, work, work + W,
                         moved_d_x + r * W, sum[NORM1], sum[NORM1_B]);
}

/* Floats that one sequence keeps of its way forward (order 0) and of its way back (1). */
long block_kept(long order, long L, long W, long heads, long F)
{
    block s = block_of(L, W, heads, F, 0, 0);
    return order ? back_size(&s) : ahead_size(&s);
}

/* The block's result (order 0), first (1) and second derivative (2) for B sequences.
 *
 * order 0: given x; results z, and `kept` of each sequence (may be NULL).
 * order 1: given g; results d_x, d_t (may be NULL), and `kept_back` of each sequence (may be NULL).
 * order 2: given g, moved_x (as x) and u; results moved_z, moved_d_x, d_t. */
int pre_norm_block(long threads, long order, long B, long L, long W, long heads, long F, long relu,
                   float eps, const float *const *t, const float *const *u, const float *x,
                   const float *g, float *kept, float *kept_back, float *out, float *out2,
                   float *d_t)
{
    block s = block_of(L, W, heads, F, relu, eps);
    long num = s.parts[PARTS], keeps = ahead_size(&s), keeps_back = back_size(&s), row = L * W;
    long working = (W / heads) * s.side + L * s.side + 2 * W;
    long turns = order == 0 ? 1 : order == 2 ? 2 : 0;
    if (threads > B) threads = B;
    long one = working + (d_t ? num : 0) + (kept ? 0 : keeps) + (kept_back ? 0 : keeps_back) +
               (order == 2 ? keeps_back + keeps : 0);
    float *Wt = space(turns * num + one * threads), *Ut = Wt + num, *all = Wt + turns * num;
    if (!Wt) return 1;
    if (turns > 0) turn_all(&s, t, Wt);
    if (turns > 1) turn_all(&s, u, Ut);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (long i = 0; i < threads; i++) {
        float *sums = d_t ? all + i * one : NULL, *work = all + i * one + (d_t ? num : 0);
        float *own = work + working, *own_back = own + (kept ? 0 : keeps);
        float *moved_back = own_back + (kept_back ? 0 : keeps_back);
        if (d_t) memset(sums, 0, num * sizeof(float));
        for (long b = B * i / threads; b < B * (i + 1) / threads; b++) {
            ahead m = ahead_at(&s, kept ? kept + b * keeps : own);
            ahead mm = ahead_at(&s, moved_back + keeps_back);
            back n = back_at(&s, kept_back ? kept_back + b * keeps_back : own_back);
            if (order == 0) go_ahead(&s, t, Wt, x + b * row, m, work, out + b * row);
            if (order == 1) go_back(&s, t, m, g + b * row, n, work, out + b * row, sums);
            if (order == 2) {
                move_ahead(&s, t, u, Wt, Ut, m, x + b * row, mm, work, out + b * row);
                move_back(&s, t, u, m, n, g + b * row, mm, back_at(&s, moved_back), work,
                          out2 + b * row, sums);
            }
        }
    }
    if (d_t) summed(threads, num, all, one, d_t);
    free(Wt);
    return 0;
}

/* The row-wise parts of a Transformer on a CPU, each in one pass: between the matrix products, a training
 * step is memory traffic, and a chain of library calls reads and writes every tensor many times over.
 *
 * Numbers are stored as bfloat16 (the upper half of a float32), or as float32 when compiled with -DFLOAT32, and computed
 * in float32. Compiled by core/native.py when it is first needed; models/kernels.py calls it, with PyTorch doing the same
 * where there is no compiler.
 * Letters: N rows, D width, F inner size, B batch, T tokens, H heads, K head size, V vocabulary. */

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE__
#include <immintrin.h>
#endif

typedef int64_t i64;

#define LOWEST -3.0e38f

/* not_finite looks at the bits, since the compiler was told that there are no infinities. */
#ifdef FLOAT32
typedef float num;
static inline float wide(num x) { return x; }
static inline num narrow(float x) { return x; }
static inline int not_finite(num x) {
    union { float f; uint32_t u; } v = {x};
    return (v.u & 0x7fffffff) >= 0x7f800000;
}
#else
typedef uint16_t num;
static inline float wide(num x) {
    union { uint32_t u; float f; } v = {(uint32_t)x << 16};
    return v.f;
}
static inline num narrow(float x) { /* to nearest, ties to even */
    union { float f; uint32_t u; } v = {x};
    return (num)((v.u + 0x7fff + ((v.u >> 16) & 1)) >> 16);
}
static inline int not_finite(num x) { return (x & 0x7fff) >= 0x7f80; }
#endif

static inline float fast_exp(float x) { /* relative error below 3e-7; 0 below -87, so that a masked score of -inf gives 0 */
    float y = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    float n = __builtin_floorf(y * 1.44269504f + 0.5f);
    float f = y - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    union { int32_t i; float f; } s = {((int32_t)n + 127) << 23};
    return x < -87.0f ? 0.0f : p * s.f;
}

/* erf by Abramowitz and Stegun 7.1.26 (absolute error below 2e-7); e is exp(-x*x). */
static inline float erf_with(float x, float e) {
    float a = x < 0 ? -x : x, t = 1.0f / (1.0f + 0.3275911f * a);
    float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    float r = 1.0f - p * e;
    return x < 0 ? -r : r;
}

/* Numbers below 1e-38 make arithmetic many times slower (moments of tokens that are seldom seen decay to there): treat them
 * as zero, or not, in every thread that works for torch. Does nothing on other kinds of processors. */
void flush_denormals(i64 on) {
#ifdef __SSE__
#pragma omp parallel
    _mm_setcsr(on ? _mm_getcsr() | 0x8040 : _mm_getcsr() & ~0x8040u);
#else
    (void)on;
#endif
}

/* ---- transposition: what the bfloat16 product of the weight gradient wants contiguous (float32's doesn't mind) ---- */

#ifndef FLOAT32

typedef num row16 __attribute__((vector_size(32)));
typedef num loose16 __attribute__((vector_size(32), aligned(2), may_alias));

/* 16 × 16: interleaving row i with row i + 8, four times over, is a transposition. */
static inline void transpose16(const num *x, num *y, i64 from, i64 to) {
    const row16 low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23}, high = low + 8;
    row16 a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = *(const loose16 *)(x + i * from);
#define ROUND(IN, OUT)                                                                                              \
    for (int i = 0; i < 8; i++) {                                                                                   \
        OUT[2 * i] = __builtin_shuffle(IN[i], IN[i + 8], low);                                                      \
        OUT[2 * i + 1] = __builtin_shuffle(IN[i], IN[i + 8], high);                                                 \
    }
    ROUND(a, b) ROUND(b, a) ROUND(a, b) ROUND(b, a)
    for (int i = 0; i < 16; i++) *(loose16 *)(y + i * to) = a[i];
}

void transpose(const num *x, num *y, i64 rows, i64 columns) {
    enum { S = 64 };
#pragma omp parallel for collapse(2) schedule(static)
    for (i64 c = 0; c < columns; c += S)
        for (i64 r = 0; r < rows; r += S) {
            i64 re = r + S < rows ? r + S : rows, ce = c + S < columns ? c + S : columns;
            for (i64 j = c; j < ce; j += 16)
                for (i64 i = r; i < re; i += 16)
                    if (j + 16 <= ce && i + 16 <= re)
                        transpose16(x + i * columns + j, y + j * rows + i, columns, rows);
                    else
                        for (i64 k = j; k < ce && k < j + 16; k++)
                            for (i64 l = i; l < re && l < i + 16; l++) y[k * rows + l] = x[l * columns + k];
        }
}
#endif

/* ---- activations. kind: 0 relu, 1 gelu, 2 gelu by tanh, 3 silu, 4 squared relu ---- */

static inline float act(float x, int kind) {
    if (kind == 0) return x > 0 ? x : 0;
    if (kind == 1) { float u = x * 0.70710678f; return 0.5f * x * (1.0f + erf_with(u, fast_exp(-u * u))); }
    if (kind == 2) { float u = 0.79788456f * (x + 0.044715f * x * x * x); return x - x / (fast_exp(2.0f * u) + 1.0f); }
    if (kind == 3) return x / (1.0f + fast_exp(-x));
    return x > 0 ? x * x : 0;
}

static inline float act_slope(float x, int kind) {
    if (kind == 0) return x > 0 ? 1 : 0;
    if (kind == 1) {
        float u = x * 0.70710678f, e = fast_exp(-u * u);
        return 0.5f * (1.0f + erf_with(u, e)) + x * 0.39894228f * e;
    }
    if (kind == 2) {
        float u = 0.79788456f * (x + 0.044715f * x * x * x), t = 1.0f - 2.0f / (fast_exp(2.0f * u) + 1.0f);
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.79788456f * (1.0f + 0.134145f * x * x);
    }
    if (kind == 3) { float s = 1.0f / (1.0f + fast_exp(-x)); return s * (1.0f + x * (1.0f - s)); }
    return x > 0 ? 2 * x : 0;
}

#define ACT_ROWS(KIND)                                                                                              \
    for (i64 i = 0; i < n; i++) y[i] = narrow(act(wide(x[i]), KIND));
#define ACT_BACK(KIND)                                                                                              \
    for (i64 i = 0; i < n; i++) dx[i] = narrow(wide(dy[i]) * act_slope(wide(x[i]), KIND));
#define GLU_ROWS(KIND)                                                                                              \
    for (i64 i = 0; i < f; i++) y[i] = narrow(act(wide(g[i]), KIND) * wide(u[i]));
#define GLU_BACK(KIND)                                                                                              \
    for (i64 i = 0; i < f; i++) {                                                                                   \
        float a = wide(g[i]), d = wide(dy[i]);                                                                      \
        dg[i] = narrow(d * wide(u[i]) * act_slope(a, KIND));                                                        \
        du[i] = narrow(d * act(a, KIND));                                                                           \
    }
#define BY_KIND(BODY)                                                                                               \
    switch (kind) {                                                                                                 \
    case 0: BODY(0) break;                                                                                          \
    case 1: BODY(1) break;                                                                                          \
    case 2: BODY(2) break;                                                                                          \
    case 3: BODY(3) break;                                                                                          \
    default: BODY(4)                                                                                                \
    }

/* gated: x is (N, 2F), gate first; otherwise (N, F). y is (N, F). */
void activation(const num *xs, num *ys, i64 rows, i64 f, i64 kind, i64 gated) {
#pragma omp parallel for schedule(static)
    for (i64 r = 0; r < rows; r++) {
        num *y = ys + r * f;
        if (gated) {
            const num *g = xs + r * 2 * f, *u = g + f;
            BY_KIND(GLU_ROWS)
        } else {
            const num *x = xs + r * f;
            i64 n = f;
            BY_KIND(ACT_ROWS)
        }
    }
}

void activation_back(const num *xs, const num *dys, num *dxs, i64 rows, i64 f, i64 kind, i64 gated) {
#pragma omp parallel for schedule(static)
    for (i64 r = 0; r < rows; r++) {
        const num *dy = dys + r * f;
        if (gated) {
            const num *g = xs + r * 2 * f, *u = g + f;
            num *dg = dxs + r * 2 * f, *du = dg + f;
            BY_KIND(GLU_BACK)
        } else {
            const num *x = xs + r * f;
            num *dx = dxs + r * f;
            i64 n = f;
            BY_KIND(ACT_BACK)
        }
    }
}

/* ---- dropout: what stays follows from the seed and the place alone, so the way back draws it again ---- */

void dropout(const num *x, num *y, i64 n, i64 seed, float share) {
    const uint32_t edge = (uint32_t)(share * 4294967295.0f), start = (uint32_t)seed;
    const float scale = 1.0f / (1.0f - share);
#pragma omp parallel for schedule(static)
    for (i64 i = 0; i < n; i++) {
        uint32_t h = (uint32_t)i * 0x9e3779b9u + start; /* murmur3's finaliser */
        h = (h ^ (h >> 16)) * 0x85ebca6bu;
        h = (h ^ (h >> 13)) * 0xc2b2ae35u;
        h ^= h >> 16;
        y[i] = h < edge ? 0 : narrow(wide(x[i]) * scale);
    }
}

/* ---- normalisation of x, or of x + more. b != 0: LayerNorm, else RMSNorm. stats: (N, 2) mean and 1/deviation, for the way back, or 0 ---- */

void norm(const num *xs, const num *more, const num *w, const num *b, num *ys, float *stats, i64 rows, i64 d, float eps) {
#pragma omp parallel for schedule(static)
    for (i64 r = 0; r < rows; r++) {
        const num *x = xs + r * d;
        num *y = ys + r * d;
        float u[d], sum = 0, squares = 0;
        if (more)
            for (i64 i = 0; i < d; i++) u[i] = wide(x[i]) + wide(more[r * d + i]);
        else
            for (i64 i = 0; i < d; i++) u[i] = wide(x[i]);
        if (b) {
            for (i64 i = 0; i < d; i++) sum += u[i];
            sum /= d;
        }
        for (i64 i = 0; i < d; i++) { float c = u[i] - sum; squares += c * c; }
        float scale = 1.0f / sqrtf(squares / d + eps);
        if (b)
            for (i64 i = 0; i < d; i++) y[i] = narrow((u[i] - sum) * scale * wide(w[i]) + wide(b[i]));
        else
            for (i64 i = 0; i < d; i++) y[i] = narrow(u[i] * scale * wide(w[i]));
        if (stats) { stats[2 * r] = sum; stats[2 * r + 1] = scale; }
    }
}

/* dw and db are (threads, D) float32, zero at the start: each thread sums into its own. extra, where given, is added to dx
 * (the gradient that comes by the residual connection). */
void norm_back(const num *xs, const num *w, const num *dys, const float *stats, const num *extra, num *dxs, float *dws, float *dbs,
               i64 rows, i64 d, i64 threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 t = 0; t < threads; t++) {
        float *dw = dws + t * d, *db = dbs ? dbs + t * d : 0;
        for (i64 r = rows * t / threads; r < rows * (t + 1) / threads; r++) {
            const num *x = xs + r * d, *dy = dys + r * d;
            num *dx = dxs + r * d;
            float mean = stats[2 * r], scale = stats[2 * r + 1], inner = 0, total = 0;
            for (i64 i = 0; i < d; i++) {
                float g = wide(dy[i]), u = (wide(x[i]) - mean) * scale, gw = g * wide(w[i]);
                dw[i] += g * u;
                inner += gw * u;
                total += gw;
            }
            inner /= d;
            total = db ? total / d : 0;
            if (db)
                for (i64 i = 0; i < d; i++) db[i] += wide(dy[i]);
            if (extra)
                for (i64 i = 0; i < d; i++) {
                    float u = (wide(x[i]) - mean) * scale;
                    dx[i] = narrow((wide(dy[i]) * wide(w[i]) - total - u * inner) * scale + wide(extra[r * d + i]));
                }
            else
                for (i64 i = 0; i < d; i++) {
                    float u = (wide(x[i]) - mean) * scale;
                    dx[i] = narrow((wide(dy[i]) * wide(w[i]) - total - u * inner) * scale);
                }
        }
    }
}

/* A head in float32: normalised (RMS) where it has a weight, and turned where there are angles. Returns 1/deviation. */
static inline float head(const num *x, float *u, const num *w, const float *c, const float *s, i64 size, float eps) {
    float scale = 1;
    for (i64 i = 0; i < size; i++) u[i] = wide(x[i]);
    if (w) {
        float squares = 0;
        for (i64 i = 0; i < size; i++) squares += u[i] * u[i];
        scale = 1.0f / sqrtf(squares / size + eps);
        for (i64 i = 0; i < size; i++) u[i] *= scale * wide(w[i]);
    }
    if (c)
        for (i64 i = 0, half = size / 2; i < half; i++) {
            float a = u[i], z = u[i + half];
            u[i] = a * c[i] - z * s[i];
            u[i + half] = z * c[i] + a * s[i];
        }
    return scale;
}

/* ---- attention's ways in and out. qkv (B, T, H+2G, K) → q (B, H, T, K), k, v (B, G, T, K), as the products want them;
 * optionally each head of q and k normalised (weights qw, kw; RMS) and turned (cos, sin: (B·T or T, K/2)) on the way.
 * stats: (B, T, H+G) the 1/deviation of each head. ---- */

void heads_in(const num *qkv, num *q, num *k, num *v, const num *qw, const num *kw, const float *cosines, const float *sines,
              float *stats, i64 batch, i64 t_n, i64 h_n, i64 g_n, i64 size, i64 shared, float eps) {
    i64 all = h_n + 2 * g_n, half = size / 2;
#pragma omp parallel for schedule(static)
    for (i64 row = 0; row < batch * t_n; row++) {
        i64 b = row / t_n, t = row % t_n;
        const float *c = cosines ? cosines + (shared ? t : row) * half : 0, *s = sines ? sines + (shared ? t : row) * half : 0;
        for (i64 h = 0; h < all; h++) {
            const num *x = qkv + (row * all + h) * size;
            num *y = h < h_n ? q + ((b * h_n + h) * t_n + t) * size
                              : (h < h_n + g_n ? k + ((b * g_n + h - h_n) * t_n + t) * size : v + ((b * g_n + h - h_n - g_n) * t_n + t) * size);
            const num *w = h < h_n ? qw : kw;
            if (h >= h_n + g_n || (!w && !c)) {
                memcpy(y, x, size * sizeof(num));
                continue;
            }
            float u[512], scale = head(x, u, w, c, s, size, eps);
            if (w) stats[row * (h_n + g_n) + h] = scale;
            for (i64 i = 0; i < size; i++) y[i] = narrow(u[i]);
        }
    }
}

/* The way back: dq, dk, dv → dqkv. dws: (threads, 2, K) sums for the two norm weights, zero at the start. */
void heads_in_back(const num *qkv, const num *dq, const num *dk, const num *dv, const num *qw, const num *kw, const float *cosines,
                   const float *sines, const float *stats, num *dqkv, float *dws, i64 batch, i64 t_n, i64 h_n, i64 g_n, i64 size, i64 shared,
                   i64 threads) {
    i64 all = h_n + 2 * g_n, half = size / 2, rows = batch * t_n;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 thread = 0; thread < threads; thread++)
        for (i64 row = rows * thread / threads; row < rows * (thread + 1) / threads; row++) {
            i64 b = row / t_n, t = row % t_n;
            const float *c = cosines ? cosines + (shared ? t : row) * half : 0, *s = sines ? sines + (shared ? t : row) * half : 0;
            for (i64 h = 0; h < all; h++) {
                num *dx = dqkv + (row * all + h) * size;
                const num *dy = h < h_n ? dq + ((b * h_n + h) * t_n + t) * size
                                         : (h < h_n + g_n ? dk + ((b * g_n + h - h_n) * t_n + t) * size : dv + ((b * g_n + h - h_n - g_n) * t_n + t) * size);
                const num *w = h < h_n ? qw : kw;
                if (h >= h_n + g_n || (!w && !c)) {
                    memcpy(dx, dy, size * sizeof(num));
                    continue;
                }
                float d[512];
                if (c)
                    for (i64 i = 0; i < half; i++) {
                        float a = wide(dy[i]), z = wide(dy[i + half]);
                        d[i] = a * c[i] + z * s[i];
                        d[i + half] = z * c[i] - a * s[i];
                    }
                else
                    for (i64 i = 0; i < size; i++) d[i] = wide(dy[i]);
                if (w) {
                    const num *x = qkv + (row * all + h) * size;
                    float *dw = dws + thread * 2 * size + (h < h_n ? 0 : size), scale = stats[row * (h_n + g_n) + h], inner = 0;
                    for (i64 i = 0; i < size; i++) {
                        float u = wide(x[i]) * scale;
                        dw[i] += d[i] * u;
                        d[i] *= wide(w[i]);
                        inner += d[i] * u;
                    }
                    inner /= size;
                    for (i64 i = 0; i < size; i++) dx[i] = narrow((d[i] - wide(x[i]) * scale * inner) * scale);
                } else
                    for (i64 i = 0; i < size; i++) dx[i] = narrow(d[i]);
            }
        }
}

/* x (B, H, T, K) ↔ y (B, T, H, K). */
void heads_swap(const num *x, num *y, i64 batch, i64 a_n, i64 b_n, i64 size) {
#pragma omp parallel for collapse(2) schedule(static)
    for (i64 b = 0; b < batch; b++)
        for (i64 j = 0; j < b_n; j++)
            for (i64 i = 0; i < a_n; i++) memcpy(y + ((b * b_n + j) * a_n + i) * size, x + ((b * a_n + i) * b_n + j) * size, size * sizeof(num));
}

/* ---- attention without gradients over rows that hold several short texts, in one pass: what a query doesn't see is never computed, where
 * products of whole matrices are mostly masked. qkv, norms and angles as for heads_in → out (B, T, H, K); first and last as for softmax.
 * T at most 128, K at most 128 and a multiple of 16. ---- */

typedef float float16 __attribute__((vector_size(64)));
typedef int32_t int16 __attribute__((vector_size(64)));
typedef float loose_float16 __attribute__((vector_size(64), aligned(4), may_alias));
#define QUERIES 8

/* The lowest number in all places of x from `left` on. In a register: numbers written one by one can't be read as a vector at once. */
static inline float16 hidden(float16 x, int32_t left) {
    const int16 places = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, seen = places < left;
    const float16 lowest = (float16){0} + LOWEST;
    return (float16)(((int16)x & seen) | ((int16)lowest & ~seen));
}

void attention(const num *qkv, const num *qw, const num *kw, const float *cosines, const float *sines, num *out, const int32_t *first,
               const int32_t *last, i64 batch, i64 t_n, i64 h_n, i64 g_n, i64 size, i64 shared, float scale, float eps) {
    i64 per = h_n / g_n, all = h_n + 2 * g_n, room = (t_n + 31) / 16 * 16; /* keys are taken 16 at a time */
#pragma omp parallel for schedule(static)
    for (i64 pair = 0; pair < batch * g_n; pair++) {
        i64 b = pair / g_n, g = pair % g_n;
        const num *row = qkv + b * t_n * all * size;
        const float *c = cosines ? cosines + (shared ? 0 : b * t_n) * size / 2 : 0, *s = sines ? sines + (shared ? 0 : b * t_n) * size / 2 : 0;
        float keys[size * room], values[t_n * size], queries[QUERIES * size], over[QUERIES], u[size];
        float16 tiles[QUERIES * room / 16];
        float *seen = (float *)tiles;
        for (i64 t = 0; t < t_n; t++) {
            head(row + (t * all + h_n + g) * size, u, kw, c ? c + t * size / 2 : 0, s ? s + t * size / 2 : 0, size, eps);
            for (i64 i = 0; i < size; i++) keys[i * room + t] = u[i];
            for (i64 i = 0; i < size; i++) values[t * size + i] = wide(row[(t * all + h_n + g_n + g) * size + i]);
        }
        for (i64 i = 0; i < size; i++)
            for (i64 t = t_n; t < room; t++) keys[i * room + t] = 0;
        for (i64 t = 0, n; t < t_n; t += n) {
            const int32_t *from = first + b * t_n + t, *to = last ? last + b * t_n + t : 0;
            for (n = 1; n < QUERIES && t + n < t_n && from[n] == from[0] && (!to || to[n] == to[0]); n++) continue; /* those that see the same */
            i64 low = from[0], n_keys = (to ? to[0] : t + n) - low, end = (n_keys + 15) / 16 * 16;
            for (i64 h = g * per; h < (g + 1) * per; h++) {
                for (i64 r = 0; r < n; r++)
                    head(row + ((t + r) * all + h) * size, queries + r * size, qw, c ? c + (t + r) * size / 2 : 0, s ? s + (t + r) * size / 2 : 0,
                         size, eps);
                for (i64 i = n * size; i < QUERIES * size; i++) queries[i] = 0;
                for (i64 k = 0; k < end; k += 16) {
                    float16 sums[QUERIES] = {0};
                    for (i64 i = 0; i < size; i++) {
                        float16 key = *(const loose_float16 *)(keys + i * room + low + k);
                        for (int r = 0; r < QUERIES; r++) sums[r] += queries[r * size + i] * key;
                    }
                    for (int r = 0; r < QUERIES; r++) {
                        int32_t left = (to ? n_keys : t + r + 1 - low) - k; /* that this query sees */
                        float16 x = sums[r] * scale;
                        tiles[(r * room + k) / 16] = left < 16 ? hidden(x, left) : x;
                    }
                }
                for (i64 r = 0; r < n; r++) {
                    float *x = seen + r * room, top = LOWEST, sum = 0;
                    for (i64 k = 0; k < end; k++) top = x[k] > top ? x[k] : top;
                    for (i64 k = 0; k < end; k++) { x[k] = fast_exp(x[k] - top); sum += x[k]; }
                    over[r] = 1.0f / sum;
                }
                for (i64 i = 0; i < size; i += 16) {
                    float16 sums[QUERIES] = {0};
                    for (i64 k = 0; k < n_keys; k++) {
                        float16 value = *(const loose_float16 *)(values + (low + k) * size + i);
                        for (int r = 0; r < QUERIES; r++) sums[r] += seen[r * room + k] * value;
                    }
                    for (i64 r = 0; r < n; r++) {
                        num *y = out + ((b * t_n + t + r) * h_n + h) * size + i;
                        for (int j = 0; j < 16; j++) y[j] = narrow(n_keys > 0 ? sums[r][j] * over[r] : 0);
                    }
                }
            }
        }
    }
}

/* ---- softmax over scores (B·H, T, S) in place, scaled; first and last (B, T) tell for each query its first visible key
 * and one past its last; without last that is the query itself. Everything outside becomes 0. ---- */

void softmax(num *scores, const int32_t *first, const int32_t *last, i64 batch, i64 heads, i64 t_n, i64 s_n, float scale) {
#pragma omp parallel for schedule(dynamic, 64)
    for (i64 row = 0; row < batch * heads * t_n; row++) {
        i64 t = row % t_n, b = row / (heads * t_n), from = first ? first[b * t_n + t] : 0;
        i64 to = last ? last[b * t_n + t] : t + 1 + s_n - t_n;
        num *x = scores + row * s_n;
        float u[2048], top = LOWEST, sum = 0;
        for (i64 i = from; i < to; i++) { u[i] = wide(x[i]) * scale; top = u[i] > top ? u[i] : top; }
        for (i64 i = from; i < to; i++) { u[i] = fast_exp(u[i] - top); sum += u[i]; }
        sum = 1.0f / sum;
        for (i64 i = from; i < to; i++) x[i] = narrow(u[i] * sum);
        if (from) memset(x, 0, from * sizeof(num));
        if (to < s_n) memset(x + to, 0, (s_n - to) * sizeof(num));
    }
}

/* d (the gradient of the probabilities) becomes, in place, the gradient of the unscaled products. */
void softmax_back(num *d, const num *p, const int32_t *first, const int32_t *last, i64 batch, i64 heads, i64 t_n, i64 s_n, float scale) {
#pragma omp parallel for schedule(dynamic, 64)
    for (i64 row = 0; row < batch * heads * t_n; row++) {
        i64 t = row % t_n, b = row / (heads * t_n), from = first ? first[b * t_n + t] : 0;
        i64 to = last ? last[b * t_n + t] : t + 1 + s_n - t_n;
        num *x = d + row * s_n;
        const num *q = p + row * s_n;
        float inner = 0;
        for (i64 i = from; i < to; i++) inner += wide(x[i]) * wide(q[i]);
        for (i64 i = from; i < to; i++) x[i] = narrow((wide(x[i]) - inner) * wide(q[i]) * scale);
        if (from) memset(x, 0, from * sizeof(num));
        if (to < s_n) memset(x + to, 0, (s_n - to) * sizeof(num));
    }
}

/* ---- cross-entropy: logits (N, V) become their gradients in place; losses (N). target −100 is not counted ---- */

/* The largest of n numbers; bad: whether one is not finite. bfloat16 is compared as integers, 32 at a time: the sign as it is, the rest
 * upside down where it is negative. */
static inline float largest(const num *x, i64 n, int *bad) {
#ifdef FLOAT32
    float top = LOWEST;
    int found = 0;
    for (i64 i = 0; i < n; i++) top = x[i] > top ? x[i] : top;
    for (i64 i = 0; i < n; i++) found |= not_finite(x[i]);
    *bad = found;
    return top;
#else
    int16_t top = INT16_MIN, size = 0;
    for (i64 i = 0; i < n; i++) {
        int16_t a = (int16_t)x[i], magnitude = a & 0x7fff, key = a ^ ((a >> 15) & 0x7fff);
        size = magnitude > size ? magnitude : size;
        top = key > top ? key : top;
    }
    *bad = not_finite((num)size);
    return wide((num)(top ^ ((top >> 15) & 0x7fff)));
#endif
}

/* exps: (threads, V) float32, room for a row's exponentials, so that each is taken once. */
void cross_entropy(num *logits, const i64 *targets, float *losses, float *exps, i64 rows, i64 v_n, float softcap, i64 back, i64 threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (i64 thread = 0; thread < threads; thread++)
        for (i64 r = rows * thread / threads; r < rows * (thread + 1) / threads; r++) {
            num *x = logits + r * v_n;
            float *e = exps + thread * v_n;
            i64 y = targets[r];
            if (y < 0) {
                losses[r] = 0;
                if (back) memset(x, 0, v_n * sizeof(num));
                continue;
            }
            if (softcap > 0)
                for (i64 i = 0; i < v_n; i++) { float t = wide(x[i]) / softcap; x[i] = narrow(softcap * (1.0f - 2.0f / (fast_exp(2.0f * t) + 1.0f))); }
            int bad;
            float top = largest(x, v_n, &bad), sum = 0;
            if (bad) {
                union { uint32_t u; float f; } nan = {0x7fc00000};
                losses[r] = nan.f;
                if (back) memset(x, 0, v_n * sizeof(num));
                continue;
            }
            for (i64 i = 0; i < v_n; i++) { e[i] = fast_exp(wide(x[i]) - top); sum += e[i]; }
            float own = wide(x[y]), share = 1.0f / sum;
            losses[r] = logf(sum) + top - own;
            if (!back) continue;
            if (softcap > 0) {
                float inverse = 1.0f / softcap, before = own * inverse;
                for (i64 i = 0; i < v_n; i++) { float t = wide(x[i]) * inverse; x[i] = narrow(e[i] * share * (1.0f - t * t)); }
                x[y] = narrow((e[y] * share - 1.0f) * (1.0f - before * before));
            } else {
                for (i64 i = 0; i < v_n; i++) x[i] = narrow(e[i] * share);
                x[y] = narrow(e[y] * share - 1.0f);
            }
        }
}

/* sums (n) float32 += x (n): the gradients of several micro-batches, added up where no rounding is lost. */
void accumulate(const num *x, float *sums, i64 n) {
#pragma omp parallel for schedule(static)
    for (i64 i = 0; i < n; i++) sums[i] += wide(x[i]);
}

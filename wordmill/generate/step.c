/* One decoding step of a Transformer for one row, on a CPU: what OneRow.step in decode.py does, without calling a library
   for each operation. Compiled when it is first needed (native.py); decode.py has the same step in PyTorch for machines
   without a compiler, and the tests compare the two.

   Weights are bfloat16 or float32 as stored; all else is float32. All threads stay in one parallel region; a barrier stands
   wherever one part needs what all threads wrote. Norms are cheaper to compute in every thread than to wait for.
   Shapes as in decode.py: width D, H query heads, G key/value heads, K head size, F inner size, S slots, V vocabulary. */

#include <math.h>
#include <stdint.h>
#include <string.h>

extern int omp_get_thread_num(void), omp_get_num_threads(void);

typedef struct {
    const void *qkv, *output, *up, *down;
    const float *qkv_bias, *output_bias, *up_bias, *down_bias;             /* or NULL */
    const float *norm1, *norm1_bias, *norm2, *norm2_bias, *q_norm, *k_norm; /* biases and q/k norms or NULL */
    float *keys, *values;                                                  /* (G, S, K) */
    int64_t window;
} Layer;

typedef struct {
    const Layer *layers;
    const void *head;
    const float *norm, *norm_bias;  /* or NULL */
    const float *cos, *sin;         /* (S, K/2), or NULL */
    float *x, *qkv, *mixed, *inner, *logits, *scratch; /* (D), ((H+2G)K), (HK), (F), (V), threads · max(D, S) */
    int64_t n_layers, width, heads, groups, size, ffn, vocab, slots, gated, activation, post, narrow, threads, scratch_size;
    double eps;
} Model;

enum { RELU, GELU, GELU_TANH, SILU, RELU2 };

static inline float wide(uint16_t w) {
    uint32_t bits = (uint32_t)w << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* 64 sums at a time, and the memory some lines ahead asked for: a single core then reads about a quarter more a second. */
static float dot_narrow(const uint16_t *restrict w, const float *restrict x, int64_t n) {
    float sums[64] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
        __builtin_prefetch(w + i + 512);
        __builtin_prefetch(w + i + 544);
        for (int64_t j = 0; j < 64; j++) sums[j] += wide(w[i + j]) * x[i + j];
    }
    for (int64_t j = 0; j < 64; j++) sum += sums[j];
    for (; i < n; i++) sum += wide(w[i]) * x[i];
    return sum;
}

static float dot_wide(const float *restrict w, const float *restrict x, int64_t n) {
    float sum = 0;
#pragma GCC unroll 4
    for (int64_t i = 0; i < n; i++) sum += w[i] * x[i];
    return sum;
}

static inline float row(const Model *m, const void *weight, const float *bias, const float *x, int64_t r, int64_t n) {
    float sum = m->narrow ? dot_narrow((const uint16_t *)weight + r * n, x, n) : dot_wide((const float *)weight + r * n, x, n);
    return bias ? sum + bias[r] : sum;
}

/* LayerNorm where there is a bias, else RMSNorm. */
static void normalise(float *out, const float *x, const float *weight, const float *bias, int64_t n, float eps) {
    float mean = 0, square = 0;
    if (bias) {
        for (int64_t i = 0; i < n; i++) mean += x[i];
        mean /= n;
    }
    for (int64_t i = 0; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / sqrtf(square / n + eps);
    if (bias) for (int64_t i = 0; i < n; i++) out[i] = (x[i] - mean) * scale * weight[i] + bias[i];
    else for (int64_t i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

static void activate(float *x, int64_t n, int64_t kind) {
    switch (kind) {
    case RELU: for (int64_t i = 0; i < n; i++) x[i] = x[i] > 0 ? x[i] : 0; break;
    case RELU2: for (int64_t i = 0; i < n; i++) x[i] = x[i] > 0 ? x[i] * x[i] : 0; break;
    case GELU: for (int64_t i = 0; i < n; i++) x[i] = 0.5f * x[i] * (1 + erff(x[i] * 0.70710678f)); break;
    case GELU_TANH:
        for (int64_t i = 0; i < n; i++) {
            /* 0.5 (1 + tanh z) = 1 / (1 + exp(−2z)) */
            const float z = 0.79788456f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
            x[i] = x[i] / (1 + expf(-2 * z));
        }
        break;
    default: for (int64_t i = 0; i < n; i++) x[i] = x[i] / (1 + expf(-x[i]));
    }
}

/* Norm and rotary turn of one head, in place. */
static void prepare(const Model *m, float *head, const float *weight, int64_t place) {
    const int64_t n = m->size, half = n / 2;
    if (weight) normalise(head, head, weight, 0, n, m->eps);
    if (!m->cos) return;
    const float *c = m->cos + place * half, *s = m->sin + place * half;
    for (int64_t i = 0; i < half; i++) {
        const float a = head[i], b = head[i + half];
        head[i] = a * c[i] - b * s[i];
        head[i + half] = b * c[i] + a * s[i];
    }
}

static void attend(const Model *m, const Layer *l, int64_t h, int64_t place, float *scores) {
    const int64_t n = m->size, group = h / (m->heads / m->groups);
    const int64_t first = l->window && place + 1 > l->window ? place + 1 - l->window : 0;
    const float *keys = l->keys + group * m->slots * n, *values = l->values + group * m->slots * n;
    const float *q = m->qkv + h * n, scale = 1.0f / sqrtf((float)n);
    float top = -3e38f, sum = 0, *out = m->mixed + h * n;
    for (int64_t s = first; s <= place; s++) {
        scores[s] = dot_wide(keys + s * n, q, n) * scale;
        if (scores[s] > top) top = scores[s];
    }
    for (int64_t s = first; s <= place; s++) sum += scores[s] = expf(scores[s] - top);
    for (int64_t i = 0; i < n; i++) out[i] = 0;
    for (int64_t s = first; s <= place; s++) {
        const float weight = scores[s] / sum, *v = values + s * n;
        for (int64_t i = 0; i < n; i++) out[i] += weight * v[i];
    }
}

#define BARRIER _Pragma("omp barrier")
#define SHARE(n) const int64_t lo = (n) * me / all, hi = (n) * (me + 1) / all

static void layer_step(const Model *m, const Layer *l, int64_t place, int64_t me, int64_t all, float *own) {
    const int64_t D = m->width, K = m->size, H = m->heads, G = m->groups, F = m->ffn;
    const float *in = m->post ? m->x : own;
    if (!m->post) normalise(own, m->x, l->norm1, l->norm1_bias, D, m->eps);
    {
        SHARE((H + 2 * G) * K);
        for (int64_t r = lo; r < hi; r++) m->qkv[r] = row(m, l->qkv, l->qkv_bias, in, r, D);
    }
    BARRIER
    {
        SHARE(H + 2 * G);
        for (int64_t h = lo; h < hi; h++) {
            float *head = m->qkv + h * K;
            if (h < H + G) prepare(m, head, h < H ? l->q_norm : l->k_norm, place);
            if (h >= H) memcpy((h < H + G ? l->keys : l->values) + (((h - H) % G) * m->slots + place) * K, head, K * sizeof(float));
        }
    }
    BARRIER
    {
        SHARE(H);
        for (int64_t h = lo; h < hi; h++) attend(m, l, h, place, own);
    }
    BARRIER
    {
        SHARE(D);
        for (int64_t r = lo; r < hi; r++) m->x[r] += row(m, l->output, l->output_bias, m->mixed, r, H * K);
    }
    BARRIER
    if (m->post) {
        if (me == 0) normalise(m->x, m->x, l->norm1, l->norm1_bias, D, m->eps);
        BARRIER
    } else
        normalise(own, m->x, l->norm2, l->norm2_bias, D, m->eps);
    {
        SHARE(F);
        for (int64_t r = lo; r < hi; r++) m->inner[r] = row(m, l->up, l->up_bias, in, r, D);
        activate(m->inner + lo, hi - lo, m->activation);
        if (m->gated) for (int64_t r = lo; r < hi; r++) m->inner[r] *= row(m, l->up, l->up_bias, in, r + F, D);
    }
    BARRIER
    {
        SHARE(D);
        for (int64_t r = lo; r < hi; r++) m->x[r] += row(m, l->down, l->down_bias, m->inner, r, F);
    }
    BARRIER
    if (m->post) {
        if (me == 0) normalise(m->x, m->x, l->norm2, l->norm2_bias, D, m->eps);
        BARRIER
    }
}

/* x holds the embedding of the token at `place`; afterwards logits holds the scores of the next. */
void step(const Model *m, int64_t place) {
#pragma omp parallel num_threads(m->threads)
    {
        const int64_t me = omp_get_thread_num(), all = omp_get_num_threads();
        float *own = m->scratch + me * m->scratch_size;
        for (int64_t i = 0; i < m->n_layers; i++) layer_step(m, m->layers + i, place, me, all, own);
        const float *in = m->x;
        if (m->norm) {
            normalise(own, m->x, m->norm, m->norm_bias, m->width, m->eps);
            in = own;
        }
        SHARE(m->vocab);
        for (int64_t r = lo; r < hi; r++) m->logits[r] = row(m, m->head, 0, in, r, m->width);
    }
}

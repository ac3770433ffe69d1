// Passes over rows: normalisation, activations, rotation. Each touches every number once.
#include "vectors.h"

namespace {

constexpr int64_t WORTH_THREADS = 32768;  // numbers, below which waking threads costs more
constexpr int64_t PIECE = 4096;           // numbers that a thread takes at a time

// x / sqrt(mean(x^2) + eps) in float32, rounded to T, times the weight, rounded to T.
template <class T>
void rms_norm(const T* x, const T* weight, T* out, int64_t rows, int64_t width, int64_t x_stride,
              float eps, int threads) {
  constexpr int L = LANES;
#pragma omp parallel for num_threads(threads) if (rows > 1 && rows * width > WORTH_THREADS)
  for (int64_t row = 0; row < rows; ++row) {
    const T* from = x + row * x_stride;
    T* to = out + row * width;
    typename Lanes<L>::f sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * L <= width; i += 4 * L)
      for (int k = 0; k < 4; ++k) {
        auto v = load<L>(from + i + k * L);
        sums[k] += v * v;
      }
    for (; i + L <= width; i += L) {
      auto v = load<L>(from + i);
      sums[0] += v * v;
    }
    float total = sum<L>((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < width; ++i) total += to_float(from[i]) * to_float(from[i]);
    const float scale = 1.0f / sqrtf(total / (float)width + eps);
    i = 0;
    for (; i + L <= width; i += L)
      store<L>(to + i, round_to<T, L>(load<L>(from + i) * scale) * load<L>(weight + i));
    for (; i < width; ++i)
      put(to + i, rounded<T>(to_float(from[i]) * scale) * to_float(weight[i]));
  }
}

// silu(gate) rounded to T, times up, rounded to T.
template <int L, class F = typename Lanes<L>::f> INLINE F silu(F x) {
  return x / (1.0f + exp_of<L>(-x));
}

template <class T>
void silu_and_mul(const T* gate, const T* up, T* out, int64_t rows, int64_t width,
                  int64_t gate_stride, int64_t up_stride, int threads) {
  constexpr int L = LANES;
  const int64_t pieces = (width + PIECE - 1) / PIECE;
#pragma omp parallel for num_threads(threads) if (rows * width > WORTH_THREADS)
  for (int64_t piece = 0; piece < rows * pieces; ++piece) {
    const int64_t row = piece / pieces, begin = piece % pieces * PIECE;
    const int64_t end = begin + PIECE < width ? begin + PIECE : width;
    const T *g = gate + row * gate_stride, *u = up + row * up_stride;
    T* to = out + row * width;
    int64_t i = begin;
    for (; i + L <= end; i += L)
      store<L>(to + i, round_to<T, L>(silu<L>(load<L>(g + i))) * load<L>(u + i));
    for (; i < end; ++i)
      put(to + i, rounded<T>(silu<8>(splat<8>(to_float(g[i])))[0]) * to_float(u[i]));
  }
}

// x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3): GELU with tanh, without cancellation.
template <int L, class F = typename Lanes<L>::f> INLINE F gelu_tanh(F x) {
  const F inner = x * (x * x * (-2.0f * 0.79788456f * 0.044715f) - 2.0f * 0.79788456f);
  return x / (1.0f + exp_of<L>(inner));
}

template <class T> void gelu_tanh_all(const T* x, T* out, int64_t size, int threads) {
  constexpr int L = LANES;
#pragma omp parallel for num_threads(threads) if (size > WORTH_THREADS)
  for (int64_t begin = 0; begin < size; begin += PIECE) {
    const int64_t end = begin + PIECE < size ? begin + PIECE : size;
    int64_t i = begin;
    for (; i + L <= end; i += L) store<L>(out + i, gelu_tanh<L>(load<L>(x + i)));
    for (; i < end; ++i) put(out + i, gelu_tanh<8>(splat<8>(to_float(x[i])))[0]);
  }
}

// Rotate one head in place by its halves. Where cosines are T, every step is rounded to T, as
// in transformers' Llama; where they are float32, the result alone.
template <class T, class C> INLINE void rotate(T* head, const C* cos, const C* sin, int64_t dim) {
  constexpr int L = LANES;
  const int64_t half = dim / 2;
  T *low = head, *high = head + half;
  int64_t i = 0;
  for (; i + L <= half; i += L) {
    const auto a = load<L>(low + i), b = load<L>(high + i);
    store<L>(low + i, round_to<C, L>(a * load<L>(cos + i)) - round_to<C, L>(b * load<L>(sin + i)));
    store<L>(high + i, round_to<C, L>(b * load<L>(cos + half + i)) +
                           round_to<C, L>(a * load<L>(sin + half + i)));
  }
  for (; i < half; ++i) {
    const float a = to_float(low[i]), b = to_float(high[i]);
    put(low + i, rounded<C>(a * to_float(cos[i])) - rounded<C>(b * to_float(sin[i])));
    put(high + i,
        rounded<C>(b * to_float(cos[half + i])) + rounded<C>(a * to_float(sin[half + i])));
  }
}

template <class T, class C>
void rotate_and_write(T* query, T* keys, const T* values, const C* cos, const C* sin,
                      T* key_blocks, T* value_blocks, const int64_t* slots, int64_t tokens,
                      int64_t heads, int64_t kv_heads, int64_t dim, int64_t query_stride,
                      int64_t key_stride, int64_t value_stride, int threads) {
  const int64_t width = kv_heads * dim;
#pragma omp parallel for num_threads(threads) if (tokens > 1 && \
                                                  tokens * heads * dim > WORTH_THREADS)
  for (int64_t token = 0; token < tokens; ++token) {
    const C *c = cos + token * dim, *s = sin + token * dim;
    T *q = query + token * query_stride, *k = keys + token * key_stride;
    for (int64_t head = 0; head < heads; ++head) rotate(q + head * dim, c, s, dim);
    for (int64_t head = 0; head < kv_heads; ++head) rotate(k + head * dim, c, s, dim);
    memcpy((void*)(key_blocks + slots[token] * width), k, width * sizeof(T));
    memcpy((void*)(value_blocks + slots[token] * width), values + token * value_stride,
           width * sizeof(T));
  }
}

}  // namespace

EXPORT void minicpmv_rms_norm_f32(const float* x, const float* weight, float* out, int64_t rows, int64_t width,
 int64_t x_stride, float eps, int threads) {
  rms_norm(x, weight, out, rows, width, x_stride, eps, threads);
}

EXPORT void minicpmv_silu_and_mul_f32(const float* gate, const float* up, float* out, int64_t rows, int64_t width,
 int64_t gate_stride, int64_t up_stride, int threads) {
  silu_and_mul(gate, up, out, rows, width, gate_stride, up_stride, threads);
}

EXPORT void minicpmv_gelu_tanh_f32(const float* x, float* out, int64_t size, int threads) {
  gelu_tanh_all(x, out, size, threads);
}

EXPORT void minicpmv_rms_norm_bf16(const bf16* x, const bf16* weight, bf16* out, int64_t rows, int64_t width,
 int64_t x_stride, float eps, int threads) {
  rms_norm(x, weight, out, rows, width, x_stride, eps, threads);
}

EXPORT void minicpmv_silu_and_mul_bf16(const bf16* gate, const bf16* up, bf16* out, int64_t rows, int64_t width,
 int64_t gate_stride, int64_t up_stride, int threads) {
  silu_and_mul(gate, up, out, rows, width, gate_stride, up_stride, threads);
}

EXPORT void minicpmv_gelu_tanh_bf16(const bf16* x, bf16* out, int64_t size, int threads) {
  gelu_tanh_all(x, out, size, threads);
}

EXPORT void minicpmv_rotate_and_write_f32_f32(float* query, float* keys, const float* values, const float* cos, const float* sin,
 float* key_blocks, float* value_blocks, const int64_t* slots, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t dim,
 int64_t query_stride, int64_t key_stride, int64_t value_stride, int threads) {
  rotate_and_write(query, keys, values, cos, sin, key_blocks, value_blocks, slots, tokens, heads, kv_heads, dim,
                   query_stride, key_stride, value_stride, threads);
}

EXPORT void minicpmv_rotate_and_write_bf16_f32(bf16* query, bf16* keys, const bf16* values, const float* cos, const float* sin,
 bf16* key_blocks, bf16* value_blocks, const int64_t* slots, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t dim,
 int64_t query_stride, int64_t key_stride, int64_t value_stride, int threads) {
  rotate_and_write(query, keys, values, cos, sin, key_blocks, value_blocks, slots, tokens, heads, kv_heads, dim,
                   query_stride, key_stride, value_stride, threads);
}

EXPORT void minicpmv_rotate_and_write_bf16_bf16(bf16* query, bf16* keys, const bf16* values, const bf16* cos, const bf16* sin,
 bf16* key_blocks, bf16* value_blocks, const int64_t* slots, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t dim,
 int64_t query_stride, int64_t key_stride, int64_t value_stride, int threads) {
  rotate_and_write(query, keys, values, cos, sin, key_blocks, value_blocks, slots, tokens, heads, kv_heads, dim,
                   query_stride, key_stride, value_stride, threads);
}

// Products with blocks of GGUF files as they lie in the file, and rows of them as numbers.
//
// A block is brought to float32 in registers, and multiplied there with a few rows of activations.
// Sums are float32, in the same order for any number of rows and threads.
#include <stdlib.h>

#include "gguf_blocks.h"

namespace {

constexpr int ROWS = 4;                     // that are multiplied at a time
constexpr int64_t WORTH_THREADS = 1 << 18;  // products, below which waking threads costs more
constexpr int64_t OUTPUTS = 16;             // that a thread takes at a time
constexpr int PIECES = 16 / LANES;          // vectors of 16 values
constexpr int CHAINS = LANES == 16 ? 4 : 2;  // sums of a row that do not wait for each other

template <class T> struct Output {
  T* y;
  int64_t stride;
  const float* bias;
};

// Adds up the products of a block's numbers with M rows of activations.
template <int M> struct Products {
  const float* x;
  int64_t stride;
  Floats sums[M][CHAINS];
  template <int K, int H> INLINE void add(int i, u8x16 q, float d, float m) {
    const Floats w = numbers<H>(q) * d + m;
    for (int row = 0; row < M; ++row)
      sums[row][(PIECES * K + H) % CHAINS] += w * load<LANES>(x + row * stride + i + H * LANES);
  }
  template <int K> INLINE void codes(int i, u8x16 q, float d, float m) {
    add<K, 0>(i, q, d, m);
    if constexpr (PIECES == 2) add<K, 1>(i, q, d, m);
  }
};

// Writes a block's numbers.
template <class T> struct Numbers {
  T* out;
  template <int K> INLINE void codes(int i, u8x16 q, float d, float m) {
    store<LANES>(out + i, Floats(numbers<0>(q) * d + m));
    if constexpr (PIECES == 2) store<LANES>(out + i + LANES, Floats(numbers<1>(q) * d + m));
  }
};

// One output of M rows of activations.
template <int TYPE, int M, class T>
INLINE void one_output(const uint8_t* blocks, int64_t count, const float* x, int64_t width,
                       int64_t output, const Output<T>& out) {
  typedef Blocks<TYPE> B;
  Products<M> sink = {x, width, {}};
  for (int64_t i = 0; i < count; ++i) {
    B::read(blocks + i * B::BYTES, sink);
    sink.x += B::SIZE;
  }
  const float bias = out.bias ? out.bias[output] : 0.0f;
  for (int m = 0; m < M; ++m) {
    Floats all = sink.sums[m][0] + sink.sums[m][1];
    if constexpr (CHAINS == 4) all += sink.sums[m][2] + sink.sums[m][3];
    put(out.y + m * out.stride + output, sum<LANES>(all) + bias);
  }
}

template <int TYPE, int M, class T>
void outputs(const uint8_t* data, int64_t count, const float* x, int64_t width, int64_t first,
             int64_t end, const Output<T>& out) {
  for (int64_t o = first; o < end; ++o)
    one_output<TYPE, M>(data + o * count * Blocks<TYPE>::BYTES, count, x, width, o, out);
}

template <class T> struct Product {
  const T* x;
  int64_t x_stride, rows, width;
  const uint8_t* data;
  int64_t num_outputs;
  Output<T> out;
  int threads;
};

template <int TYPE, class T> int run(const Product<T>& p) {
  const int64_t count = p.width / Blocks<TYPE>::SIZE;
  void* memory = NULL;
  if (posix_memalign(&memory, 64, p.rows * p.width * sizeof(float))) return 1;
  float* x = (float*)memory;
  for (int64_t row = 0; row < p.rows; ++row)
    for (int64_t i = 0; i < p.width; ++i) x[row * p.width + i] = to_float(p.x[row * p.x_stride + i]);
#pragma omp parallel for num_threads(p.threads) schedule(dynamic, 1) \
  if (p.rows * p.width * p.num_outputs > WORTH_THREADS)
  for (int64_t first = 0; first < p.num_outputs; first += OUTPUTS) {
    const int64_t end = first + OUTPUTS < p.num_outputs ? first + OUTPUTS : p.num_outputs;
    for (int64_t row = 0; row < p.rows; row += ROWS) {
      const float* from = x + row * p.width;
      const Output<T> out = {p.out.y + row * p.out.stride, p.out.stride, p.out.bias};
      const int64_t left = p.rows - row;
      if (left >= 4) outputs<TYPE, 4>(p.data, count, from, p.width, first, end, out);
      if (left == 3) outputs<TYPE, 3>(p.data, count, from, p.width, first, end, out);
      if (left == 2) outputs<TYPE, 2>(p.data, count, from, p.width, first, end, out);
      if (left == 1) outputs<TYPE, 1>(p.data, count, from, p.width, first, end, out);
    }
  }
  free(memory);
  return 0;
}

struct Rows {
  const uint8_t* data;
  const int64_t* index;  // of rows; null for the first `rows`
  int64_t rows, width;
  int threads;
};

template <int TYPE, class T> int widen(const Rows& p, T* out) {
  typedef Blocks<TYPE> B;
  const int64_t count = p.width / B::SIZE;
#pragma omp parallel for num_threads(p.threads) schedule(static) if (p.rows * p.width > WORTH_THREADS)
  for (int64_t row = 0; row < p.rows; ++row) {
    const uint8_t* from = p.data + (p.index ? p.index[row] : row) * count * B::BYTES;
    T* to = out + row * p.width;
    for (int64_t i = 0; i < count; ++i) {
      Numbers<T> sink = {to + i * B::SIZE};
      B::read(from + i * B::BYTES, sink);
    }
  }
  return 0;
}

// Calls `f` with the type as a constant; 2 where there is none of that number.
template <class F> int with_type(int type, F f) {
  switch (type) {
    case Q4_0: return f.template call<Q4_0>();
    case Q4_1: return f.template call<Q4_1>();
    case Q5_0: return f.template call<Q5_0>();
    case Q5_1: return f.template call<Q5_1>();
    case Q8_0: return f.template call<Q8_0>();
    case Q2_K: return f.template call<Q2_K>();
    case Q3_K: return f.template call<Q3_K>();
    case Q4_K: return f.template call<Q4_K>();
    case Q5_K: return f.template call<Q5_K>();
    case Q6_K: return f.template call<Q6_K>();
    case IQ4_NL: return f.template call<IQ4_NL>();
    case IQ4_XS: return f.template call<IQ4_XS>();
    default: return 2;
  }
}

// Blocks of Q4_0 or Q8_0 as tiles of packed_linear.cpp: 16 outputs x 32 inputs, see packing.py.
// Returns 1 where a scale is not finite, plus 2 where Q8_0 has the code -128.
template <int TYPE>
int tile(const uint8_t* blocks, int64_t stride, int rows, uint8_t* out) {
  constexpr uint32_t LOW = 0x0f0f0f0f;
  int wrong = 0;
  for (int r = 0; r < rows; ++r) {
    const uint8_t *from = blocks + r * stride, *q = from + 2;
    uint8_t* to = out + 32 + 4 * r;
    memcpy(out + 2 * r, from, 2);
    wrong |= (from[1] & 0x7c) == 0x7c;
    if (TYPE == Q8_0) {
      int bottom = 0;
      for (int i = 0; i < 32; ++i) bottom |= q[i] == 128;
      wrong |= 2 * bottom;
      for (int j = 0; j < 8; ++j) memcpy(to + 64 * j, q + 4 * j, 4);
      continue;
    }
    for (int j = 0; j < 2; ++j) {
      const uint32_t first = word(q + 8 * j), second = word(q + 8 * j + 4);
      const uint32_t low = (first & LOW) | (second & LOW) << 4;
      const uint32_t high = (first >> 4 & LOW) | (second & ~LOW);
      memcpy(to + 64 * j, &low, 4);
      memcpy(to + 64 * (j + 2), &high, 4);
    }
  }
  return wrong;
}

template <int TYPE>
int repack(const uint8_t* data, int64_t rows, int64_t groups, uint8_t* out, int threads) {
  constexpr int64_t BYTES = Blocks<TYPE>::BYTES, TILE = 16 * (BYTES);
  const int64_t tiles = (rows + 15) / 16;
  int wrong = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(| : wrong)
  for (int64_t t = 0; t < tiles; ++t) {
    const int count = (int)(rows - 16 * t < 16 ? rows - 16 * t : 16);
    for (int64_t g = 0; g < groups; ++g) {
      uint8_t* to = out + (t * groups + g) * TILE;
      if (count < 16) {  // weights of zero
        memset(to, 0, 32);
        memset(to + 32, TYPE == Q8_0 ? 0 : 0x88, TILE - 32);
      }
      wrong |= tile<TYPE>(data + (16 * t * groups + g) * BYTES, groups * BYTES, count, to);
    }
  }
  return wrong;
}

template <class T> struct Linear {
  Product<T> p;
  template <int TYPE> int call() { return run<TYPE>(p); }
};
template <class T> struct Widen {
  Rows p;
  T* out;
  template <int TYPE> int call() { return widen<TYPE>(p, out); }
};

}  // namespace

// y = x W^T + bias, for a few rows. The width is a multiple of the type's block; strides count
// numbers; bias may be null. Returns 1 where there is no memory for the activations, 2 where the
// type is not known, else 0.
EXPORT int minicpmv_gguf_linear_f32(const float* x, int64_t x_stride, int64_t rows, int64_t width,
                                    const uint8_t* data, int type, int64_t outputs,
                                    const float* bias, float* y, int64_t y_stride, int threads) {
  return with_type(type, Linear<float>{{x, x_stride, rows, width, data, outputs,
                                        {y, y_stride, bias}, threads}});
}

EXPORT int minicpmv_gguf_linear_bf16(const bf16* x, int64_t x_stride, int64_t rows, int64_t width,
                                     const uint8_t* data, int type, int64_t outputs,
                                     const float* bias, bf16* y, int64_t y_stride, int threads) {
  return with_type(type, Linear<bf16>{{x, x_stride, rows, width, data, outputs,
                                       {y, y_stride, bias}, threads}});
}

// Rows as numbers (rows, width), those of `index` or the first ones; returns as above.
EXPORT int minicpmv_gguf_widen_f32(const uint8_t* data, int type, const int64_t* index,
                                   int64_t rows, int64_t width, float* out, int threads) {
  return with_type(type, Widen<float>{{data, index, rows, width, threads}, out});
}

EXPORT int minicpmv_gguf_widen_bf16(const uint8_t* data, int type, const int64_t* index,
                                    int64_t rows, int64_t width, bf16* out, int threads) {
  return with_type(type, Widen<bf16>{{data, index, rows, width, threads}, out});
}

// A matrix of Q4_0 (2) or Q8_0 (8) in the layout of packing.py. Returns 1 where a scale is not
// finite, plus 2 where Q8_0 has the code -128, which that layout has not.
EXPORT int minicpmv_gguf_repack(const uint8_t* data, int type, int64_t rows, int64_t groups,
                                uint8_t* out, int threads) {
  return type == Q8_0 ? repack<Q8_0>(data, rows, groups, out, threads)
                      : repack<Q4_0>(data, rows, groups, out, threads);
}

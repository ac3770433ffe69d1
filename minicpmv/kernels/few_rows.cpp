// Products of a few rows with plain weights as they lie in memory: weights are read once for all
// rows, and nothing is packed before.
#include "vectors.h"

namespace {

constexpr int OUTPUTS = 4;                  // that are computed at a time
constexpr int ROWS = 4;                     // of these rows
constexpr int64_t WORTH_THREADS = 1 << 23;  // multiplications, below which waking threads costs more

// How a piece of a row is multiplied: in float32 by whatever the processor has.
template <class T> struct Wide {
  typedef T Number;
  typedef typename Lanes<LANES>::f Piece;
  static constexpr int SIZE = LANES;
  static INLINE Piece read(const T* p) { return load<LANES>(p); }
  static INLINE void add(Piece& sum, Piece a, Piece b) { sum += a * b; }
};

#ifdef __AVX512BF16__
// Pairs of bfloat16, multiplied and added in float32 by one instruction.
struct Paired {
  typedef bf16 Number;
  typedef __m512bh Piece;
  static constexpr int SIZE = 32;
  static INLINE Piece read(const bf16* p) { return (__m512bh)_mm512_loadu_si512(p); }
  static INLINE void add(f32x16& sum, Piece a, Piece b) {
    sum = (f32x16)_mm512_dpbf16_ps((__m512)sum, a, b);
  }
};
typedef Paired OfBf16;
#else
typedef Wide<bf16> OfBf16;
#endif

INLINE void put_four(float* p, f32x4 v) { memcpy(p, &v, sizeof v); }
INLINE void put_four(bf16* p, f32x4 v) {
  f32x8 wide = {v[0], v[1], v[2], v[3]};
  bf16 rounded[8];
  store<8>(rounded, wide);
  memcpy(p, rounded, OUTPUTS * sizeof(bf16));
}

template <class T> struct Product {
  const T *x, *weight, *bias;  // bias: null for none
  T* out;
  int64_t rows, inputs, outputs, x_stride, weight_stride;
};

// OUTPUTS results of R rows. Each sum has the same order, whatever the number of rows.
template <class K, int R>
INLINE void tile(const Product<typename K::Number>& p, int64_t row, int64_t output) {
  typedef typename Lanes<LANES>::f F;
  const auto* x = p.x + row * p.x_stride;
  const auto* w = p.weight + output * p.weight_stride;
  F sums[R][OUTPUTS] = {};
  int64_t i = 0;
  for (; i + K::SIZE <= p.inputs; i += K::SIZE) {
    typename K::Piece own[OUTPUTS];
    for (int o = 0; o < OUTPUTS; ++o) own[o] = K::read(w + o * p.weight_stride + i);
    for (int r = 0; r < R; ++r) {
      const auto piece = K::read(x + r * p.x_stride + i);
      for (int o = 0; o < OUTPUTS; ++o) K::add(sums[r][o], piece, own[o]);
    }
  }
  for (int r = 0; r < R; ++r) {
    f32x4 all = sum_each<LANES>(sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
    for (int64_t k = i; k < p.inputs; ++k)
      for (int o = 0; o < OUTPUTS; ++o)
        all[o] += to_float(x[r * p.x_stride + k]) * to_float(w[o * p.weight_stride + k]);
    if (p.bias)
      for (int o = 0; o < OUTPUTS; ++o) all[o] += to_float(p.bias[output + o]);
    put_four(p.out + (row + r) * p.outputs + output, all);
  }
}

template <class K> void multiply(const Product<typename K::Number>& p, int threads) {
#pragma omp parallel for num_threads(threads) if (p.rows * p.inputs * p.outputs > WORTH_THREADS)
  for (int64_t output = 0; output < p.outputs; output += OUTPUTS) {
    int64_t row = 0;
    for (; row + ROWS <= p.rows; row += ROWS) tile<K, ROWS>(p, row, output);
    const int64_t left = p.rows - row;
    if (left == 3) tile<K, 3>(p, row, output);
    if (left == 2) tile<K, 2>(p, row, output);
    if (left == 1) tile<K, 1>(p, row, output);
  }
}

}  // namespace

// `outputs` is a multiple of 4; strides are of rows, whose numbers lie side by side.
EXPORT void minicpmv_few_rows_f32(const float* x, const float* weight, const float* bias, float* out,
                                  int64_t rows, int64_t inputs, int64_t outputs, int64_t x_stride,
                                  int64_t weight_stride, int threads) {
  multiply<Wide<float>>({x, weight, bias, out, rows, inputs, outputs, x_stride, weight_stride},
                        threads);
}

EXPORT void minicpmv_few_rows_bf16(const bf16* x, const bf16* weight, const bf16* bias, bf16* out,
                                   int64_t rows, int64_t inputs, int64_t outputs, int64_t x_stride,
                                   int64_t weight_stride, int threads) {
  multiply<OfBf16>({x, weight, bias, out, rows, inputs, outputs, x_stride, weight_stride}, threads);
}

// Products of a few rows with plain weights as they lie in memory: weights are read once for all
// rows, and nothing is packed before. The sums of a row do not depend on the other rows.
#include "vectors.h"

namespace {

constexpr int OUTPUTS = 4;                  // that are computed at a time
constexpr int ROWS = 4;                     // of these rows
constexpr int MOST_ROWS = 12;
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

  bool is_worth_threads() const { return rows * inputs * outputs > WORTH_THREADS; }
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
#pragma omp parallel for num_threads(threads) if (p.is_worth_threads())
  for (int64_t output = 0; output < p.outputs; output += OUTPUTS) {
    int64_t row = 0;
    for (; row + ROWS <= p.rows; row += ROWS) tile<K, ROWS>(p, row, output);
    const int64_t left = p.rows - row;
    if (left == 3) tile<K, 3>(p, row, output);
    if (left == 2) tile<K, 2>(p, row, output);
    if (left == 1) tile<K, 1>(p, row, output);
  }
}

#ifdef __AVX512BF16__
// The same in the order in which oneDNN adds, whatever the number of rows: one sum per result, pair
// after pair, in chunks that are added up. So a row gets the same bits here and there. Outputs stand
// side by side in a vector, for which weights are transposed on the way: for one row slower than the
// function above where weights are in the cache, and for many rows faster; rows that lie a power of
// two apart take the cache from each other, so that large weights are left to the function above.
constexpr int WIDE = 32;                      // outputs at a time: two vectors
constexpr int64_t WORDS = 16;                 // pairs of inputs at a time
constexpr int64_t LARGE_WEIGHT = 1 << 20;     // numbers

// Of oneDNN 3.11, as PyTorch 2.13 brings it.
INLINE int64_t pairs_of_chunk(int64_t inputs) { return inputs <= 1024 ? 256 : 512; }

// Four words of 16 rows: word k of all rows to to[2 * k].
INLINE void transpose(const bf16* const* rows, int64_t at, __mmask8 mask, __m512i* to) {
  __m512i v[4];
  for (int i = 0; i < 4; ++i) {
    v[i] = _mm512_castsi128_si512(_mm_maskz_loadu_epi32(mask, rows[i] + at));
    v[i] = _mm512_inserti32x4(v[i], _mm_maskz_loadu_epi32(mask, rows[4 + i] + at), 1);
    v[i] = _mm512_inserti32x4(v[i], _mm_maskz_loadu_epi32(mask, rows[8 + i] + at), 2);
    v[i] = _mm512_inserti32x4(v[i], _mm_maskz_loadu_epi32(mask, rows[12 + i] + at), 3);
  }
  const __m512i a = _mm512_unpacklo_epi32(v[0], v[1]), b = _mm512_unpackhi_epi32(v[0], v[1]);
  const __m512i c = _mm512_unpacklo_epi32(v[2], v[3]), d = _mm512_unpackhi_epi32(v[2], v[3]);
  to[0] = _mm512_unpacklo_epi64(a, c);
  to[2] = _mm512_unpackhi_epi64(a, c);
  to[4] = _mm512_unpacklo_epi64(b, d);
  to[6] = _mm512_unpackhi_epi64(b, d);
}

// sums (R x 2 vectors) += R rows x `count` words of WIDE outputs.
template <int R>
INLINE void add(const bf16* x, int64_t stride, const __m512i* words, int64_t count, __m512* sums) {
  __m512 own[R][2];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < 2; ++v) own[r][v] = sums[2 * r + v];
  for (int64_t d = 0; d < count; ++d)
    for (int r = 0; r < R; ++r) {
      int32_t word;
      memcpy(&word, x + r * stride + 2 * d, sizeof word);
      const __m512bh pair = (__m512bh)_mm512_set1_epi32(word);
      for (int v = 0; v < 2; ++v)
        own[r][v] = _mm512_dpbf16_ps(own[r][v], pair, (__m512bh)words[2 * d + v]);
    }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < 2; ++v) sums[2 * r + v] = own[r][v];
}

// Sums of all rows over the pairs `first` to `last`; rows of weights that are too many repeat the last.
INLINE void add_chunk(const Product<bf16>& p, const bf16* const* weights, int64_t first, int64_t last,
                      __m512* sums) {
  for (int64_t start = first; start < last; start += WORDS) {
    const int64_t count = last - start < WORDS ? last - start : WORDS;
    __m512i words[2 * WORDS];
    for (int64_t d = 0; d < count; d += 4) {
      const __mmask8 mask = (__mmask8)(count - d < 4 ? (1 << (count - d)) - 1 : 15);
      for (int v = 0; v < 2; ++v)
        transpose(weights + 16 * v, 2 * (start + d), mask, words + 2 * d + v);
    }
    // The next outputs' words are brought closer meanwhile: 32 rows are more than the processor follows
    // by itself. What is not there is not brought.
    for (int64_t o = 0; o < WIDE; ++o)
      __builtin_prefetch(weights[o] + WIDE * p.weight_stride + 2 * start);
    const bf16* x = p.x + 2 * start;
    int64_t row = 0;
    for (; row + ROWS <= p.rows; row += ROWS)
      add<ROWS>(x + row * p.x_stride, p.x_stride, words, count, sums + 2 * row);
    for (; row < p.rows; ++row)
      add<1>(x + row * p.x_stride, p.x_stride, words, count, sums + 2 * row);
  }
}

// Add the bias to the sums of V vectors of outputs from `output` on, and write them.
template <int V> INLINE void put_sums(const Product<bf16>& p, int64_t output, const __m512* sums) {
  for (int v = 0; v < V && output + 16 * v < p.outputs; ++v) {
    const int64_t begin = output + 16 * v, left = p.outputs - begin;
    const __mmask16 mask = (__mmask16)(left < 16 ? (1 << left) - 1 : 0xffff);
    __m512 bias = {};
    if (p.bias) {
      const __m256i half = _mm256_maskz_loadu_epi16(mask, p.bias + begin);
      bias = (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
    }
    for (int64_t row = 0; row < p.rows; ++row) {
      const __m512 sum = p.bias ? sums[V * row + v] + bias : sums[V * row + v];
      _mm256_mask_storeu_epi16(p.out + row * p.outputs + begin, mask,
                               (__m256i)_mm512_cvtneps_pbh(sum));
    }
  }
}

void multiply_in_order(const Product<bf16>& p, int threads) {
  const int64_t pairs = p.inputs / 2, step = pairs_of_chunk(p.inputs);
#pragma omp parallel for num_threads(threads) if (p.is_worth_threads())
  for (int64_t output = 0; output < p.outputs; output += WIDE) {
    const bf16* weights[WIDE];
    for (int64_t o = 0; o < WIDE; ++o)
      weights[o] = p.weight + (output + o < p.outputs ? output + o : p.outputs - 1) * p.weight_stride;
    __m512 sums[2 * MOST_ROWS] = {};
    for (int64_t first = 0; first < pairs; first += step) {
      __m512 chunk[2 * MOST_ROWS] = {};
      add_chunk(p, weights, first, first + step < pairs ? first + step : pairs, chunk);
      for (int64_t i = 0; i < 2 * p.rows; ++i) sums[i] += chunk[i];
    }
    put_sums<2>(p, output, sums);
  }
}

// Weights that stay, as `minicpmv_pack_rows_bf16` lays them down: tiles of 64 outputs, in each its
// pairs of inputs one after the other, each of all outputs. What is missing at the end is zeros.
constexpr int VECTORS = 4;  // of outputs of a tile

INLINE int64_t packed_tile(int64_t inputs) { return inputs * 16 * VECTORS; }
INLINE int64_t packed_tiles(int64_t outputs) { return (outputs + 16 * VECTORS - 1) / (16 * VECTORS); }

// sums (R x VECTORS) += R rows from `row` on x one tile, in the order of `multiply_in_order`.
template <int R>
INLINE void add_packed(const Product<bf16>& p, int64_t row, const bf16* tile, __m512* sums) {
  const int64_t pairs = p.inputs / 2, step = pairs_of_chunk(p.inputs);
  const bf16* x = p.x + row * p.x_stride;
  for (int64_t first = 0; first < pairs; first += step) {
    const int64_t last = first + step < pairs ? first + step : pairs;
    __m512 own[R][VECTORS] = {};
    for (int64_t d = first; d < last; ++d) {
      __m512bh words[VECTORS];
      for (int v = 0; v < VECTORS; ++v)
        words[v] = (__m512bh)_mm512_load_si512(tile + (d * VECTORS + v) * 32);
      for (int r = 0; r < R; ++r) {
        int32_t word;
        memcpy(&word, x + r * p.x_stride + 2 * d, sizeof word);
        const __m512bh pair = (__m512bh)_mm512_set1_epi32(word);
        for (int v = 0; v < VECTORS; ++v) own[r][v] = _mm512_dpbf16_ps(own[r][v], pair, words[v]);
      }
    }
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < VECTORS; ++v) sums[(row + r) * VECTORS + v] += own[r][v];
  }
}

void multiply_packed(const Product<bf16>& p, int threads) {
  const int64_t tiles = packed_tiles(p.outputs);
#pragma omp parallel for num_threads(threads) if (p.is_worth_threads())
  for (int64_t number = 0; number < tiles; ++number) {
    const bf16* tile = p.weight + number * packed_tile(p.inputs);
    __m512 sums[MOST_ROWS * VECTORS] = {};
    int64_t row = 0;
    for (; row + 6 <= p.rows; row += 6) add_packed<6>(p, row, tile, sums);  // fills the registers
    for (; row + 2 <= p.rows; row += 2) add_packed<2>(p, row, tile, sums);
    for (; row < p.rows; ++row) add_packed<1>(p, row, tile, sums);
    put_sums<VECTORS>(p, number * 16 * VECTORS, sums);
  }
}
#endif

}  // namespace

// At most 12 rows; `outputs` is a multiple of 4, and `inputs` of 2; strides are of rows, whose numbers lie side by side.
EXPORT void minicpmv_few_rows_f32(const float* x, const float* weight, const float* bias, float* out,
                                  int64_t rows, int64_t inputs, int64_t outputs, int64_t x_stride,
                                  int64_t weight_stride, int threads) {
  multiply<Wide<float>>({x, weight, bias, out, rows, inputs, outputs, x_stride, weight_stride},
                        threads);
}

EXPORT void minicpmv_few_rows_bf16(const bf16* x, const bf16* weight, const bf16* bias, bf16* out,
                                   int64_t rows, int64_t inputs, int64_t outputs, int64_t x_stride,
                                   int64_t weight_stride, int threads) {
  const Product<bf16> p = {x, weight, bias, out, rows, inputs, outputs, x_stride, weight_stride};
#ifdef __AVX512BF16__
  if (inputs * outputs <= LARGE_WEIGHT) return multiply_in_order(p, threads);
#endif
  multiply<OfBf16>(p, threads);
}

// How many numbers weights take that are packed, 0 where they are not.
EXPORT int64_t minicpmv_packed_rows_size(int64_t inputs, int64_t outputs) {
#ifdef __AVX512BF16__
  if (inputs % 2 == 0 && inputs * outputs <= LARGE_WEIGHT)
    return packed_tiles(outputs) * packed_tile(inputs);
#endif
  return 0;
}

// `out` is of that size, and begins at a multiple of 64 bytes.
EXPORT void minicpmv_pack_rows_bf16(const bf16* weight, bf16* out, int64_t inputs, int64_t outputs) {
#ifdef __AVX512BF16__
  constexpr int64_t WIDTH = 16 * VECTORS;
  for (int64_t output = 0; output < packed_tiles(outputs) * WIDTH; ++output)
    for (int64_t i = 0; i < inputs; ++i)
      out[output / WIDTH * packed_tile(inputs) + (i / 2 * WIDTH + output % WIDTH) * 2 + i % 2] =
          output < outputs ? weight[output * inputs + i] : bf16{0};
#endif
}

// `minicpmv_few_rows_bf16` with packed weights, to the last bit.
EXPORT void minicpmv_packed_rows_bf16(const bf16* x, const bf16* packed, const bf16* bias, bf16* out,
                                      int64_t rows, int64_t inputs, int64_t outputs,
                                      int64_t x_stride, int threads) {
#ifdef __AVX512BF16__
  multiply_packed({x, packed, bias, out, rows, inputs, outputs, x_stride, 0}, threads);
#endif
}

// Products of activations with packed weights; packing.py draws the layout.
//
// First the activations are rounded to int8 in groups of 32. Then every thread works off runs of
// tiles: one stream of weights from memory, read once for ROWS_AT_ONCE rows and from the cache for
// the others.
#include <stdlib.h>

#include "packed_vectors.h"

namespace {

constexpr int GROUP = 32, TILE_ROWS = 16, SCALE_BYTES = 2 * TILE_ROWS;
constexpr int VECTORS = TILE_ROWS / OUTPUTS;  // of a tile
constexpr float SMALLEST = 0x1p-100f;         // a group below counts as zero
constexpr int64_t AHEAD = 8064;               // bytes that are fetched before they are needed
constexpr int64_t WORTH_THREADS = 1 << 18;    // products, below which waking threads costs more

template <int BITS> constexpr int64_t TILE_BYTES = SCALE_BYTES + TILE_ROWS * GROUP * BITS / 8;

// Activations as the products take them.
struct Rows {
  int8_t* values;  // (rows, groups, 32)
  float* scales;   // (rows, groups); undefined where a value is infinite or undefined
  int32_t* sums;   // (rows, groups): sum of the values times -OFFSET
  int64_t groups;
};

// Loops of fixed length over plain arrays: compilers make vectors of them.
INLINE void round_group(const float* x, int offset, int8_t* values, float* scale, int32_t* sum) {
  uint32_t largest = 0;  // bits of the absolute value: ordered as the values are, undefined on top
  for (int i = 0; i < GROUP; ++i) {
    uint32_t bits;
    memcpy(&bits, x + i, 4);
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  float size;
  memcpy(&size, &largest, 4);
  const bool finite = largest < 0x7f800000, used = finite && size >= SMALLEST;
  const float inverse = used ? 127.0f / size : 0.0f;
  *scale = used ? size / 127.0f : finite ? 0.0f : NAN;
  int32_t total = 0;
  for (int i = 0; i < GROUP; ++i) {
    const int32_t value = (int32_t)rintf((used ? x[i] : 0.0f) * inverse);
    values[i] = (int8_t)value;
    total += value;
  }
  *sum = -offset * total;
}

template <class T>
void round_one(const T* x, int64_t stride, int64_t width, int offset, const Rows& rows, int64_t i) {
  const int64_t row = i / rows.groups, first = i % rows.groups * GROUP;
  const int64_t count = width - first < GROUP ? width - first : GROUP;
  float values[GROUP] = {};
  const T* from = x + row * stride + first;
  if (count == GROUP)
    for (int k = 0; k < GROUP; ++k) values[k] = to_float(from[k]);
  else
    for (int64_t k = 0; k < count; ++k) values[k] = to_float(from[k]);
  round_group(values, offset, rows.values + i * GROUP, rows.scales + i, rows.sums + i);
}

// The product of M rows with T rows of tiles, 16 T outputs: result (M, 16 T).
template <int BITS, int M, int T>
void multiply(const Rows& rows, int64_t row, const uint8_t* tiles, float* result) {
  constexpr int N = T * VECTORS;
  const int64_t groups = rows.groups, tile_row = groups * TILE_BYTES<BITS>;
  const int8_t* x = rows.values + row * groups * GROUP;
  const float* x_scales = rows.scales + row * groups;
  const int32_t* x_sums = rows.sums + row * groups;
  Floats total[M][N];
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < N; ++n) total[m][n] = zeros();
  for (int64_t g = 0; g < groups; ++g) {
    Sums<BITS> sums[M][N];
    for (int m = 0; m < M; ++m)
      for (int n = 0; n < N; ++n) sums[m][n].start(x_sums[m * groups + g]);
    const uint8_t* tile = tiles + g * TILE_BYTES<BITS>;
    for (int t = 0; t < T; ++t)
      for (int line = 0; line < TILE_BYTES<BITS>; line += 64)
        __builtin_prefetch(tile + t * tile_row + AHEAD + line, 0, 3);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      typename Sums<BITS>::Weights w[2][N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const uint8_t* p = tile + n / VECTORS * tile_row + SCALE_BYTES + n % VECTORS * OUTPUTS * 4 +
                           j * TILE_ROWS * BITS;
        if constexpr (BITS == 4) {
          weights4(p, w[0][n], w[1][n]);
        } else {
          w[0][n] = weights8(p);
          w[1][n] = weights8(p + TILE_ROWS * 4);
        }
      }
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half)
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          const auto four = inputs(x + (m * groups + g) * GROUP + 8 * j + 4 * half);
#pragma GCC unroll 8
          for (int n = 0; n < N; ++n) sums[m][n].add(w[half][n], four);
        }
    }
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const Floats scale = half_floats(tile + n / VECTORS * tile_row + n % VECTORS * OUTPUTS * 2);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
        total[m][n] = sums[m][n].times(x_scales[m * groups + g], scale, total[m][n],
                                       x_sums[m * groups + g]);
    }
  }
  for (int m = 0; m < M; ++m)
    for (int n = 0; n < N; ++n) save(result + m * TILE_ROWS * T + n * OUTPUTS, total[m][n]);
}

// The same with a number of rows that is known when it runs, at most M.
template <int BITS, int M, int T>
void multiply_up_to(int count, const Rows& rows, int64_t row, const uint8_t* tiles, float* result) {
  if (count == M)
    multiply<BITS, M, T>(rows, row, tiles, result);
  else if constexpr (M > 1)
    multiply_up_to<BITS, M - 1, T>(count, rows, row, tiles, result);
}

template <class T> struct Output {
  T* y;
  int64_t stride, width;
  const float* bias;
};

// Write `rows` x `columns` of `result`, whose rows have `columns` values, from output `first` on.
template <class T>
void write(const Output<T>& out, const float* result, int64_t row, int rows, int64_t first,
           int columns) {
  const int64_t count = out.width - first < columns ? out.width - first : columns;
  for (int m = 0; m < rows; ++m) {
    T* to = out.y + (row + m) * out.stride + first;
    for (int64_t n = 0; n < count; ++n)
      put(to + n, result[m * columns + n] + (out.bias ? out.bias[first + n] : 0.0f));
  }
}

// The outputs of TILES rows of tiles, for all rows of activations.
template <int BITS, int TILES, class T>
void product(const Rows& rows, int64_t count, const uint8_t* tiles, int64_t first,
             const Output<T>& out) {
  float result[ROWS_AT_ONCE * TILES * TILE_ROWS];
  const int64_t blocks = (count + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t row = block * count / blocks;
    const int size = (int)((block + 1) * count / blocks - row);
    multiply_up_to<BITS, ROWS_AT_ONCE, TILES>(size, rows, row, tiles, result);
    write(out, result, row, size, first, TILES * TILE_ROWS);
  }
}

template <int BITS, class T>
int run(const T* x, int64_t x_stride, int64_t count, int64_t width, const uint8_t* data,
        const Output<T>& out, int threads) {
  const int64_t groups = (width + GROUP - 1) / GROUP, all = count * groups;
  const int64_t tiles = (out.width + TILE_ROWS - 1) / TILE_ROWS;
  void* memory = NULL;
  if (posix_memalign(&memory, 64, all * (GROUP + sizeof(float) + sizeof(int32_t)))) return 1;
  Rows rows;
  rows.values = (int8_t*)memory;
  rows.scales = (float*)(rows.values + all * GROUP);
  rows.sums = (int32_t*)(rows.scales + all);
  rows.groups = groups;
  // One or two rows read one stream, which is what memory gives fastest.
  const int64_t step = count > 2 ? TILES_AT_ONCE : 1, units = (tiles + step - 1) / step;
  const int64_t share = units / (threads * 8), chunk = share > 1 ? share : 1;
  const int64_t tile_row = groups * TILE_BYTES<BITS>;
#pragma omp parallel num_threads(threads) if (count * width * out.width > WORTH_THREADS)
  {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < all; ++i) round_one(x, x_stride, width, Sums<BITS>::OFFSET, rows, i);
#pragma omp for schedule(dynamic, chunk)
    for (int64_t unit = 0; unit < units; ++unit) {
      const int64_t tile = unit * step;
      const uint8_t* from = data + tile * tile_row;
      if (step == 1 || tile + step > tiles)
        product<BITS, 1>(rows, count, from, tile * TILE_ROWS, out);
      else
        product<BITS, TILES_AT_ONCE>(rows, count, from, tile * TILE_ROWS, out);
    }
  }
  free(memory);
  return 0;
}

template <class T>
int linear(const T* x, int64_t x_stride, int64_t rows, int64_t in_features, const uint8_t* data,
           int bits, int64_t out_features, const float* bias, T* y, int64_t y_stride, int threads) {
  const Output<T> out = {y, y_stride, out_features, bias};
  if (bits == 4) return run<4>(x, x_stride, rows, in_features, data, out, threads);
  return run<8>(x, x_stride, rows, in_features, data, out, threads);
}

}  // namespace

// y = x W^T + bias. Strides count numbers; bias may be null. Returns 1 where there is no memory for
// the rounded activations, else 0.
EXPORT int minicpmv_packed_linear_f32(const float* x, int64_t x_stride, int64_t rows,
                                      int64_t in_features, const uint8_t* data, int bits,
                                      int64_t out_features, const float* bias, float* y,
                                      int64_t y_stride, int threads) {
  return linear(x, x_stride, rows, in_features, data, bits, out_features, bias, y, y_stride,
                threads);
}

EXPORT int minicpmv_packed_linear_bf16(const bf16* x, int64_t x_stride, int64_t rows,
                                       int64_t in_features, const uint8_t* data, int bits,
                                       int64_t out_features, const float* bias, bf16* y,
                                       int64_t y_stride, int threads) {
  return linear(x, x_stride, rows, in_features, data, bits, out_features, bias, y, y_stride,
                threads);
}

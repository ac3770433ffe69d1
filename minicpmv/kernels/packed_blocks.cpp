// Packed weights, a block of outputs at a time, for products of another library: where a processor
// multiplies matrices in hardware (AMX), that library is faster than packed_linear.cpp for many
// rows. Blocks are (inputs, outputs), with inputs filled up to a multiple of 32.
#include "packed_vectors.h"

namespace {

constexpr int GROUP = 32, TILE_ROWS = 16, SCALE_BYTES = 2 * TILE_ROWS;

// Per row: int8 with the scale max|x| / 127, and max|x| over the root of the mean square, which is
// infinite where that cannot be told, and 0 for rows of zeros and of what is not finite.
template <class T>
void round_row(const T* x, int64_t width, int64_t padded, int8_t* out, float* scale, float* crest) {
  uint32_t tops[LANES] = {};  // bits of the absolute value: ordered as the values are
  float sums[LANES] = {};
  int64_t i = 0;
  for (; i + LANES <= width; i += LANES)
    for (int k = 0; k < LANES; ++k) {
      const float value = to_float(x[i + k]);
      uint32_t bits;
      memcpy(&bits, &value, 4);
      bits &= 0x7fffffff;
      tops[k] = bits > tops[k] ? bits : tops[k];
      sums[k] += value * value;
    }
  for (; i < width; ++i) {
    const float value = to_float(x[i]);
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits &= 0x7fffffff;
    tops[0] = bits > tops[0] ? bits : tops[0];
    sums[0] += value * value;
  }
  uint32_t top = 0;
  float squares = 0;
  for (int k = 0; k < LANES; ++k) {
    top = tops[k] > top ? tops[k] : top;
    squares += sums[k];
  }
  float largest;
  memcpy(&largest, &top, 4);
  const bool finite = top < 0x7f800000;
  const bool used = finite && largest >= 0x1p-100f;
  const float inverse = used ? 127.0f / largest : 0.0f;
  *scale = used ? largest / 127.0f : finite ? 0.0f : NAN;
  const bool measured = squares > 0 && squares < INFINITY;
  const float ratio = measured ? largest / sqrtf(squares / (float)width) : INFINITY;
  *crest = used ? ratio : 0;
  for (i = 0; i < width; ++i)
    out[i] = (int8_t)(int32_t)rintf((used ? to_float(x[i]) : 0.0f) * inverse);
  memset(out + width, 0, padded - width);
}

template <class T>
void round_rows(const T* x, int64_t stride, int64_t rows, int64_t width, int8_t* out, float* scales,
                float* crests, int threads) {
  const int64_t padded = (width + GROUP - 1) / GROUP * GROUP;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; ++row)
    round_row(x + row * stride, width, padded, out + row * padded, scales + row, crests + row);
}

template <class T>
void rescale(const int32_t* sums, int64_t rows, int64_t columns, const float* x_scales,
             const float* scales, const float* bias, T* y, int64_t y_stride, int64_t width,
             int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t* from = sums + row * columns;
    const float x_scale = x_scales[row];
    T* to = y + row * y_stride;
    if (bias)
      for (int64_t n = 0; n < width; ++n) put(to + n, (float)from[n] * x_scale * scales[n] + bias[n]);
    else
      for (int64_t n = 0; n < width; ++n) put(to + n, (float)from[n] * x_scale * scales[n]);
  }
}

#if defined(PACKED_AVX512)

// 16 outputs x 4 inputs of bytes, as 4 rows of 16 bytes.
INLINE void put_bytes(int8_t* to, int64_t columns, __m512i quads) {
  const __m512i by_input = _mm512_broadcast_i32x4(
    _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i rows = _mm512_permutexvar_epi32(order, _mm512_shuffle_epi8(quads, by_input));
  _mm_storeu_si128((__m128i*)to, _mm512_extracti32x4_epi32(rows, 0));
  _mm_storeu_si128((__m128i*)(to + columns), _mm512_extracti32x4_epi32(rows, 1));
  _mm_storeu_si128((__m128i*)(to + 2 * columns), _mm512_extracti32x4_epi32(rows, 2));
  _mm_storeu_si128((__m128i*)(to + 3 * columns), _mm512_extracti32x4_epi32(rows, 3));
}

// Bytes from the first and second bytes of pairs, each times a ratio, rounded.
INLINE __m512i scaled(__m512i even, __m512i odd, __m512i ratio) {
  even = _mm512_mulhrs_epi16(even, ratio);
  odd = _mm512_slli_epi16(_mm512_mulhrs_epi16(odd, ratio), 8);
  return _mm512_or_si512(_mm512_and_si512(even, _mm512_set1_epi16(255)), odd);
}

// One row of tiles as int8 with one scale per output, the largest possible weight at 127.
template <int BITS>
void widen_bytes(const uint8_t* tile, int64_t groups, int8_t* out, int64_t columns, float* scales) {
  constexpr int64_t BYTES = SCALE_BYTES + TILE_ROWS * GROUP * BITS / 8;
  __m512 largest = _mm512_setzero_ps();
  for (int64_t g = 0; g < groups; ++g)
    largest = _mm512_max_ps(largest, _mm512_abs_ps(half_floats(tile + g * BYTES)));
  const float top = BITS == 4 ? 8.0f : 127.0f;
  const __m512 scale = _mm512_mul_ps(largest, _mm512_set1_ps(top / 127.0f));
  _mm512_storeu_ps(scales, scale);
  const __mmask16 used = _mm512_cmp_ps_mask(scale, _mm512_setzero_ps(), _CMP_GT_OQ);
  // Weights of 4 bits stand in the upper half of a byte; a product of 16 bits loses 15 of them.
  const __m512 unit = _mm512_set1_ps(BITS == 4 ? 2048.0f : 32768.0f);
  const __m512 inverse = _mm512_maskz_div_ps(used, unit, scale);
  const __m512i nibble = _mm512_set1_epi16(0xf0), zero = _mm512_set1_epi16(128);
  for (int64_t g = 0; g < groups; ++g, tile += BYTES) {
    __m512i ratio = _mm512_cvtps_epi32(_mm512_mul_ps(half_floats(tile), inverse));
    ratio = _mm512_min_epi32(ratio, _mm512_set1_epi32(32767));
    ratio = _mm512_or_si512(_mm512_and_si512(ratio, _mm512_set1_epi32(0xffff)),
                            _mm512_slli_epi32(ratio, 16));
    int8_t* to = out + g * GROUP * columns;
    for (int j = 0; j < GROUP * BITS / 32; ++j) {
      const __m512i bytes = _mm512_loadu_si512(tile + SCALE_BYTES + 64 * j);
      if (BITS == 8) {
        const __m512i even = _mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8);
        put_bytes(to + 4 * j * columns, columns,
                  scaled(even, _mm512_srai_epi16(bytes, 8), ratio));
        continue;
      }
      const __m512i parts[4] = {_mm512_slli_epi16(bytes, 4), _mm512_srli_epi16(bytes, 4), bytes,
                                _mm512_srli_epi16(bytes, 8)};
      __m512i values[4];
      for (int k = 0; k < 4; ++k)
        values[k] = _mm512_sub_epi16(_mm512_and_si512(parts[k], nibble), zero);
      put_bytes(to + 8 * j * columns, columns, scaled(values[0], values[1], ratio));
      put_bytes(to + (8 * j + 4) * columns, columns, scaled(values[2], values[3], ratio));
    }
  }
}

INLINE void put_floats(bf16* to, __m512 values) {
#if defined(__AVX512BF16__)
  const __m256bh narrow = _mm512_cvtneps_pbh(values);
  memcpy(to, &narrow, sizeof narrow);
#else
  float wide[TILE_ROWS];
  _mm512_storeu_ps(wide, values);
  for (int i = 0; i < TILE_ROWS; ++i) to[i] = to_bf16(wide[i]);
#endif
}

// One row of tiles in bfloat16.
template <int BITS>
void widen_floats(const uint8_t* tile, int64_t groups, bf16* out, int64_t columns) {
  constexpr int64_t BYTES = SCALE_BYTES + TILE_ROWS * GROUP * BITS / 8;
  for (int64_t g = 0; g < groups; ++g, tile += BYTES) {
    const __m512 scale = half_floats(tile);
    bf16* to = out + g * GROUP * columns;
    for (int j = 0; j < GROUP * BITS / 32; ++j) {
      const __m512i quads = _mm512_loadu_si512(tile + SCALE_BYTES + 64 * j);
      for (int b = 0; b < 4; ++b) {
        const __m512i byte = _mm512_srlv_epi32(quads, _mm512_set1_epi32(8 * b));
        if (BITS == 8) {
          const __m512i value = _mm512_srai_epi32(_mm512_slli_epi32(byte, 24), 24);
          put_floats(to + (4 * j + b) * columns,
                     _mm512_mul_ps(_mm512_cvtepi32_ps(value), scale));
          continue;
        }
        for (int half = 0; half < 2; ++half) {
          const __m512i shifted = half ? _mm512_srli_epi32(byte, 4) : byte;
          const __m512i value = _mm512_sub_epi32(
            _mm512_and_si512(shifted, _mm512_set1_epi32(15)), _mm512_set1_epi32(8));
          put_floats(to + (8 * j + 4 * half + b) * columns,
                     _mm512_mul_ps(_mm512_cvtepi32_ps(value), scale));
        }
      }
    }
  }
}

template <int BITS> int64_t row_bytes(int64_t groups) {
  return groups * (SCALE_BYTES + TILE_ROWS * GROUP * BITS / 8);
}

template <int BITS>
void all_bytes(const uint8_t* data, int64_t tiles, int64_t groups, int8_t* out, float* scales,
               int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t t = 0; t < tiles; ++t)
    widen_bytes<BITS>(data + t * row_bytes<BITS>(groups), groups, out + t * TILE_ROWS,
                      tiles * TILE_ROWS, scales + t * TILE_ROWS);
}

template <int BITS>
void all_floats(const uint8_t* data, int64_t tiles, int64_t groups, bf16* out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t t = 0; t < tiles; ++t)
    widen_floats<BITS>(data + t * row_bytes<BITS>(groups), groups, out + t * TILE_ROWS,
                       tiles * TILE_ROWS);
}

#endif

}  // namespace

// Whether weights can be widened here: it is written for processors with AVX-512 alone.
EXPORT int minicpmv_packed_blocks() {
#if defined(PACKED_AVX512)
  return 1;
#else
  return 0;
#endif
}

#if defined(PACKED_AVX512)

// `tiles` rows of tiles as int8 (32 groups, 16 tiles), with a scale for each output.
EXPORT void minicpmv_packed_widen_i8(const uint8_t* data, int bits, int64_t tiles, int64_t groups,
                                     int8_t* out, float* scales, int threads) {
  if (bits == 4)
    all_bytes<4>(data, tiles, groups, out, scales, threads);
  else
    all_bytes<8>(data, tiles, groups, out, scales, threads);
}

// The same in bfloat16.
EXPORT void minicpmv_packed_widen_bf16(const uint8_t* data, int bits, int64_t tiles, int64_t groups,
                                       bf16* out, int threads) {
  if (bits == 4)
    all_floats<4>(data, tiles, groups, out, threads);
  else
    all_floats<8>(data, tiles, groups, out, threads);
}

#endif

// Activations (rows, width) as int8 (rows, width filled up), with the scale of each row and its
// largest value over the root of the mean square.
EXPORT void minicpmv_round_rows_f32(const float* x, int64_t stride, int64_t rows, int64_t width,
                                    int8_t* out, float* scales, float* crests, int threads) {
  round_rows(x, stride, rows, width, out, scales, crests, threads);
}

EXPORT void minicpmv_round_rows_bf16(const bf16* x, int64_t stride, int64_t rows, int64_t width,
                                     int8_t* out, float* scales, float* crests, int threads) {
  round_rows(x, stride, rows, width, out, scales, crests, threads);
}

// y (rows, width) = sums (rows, columns) times both scales, plus the bias, which may be null.
EXPORT void minicpmv_rescale_f32(const int32_t* sums, int64_t rows, int64_t columns,
                                 const float* x_scales, const float* scales, const float* bias,
                                 float* y, int64_t y_stride, int64_t width, int threads) {
  rescale(sums, rows, columns, x_scales, scales, bias, y, y_stride, width, threads);
}

EXPORT void minicpmv_rescale_bf16(const int32_t* sums, int64_t rows, int64_t columns,
                                  const float* x_scales, const float* scales, const float* bias,
                                  bf16* y, int64_t y_stride, int64_t width, int threads) {
  rescale(sums, rows, columns, x_scales, scales, bias, y, y_stride, width, threads);
}

// Vectors of the products of packed weights: one meaning for each instruction set.
//
// OUTPUTS outputs are computed at a time, four inputs per step. A tile of packed weights has 16
// outputs, so 16 / OUTPUTS vectors make one. Every set supplies
//   Floats                a float32 for each output
//   Sums<BITS>            collects the products of one group. Where weights are multiplied with
//                         OFFSET added, `correction` is the sum of the inputs times -OFFSET.
//     Weights             four weights of each output
//   inputs                the next four inputs, for each output
#pragma once
#include "vectors.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && \
  defined(__AVX512VNNI__)
#define PACKED_AVX512 1
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define PACKED_AVX2 1
#if defined(__AVXVNNI__)
#define PACKED_AVXVNNI 1
#endif
#elif defined(__aarch64__)
#define PACKED_NEON 1
#endif

#if defined(PACKED_NEON)
#include <arm_neon.h>
#endif

namespace {

#if defined(PACKED_AVX512)

constexpr int OUTPUTS = 16;
constexpr int ROWS_AT_ONCE = 6, TILES_AT_ONCE = 2;  // 12 + 12 sums, weights, activations: 31 of 32
using Floats = __m512;

INLINE Floats zeros() { return _mm512_setzero_ps(); }
INLINE Floats half_floats(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
}
INLINE void save(float* p, Floats v) { _mm512_storeu_ps(p, v); }

template <int BITS> struct Sums {
  static constexpr int OFFSET = BITS == 4 ? 8 : 128;  // weights are multiplied unsigned
  using Weights = __m512i;
  __m512i v;
  INLINE void start(int correction) { v = _mm512_set1_epi32(correction); }
  INLINE void add(__m512i weights, __m512i x) { v = _mm512_dpbusd_epi32(v, weights, x); }
  INLINE Floats times(float x_scale, Floats scale, Floats sum, int) const {
    const Floats f = _mm512_mul_ps(_mm512_cvtepi32_ps(v), _mm512_set1_ps(x_scale));
    return _mm512_fmadd_ps(f, scale, sum);
  }
};
INLINE __m512i inputs(const int8_t* p) {
  int32_t four;
  memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}
INLINE void weights4(const uint8_t* p, __m512i& low, __m512i& high) {
  const __m512i bytes = _mm512_loadu_si512(p), mask = _mm512_set1_epi8(15);
  low = _mm512_and_si512(bytes, mask);
  high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
}
INLINE __m512i weights8(const uint8_t* p) {
  return _mm512_xor_si512(_mm512_loadu_si512(p), _mm512_set1_epi8(-128));
}

#elif defined(PACKED_AVX2)

constexpr int OUTPUTS = 8;
constexpr int ROWS_AT_ONCE = 4, TILES_AT_ONCE = 1;
using Floats = __m256;

INLINE Floats zeros() { return _mm256_setzero_ps(); }
INLINE Floats half_floats(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
}
INLINE void save(float* p, Floats v) { _mm256_storeu_ps(p, v); }
INLINE Floats add_product(__m256i v, float x_scale, Floats scale, Floats sum) {
  const Floats f = _mm256_mul_ps(_mm256_cvtepi32_ps(v), _mm256_set1_ps(x_scale));
  return _mm256_fmadd_ps(f, scale, sum);
}
INLINE __m256i inputs(const int8_t* p) {
  int32_t four;
  memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}
INLINE void halves(const uint8_t* p, __m256i& low, __m256i& high) {
  const __m256i bytes = _mm256_loadu_si256((const __m256i*)p), mask = _mm256_set1_epi8(15);
  low = _mm256_and_si256(bytes, mask);
  high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
}

#if defined(PACKED_AVXVNNI)

template <int BITS> struct Sums {
  static constexpr int OFFSET = BITS == 4 ? 8 : 128;  // weights are multiplied unsigned
  using Weights = __m256i;
  __m256i v;
  INLINE void start(int correction) { v = _mm256_set1_epi32(correction); }
  INLINE void add(__m256i weights, __m256i x) { v = _mm256_dpbusd_avx_epi32(v, weights, x); }
  INLINE Floats times(float x_scale, Floats scale, Floats sum, int) const {
    return add_product(v, x_scale, scale, sum);
  }
};
INLINE void weights4(const uint8_t* p, __m256i& low, __m256i& high) { halves(p, low, high); }
INLINE __m256i weights8(const uint8_t* p) {
  return _mm256_xor_si256(_mm256_loadu_si256((const __m256i*)p), _mm256_set1_epi8(-128));
}

#else

// Keeps gcc from adding the products up pairwise, for which it spills all of them to memory.
INLINE void in_order(__m256i& v) { asm("" : "+x"(v)); }

template <int BITS> struct Sums;

// Pairs of products add up to at most 2 * 15 * 127, and the eight steps of a group to 30480: all
// sums of a group fit 16 bits.
template <> struct Sums<4> {
  static constexpr int OFFSET = 8;
  using Weights = __m256i;
  __m256i v;
  INLINE void start(int) { v = _mm256_setzero_si256(); }
  INLINE void add(__m256i weights, __m256i x) {
    v = _mm256_add_epi16(v, _mm256_maddubs_epi16(weights, x));
    in_order(v);
  }
  INLINE Floats times(float x_scale, Floats scale, Floats sum, int correction) const {
    const __m256i pairs = _mm256_madd_epi16(v, _mm256_set1_epi16(1));
    return add_product(_mm256_add_epi32(pairs, _mm256_set1_epi32(correction)), x_scale, scale, sum);
  }
};

// |w| * (x with the sign of w): pairs of products add up to at most 2 * 127 * 127 < 2^15. As
// products of 16 bits, which need no signs, these sums are slower.
struct Signed {
  __m256i v, size;  // weights, their absolute values
};
template <> struct Sums<8> {
  static constexpr int OFFSET = 0;
  using Weights = Signed;
  __m256i v;
  INLINE void start(int) { v = _mm256_setzero_si256(); }
  INLINE void add(const Signed& weights, __m256i x) {
    const __m256i pairs = _mm256_maddubs_epi16(weights.size, _mm256_sign_epi8(x, weights.v));
    v = _mm256_add_epi32(v, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    in_order(v);
  }
  INLINE Floats times(float x_scale, Floats scale, Floats sum, int) const {
    return add_product(v, x_scale, scale, sum);
  }
};
INLINE void weights4(const uint8_t* p, __m256i& low, __m256i& high) { halves(p, low, high); }
INLINE Signed weights8(const uint8_t* p) {
  const __m256i bytes = _mm256_loadu_si256((const __m256i*)p);
  return {bytes, _mm256_abs_epi8(bytes)};
}
#endif

#elif defined(PACKED_NEON)

constexpr int OUTPUTS = 4;
constexpr int ROWS_AT_ONCE = 4, TILES_AT_ONCE = 1;
using Floats = float32x4_t;

INLINE Floats zeros() { return vdupq_n_f32(0); }
INLINE Floats half_floats(const uint8_t* p) {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}
INLINE void save(float* p, Floats v) { vst1q_f32(p, v); }

// Adds the four products of each output.
INLINE int32x4_t add_products(int32x4_t sum, int8x16_t weights, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sum, weights, x);
#else
  const int16x8_t low = vmull_s8(vget_low_s8(weights), vget_low_s8(x));
  const int16x8_t high = vmull_high_s8(weights, x);
  return vaddq_s32(sum, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)));
#endif
}

template <int BITS> struct Sums {
  static constexpr int OFFSET = BITS == 4 ? 8 : 0;
  using Weights = int8x16_t;
  int32x4_t v;
  INLINE void start(int correction) { v = vdupq_n_s32(correction); }
  INLINE void add(int8x16_t weights, int8x16_t x) { v = add_products(v, weights, x); }
  INLINE Floats times(float x_scale, Floats scale, Floats sum, int) const {
    return vfmaq_f32(sum, vmulq_n_f32(vcvtq_f32_s32(v), x_scale), scale);
  }
};

INLINE int8x16_t inputs(const int8_t* p) {
  int32_t four;
  memcpy(&four, p, 4);
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}
INLINE void weights4(const uint8_t* p, int8x16_t& low, int8x16_t& high) {
  const uint8x16_t bytes = vld1q_u8(p);
  low = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
  high = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
}
INLINE int8x16_t weights8(const uint8_t* p) { return vld1q_s8((const int8_t*)p); }

#else

constexpr int OUTPUTS = 16;
constexpr int ROWS_AT_ONCE = 1, TILES_AT_ONCE = 1;

struct Floats {
  float v[OUTPUTS];
};
INLINE Floats zeros() { return {}; }
INLINE Floats half_floats(const uint8_t* p) {
  Floats f;
  for (int i = 0; i < OUTPUTS; i++) f.v[i] = half_float(p + 2 * i);
  return f;
}
INLINE void save(float* p, const Floats& f) { memcpy(p, f.v, sizeof f.v); }

struct Quads {
  int8_t v[4 * OUTPUTS];
};
struct Four {
  int8_t v[4];
};
template <int BITS> struct Sums {
  static constexpr int OFFSET = BITS == 4 ? 8 : 0;
  using Weights = Quads;
  int32_t v[OUTPUTS];
  INLINE void start(int correction) {
    for (int i = 0; i < OUTPUTS; i++) v[i] = correction;
  }
  INLINE void add(const Quads& w, const Four& x) {
    for (int i = 0; i < OUTPUTS; i++)
      v[i] += w.v[4 * i] * x.v[0] + w.v[4 * i + 1] * x.v[1] + w.v[4 * i + 2] * x.v[2] +
          w.v[4 * i + 3] * x.v[3];
  }
  INLINE Floats times(float x_scale, const Floats& scale, const Floats& sum, int) const {
    Floats f;
    for (int i = 0; i < OUTPUTS; i++) f.v[i] = sum.v[i] + (float)v[i] * x_scale * scale.v[i];
    return f;
  }
};
INLINE Four inputs(const int8_t* p) {
  Four x;
  memcpy(x.v, p, 4);
  return x;
}
INLINE void weights4(const uint8_t* p, Quads& low, Quads& high) {
  for (int i = 0; i < 4 * OUTPUTS; i++) {
    low.v[i] = (int8_t)(p[i] & 15);
    high.v[i] = (int8_t)(p[i] >> 4);
  }
}
INLINE Quads weights8(const uint8_t* p) {
  Quads w;
  memcpy(w.v, p, sizeof w.v);
  return w;
}
#endif

}  // namespace

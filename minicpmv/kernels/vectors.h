// Vectors of float32 in the compilers' own notation (GCC and Clang), for every processor.
//
// The widest native vector has LANES numbers; 8 lanes exist everywhere (two registers on NEON).
// No C++ runtime: no exceptions, no containers, no statics that need a guard.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__) || defined(__F16C__)
#include <immintrin.h>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))
#define INLINE inline __attribute__((always_inline))

typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef float f32x8 __attribute__((vector_size(32)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef uint32_t u32x8 __attribute__((vector_size(32)));
typedef uint16_t u16x8 __attribute__((vector_size(16)));
typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

// The vector types of L lanes.
template <int L> struct Lanes;
template <> struct Lanes<8> { typedef f32x8 f; typedef i32x8 i; typedef u32x8 u; typedef u16x8 h; };
template <> struct Lanes<16> { typedef f32x16 f; typedef i32x16 i; typedef u32x16 u; typedef u16x16 h; };

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

// bfloat16 as it lies in memory: the upper half of a float32.
struct bf16 { uint16_t bits; };

INLINE float to_float(float x) { return x; }
INLINE float to_float(bf16 x) {
  uint32_t bits = (uint32_t)x.bits << 16;
  float result;
  memcpy(&result, &bits, 4);
  return result;
}

// Rounded to the nearest, ties to even; what is undefined stays undefined.
INLINE bf16 to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return bf16{0x7fc0};
  return bf16{(uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// Half to float.
INLINE float half_float(const uint8_t* p) {
  uint16_t h;
  memcpy(&h, p, 2);
#if defined(__F16C__)
  return _cvtsh_ss(h);
#else
  // Exponent and fraction moved, the exponent's bias changed by a product.
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = (uint32_t)(h & 0x7fff) << 13;
  const uint32_t special = (h & 0x7c00) == 0x7c00 ? 0x7f800000u : 0;  // infinite, undefined
  float f;
  memcpy(&f, &magnitude, 4);
  f *= 0x1p112f;
  uint32_t bits;
  memcpy(&bits, &f, 4);
  bits |= sign | special;
  memcpy(&f, &bits, 4);
  return f;
#endif
}

INLINE void put(float* p, float x) { *p = x; }
INLINE void put(bf16* p, float x) { *p = to_bf16(x); }

template <class T> INLINE float rounded(float x) {
  return sizeof(T) == 4 ? x : to_float(to_bf16(x));
}

template <int L, class V = typename Lanes<L>::f> INLINE V load(const float* p) {
  V v;
  memcpy(&v, p, sizeof v);
  return v;
}

template <int L, class V = typename Lanes<L>::f> INLINE V load(const bf16* p) {
  typename Lanes<L>::h half;
  memcpy(&half, p, sizeof half);
  return (V)(__builtin_convertvector(half, typename Lanes<L>::u) << 16);
}

template <int L> INLINE void store(float* p, typename Lanes<L>::f v) { memcpy(p, &v, sizeof v); }

// Bits of float32 numbers rounded to bfloat16, with the lower half zero.
template <int L, class F = typename Lanes<L>::f, class U = typename Lanes<L>::u>
INLINE U rounded_bits(F v) {
  const U bits = (U)v;
  const U result = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
  return v != v ? U{} + 0x7fc00000u : result;
}

template <int L> INLINE void store(bf16* p, typename Lanes<L>::f v) {
  const auto half = __builtin_convertvector(rounded_bits<L>(v) >> 16, typename Lanes<L>::h);
  memcpy(p, &half, sizeof half);
}

// A float32 rounded to what T can hold.
template <class T, int L> INLINE typename Lanes<L>::f round_to(typename Lanes<L>::f v) {
  return sizeof(T) == 4 ? v : (typename Lanes<L>::f)rounded_bits<L>(v);
}

template <int L> INLINE typename Lanes<L>::f splat(float x) { return x - typename Lanes<L>::f{}; }

// Parts and mixtures of vectors. GCC 11 lacks the first form, and keeps vectors that are cut in
// memory.
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
INLINE f32x4 low_half(f32x8 v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3); }
INLINE f32x4 high_half(f32x8 v) { return __builtin_shufflevector(v, v, 4, 5, 6, 7); }
INLINE f32x8 low_half(f32x16 v) {
  return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
}
INLINE f32x8 high_half(f32x16 v) {
  return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
}
#else
#define SHUFFLE(a, b, i, j, k, l) __builtin_shuffle(a, b, i32x4{i, j, k, l})
template <class Half, class Whole> INLINE Half part(Whole v, int offset) {
  Half half;
  memcpy(&half, (const char*)&v + offset, sizeof half);
  return half;
}
INLINE f32x4 low_half(f32x8 v) { return part<f32x4>(v, 0); }
INLINE f32x4 high_half(f32x8 v) { return part<f32x4>(v, 16); }
INLINE f32x8 low_half(f32x16 v) { return part<f32x8>(v, 0); }
INLINE f32x8 high_half(f32x16 v) { return part<f32x8>(v, 32); }
#endif

// The four sums of lanes i, i + 4, ... of a vector.
INLINE f32x4 fold(f32x8 v) { return low_half(v) + high_half(v); }
INLINE f32x4 fold(f32x16 v) { return fold(low_half(v) + high_half(v)); }

template <int L> INLINE float sum(typename Lanes<L>::f v) {
  const f32x4 four = fold(v);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// The sums of four vectors.
template <int L, class F = typename Lanes<L>::f> INLINE f32x4 sum_each(F a, F b, F c, F d) {
  const f32x4 p = fold(a), q = fold(b), r = fold(c), s = fold(d);
  const f32x4 pq = SHUFFLE(p, q, 0, 4, 1, 5) + SHUFFLE(p, q, 2, 6, 3, 7);
  const f32x4 rs = SHUFFLE(r, s, 0, 4, 1, 5) + SHUFFLE(r, s, 2, 6, 3, 7);
  return SHUFFLE(pq, rs, 0, 1, 4, 5) + SHUFFLE(pq, rs, 2, 3, 6, 7);
}

INLINE f32x4 fold_largest(f32x8 v) {
  const f32x4 a = low_half(v), b = high_half(v);
  return a > b ? a : b;
}
INLINE f32x4 fold_largest(f32x16 v) {
  const f32x8 a = low_half(v), b = high_half(v);
  return fold_largest(a > b ? a : b);
}

template <int L> INLINE float largest(typename Lanes<L>::f v) {
  const f32x4 four = fold_largest(v);
  const float x = four[0] > four[1] ? four[0] : four[1], y = four[2] > four[3] ? four[2] : four[3];
  return x > y ? x : y;
}

// exp(x - n * ln 2), where that is between -ln 2 / 2 and ln 2 / 2 and n an integer.
template <int L>
INLINE typename Lanes<L>::f exp_of_rest(typename Lanes<L>::f x, typename Lanes<L>::f n) {
  typedef typename Lanes<L>::f F;
  const F r = (x - n * 0.693145752f) - n * 1.42860677e-6f;  // the first part is exact times n
  F p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return p * r * r + r + 1.0f;
}

// exp(x), within 2 units in the last place; 0 below -87.3 (-103 on AVX-512), infinity above 88.7.
template <int L> INLINE typename Lanes<L>::f exp_of(typename Lanes<L>::f x) {
  typedef typename Lanes<L>::f F;
  typedef typename Lanes<L>::i I;
  F y = x * 1.44269504f;  // exp(x) = 2^y = 2^n * exp(r)
  y = y < -250.0f ? splat<L>(-250.0f) : y;
  y = y > 250.0f ? splat<L>(250.0f) : y;
  const F magic = splat<L>(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const F n = (y + magic) - magic;
  // With x where it is infinite, or r would be undefined.
  const F bounded = x < -180.0f ? splat<L>(-180.0f) : x > 180.0f ? splat<L>(180.0f) : x;
  const F p = exp_of_rest<L>(bounded, n);
#if defined(__AVX512F__)
  if constexpr (L == 16) return (F)_mm512_scalef_ps((__m512)p, (__m512)n);
#endif
  // Two factors, because 2^128 is none: 2^(n / 2) * 2^(n - n / 2).
  const I whole = __builtin_convertvector(n, I);
  const I half = whole >> 1;
  const F low = (F)((half + 127) << 23), high = (F)((whole - half + 127) << 23);
  const F result = p * low * high;
  return y < -126.0f ? splat<L>(0.0f) : result;
}

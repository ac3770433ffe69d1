// Vectors of float32 in the compilers' own notation (GCC and Clang), for every processor.
//
// The widest native vector has LANES numbers; 8 lanes exist everywhere (two registers on NEON).
// No C++ runtime: no exceptions, no containers, no statics that need a guard.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#define EXPORT extern "C" __attribute__((visibility("default")))
#define INLINE inline __attribute__((always_inline))

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

template <int L> INLINE void store(bf16* p, typename Lanes<L>::f v) {
  typedef typename Lanes<L>::u U;
  U bits = (U)v;
  U rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  U undefined = (U)(v != v);
  rounded = (undefined & 0x7fc0) | (~undefined & rounded);
  typename Lanes<L>::h half = __builtin_convertvector(rounded, typename Lanes<L>::h);
  memcpy(p, &half, sizeof half);
}

// A float32 rounded to what T can hold.
template <class T, int L> INLINE typename Lanes<L>::f round_to(typename Lanes<L>::f v) {
  if (sizeof(T) == 4) return v;
  bf16 rounded[L];
  store<L>(rounded, v);
  return load<L>(rounded);
}

template <int L> INLINE typename Lanes<L>::f splat(float x) { return x - typename Lanes<L>::f{}; }

template <int L> INLINE float sum(typename Lanes<L>::f v);
template <> INLINE float sum<8>(f32x8 v) {
  float p[8];
  store<8>(p, v);
  return ((p[0] + p[4]) + (p[1] + p[5])) + ((p[2] + p[6]) + (p[3] + p[7]));
}
template <> INLINE float sum<16>(f32x16 v) {
  f32x8 low, high;
  memcpy(&low, &v, 32);
  memcpy(&high, (const char*)&v + 32, 32);
  return sum<8>(low + high);
}

// exp(x), within 2 units in the last place; 0 below -87.3 and infinity above 88.7.
template <int L> INLINE typename Lanes<L>::f exp_of(typename Lanes<L>::f x) {
  typedef typename Lanes<L>::f F;
  typedef typename Lanes<L>::i I;
  F y = x * 1.44269504f;
  const F magic = splat<L>(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  F bounded = y < -126.0f ? splat<L>(-126.0f) : y;
  bounded = bounded > 128.0f ? splat<L>(128.0f) : bounded;
  F n = (bounded + magic) - magic;
  F r = x - n * 0.693145752f;  // ln 2 in two parts; the first is exact times n
  r = r - n * 1.42860677e-6f;
  F p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // Two factors, because 2^128 is none: 2^(n / 2) * 2^(n - n / 2).
  I whole = __builtin_convertvector(n, I);
  I half = whole >> 1;
  F low = (F)((half + 127) << 23), high = (F)((whole - half + 127) << 23);
  F result = p * low * high;
  result = y < -126.0f ? splat<L>(0.0f) : result;
  result = y >= 128.0f ? splat<L>(INFINITY) : result;
  return x != x ? x : result;
}

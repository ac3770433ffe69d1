// Blocks of GGUF files to float32, one type of ggml's each.
//
// A type takes its codes apart, sixteen bytes at a time, and gives them to a sink with a scale and
// an offset: `codes<K>(i, q, d, m)` means the numbers d q + m from the block's value i on. K says
// which of a few sums may take them, so that sums wait less for each other.
//
// The product of a scale and a code is exact in float32 (11 bits, 6 or 7 of a code for the scale,
// at most 8 of a code), and so is a sum that takes off what codes are above zero. So all builds
// give the same bits, whether they fuse products and sums or not.
#pragma once
#include "vectors.h"

namespace {

typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef Lanes<LANES>::f Floats;

// As ggml numbers them.
enum GgmlType {
  Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13,
  Q6_K = 14, IQ4_NL = 20, IQ4_XS = 23
};

// Part H of 16 bytes as numbers.
template <int H> INLINE Floats numbers(u8x16 q) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32((__m128i)q));
#elif defined(__AVX2__)
  const __m128i part = H ? _mm_srli_si128((__m128i)q, 8) : (__m128i)q;
  return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(part));
#else
  Floats v;
  for (int k = 0; k < LANES; ++k) v[k] = (float)q[H * LANES + k];
  return v;
#endif
}

INLINE uint32_t word(const uint8_t* p) {
  uint32_t w;
  memcpy(&w, p, 4);
  return w;
}

INLINE u8x16 bytes(const uint8_t* p) {
  u8x16 v;
  memcpy(&v, p, 16);
  return v;
}

// Bits `shift` and up of every byte, as many as `mask` keeps; they end in the byte.
INLINE u8x16 field(u8x16 v, int shift, uint8_t mask) {
  return (u8x16)((u16x8)v >> shift) & (u8x16{} + mask);
}

// 16 where a bit is set, else 0.
INLINE u8x16 sixteens(uint32_t bits) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  return (u8x16)_mm_maskz_set1_epi8((__mmask16)bits, 16);
#else
  const uint64_t each = 0x0101010101010101;
  const uint64_t halves[2] = {(bits & 255) * each, (bits >> 8 & 255) * each};
  u8x16 v;
  memcpy(&v, halves, 16);
  const u8x16 places = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  return (u8x16)((v & places) != 0) & (u8x16{} + (uint8_t)16);
#endif
}

template <int TYPE> struct Blocks;

template <> struct Blocks<Q4_0> {
  static constexpr int SIZE = 32, BYTES = 18;
  template <class S> static INLINE void read(const uint8_t* b, S& sink) {
    const float d = half_float(b), m = -8 * d;
    const u8x16 q = bytes(b + 2);
    sink.template codes<0>(0, field(q, 0, 15), d, m);
    sink.template codes<1>(16, field(q, 4, 15), d, m);
  }
};

template <> struct Blocks<Q4_1> {
  static constexpr int SIZE = 32, BYTES = 20;
  template <class S> static INLINE void read(const uint8_t* b, S& sink) {
    const float d = half_float(b), m = half_float(b + 2);
    const u8x16 q = bytes(b + 4);
    sink.template codes<0>(0, field(q, 0, 15), d, m);
    sink.template codes<1>(16, field(q, 4, 15), d, m);
  }
};

// Codes of 5 bits: the fifth ones stand in a word, bit j of value j.
template <class S>
INLINE void fives(const uint8_t* p, uint32_t high, float d, float m, S& sink) {
  const u8x16 q = bytes(p);
  sink.template codes<0>(0, field(q, 0, 15) | sixteens(high & 0xffff), d, m);
  sink.template codes<1>(16, field(q, 4, 15) | sixteens(high >> 16), d, m);
}

template <> struct Blocks<Q5_0> {
  static constexpr int SIZE = 32, BYTES = 22;
  template <class S> static INLINE void read(const uint8_t* b, S& sink) {
    const float d = half_float(b);
    fives(b + 6, word(b + 2), d, -16 * d, sink);
  }
};

template <> struct Blocks<Q5_1> {
  static constexpr int SIZE = 32, BYTES = 24;
  template <class S> static INLINE void read(const uint8_t* b, S& sink) {
    fives(b + 8, word(b + 4), half_float(b), half_float(b + 2), sink);
  }
};

template <> struct Blocks<Q8_0> {
  static constexpr int SIZE = 32, BYTES = 34;
  template <class S> static INLINE void read(const uint8_t* b, S& sink) {
    const float d = half_float(b), m = -128 * d;
    const u8x16 top = u8x16{} + (uint8_t)128;  // a signed byte, 128 higher
    sink.template codes<0>(0, bytes(b + 2) ^ top, d, m);
    sink.template codes<1>(16, bytes(b + 18) ^ top, d, m);
  }
};

template <> struct Blocks<Q2_K> {
  static constexpr int SIZE = 256, BYTES = 84;
  template <class S> static INLINE void read(const uint8_t* b, S& sink) {
    const float d = half_float(b + 80), m = -half_float(b + 82);
    for (int part = 0; part < 2; ++part) {  // of 128 values
      const u8x16 q[2] = {bytes(b + 16 + 32 * part), bytes(b + 32 + 32 * part)};
      const uint8_t* s = b + 8 * part;
      const int at = 128 * part;
#define TWO_BITS(I) \
  sink.template codes<I>(at + 16 * I, field(q[I & 1], I & 6, 3), d * (float)(s[I] & 15), \
                         m * (float)(s[I] >> 4))
      TWO_BITS(0); TWO_BITS(1); TWO_BITS(2); TWO_BITS(3);
      TWO_BITS(4); TWO_BITS(5); TWO_BITS(6); TWO_BITS(7);
#undef TWO_BITS
    }
  }
};

template <> struct Blocks<Q3_K> {
  static constexpr int SIZE = 256, BYTES = 110;
  template <class S> static INLINE void read(const uint8_t* b, S& sink) {
    const float d = half_float(b + 108);
    // 16 codes of 6 bits: lower halves in 8 bytes, then the upper pairs in 4.
    const uint32_t first = word(b + 96), second = word(b + 100), upper = word(b + 104);
    const uint32_t low = 0x0f0f0f0f, pair = 0x30303030;
    const uint32_t words[4] = {
      (first & low) | (upper << 4 & pair), (second & low) | (upper << 2 & pair),
      (first >> 4 & low) | (upper & pair), (second >> 4 & low) | (upper >> 2 & pair)};
    uint8_t scales[16];
    memcpy(scales, words, 16);
    const u8x16 above[2] = {bytes(b), bytes(b + 16)};  // bit i: of part i of 32 values
    for (int part = 0; part < 2; ++part) {             // of 128 values
      const u8x16 q[2] = {bytes(b + 32 + 32 * part), bytes(b + 48 + 32 * part)};
      const u8x16 high[2] = {field(above[0], 4 * part, 15), field(above[1], 4 * part, 15)};
      const uint8_t* s = scales + 8 * part;
      const int at = 128 * part;
#define THREE_BITS(I)                                                                        \
  {                                                                                          \
    const u8x16 third = field(high[I & 1], I >> 1, 1);                                       \
    const float dl = d * (float)((int)s[I] - 32);                                            \
    sink.template codes<I>(at + 16 * I, field(q[I & 1], I & 6, 3) | third << 2, dl, -4 * dl); \
  }
      THREE_BITS(0) THREE_BITS(1) THREE_BITS(2) THREE_BITS(3)
      THREE_BITS(4) THREE_BITS(5) THREE_BITS(6) THREE_BITS(7)
#undef THREE_BITS
    }
  }
};

// Scales and offsets of Q4_K and Q5_K: 12 bytes with 8 codes of 6 bits each.
struct Pairs {
  float d, m;
  uint8_t scales[8], offsets[8];
  INLINE explicit Pairs(const uint8_t* b) : d(half_float(b)), m(-half_float(b + 2)) {
    const uint32_t first = word(b + 4), second = word(b + 8), third = word(b + 12);
    const uint32_t six = 0x3f3f3f3f, low = 0x0f0f0f0f, pair = 0x30303030;
    const uint32_t s[2] = {first & six, (third & low) | (first >> 2 & pair)};
    const uint32_t o[2] = {second & six, (third >> 4 & low) | (second >> 2 & pair)};
    memcpy(scales, s, 8);
    memcpy(offsets, o, 8);
  }
  INLINE float scale(int i) const { return d * (float)scales[i]; }
  INLINE float offset(int i) const { return m * (float)offsets[i]; }
};

template <> struct Blocks<Q4_K> {
  static constexpr int SIZE = 256, BYTES = 144;
  template <class S> static INLINE void read(const uint8_t* b, S& sink) {
    const Pairs pairs(b);
    for (int part = 0; part < 4; ++part) {  // of 64 values
      const u8x16 q[2] = {bytes(b + 16 + 32 * part), bytes(b + 32 + 32 * part)};
      const float d0 = pairs.scale(2 * part), m0 = pairs.offset(2 * part);
      const float d1 = pairs.scale(2 * part + 1), m1 = pairs.offset(2 * part + 1);
      const int at = 64 * part;
      sink.template codes<0>(at, field(q[0], 0, 15), d0, m0);
      sink.template codes<1>(at + 16, field(q[1], 0, 15), d0, m0);
      sink.template codes<2>(at + 32, field(q[0], 4, 15), d1, m1);
      sink.template codes<3>(at + 48, field(q[1], 4, 15), d1, m1);
    }
  }
};

template <> struct Blocks<Q5_K> {
  static constexpr int SIZE = 256, BYTES = 176;
  template <class S> static INLINE void read(const uint8_t* b, S& sink) {
    const Pairs pairs(b);
    const u8x16 fifth[2] = {bytes(b + 16), bytes(b + 32)};
    for (int part = 0; part < 4; ++part) {
      const u8x16 q[2] = {bytes(b + 48 + 32 * part), bytes(b + 64 + 32 * part)};
      const float d0 = pairs.scale(2 * part), m0 = pairs.offset(2 * part);
      const float d1 = pairs.scale(2 * part + 1), m1 = pairs.offset(2 * part + 1);
      const u8x16 high[2] = {field(fifth[0], 2 * part, 3), field(fifth[1], 2 * part, 3)};
      const int at = 64 * part;
      const u8x16 one = u8x16{} + (uint8_t)1, two = u8x16{} + (uint8_t)2;
      sink.template codes<0>(at, field(q[0], 0, 15) | (high[0] & one) << 4, d0, m0);
      sink.template codes<1>(at + 16, field(q[1], 0, 15) | (high[1] & one) << 4, d0, m0);
      sink.template codes<2>(at + 32, field(q[0], 4, 15) | (high[0] & two) << 3, d1, m1);
      sink.template codes<3>(at + 48, field(q[1], 4, 15) | (high[1] & two) << 3, d1, m1);
    }
  }
};

template <> struct Blocks<Q6_K> {
  static constexpr int SIZE = 256, BYTES = 210;
  template <class S> static INLINE void read(const uint8_t* b, S& sink) {
    const float d = half_float(b + 208);
    for (int part = 0; part < 2; ++part) {  // of 128 values
      const uint8_t* low = b + 64 * part;
      const u8x16 high[2] = {bytes(b + 128 + 32 * part), bytes(b + 144 + 32 * part)};
      const int8_t* scales = (const int8_t*)b + 192 + 8 * part;
      const int at = 128 * part;
#define SIX_BITS(I)                                                               \
  {                                                                               \
    const u8x16 q = field(bytes(low + 16 * (I & 3)), I & 4, 15);                   \
    const float dl = d * (float)scales[I];                                        \
    sink.template codes<I>(at + 16 * I, q | field(high[I & 1], I & 6, 3) << 4, dl, -32 * dl); \
  }
      SIX_BITS(0) SIX_BITS(1) SIX_BITS(2) SIX_BITS(3)
      SIX_BITS(4) SIX_BITS(5) SIX_BITS(6) SIX_BITS(7)
#undef SIX_BITS
    }
  }
};

// IQ4's sixteen values, 127 higher.
INLINE u8x16 nonlinear(u8x16 codes) {
  const u8x16 table = {0, 23, 44, 62, 78, 92, 105, 117, 128, 140, 152, 165, 180, 196, 216, 240};
#if defined(__AVX2__)
  return (u8x16)_mm_shuffle_epi8((__m128i)table, (__m128i)codes);
#elif defined(__GNUC__) && !defined(__clang__)
  return __builtin_shuffle(table, codes);
#else
  u8x16 found;
  for (int k = 0; k < 16; ++k) found[k] = table[codes[k]];
  return found;
#endif
}

template <> struct Blocks<IQ4_NL> {
  static constexpr int SIZE = 32, BYTES = 18;
  template <class S> static INLINE void read(const uint8_t* b, S& sink) {
    const float d = half_float(b), m = -127 * d;
    const u8x16 q = bytes(b + 2);
    sink.template codes<0>(0, nonlinear(field(q, 0, 15)), d, m);
    sink.template codes<1>(16, nonlinear(field(q, 4, 15)), d, m);
  }
};

template <> struct Blocks<IQ4_XS> {
  static constexpr int SIZE = 256, BYTES = 136;
  template <class S> static INLINE void read(const uint8_t* b, S& sink) {
    const float d = half_float(b);
    const uint32_t upper = (uint32_t)b[2] | (uint32_t)b[3] << 8;
    for (int part = 0; part < 4; ++part) {  // of 64 values
      const u8x16 q[2] = {bytes(b + 8 + 32 * part), bytes(b + 24 + 32 * part)};
      const int low = b[4 + part], high = (int)(upper >> 4 * part);
      const float d0 = d * (float)(((low & 15) | (high & 3) << 4) - 32);
      const float d1 = d * (float)(((low >> 4) | (high & 12) << 2) - 32);
      const int at = 64 * part;
      sink.template codes<0>(at, nonlinear(field(q[0], 0, 15)), d0, -127 * d0);
      sink.template codes<1>(at + 16, nonlinear(field(q[0], 4, 15)), d0, -127 * d0);
      sink.template codes<2>(at + 32, nonlinear(field(q[1], 0, 15)), d1, -127 * d1);
      sink.template codes<3>(at + 48, nonlinear(field(q[1], 4, 15)), d1, -127 * d1);
    }
  }
};

}  // namespace

// torch's random numbers on the CPU (the Mersenne twister MT19937), of which few are wanted: the
// generator passes over the others, which costs a fifth of making them.
#include "vectors.h"

namespace {

constexpr int N = 624, M = 397;

inline uint32_t twist(uint32_t one, uint32_t next) {
  const uint32_t mixed = (one & 0x80000000u) | (next & 0x7fffffffu);
  return (mixed >> 1) ^ (next & 1 ? 0x9908b0dfu : 0u);
}

void refill(uint32_t* s) {
  for (int i = 0; i < N - M; ++i) s[i] = s[i + M] ^ twist(s[i], s[i + 1]);
  for (int i = N - M; i < N - 1; ++i) s[i] = s[i + M - N] ^ twist(s[i], s[i + 1]);
  s[N - 1] = s[M - 1] ^ twist(s[N - 1], s[0]);
}

inline uint64_t tempered(uint32_t y) {
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

}  // namespace

// Draw `num` numbers of 64 bits, each of two words, the upper one first; keep those at `places`,
// which ascend. `left` and `next` are torch's: words before the next refill and one, and the place
// of the next word.
EXPORT void minicpmv_random_bits(uint64_t* state, int32_t* left, uint64_t* next, int64_t num,
                                 const int64_t* places, int64_t num_places, uint64_t* out) {
  uint32_t words[N];
  for (int i = 0; i < N; ++i) words[i] = (uint32_t)state[i];
  int64_t available = *left - 1, at = (int64_t)*next, passed = 0, wanted = 0;
  while (passed < 2 * num) {
    if (available == 0) {
      refill(words);
      available = N, at = 0;
    }
    const int64_t rest = 2 * num - passed, taken = available < rest ? available : rest;
    for (; wanted < 2 * num_places; ++wanted) {  // the word that is wanted next
      const int64_t word = 2 * places[wanted / 2] + wanted % 2;
      if (word >= passed + taken) break;
      const uint64_t value = tempered(words[at + word - passed]);
      if (wanted % 2)
        out[wanted / 2] |= value;
      else
        out[wanted / 2] = value << 32;
    }
    available -= taken, at += taken, passed += taken;
  }
  for (int i = 0; i < N; ++i) state[i] = words[i];
  *left = (int32_t)(available + 1), *next = (uint64_t)at;
}

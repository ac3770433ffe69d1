// Attention of many tokens over all keys of their sequence (vision towers), or over those before them
// (prompts).
//
// A unit of work is some queries of one head. Keys and values of the head are packed before, unless
// the unit before had them, too: for the scores into panels of 3 vectors of keys, for the sums into
// panels of up to 3 vectors of channels, so that both products are the same small loop over words: a
// word of the left side, broadcast, times a vector of the right side. A word is a float32, or, where
// the processor multiplies them, a pair of bfloat16. The scores of a block of queries are complete
// before they are softened: one pass, no rescaling.
#include <stdlib.h>

#include "vectors.h"

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

constexpr int L = LANES;
typedef Lanes<L>::f F;
constexpr int ROWS = L == 16 ? 8 : 4;   // queries at once: 3 * ROWS sums stay in registers
constexpr int FEW = ROWS / 2;           // the last ones
constexpr int PANEL = 3 * L;            // keys or channels at once
constexpr int BLOCK = 4 * ROWS;         // queries whose scores are kept
constexpr int DEPTH = 256;              // words of the left side between two visits of the sums
constexpr int64_t WORTH_THREADS = 1 << 22;  // multiplications, below which waking threads costs more

// One float32 per word.
struct Plain {
  typedef float Word;
  static constexpr int PER_WORD = 1;
  template <class T> static INLINE Word word(const T* x) { return to_float(*x); }
  template <class T> static INLINE Word column(const T* x, int64_t, bool) { return to_float(*x); }
  static INLINE F multiply(F sum, Word a, F b) { return sum + b * a; }
  static INLINE void put(Word* to, int64_t i, F x) { store<L>(to + i, x); }
};

#ifdef __AVX512BF16__
// Two neighbouring bfloat16 per word.
struct Pairs {
  typedef int32_t Word;
  static constexpr int PER_WORD = 2;
  static INLINE Word word(const bf16* x) {
    Word both;
    memcpy(&both, x, 4);
    return both;
  }
  static INLINE Word column(const bf16* x, int64_t stride, bool has_second) {
    return (Word)(x[0].bits | (has_second ? (uint32_t)x[stride].bits << 16 : 0));
  }
  static INLINE void put(Word* to, int64_t i, F x) {
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)x);
    memcpy((bf16*)to + i, &rounded, 32);
  }
  static INLINE F multiply(F sum, Word a, F b) {
    return (F)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)b);
  }
};
#endif

// Where the tokens of the heads are; a token's channels lie side by side.
template <class T> struct Heads {
  T* data;
  int64_t batch, head, token;  // strides
  T* at(int64_t b, int64_t h, int64_t t = 0) const {
    return data + b * batch + h * head + t * token;
  }
};

template <class T> struct Call {
  Heads<const T> query, keys, values;
  Heads<T> out;
  int64_t batch, heads, num_queries, num_keys, head_dim;
  int64_t group;  // heads that share keys and values
  int64_t seen;   // keys that the first query attends to, each next one more; 0: all, all of them
  float scaling;

  int64_t keys_of(int64_t query) const {
    return seen && seen + query < num_keys ? seen + query : num_keys;
  }
};

INLINE int64_t up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// sums (R x V vectors) += left (R rows of words, `left_stride` apart) x right (depth x V).
template <class K, int R, int V>
INLINE void multiply(const typename K::Word* left, int64_t left_stride, const float* right,
                     int64_t depth, float* sums, int64_t stride, bool add) {
  F acc[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) acc[r][v] = add ? load<L>(sums + r * stride + v * L) : F{};
  for (int64_t d = 0; d < depth; ++d) {
    F b[V];
    for (int v = 0; v < V; ++v) b[v] = load<L>(right + (d * V + v) * L);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v)
        acc[r][v] = K::multiply(acc[r][v], left[r * left_stride + d], b[v]);
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store<L>(sums + r * stride + v * L, acc[r][v]);
}

// The same of any multiple of FEW rows.
template <class K, int V>
INLINE void multiply_all(int64_t rows, const typename K::Word* left, int64_t left_stride,
                         const float* right, int64_t depth, float* sums, int64_t stride, bool add) {
  int64_t r = 0;
  for (; r + ROWS <= rows; r += ROWS)
    multiply<K, ROWS, V>(left + r * left_stride, left_stride, right, depth, sums + r * stride, stride, add);
  for (; r < rows; r += FEW)
    multiply<K, FEW, V>(left + r * left_stride, left_stride, right, depth, sums + r * stride, stride, add);
}

template <class K>
INLINE void multiply_all(int vectors, int64_t rows, const typename K::Word* left,
                         int64_t left_stride, const float* right, int64_t depth, float* sums,
                         int64_t stride, bool add) {
  if (vectors == 3) multiply_all<K, 3>(rows, left, left_stride, right, depth, sums, stride, add);
  if (vectors == 2) multiply_all<K, 2>(rows, left, left_stride, right, depth, sums, stride, add);
  if (vectors == 1) multiply_all<K, 1>(rows, left, left_stride, right, depth, sums, stride, add);
}

// exp(x) of x <= 0, within 2 units in the last place; below -87 it is 2e-38.
INLINE F exp_of_negative(F x) {
  typedef Lanes<L>::i I;
  x = x < -87.0f ? splat<L>(-87.0f) : x;
  const F shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer
  const F n = shifted - 12582912.0f;
  return (F)((I)exp_of_rest<L>(x, n) + ((I)shifted << 23));
}

// Scores, not scaled yet, to weights; their sum. `width` is a multiple of the lanes.
template <class K>
INLINE float soften(float* row, int64_t length, int64_t width, float scaling,
                    typename K::Word* to) {
  for (int64_t i = length; i < width; ++i) row[i] = -INFINITY;
  F largest[2] = {splat<L>(-INFINITY), splat<L>(-INFINITY)};
  for (int64_t i = 0; i < width; i += L) {
    const F x = load<L>(row + i);
    F& most = largest[(i / L) & 1];
    most = x > most ? x : most;
  }
  float max = -INFINITY;
  for (int k = 0; k < 2; ++k)
    for (int i = 0; i < L; ++i) max = largest[k][i] > max ? largest[k][i] : max;
  F sums[2] = {};
  for (int64_t i = 0; i < width; i += L) {
    const F weight = exp_of_negative((load<L>(row + i) - max) * scaling);  // undefined stays so
    K::put(to, i, weight);
    sums[(i / L) & 1] += weight;
  }
  return sum<L>(sums[0] + sums[1]);
}

// Memory of one thread.
template <class K> struct Room {
  typedef typename K::Word Word;
  float *keys, *values, *scores, *sums;
  Word *query, *weights;
  int64_t key_depth, key_width, score_width, value_depth, value_width, floats;

  Room(int64_t num_keys, int64_t head_dim) {
    key_depth = up(head_dim, K::PER_WORD) / K::PER_WORD;  // words
    key_width = up(num_keys, PANEL);
    value_depth = up(num_keys, L * K::PER_WORD) / K::PER_WORD;
    value_width = up(head_dim, L);
    const int64_t weights_width = value_depth * K::PER_WORD;
    score_width = key_width > weights_width ? key_width : weights_width;
    keys = nullptr;
    floats = key_depth * key_width + value_depth * value_width + BLOCK * score_width +
             BLOCK * value_width + up(BLOCK * key_depth, L) + BLOCK * value_depth;
  }

  bool take() {
    if (posix_memalign((void**)&keys, 64, floats * sizeof(float))) return false;
    values = keys + key_depth * key_width;
    scores = values + value_depth * value_width;
    sums = scores + BLOCK * score_width;
    query = (Word*)(sums + BLOCK * value_width);
    weights = query + up(BLOCK * key_depth, L);
    return true;
  }
};

// Word d of key j lies at panel j / PANEL, row d, column j % PANEL.
template <class K, class T>
void pack_keys(const Call<T>& call, int64_t b, int64_t h, const Room<K>& room) {
  const T* from = call.keys.at(b, h / call.group);
  const int64_t stride = call.keys.token;
  for (int64_t first = 0; first < room.key_width; first += PANEL) {
    typename K::Word* to = (typename K::Word*)room.keys + first * room.key_depth;
    const int64_t count = call.num_keys - first < PANEL ? call.num_keys - first : PANEL;
    for (int64_t d = 0; d < room.key_depth; ++d, to += PANEL) {
      const T* x = from + first * stride + d * K::PER_WORD;
      for (int64_t j = 0; j < count; ++j) to[j] = K::word(x + j * stride);
      for (int64_t j = count; j < PANEL; ++j) to[j] = 0;
    }
  }
}

// Word j of channel c: panels of up to 3 vectors of channels, one after the other.
template <class K, class T>
void pack_values(const Call<T>& call, int64_t b, int64_t h, const Room<K>& room) {
  const T* from = call.values.at(b, h / call.group);
  const int64_t stride = call.values.token;
  typename K::Word* to = (typename K::Word*)room.values;
  for (int64_t first = 0; first < room.value_width; first += PANEL) {
    const int64_t width = room.value_width - first < PANEL ? room.value_width - first : PANEL;
    const int64_t count = call.head_dim - first < width ? call.head_dim - first : width;
    for (int64_t j = 0; j < room.value_depth; ++j, to += width) {
      const int64_t key = j * K::PER_WORD;
      const T* x = from + key * stride + first;
      const bool has_second = key + 1 < call.num_keys;
      const int64_t filled = key < call.num_keys ? count : 0;
      for (int64_t c = 0; c < filled; ++c) to[c] = K::column(x + c, stride, has_second);
      for (int64_t c = filled; c < width; ++c) to[c] = 0;
    }
  }
}

// `count` queries of a head, at most BLOCK.
template <class K, class T>
void attend(const Call<T>& call, int64_t b, int64_t h, int64_t first_query, int64_t count,
            const Room<K>& room) {
  const int64_t rows = up(count, FEW), keys = room.key_depth, values = room.value_depth;
  for (int64_t r = 0; r < rows; ++r) {  // what is too much repeats the last
    const T* x = call.query.at(b, h, first_query + (r < count ? r : count - 1));
    for (int64_t d = 0; d < keys; ++d) room.query[r * keys + d] = K::word(x + d * K::PER_WORD);
  }
  const int64_t num_seen = call.keys_of(first_query + count - 1);
  const int64_t depth_seen = up(num_seen, L * K::PER_WORD) / K::PER_WORD;
  for (int64_t first = 0; first < num_seen; first += PANEL)
    multiply_all<K, 3>(rows, room.query, keys, room.keys + first * keys, keys, room.scores + first,
                       room.score_width, false);
  float totals[BLOCK];
  for (int64_t r = 0; r < rows; ++r)
    totals[r] = soften<K>(room.scores + r * room.score_width,
                          call.keys_of(first_query + (r < count ? r : count - 1)),
                          depth_seen * K::PER_WORD, call.scaling, room.weights + r * values);
  const float* panel = room.values;
  for (int64_t first = 0; first < room.value_width; first += PANEL) {
    const int64_t width = room.value_width - first < PANEL ? room.value_width - first : PANEL;
    for (int64_t j = 0; j < depth_seen; j += DEPTH) {
      const int64_t depth = depth_seen - j < DEPTH ? depth_seen - j : DEPTH;
      multiply_all<K>(width / L, rows, room.weights + j, values, panel + j * width, depth,
                      room.sums + first, room.value_width, j > 0);
    }
    panel += values * width;
  }
  for (int64_t r = 0; r < count; ++r) {
    const float scale = 1.0f / totals[r];
    T* to = call.out.at(b, h, first_query + r);
    const float* sums = room.sums + r * room.value_width;
    for (int64_t d = 0; d < call.head_dim; ++d) put(to + d, sums[d] * scale);
  }
}

template <class K, class T> int attention(const Call<T>& call, int threads) {
  // Heads are divided where there are more threads than heads; each part packs keys and values.
  const int64_t whole = call.batch * call.heads;
  const int64_t most = up(call.num_queries, 4 * BLOCK) / (4 * BLOCK);
  int64_t parts = (threads + whole - 1) / whole;
  parts = parts < most ? parts : most;
  const int64_t queries = up((call.num_queries + parts - 1) / parts, BLOCK);
  int failed = 0;
  const int64_t work = whole * call.num_queries * call.num_keys * call.head_dim;
#pragma omp parallel num_threads(threads) if (whole * parts > 1 && work > WORTH_THREADS)
  {
    Room<K> room(call.num_keys, call.head_dim);
    const bool has_room = room.take();
    int64_t packed = -1;  // whose keys and values are in the room
    if (!has_room) {
#pragma omp atomic write
      failed = 1;
    }
#pragma omp for schedule(dynamic)
    for (int64_t unit = 0; unit < whole * parts; ++unit) {
      if (!has_room) continue;
      const int64_t b = unit / parts / call.heads, h = unit / parts % call.heads;
      const int64_t begin = unit % parts * queries;
      const int64_t end = begin + queries < call.num_queries ? begin + queries : call.num_queries;
      if (begin >= end) continue;
      const int64_t head = b * call.heads + h / call.group;
      if (head != packed) {  // units of heads that share keys and values follow each other
        pack_keys<K>(call, b, h, room);
        pack_values<K>(call, b, h, room);
        packed = head;
      }
      for (int64_t q = begin; q < end; q += BLOCK)
        attend<K>(call, b, h, q, end - q < BLOCK ? end - q : BLOCK, room);
    }
    free(room.keys);
  }
  return failed;
}

template <class T> Heads<T> heads(T* data, const int64_t* strides) {
  return Heads<T>{data, strides[0], strides[1], strides[2]};
}

template <class T>
Call<T> call_of(const T* query, const T* keys, const T* values, T* out, const int64_t* sizes,
                float scaling) {
  return Call<T>{heads(query, sizes + 5), heads(keys, sizes + 8), heads(values, sizes + 11),
                 heads(out, sizes + 14),  sizes[0], sizes[1], sizes[2], sizes[3], sizes[4],
                 sizes[1] / sizes[17], sizes[18], scaling};
}

}  // namespace

// `sizes`: batch, heads, queries, keys, head_dim, none of them 0; strides of batch, head and token
// of the queries, the keys, the values and the result; heads of the keys; how many keys the first
// query attends to, where each next one attends to one more, or 0. head_dim is even. 1 where memory is
// short.
EXPORT int minicpmv_dense_attention_f32(const float* query, const float* keys, const float* values,
                                        float* out, const int64_t* sizes, float scaling,
                                        int threads) {
  return attention<Plain>(call_of(query, keys, values, out, sizes, scaling), threads);
}

EXPORT int minicpmv_dense_attention_bf16(const bf16* query, const bf16* keys, const bf16* values,
                                         bf16* out, const int64_t* sizes, float scaling,
                                         int threads) {
#ifdef __AVX512BF16__
  return attention<Pairs>(call_of(query, keys, values, out, sizes, scaling), threads);
#else
  return attention<Plain>(call_of(query, keys, values, out, sizes, scaling), threads);
#endif
}

// Attention of single new tokens over keys and values in blocks (PagedAttention; flash decoding).
//
// A unit of work is one part of the context of one row for one head of keys and values, with all
// query heads that share it: keys and values are read once. Parts lie at fixed positions, so the
// sums of a row do not depend on its neighbours or on the number of threads.
#include <stdlib.h>

#include "vectors.h"

namespace {

constexpr int BLOCK = 32;        // tokens in a block, as in engine/kv_cache.py
constexpr int PART = 8 * BLOCK;  // tokens that one thread works off in one go
constexpr int ROW = BLOCK + 4;   // scores of a head; four tokens are written beyond the last
constexpr int TILE = 8;          // query heads at once
constexpr int MAX_HEAD_DIM = 256;
constexpr int64_t WORTH_THREADS = 1 << 20;  // multiplications, below which waking threads costs more

// What is known of some query heads after some tokens.
struct Partial {
  float *max, *sum;  // (heads,)
  float* values;     // (heads, head_dim), not yet divided by the sum
};

// Partials of all units, one after the other.
struct Partials {
  float* memory;
  int64_t heads, dim;
  static int64_t floats(int64_t heads, int64_t dim) { return (heads * dim + 2 * heads + 15) / 16 * 16; }
  Partial operator[](int64_t unit) const {
    float* values = memory + unit * floats(heads, dim);
    return Partial{values + heads * dim, values + heads * dim + heads, values};
  }
};

template <class T> struct Call {
  const T *query, *keys, *values;
  const int32_t *tables, *lengths;
  T* out;
  int64_t query_stride, table_stride, rows, heads, kv_heads, head_dim;
  float scaling;
  int64_t window;
};

constexpr int HEADS = LANES == 16 ? 4 : 2;  // as many as there are registers for, by four tokens

// Have a row brought closer while others are computed.
template <class T> INLINE void prefetch(const T* row, int64_t head_dim) {
  for (int64_t d = 0; d < head_dim; d += 64 / (int64_t)sizeof(T)) __builtin_prefetch(row + d);
}

// Scores of the tokens `begin` to `end` of a block for G query heads: dot products.
template <class T, int L, int G>
INLINE void score_heads(const float* query, const T* keys, int64_t stride, int64_t head_dim,
                        int begin, int end, const T* ahead, float* out) {
  typedef typename Lanes<L>::f F;
  constexpr int H = G <= HEADS + 1 ? G : HEADS;
  for (int token = begin; token < end; token += 4) {
    const T* rows[4];
    for (int n = 0; n < 4; ++n) rows[n] = keys + (token + n < end ? token + n : end - 1) * stride;
    if (ahead)
      for (int n = 0; n < 4; ++n) prefetch(ahead + (token + n) * stride, head_dim);
    F sums[4][H] = {};
    for (int64_t d = 0; d < head_dim; d += L) {
      F key[4];
      for (int n = 0; n < 4; ++n) key[n] = load<L>(rows[n] + d);
      for (int g = 0; g < H; ++g) {
        const F q = load<L>(query + g * head_dim + d);
        for (int n = 0; n < 4; ++n) sums[n][g] += key[n] * q;
      }
    }
    for (int g = 0; g < H; ++g) {
      const f32x4 four = sum_each<L>(sums[0][g], sums[1][g], sums[2][g], sums[3][g]);
      memcpy(out + g * ROW + token, &four, sizeof four);
    }
  }
  if constexpr (H < G)
    score_heads<T, L, G - H>(query + H * head_dim, keys, stride, head_dim, begin, end,
                             nullptr, out + H * ROW);
}

// The same; keys that several rounds of heads read are widened once.
template <class T, int L, int G>
INLINE void scores(const float* query, const T* keys, int64_t stride, int64_t head_dim, int begin,
                   int end, const T* ahead, float* out) {
  if constexpr (sizeof(T) == 2 && (G > HEADS + 1)) {
    alignas(64) float wide[BLOCK * MAX_HEAD_DIM];
    for (int token = begin; token < end; ++token) {
      if (ahead) prefetch(ahead + token * stride, head_dim);
      for (int64_t d = 0; d < head_dim; d += L)
        store<L>(wide + token * head_dim + d, load<L>(keys + token * stride + d));
    }
    score_heads<float, L, G>(query, wide, head_dim, head_dim, begin, end, nullptr, out);
  } else {
    score_heads<T, L, G>(query, keys, stride, head_dim, begin, end, ahead, out);
  }
}

// values[g] = values[g] * factor[g] + sum of weight * value over the tokens, C vectors wide.
template <class T, int L, int G, int C>
INLINE void gather(const float* weights, const T* values, int64_t stride, int64_t head_dim,
                   int begin, int end, const float* factors, const T* ahead, float* out) {
  typedef typename Lanes<L>::f F;
  F sums[G][C];
  for (int g = 0; g < G; ++g)
    for (int c = 0; c < C; ++c) sums[g][c] = load<L>(out + g * head_dim + c * L) * factors[g];
  for (int token = begin; token < end; ++token) {
    const T* row = values + token * stride;
    if (ahead) prefetch(ahead + token * stride, head_dim);
    F value[C];
    for (int c = 0; c < C; ++c) value[c] = load<L>(row + c * L);
    for (int g = 0; g < G; ++g)
      for (int c = 0; c < C; ++c) sums[g][c] += value[c] * weights[g * ROW + token];
  }
  for (int g = 0; g < G; ++g)
    for (int c = 0; c < C; ++c) store<L>(out + g * head_dim + c * L, sums[g][c]);
}

// Turn the scores of a block into weights; how much the sums so far count from now on.
template <int G>
INLINE void soften(float* scores, int begin, int end, const Partial& partial, float* factors) {
  constexpr int L = LANES;
  typedef typename Lanes<L>::f F;
  f32x8 changes = {};
  for (int g = 0; g < G; ++g) {
    float* row = scores + g * ROW;
    for (int t = 0; t < begin; ++t) row[t] = -INFINITY;
    for (int t = end; t < BLOCK; ++t) row[t] = -INFINITY;
    F most = load<L>(row);
    for (int t = L; t < BLOCK; t += L) {
      const F other = load<L>(row + t);
      most = other > most ? other : most;
    }
    const float before = partial.max[g], here = largest<L>(most);
    const float max = here > before ? here : before;
    changes[g] = before - max;
    F total = {};
    for (int t = 0; t < BLOCK; t += L) {
      const F weight = exp_of<L>(load<L>(row + t) - max);
      store<L>(row + t, weight);
      total += weight;
    }
    partial.max[g] = max;
    factors[g] = sum<L>(total);
  }
  changes = exp_of<8>(changes);
  for (int g = 0; g < G; ++g) {
    partial.sum[g] = partial.sum[g] * changes[g] + factors[g];
    factors[g] = changes[g];
  }
}

// One unit: G query heads from `head` on, which share `kv_head`, over the tokens begin..end.
template <class T, int L, int G>
void attend_tile(const Call<T>& call, int64_t row, int64_t kv_head, int64_t head, int64_t begin,
                 int64_t end, const Partial& partial) {
  const int64_t dim = call.head_dim, stride = call.kv_heads * dim;
  alignas(64) float query[G * MAX_HEAD_DIM], weights[G * ROW];
  float factors[G];
  const T* from = call.query + row * call.query_stride + head * dim;
  for (int64_t i = 0; i < G * dim; i += L) store<L>(query + i, load<L>(from + i) * call.scaling);
  for (int g = 0; g < G; ++g) partial.max[g] = -INFINITY, partial.sum[g] = 0;
  memset(partial.values, 0, G * dim * sizeof(float));
  const int32_t* table = call.tables + row * call.table_stride;
  const int64_t blocks = (call.lengths[row] + BLOCK - 1) / BLOCK;
  for (int64_t block = begin / BLOCK; block * BLOCK < end; ++block) {
    const int first = block * BLOCK < begin ? (int)(begin - block * BLOCK) : 0;
    const int last = block * BLOCK + BLOCK > end ? (int)(end - block * BLOCK) : BLOCK;
    const int64_t offset = (table[block] * (int64_t)BLOCK * call.kv_heads + kv_head) * dim;
    const T *keys = call.keys + offset, *values = call.values + offset;
    const T *next_keys = nullptr, *next_values = nullptr;
    if (block + 1 < blocks) {
      const int64_t next = (table[block + 1] * (int64_t)BLOCK * call.kv_heads + kv_head) * dim;
      next_keys = call.keys + next, next_values = call.values + next;
    }
    scores<T, L, G>(query, keys, stride, dim, first, last, next_keys, weights);
    soften<G>(weights, first, last, partial, factors);
    constexpr int REGISTERS = LANES == 16 ? 24 : 12;
    constexpr int C = REGISTERS / G >= 8 ? 8 : REGISTERS / G >= 4 ? 4 : REGISTERS / G >= 2 ? 2 : 1;
    int64_t d = 0;
    for (; d + C * L <= dim; d += C * L)
      gather<T, L, G, C>(weights, values + d, stride, dim, first, last, factors,
                         d ? nullptr : next_values, partial.values + d);
    for (; d < dim; d += L)
      gather<T, L, G, 1>(weights, values + d, stride, dim, first, last, factors,
                         d ? nullptr : next_values, partial.values + d);
  }
}

template <class T, int L>
void attend(const Call<T>& call, int64_t row, int64_t kv_head, int64_t head, int num_heads,
            int64_t begin, int64_t end, const Partial& partial) {
  if constexpr (L != LANES) {  // rare widths: one head after the other, which compiles sooner
    for (int g = 0; g < num_heads; ++g) {
      const Partial one{partial.max + g, partial.sum + g, partial.values + g * call.head_dim};
      attend_tile<T, L, 1>(call, row, kv_head, head + g, begin, end, one);
    }
  } else {
    switch (num_heads) {
#define CASE(G) \
  case G: return attend_tile<T, L, G>(call, row, kv_head, head, begin, end, partial);
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
    }
  }
}

// Add up the partial sums of one head, in their order, and write what it attends to.
template <class T>
void merge(const Partials& partials, int64_t start, int64_t num, int64_t step, int g, int64_t dim,
           T* out) {
  constexpr int L = 8;
  float max = -INFINITY, total = 0;
  for (int64_t p = 0; p < num; ++p) {
    const float other = partials[start + p * step].max[g];
    max = other > max ? other : max;
  }
  alignas(64) float sums[MAX_HEAD_DIM] = {};
  for (int64_t p = 0; p < num; ++p) {
    const Partial partial = partials[start + p * step];
    const float factor = exp_of<L>(splat<L>(partial.max[g] - max))[0];
    total += partial.sum[g] * factor;
    for (int64_t d = 0; d < dim; d += L)
      store<L>(sums + d, load<L>(sums + d) + load<L>(partial.values + g * dim + d) * factor);
  }
  for (int64_t d = 0; d < dim; d += L) store<L>(out + d, load<L>(sums + d) / total);
}

template <class T, int L> int paged_attention(const Call<T>& call, int threads) {
  const int64_t group = call.heads / call.kv_heads, dim = call.head_dim;
  const int64_t tiles = (group + TILE - 1) / TILE;      // of query heads that share keys
  const int64_t tile_size = (group + tiles - 1) / tiles;
  const int64_t lanes = call.kv_heads * tiles;          // units of a part
  int64_t* starts = (int64_t*)malloc((call.rows + 1) * sizeof(int64_t));  // parts before each row
  if (!starts) return 1;
  starts[0] = 0;
  for (int64_t row = 0; row < call.rows; ++row) {
    const int64_t length = call.lengths[row];
    const int64_t begin = call.window > 0 && length > call.window ? length - call.window : 0;
    const int64_t parts = length > 0 ? (length + PART - 1) / PART - begin / PART : 0;
    starts[row + 1] = starts[row] + parts;
  }
  const int64_t units = starts[call.rows] * lanes;
  const int64_t floats = Partials::floats(tile_size, dim) * (units > 0 ? units : 1);
  const Partials partials{(float*)aligned_alloc(64, floats * sizeof(float)), tile_size, dim};
  if (!partials.memory) {
    free(starts);
    return 1;
  }
  const int64_t work = starts[call.rows] * PART * call.heads * dim;
#pragma omp parallel num_threads(threads) if (units > 1 && work > WORTH_THREADS)
  {
#pragma omp for schedule(dynamic, 1)
    for (int64_t unit = 0; unit < units; ++unit) {
      const int64_t part = unit / lanes, lane = unit % lanes;
      int64_t row = 0, above = call.rows;
      while (above - row > 1) {
        const int64_t middle = (row + above) / 2;
        (starts[middle] <= part ? row : above) = middle;
      }
      const int64_t length = call.lengths[row];
      const int64_t first = call.window > 0 && length > call.window ? length - call.window : 0;
      const int64_t start = (first / PART + part - starts[row]) * PART;
      const int64_t begin = start > first ? start : first;
      const int64_t end = start + PART < length ? start + PART : length;
      const int64_t kv_head = lane / tiles, tile = lane % tiles;
      const int64_t skipped = tile * tile_size;
      const int64_t heads = group - skipped < tile_size ? group - skipped : tile_size;
      attend<T, L>(call, row, kv_head, kv_head * group + skipped, (int)heads, begin, end,
                   partials[unit]);
    }
#pragma omp for schedule(static)
    for (int64_t index = 0; index < call.rows * call.heads; ++index) {
      const int64_t row = index / call.heads, head = index % call.heads;
      T* out = call.out + index * dim;
      const int64_t parts = starts[row + 1] - starts[row];
      if (parts == 0) {
        memset((void*)out, 0, dim * sizeof(T));
        continue;
      }
      const int64_t lane = head / group * tiles + head % group / tile_size;
      merge<T>(partials, starts[row] * lanes + lane, parts, lanes, (int)(head % group % tile_size),
               dim, out);
    }
  }
  free(partials.memory);
  free(starts);
  return 0;
}

template <class T> int choose_lanes(const Call<T>& call, int threads) {
  return call.head_dim % LANES == 0 ? paged_attention<T, LANES>(call, threads)
                                    : paged_attention<T, 8>(call, threads);
}

}  // namespace

// 0, or 1 where memory is short. head_dim is a multiple of 8 up to 256; heads one of kv_heads;
// window 0 is none. Every length up to 32 times the width of its table.
EXPORT int minicpmv_paged_attention_f32(const float* query, const float* keys, const float* values,
                                        const int32_t* tables, const int32_t* lengths, float* out,
                                        int64_t query_stride, int64_t table_stride, int64_t rows,
                                        int64_t heads, int64_t kv_heads, int64_t head_dim,
                                        float scaling, int64_t window, int threads) {
  return choose_lanes(Call<float>{query, keys, values, tables, lengths, out, query_stride,
                                  table_stride, rows, heads, kv_heads, head_dim, scaling, window},
                      threads);
}

EXPORT int minicpmv_paged_attention_bf16(const bf16* query, const bf16* keys, const bf16* values,
                                         const int32_t* tables, const int32_t* lengths, bf16* out,
                                         int64_t query_stride, int64_t table_stride, int64_t rows,
                                         int64_t heads, int64_t kv_heads, int64_t head_dim,
                                         float scaling, int64_t window, int threads) {
  return choose_lanes(Call<bf16>{query, keys, values, tables, lengths, out, query_stride,
                                 table_stride, rows, heads, kv_heads, head_dim, scaling, window},
                      threads);
}

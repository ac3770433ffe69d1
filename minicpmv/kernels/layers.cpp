// The layers of a plain decoder over a few tokens, in one call: the functions of this library in the
// order in which engine/decoder.py calls them, with the same results to the last bit.
#include <stdlib.h>

#include "vectors.h"

#define DECLARE(T, S)                                                                               \
  EXPORT void minicpmv_rms_norm_##S(const T*, const T*, T*, int64_t, int64_t, int64_t, float, int); \
  EXPORT void minicpmv_silu_and_mul_##S(const T*, const T*, T*, int64_t, int64_t, int64_t, int64_t, \
                                        int);                                                       \
  EXPORT void minicpmv_few_rows_##S(const T*, const T*, const T*, T*, int64_t, int64_t, int64_t,    \
                                    int64_t, int64_t, int);                                         \
  EXPORT int minicpmv_dense_attention_##S(const T*, const T*, const T*, T*, const int64_t*, float,  \
                                          int);                                                     \
  EXPORT int minicpmv_paged_attention_##S(const T*, const T*, const T*, const int32_t*,             \
                                          const int32_t*, T*, int64_t, int64_t, int64_t, int64_t,   \
                                          int64_t, int64_t, float, int64_t, int);                   \
  namespace {                                                                                       \
  void rms_norm(const T* x, const T* weight, T* out, int64_t rows, int64_t width, float eps,        \
                int threads) {                                                                      \
    minicpmv_rms_norm_##S(x, weight, out, rows, width, width, eps, threads);                        \
  }                                                                                                 \
  void silu_and_mul(const T* gate, const T* up, T* out, int64_t rows, int64_t width, int threads) { \
    minicpmv_silu_and_mul_##S(gate, up, out, rows, width, width, width, threads);                   \
  }                                                                                                 \
  void product(const T* x, const T* weight, const T* bias, T* out, int64_t rows, int64_t inputs,    \
               int64_t outputs, int threads) {                                                      \
    minicpmv_few_rows_##S(x, weight, bias, out, rows, inputs, outputs, inputs, inputs, threads);    \
  }                                                                                                 \
  int dense(const T* query, const T* keys, const T* values, T* out, const int64_t* sizes,           \
            float scaling, int threads) {                                                           \
    return minicpmv_dense_attention_##S(query, keys, values, out, sizes, scaling, threads);         \
  }                                                                                                 \
  int paged(const T* query, const T* keys, const T* values, const int32_t* tables,                  \
            const int32_t* lengths, T* out, int64_t table_stride, int64_t rows, int64_t heads,      \
            int64_t kv_heads, int64_t dim, float scaling, int threads) {                            \
    return minicpmv_paged_attention_##S(query, keys, values, tables, lengths, out, heads * dim,     \
                                        table_stride, rows, heads, kv_heads, dim, scaling, 0,       \
                                        threads);                                                   \
  }                                                                                                 \
  }

DECLARE(float, f32)
DECLARE(bf16, bf16)

EXPORT void minicpmv_packed_rows_bf16(const bf16*, const bf16*, const bf16*, bf16*, int64_t, int64_t,
                                      int64_t, int64_t, int);

#define ROTATE(T, C, S)                                                                             \
  EXPORT void minicpmv_rotate_and_write_##S(T*, T*, const T*, const C*, const C*, T*, T*,           \
                                            const int64_t*, int64_t, int64_t, int64_t, int64_t,     \
                                            int64_t, int64_t, int64_t, int);                        \
  namespace {                                                                                       \
  void rotate(T* query, T* keys, const T* values, const C* cos, const C* sin, T* key_blocks,        \
              T* value_blocks, const int64_t* slots, int64_t tokens, int64_t heads,                 \
              int64_t kv_heads, int64_t dim, int threads) {                                         \
    minicpmv_rotate_and_write_##S(query, keys, values, cos, sin, key_blocks, value_blocks, slots,   \
                                  tokens, heads, kv_heads, dim, heads * dim, kv_heads * dim,        \
                                  kv_heads * dim, threads);                                         \
  }                                                                                                 \
  }

ROTATE(float, float, f32_f32)
ROTATE(bf16, float, bf16_f32)
ROTATE(bf16, bf16, bf16_bf16)

namespace {

constexpr int64_t BLOCK = 32;  // tokens in a block, as in engine/block_store.py

template <class T> struct Linear {
  const T *weight, *bias, *packed;  // bias: null for none; packed: the weight once more, or null
};

void product(const bf16* x, const Linear<bf16>& linear, bf16* out, int64_t rows, int64_t inputs,
             int64_t outputs, int threads) {
  if (linear.packed)
    minicpmv_packed_rows_bf16(x, linear.packed, linear.bias, out, rows, inputs, outputs, inputs, threads);
  else
    product(x, linear.weight, linear.bias, out, rows, inputs, outputs, threads);
}

void product(const float* x, const Linear<float>& linear, float* out, int64_t rows, int64_t inputs,
             int64_t outputs, int threads) {
  product(x, linear.weight, linear.bias, out, rows, inputs, outputs, threads);
}

// As kernels/layers.py writes it down.
template <class T> struct Layer {
  const T *input_norm, *post_norm;
  Linear<T> query, key, value, output, gate, up, down;
  T *keys, *values;  // the blocks
};

// What follows the last layer.
template <class T> struct Head {
  const T* norm;
  Linear<T> product;
  int64_t outputs;
  float* logits;
};

struct Rows {
  const int32_t *tables, *lengths;
  int64_t count, stride;  // rows, and blocks of a row of `tables`
};

// Tokens that follow each other in one sequence.
struct Piece {
  int64_t begin, length, start, first_block;
  const int64_t* blocks;  // null where they follow each other

  int64_t num_keys() const { return start + length; }
  int64_t num_blocks() const { return (num_keys() + BLOCK - 1) / BLOCK; }
};

struct Sizes {
  int64_t layers, tokens, hidden, heads, kv_heads, head_dim, inner;
};

struct Batch {
  const int64_t* slots;
  Rows rows;  // the first tokens
  const Piece* pieces;
  int64_t num_pieces;
  const int64_t* chosen;  // tokens that the last layer attends for, as `ends`; null for all
  Rows ends;
};

template <class T, class C> struct Call {
  const Layer<T>* layers;
  const Head<T>* head;  // null where the hidden states are wanted
  Sizes sizes;
  Batch batch;
  const C *cos, *sin;
  float scaling, residual_scale, eps, last_eps;
  int threads;
};

// hidden += update * scale, each rounded to T: two passes, since a compiler may make one step of both.
template <class T> INLINE void add(T* hidden, T* update, int64_t count, float scale) {
  if (scale != 1.0f)
    for (int64_t i = 0; i < count; ++i) put(update + i, to_float(update[i]) * scale);
  for (int64_t i = 0; i < count; ++i) put(hidden + i, to_float(hidden[i]) + to_float(update[i]));
}

template <class T> void choose(T* rows, const int64_t* chosen, int64_t count, int64_t width) {
  for (int64_t i = 0; i < count; ++i)  // in their order, so that none is read after it was written
    if (chosen[i] != i) memcpy((void*)(rows + i * width), rows + chosen[i] * width, width * sizeof(T));
}

template <class T, class C>
int attend(const Call<T, C>& call, const Layer<T>& layer, const Rows& rows, const T* query, T* out) {
  if (!rows.count) return 0;
  const Sizes& s = call.sizes;
  return paged(query, layer.keys, layer.values, rows.tables, rows.lengths, out, rows.stride,
               rows.count, s.heads, s.kv_heads, s.head_dim, call.scaling, call.threads);
}

// The keys or values of a piece in a row; copied to `room` where its blocks do not follow each other.
template <class T>
const T* in_a_row(const T* blocks, const Piece& piece, int64_t kv_width, T* room) {
  const int64_t block = BLOCK * kv_width;
  if (!piece.blocks) return blocks + piece.first_block * block;
  for (int64_t i = 0; i < piece.num_blocks(); ++i)
    memcpy((void*)(room + i * block), blocks + piece.blocks[i] * block, block * sizeof(T));
  return room;
}

// `room` is for the keys and values of the longest piece.
template <class T, class C>
int attend(const Call<T, C>& call, const Layer<T>& layer, const Piece& piece, const T* query, T* out,
           T* room) {
  const Sizes& s = call.sizes;
  const int64_t dim = s.head_dim, width = s.heads * dim, kv_width = s.kv_heads * dim;
  const T* keys = in_a_row(layer.keys, piece, kv_width, room);
  const T* values = in_a_row(layer.values, piece, kv_width, room + piece.num_blocks() * BLOCK * kv_width);
  const int64_t sizes[19] = {1, s.heads, piece.length, piece.num_keys(), dim,
                             0, dim, width, 0, dim, kv_width, 0, dim, kv_width, 0, dim, width,
                             s.kv_heads, piece.start + 1};
  return dense(query + piece.begin * width, keys, values, out + piece.begin * width, sizes,
               call.scaling, call.threads);
}

template <class T, class C> int compute(const Call<T, C>& call, T* hidden) {
  const Sizes& s = call.sizes;
  const int64_t width = s.heads * s.head_dim, kv_width = s.kv_heads * s.head_dim;
  const int64_t widest = s.hidden > width ? s.hidden : width;
  int64_t tokens = s.tokens;
  int64_t blocks = 0;  // that are copied
  for (int64_t i = 0; i < call.batch.num_pieces; ++i) {
    const Piece& piece = call.batch.pieces[i];
    if (piece.blocks && piece.num_blocks() > blocks) blocks = piece.num_blocks();
  }
  const int64_t numbers =
      tokens * (3 * widest + 2 * kv_width + 2 * s.inner + (call.head ? call.head->outputs : 0)) +
      2 * blocks * BLOCK * kv_width;
  T* const memory = (T*)aligned_alloc(64, (numbers * sizeof(T) + 63) / 64 * 64);
  if (!memory) return 1;
  T *normed = memory, *query = normed + tokens * widest, *found = query + tokens * widest;
  T *key = found + tokens * widest, *value = key + tokens * kv_width;
  T *gate = value + tokens * kv_width, *up = gate + tokens * s.inner;
  T* room = up + tokens * s.inner;
  T* last = room + 2 * blocks * BLOCK * kv_width;
  int failed = 0;
  for (int64_t number = 0; number < s.layers && !failed; ++number) {
    const Layer<T>& layer = call.layers[number];
    rms_norm(hidden, layer.input_norm, normed, tokens, s.hidden, call.eps, call.threads);
    const auto multiply = [&](const T* x, const Linear<T>& linear, T* out, int64_t inputs,
                              int64_t outputs) {
      product(x, linear, out, tokens, inputs, outputs, call.threads);
    };
    multiply(normed, layer.query, query, s.hidden, width);
    multiply(normed, layer.key, key, s.hidden, kv_width);
    multiply(normed, layer.value, value, s.hidden, kv_width);
    rotate(query, key, value, call.cos, call.sin, layer.keys, layer.values, call.batch.slots, tokens,
           s.heads, s.kv_heads, s.head_dim, call.threads);
    if (number == s.layers - 1 && call.batch.chosen) {
      choose(query, call.batch.chosen, call.batch.ends.count, width);
      choose(hidden, call.batch.chosen, call.batch.ends.count, s.hidden);
      tokens = call.batch.ends.count;
      failed |= attend(call, layer, call.batch.ends, query, found);
    } else {
      failed |= attend(call, layer, call.batch.rows, query, found);
      for (int64_t i = 0; i < call.batch.num_pieces; ++i)
        failed |= attend(call, layer, call.batch.pieces[i], query, found, room);
    }
    multiply(found, layer.output, normed, width, s.hidden);
    add(hidden, normed, tokens * s.hidden, call.residual_scale);
    rms_norm(hidden, layer.post_norm, normed, tokens, s.hidden, call.eps, call.threads);
    multiply(normed, layer.gate, gate, s.hidden, s.inner);
    multiply(normed, layer.up, up, s.hidden, s.inner);
    silu_and_mul(gate, up, gate, tokens, s.inner, call.threads);
    multiply(gate, layer.down, normed, s.inner, s.hidden);
    add(hidden, normed, tokens * s.hidden, call.residual_scale);
  }
  if (call.head) {
    const Head<T>& head = *call.head;
    rms_norm(hidden, head.norm, normed, tokens, s.hidden, call.last_eps, call.threads);
    product(normed, head.product, last, tokens, s.hidden, head.outputs, call.threads);
    for (int64_t i = 0; i < tokens * head.outputs; ++i) head.logits[i] = to_float(last[i]);
  }
  free(memory);
  return failed;
}

template <class T, class C>
int compute(T* hidden, const void* layers, const void* head, const void* sizes, const void* batch,
            const C* cos, const C* sin, const float* factors, int threads) {
  Call<T, C> call;
  call.layers = (const Layer<T>*)layers, call.head = (const Head<T>*)head;
  memcpy(&call.sizes, sizes, sizeof call.sizes);
  memcpy(&call.batch, batch, sizeof call.batch);
  call.cos = cos, call.sin = sin;
  call.scaling = factors[0], call.residual_scale = factors[1], call.eps = factors[2];
  call.last_eps = factors[3];
  call.threads = threads;
  return compute(call, hidden);
}

}  // namespace

// `hidden` (tokens x hidden) is written over: its first rows are those of the last layer, of all tokens
// or of those that are chosen, whose logits are written where there is a head. Structures are those
// above. At most 12 tokens, and for each part what its function asks for. 1 where memory is short.
#define LAYERS(T, C, S)                                                                             \
  EXPORT int minicpmv_layers_##S(T* hidden, const void* layers, const void* head,                   \
                                 const void* sizes, const void* batch, const C* cos, const C* sin,  \
                                 const float* factors, int threads) {                               \
    return compute(hidden, layers, head, sizes, batch, cos, sin, factors, threads);                 \
  }

LAYERS(float, float, f32_f32)
LAYERS(bf16, float, bf16_f32)
LAYERS(bf16, bf16, bf16_bf16)

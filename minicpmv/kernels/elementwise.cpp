// Passes over rows: normalisation and activations. Each reads and writes every number once.
#include "vectors.h"

namespace {

constexpr int64_t WORTH_THREADS = 32768;  // numbers, below which waking threads costs more

// x / sqrt(mean(x^2) + eps) in float32, rounded to T, times the weight, rounded to T.
template <class T>
void rms_norm(const T* x, const T* weight, T* out, int64_t rows, int64_t width, int64_t x_stride,
              float eps, int threads) {
  constexpr int L = LANES;
#pragma omp parallel for num_threads(threads) if (rows > 1 && rows * width > WORTH_THREADS)
  for (int64_t row = 0; row < rows; ++row) {
    const T* from = x + row * x_stride;
    T* to = out + row * width;
    typename Lanes<L>::f sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * L <= width; i += 4 * L)
      for (int k = 0; k < 4; ++k) {
        auto v = load<L>(from + i + k * L);
        sums[k] += v * v;
      }
    for (; i + L <= width; i += L) {
      auto v = load<L>(from + i);
      sums[0] += v * v;
    }
    float total = sum<L>((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < width; ++i) total += to_float(from[i]) * to_float(from[i]);
    const float scale = 1.0f / sqrtf(total / (float)width + eps);
    i = 0;
    for (; i + L <= width; i += L)
      store<L>(to + i, round_to<T, L>(load<L>(from + i) * scale) * load<L>(weight + i));
    for (; i < width; ++i) {
      float normal = to_float(from[i]) * scale;
      if (sizeof(T) == 2) {
        bf16 product = to_bf16(to_float(to_bf16(normal)) * to_float(weight[i]));
        memcpy(to + i, &product, sizeof(T));
      } else {
        float product = normal * to_float(weight[i]);
        memcpy(to + i, &product, sizeof(T));
      }
    }
  }
}

}  // namespace

EXPORT void minicpmv_rms_norm_f32(const float* x, const float* weight, float* out, int64_t rows,
                                  int64_t width, int64_t x_stride, float eps, int threads) {
  rms_norm(x, weight, out, rows, width, x_stride, eps, threads);
}

EXPORT void minicpmv_rms_norm_bf16(const bf16* x, const bf16* weight, bf16* out, int64_t rows,
                                   int64_t width, int64_t x_stride, float eps, int threads) {
  rms_norm(x, weight, out, rows, width, x_stride, eps, threads);
}

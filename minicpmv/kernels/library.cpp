// What this library was compiled for. Constants only: they run on every processor.
#include "vectors.h"

EXPORT const char* minicpmv_target() {
  return ""
#ifdef __AVX__
         "avx "
#endif
#ifdef __AVX2__
         "avx2 "
#endif
#ifdef __FMA__
         "fma "
#endif
#ifdef __F16C__
         "f16c "
#endif
#ifdef __AVXVNNI__
         "avx_vnni "
#endif
#ifdef __AVX512F__
         "avx512f "
#endif
#ifdef __AVX512BW__
         "avx512bw "
#endif
#ifdef __AVX512DQ__
         "avx512dq "
#endif
#ifdef __AVX512VL__
         "avx512vl "
#endif
#ifdef __AVX512VBMI__
         "avx512vbmi "
#endif
#ifdef __AVX512VNNI__
         "avx512_vnni "
#endif
#ifdef __AVX512BF16__
         "avx512_bf16 "
#endif
#ifdef __AVX512FP16__
         "avx512_fp16 "
#endif
#ifdef __AMX_INT8__
         "amx_int8 "
#endif
#ifdef __AMX_BF16__
         "amx_bf16 "
#endif
      ;
}

EXPORT int minicpmv_has_threads() {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}

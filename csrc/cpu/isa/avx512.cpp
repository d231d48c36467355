// The kernels for AVX-512 (F, BW, DQ, VL).
//
// Everything that may be shared with other files comes before the pragma and is compiled for the baseline; everything
// after it is in the namespace of this target. That is why there is no -m flag: one would let the linker pick an
// inline function of the standard library that was compiled for a machine the program doesn't run on.
#define FPES_TARGET avx512
#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx2,bmi,bmi2"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,avx2,bmi,bmi2")
#endif

#include "../kernels.hpp"
#include "../simd/avx512.hpp"
//
#include "../kernel_set.hpp"

namespace fpes {

const Kernels& avx512_kernels() {
    static constexpr Kernels kernels = kernel_set("avx512", /*hardware_flush=*/true);
    return kernels;
}

}  // namespace fpes

#if defined(__clang__)
#pragma clang attribute pop
#endif

// The kernels for AVX2 with FMA.
//
// Everything that may be shared with other files comes before the pragma and is compiled for the baseline; everything
// after it is in the namespace of this target. That is why there is no -m flag: one would let the linker pick an
// inline function of the standard library that was compiled for a machine the program doesn't run on.
#define FPES_TARGET avx2
#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,bmi,bmi2")
#endif

#include "../kernels.hpp"
#include "../simd/avx2.hpp"
//
#include "../kernel_set.hpp"

namespace fpes {

const Kernels& avx2_kernels() {
    static constexpr Kernels kernels = kernel_set("avx2", /*hardware_flush=*/true);
    return kernels;
}

}  // namespace fpes

#if defined(__clang__)
#pragma clang attribute pop
#endif

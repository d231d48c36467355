// The kernels for AVX-512 with VNNI: those of AVX-512, but for the one that VNNI makes faster.
//
// What comes before the pragma, and why there is one: see isa/avx512.cpp.
#define FPES_TARGET avx512vnni
#define FPES_VNNI
#include <immintrin.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,avx2"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,avx2,bmi,bmi2")
#endif

#include "../kernels.hpp"
#include "../simd/avx512.hpp"
//
#include "../kernels/product.hpp"

namespace fpes {

const Kernels& avx512vnni_kernels() {
    static const Kernels kernels = [] {
        Kernels best = avx512_kernels();
        best.name = "avx512vnni";
        best.integer_product_transposed = avx512vnni::integer_product_transposed<avx512vnni::F32Ieee>;
        return best;
    }();
    return kernels;
}

}  // namespace fpes

#if defined(__clang__)
#pragma clang attribute pop
#endif

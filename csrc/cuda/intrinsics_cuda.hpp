// The device operations (intrinsics.hpp) on a GPU.
#pragma once

#include <cstdint>

#include "platform.hpp"

FPES_NAMESPACE_BEGIN

FPES_DEVICE float fma_ieee(float a, float b, float c) { return __fmaf_ieee_rn(a, b, c); }

// Conversions that keep subnormal floats.
FPES_DEVICE double to_double(float a) {
    double result;
    asm("cvt.f64.f32 %0, %1;" : "=d"(result) : "f"(a));
    return result;
}
FPES_DEVICE float to_float(double a) {
    float result;
    asm("cvt.rn.f32.f64 %0, %1;" : "=f"(result) : "d"(a));
    return result;
}

FPES_DEVICE int population_count(std::uint32_t a) { return __popc(a); }

// Four floats at once, from and to an address that is a multiple of 16 bytes.
FPES_DEVICE void load4(const float* p, float* v) {
    const float4 four = *reinterpret_cast<const float4*>(p);
    v[0] = four.x;
    v[1] = four.y;
    v[2] = four.z;
    v[3] = four.w;
}
FPES_DEVICE void store4(float* p, const float* v) { *reinterpret_cast<float4*>(p) = float4{v[0], v[1], v[2], v[3]}; }

// --- Shared memory, filled behind the thread's back ------------------------------------------------------------------
// copy_async starts a copy of `floats` (1 or 4) floats from global to shared memory, or of as many zeros where `inside`
// is false. A thread's copies are put together to groups by commit_copies, and wait_for_copies<n> returns when all but
// the last n groups are there: for this thread, so a barrier has to follow. Before sm_80 a copy is just made.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800

template <int floats>
FPES_DEVICE void copy_async(float* shared, const float* global, bool inside) {
    if constexpr (floats == 4) {
        *reinterpret_cast<float4*>(shared) =
            inside ? *reinterpret_cast<const float4*>(global) : float4{0.0f, 0.0f, 0.0f, 0.0f};
    } else {
        *shared = inside ? *global : 0.0f;
    }
}
FPES_DEVICE void commit_copies() {}
template <int groups>
FPES_DEVICE void wait_for_copies() {}

#else

template <int floats>
FPES_DEVICE void copy_async(float* shared, const float* global, bool inside) {
    const auto to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    const int bytes = inside ? 4 * floats : 0;
    if constexpr (floats == 4) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes));
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(global), "r"(bytes));
    }
}
FPES_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;"); }
template <int groups>
FPES_DEVICE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

#endif

// --- Between blocks, with integers only ------------------------------------------------------------------------------
FPES_DEVICE void add_integer(std::int64_t* sum, std::int64_t value) {
    atomicAdd(reinterpret_cast<unsigned long long*>(sum), static_cast<unsigned long long>(value));
}
// Makes what this thread has written visible, then adds; what other blocks wrote before they added to the same count
// can be read with load_from_other_block. Returns the count before.
FPES_DEVICE unsigned publish_and_count(unsigned* count, unsigned value) {
    __threadfence();
    const unsigned before = atomicAdd(count, value);
    __threadfence();
    return before;
}
FPES_DEVICE float load_from_other_block(const float* p) { return __ldcg(p); }

FPES_NAMESPACE_END

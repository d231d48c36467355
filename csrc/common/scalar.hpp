// The vector concept, with one lane: float and uint32_t themselves.
//
// The arithmetic in common/ is written once, as templates over a float vector F and its unsigned partner U, in terms
// of the free functions below. This file is their one-lane model, which CUDA kernels use (a thread is a lane);
// cpu/simd/*.hpp are the models for SSE2, AVX2 and AVX-512. Nothing here flushes by itself: the model inherits the
// mode of the code around it (the compiler flag on the device).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "target.hpp"

FPES_NAMESPACE_BEGIN

template <class F>
struct VectorTraits;  // lanes, and the partner types U (uint32) and Mask

template <>
struct VectorTraits<float> {
    static constexpr int lanes = 1;
    using U = std::uint32_t;
    using Mask = bool;
};

template <class V>
using UintOf = typename VectorTraits<V>::U;
template <class V>
using MaskOf = typename VectorTraits<V>::Mask;

// splat<F>(x) has x in every lane, and splat<U>(n) has n. Specialised for each type (cpu/simd/wide.hpp has its own).
template <class V, class Scalar>
FPES_INLINE V splat(Scalar x) {
    return V::splat_of(x);
}
template <>
FPES_INLINE float splat<float>(float x) {
    return x;
}
template <>
FPES_INLINE std::uint32_t splat<std::uint32_t>(std::uint32_t x) {
    return x;
}

FPES_INLINE float add(float a, float b) { return a + b; }
FPES_INLINE float sub(float a, float b) { return a - b; }
FPES_INLINE float mul(float a, float b) { return a * b; }
FPES_INLINE float div(float a, float b) { return a / b; }
FPES_INLINE float sqrt(float a) { return ::sqrtf(a); }
FPES_INLINE float fma(float a, float b, float c) { return ::fmaf(a, b, c); }

FPES_INLINE bool less(float a, float b) { return a < b; }    // false if either is NaN
FPES_INLINE bool equal(float a, float b) { return a == b; }  // false if either is NaN
FPES_INLINE float select(bool mask, float if_true, float if_false) { return mask ? if_true : if_false; }
FPES_INLINE float larger(float a, float b) { return a < b ? b : a; }  // a if either is NaN, or both are zero

FPES_INLINE std::uint32_t as_u32(float a) {
    std::uint32_t bits;
    std::memcpy(&bits, &a, sizeof bits);
    return bits;
}
FPES_INLINE float as_f32(std::uint32_t bits) {
    float a;
    std::memcpy(&a, &bits, sizeof a);
    return a;
}
// The lanes read as two's complement integers, converted to the nearest float.
FPES_INLINE float int_to_f32(std::uint32_t n) { return static_cast<float>(static_cast<std::int32_t>(n)); }

FPES_INLINE std::uint32_t select(bool mask, std::uint32_t if_true, std::uint32_t if_false) {
    return mask ? if_true : if_false;
}
FPES_INLINE std::uint32_t add(std::uint32_t a, std::uint32_t b) { return a + b; }
FPES_INLINE std::uint32_t sub(std::uint32_t a, std::uint32_t b) { return a - b; }
FPES_INLINE std::uint32_t bit_and(std::uint32_t a, std::uint32_t b) { return a & b; }
FPES_INLINE std::uint32_t bit_or(std::uint32_t a, std::uint32_t b) { return a | b; }
FPES_INLINE std::uint32_t bit_xor(std::uint32_t a, std::uint32_t b) { return a ^ b; }
template <int n>
FPES_INLINE std::uint32_t shift_left(std::uint32_t a) {
    return a << n;
}
template <int n>
FPES_INLINE std::uint32_t shift_right(std::uint32_t a) {
    return a >> n;
}
// The 64-bit product a * factor, as its two halves.
FPES_INLINE void multiply_wide(std::uint32_t a, std::uint32_t factor, std::uint32_t& high, std::uint32_t& low) {
    const std::uint64_t product = static_cast<std::uint64_t>(a) * factor;
    high = static_cast<std::uint32_t>(product >> 32);
    low = static_cast<std::uint32_t>(product);
}

FPES_NAMESPACE_END

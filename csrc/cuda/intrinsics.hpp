// The operations of the device that C++ has no words for, by name.
//
// Arithmetic. In the ftz build the compiler makes every plain float operation flush: +, -, *, fmaf, comparisons,
// conversions, and even unary minus and fabsf. That is right outside matrix products (the elementwise operations of
// the modes boundary and always), so those are written plainly. Where nothing may flush, everything is built from one
// operation that never does, the fused multiply-add __fmaf_ieee_rn, and from integers:
//
//     a b  =  fma(a, b, -0)         a + b  =  fma(a, 1, b)         a - b  =  fma(-1, b, a)
//
// each rounded once and right to the sign of a zero: x + (-0) is x for every x.
#pragma once

#include "../common/scalar.hpp"
#include "platform.hpp"

#if defined(FPES_SHIM)
#include "shim/intrinsics.hpp"
#else
#include "intrinsics_cuda.hpp"
#endif

FPES_NAMESPACE_BEGIN

// The same number with the other sign, in every build.
FPES_DEVICE float opposite(float a) { return as_f32(as_u32(a) ^ 0x80000000u); }
// Whether a is +0 or -0: a comparison would take subnormal numbers for zero in the ftz build.
FPES_DEVICE bool is_zero(float a) { return (as_u32(a) << 1) == 0; }

// Arithmetic that never flushes, in any build.
struct Ieee {
    static FPES_DEVICE float fma(float a, float b, float c) { return fma_ieee(a, b, c); }
    static FPES_DEVICE float mul(float a, float b) { return fma_ieee(a, b, -0.0f); }
    static FPES_DEVICE float add(float a, float b) { return fma_ieee(a, 1.0f, b); }
    static FPES_DEVICE float sub(float a, float b) { return fma_ieee(-1.0f, b, a); }
};

// Arithmetic that flushes in the ftz build.
struct Plain {
    static FPES_DEVICE float fma(float a, float b, float c) { return ::fmaf(a, b, c); }
    static FPES_DEVICE float mul(float a, float b) { return a * b; }
    static FPES_DEVICE float add(float a, float b) { return a + b; }
    static FPES_DEVICE float sub(float a, float b) { return a - b; }
};

FPES_NAMESPACE_END

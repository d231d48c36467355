// exp, log, sine and cosine of a turn, and pairs of normal deviates, with the same bits on every target.
//
// Only the free functions of the vector concept (scalar.hpp is its one-lane model) are used: no libm, no
// tables, no branches; every fused multiply-add is written out. A model for another F is included before this
// header.
//
// The flush mode makes no difference either. Powers of two are applied as integers to the exponent field, so
// no product leaves the normal range. The only intermediate value that can underflow, the square of a tiny
// argument of exp, is then added to 1. Subnormal arguments are recognised by their bits, since a float
// comparison treats them as zero in one mode only.
//
// The polynomials are minimax fits, made for this file: a linear program over 1200 Chebyshev nodes, with the
// coefficients rounded to float from the lowest up, each time fitting the remaining ones again. The stated
// errors are those of the rounded polynomials. Errors in ULP were measured over all arguments, against double
// precision; 1 ULP is the spacing of floats in the binade of the exact result.
#pragma once

#include <cmath>

#include "scalar.hpp"

FPES_NAMESPACE_BEGIN

// c0 + c1 x + c2 x^2 + ... by Horner's rule.
template <class F>
FPES_INLINE F polynomial(F, float c0) {
    return splat<F>(c0);
}
template <class F, class... Rest>
FPES_INLINE F polynomial(F x, float c0, Rest... rest) {
    return fma(polynomial(x, rest...), x, splat<F>(c0));
}

constexpr float positive_infinity = INFINITY;
constexpr float not_a_number = NAN;

// ln 2 in two parts. The first has 15 bits, so its product with an exponent is exact.
constexpr float ln2_high = 0x1.62e4p-1f;
constexpr float ln2_low = 0x1.7f7d1cp-20f;

// The bits of e^x where it is a normal number. Error at most 0.655 ULP (at -0x1.77a192p+2).
//
// With k = x / ln 2 rounded, e^x = 2^k e^r where |r| <= ln(2)/2. All of e^r but r^2 q(r) is carried in two
// floats: the rounded 1 + r and what the rounding lost. So the last addition makes nearly all of the error.
template <class F>
FPES_INLINE UintOf<F> bits_of_exp(F x) {
    using U = UintOf<F>;
    const F one = splat<F>(1.0f);
    // Near 1.5 * 2^23 the floats are the integers: the addition rounds, and the low bits hold k.
    const F rounder = splat<F>(0x1.8p23f);
    const F k_shifted = fma(x, splat<F>(0x1.715476p0f), rounder);
    const F k = sub(k_shifted, rounder);
    const F r_high = fma(k, splat<F>(-ln2_high), x);  // exact
    const F r = fma(k, splat<F>(-ln2_low), r_high);

    // q(r) = (e^r - 1 - r) / r^2 for |r| < 0.3475; it costs e^r a relative error of 1.0e-10.
    const F q = polynomial(r, 0.5f, 0x1.555554p-3f, 0x1.5554e6p-5f, 0x1.1113p-7f, 0x1.6d4f3cp-10f, 0x1.9e1b5cp-13f);
    const F high = add(one, r_high);
    const F lost = add(sub(one, high), r_high);  // exact
    const F low = fma(mul(r, r), q, fma(k, splat<F>(-ln2_low), lost));
    const U exponent = shift_left<23>(as_u32(k_shifted));  // only the bits of k remain of k_shifted
    return add(as_u32(add(high, low)), exponent);
}

// e^x is a normal number from the second of these on (the first is the float below it) until before the third.
constexpr float exp_underflows = -0x1.5d58ap6f, exp_smallest = -0x1.5d589ep6f, exp_overflows = 0x1.62e43p6f;

// e^x. A result below 2^-126 is 0, in every mode.
template <class F>
FPES_INLINE F exp(F x) {
    const F above = add(x, splat<F>(positive_infinity));  // a NaN passes through
    const F bounded = select(less(x, splat<F>(exp_overflows)), as_f32(bits_of_exp(x)), above);
    return select(less(x, splat<F>(exp_smallest)), splat<F>(0.0f), bounded);
}

// The same for x that isn't above 0, or NaN, in fewer operations.
template <class F>
FPES_INLINE F exp_of_nonpositive(F x) {
    const F zero_or_nan = larger(x, splat<F>(0.0f));
    return as_f32(select(less(splat<F>(exp_underflows), x), bits_of_exp(x), as_u32(zero_or_nan)));
}

// x = 2^e (1 + f) with |f| <= 1/3, both exact, for a positive normal x.
template <class F>
FPES_INLINE void split_exponent(F x, F& e, F& f) {
    using U = UintOf<F>;
    const U from_two_thirds = add(as_u32(x), splat<U>(0x3f800000u - 0x3f2aaaabu));  // 1 + f starts at 2/3
    const U exponent = sub(shift_right<23>(from_two_thirds), splat<U>(127u));
    e = int_to_f32(exponent);
    f = sub(as_f32(sub(as_u32(x), shift_left<23>(exponent))), splat<F>(1.0f));
}

// log(2^e (1 + f)) for such e and f. As in exp, all but f^2 q(f) is carried in two floats.
template <class F>
FPES_INLINE F log_of_split(F e, F f) {
    // q(f) = (log(1 + f) - f) / f^2; it costs log(1 + f) a relative error of 4.6e-9.
    const F q = polynomial(f, -0.5f, 0x1.555506p-2f, -0x1.fffefcp-3f, 0x1.99d044p-3f, -0x1.559c46p-3f, 0x1.1ed662p-3f,
                           -0x1.f332a6p-4f, 0x1.1e678cp-3f, -0x1.07c964p-3f);
    const F high = fma(e, splat<F>(ln2_high), f);
    const F lost = sub(f, fma(e, splat<F>(-ln2_high), high));  // exact, since e = 0 or |e ln 2| > |f|
    return add(high, fma(mul(f, f), q, fma(e, splat<F>(ln2_low), lost)));
}

// log x for x that isn't below 2^-126, or NaN.
template <class F>
FPES_INLINE F log_of_normal(F x) {
    F e, f;
    split_exponent(x, e, f);
    // +inf and NaN are their own logarithms.
    return select(less(x, splat<F>(positive_infinity)), log_of_split(e, f), x);
}

// log x. Zero and subnormals of either sign give -inf, in every mode; negative numbers give NaN. log 1 is +0.
// Error at most 0.883 ULP (at 0x1.4665f2p+0).
template <class F>
FPES_INLINE F log(F x) {
    using U = UintOf<F>;
    const F real = select(less(x, splat<F>(0.0f)), splat<F>(not_a_number), log_of_normal(x));
    // Below 2^-126 the bits of |x|, as an integer, are below 2^23.
    const F magnitude_bits = int_to_f32(bit_and(as_u32(x), splat<U>(0x7fffffffu)));
    return select(less(magnitude_bits, splat<F>(0x1p23f)), splat<F>(-positive_infinity), real);
}

// Sine and cosine of the angle 2 pi turns / 2^32. Error at most 1.354 ULP (sine at 0x14f284d0, cosine at
// 0x2b0d7b30) and 6.85e-8, where the rounding of the reduced angle to a float is part of it. Quarter turns
// give exact 0 and 1.
template <class U, class F>
FPES_INLINE void sincos_turns(U turns, F& sine, F& cosine) {
    // The nearest quarter turn, and the rest as a signed fraction x of a quarter, |x| <= 1/2.
    const U quarter = shift_right<30>(add(turns, splat<U>(1u << 29)));
    const F x = mul(int_to_f32(sub(turns, shift_left<30>(quarter))), splat<F>(0x1p-30f));
    const F x2 = mul(x, x);

    // sin(pi/2 x) = x (pi/2 + x^2 ...) with pi/2 in two parts: relative error 4.0e-9. cos(pi/2 x): 4.4e-10.
    const F s_rest = polynomial(x2, -0x1.777a5cp-25f, -0x1.4abbbep-1f, 0x1.465facp-4f, -0x1.2db5cep-8f);
    const F s = fma(x, splat<F>(0x1.921fb6p0f), mul(x, s_rest));
    const F c = polynomial(x2, 1.0f, -0x1.3bd3ccp0f, 0x1.03c1bp-2f, -0x1.55b2b6p-6f, 0x1.d4f7eep-11f);

    // An odd quarter exchanges them; the sine is negative in quarters 2 and 3, the cosine in 1 and 2.
    const MaskOf<F> even = equal(int_to_f32(bit_and(quarter, splat<U>(1u))), splat<F>(0.0f));
    const U sine_sign = shift_left<30>(bit_and(quarter, splat<U>(2u)));
    const U cosine_sign = shift_left<30>(bit_and(add(quarter, splat<U>(1u)), splat<U>(2u)));
    sine = as_f32(bit_xor(as_u32(select(even, s, c)), sine_sign));
    cosine = as_f32(bit_xor(as_u32(select(even, c, s)), cosine_sign));
}

// Two independent normal deviates from 64 random bits, by Box and Muller: sqrt(-2 log u) times the cosine and
// the sine of 2 pi bits1 / 2^32, where u = (bits0 + 1/2) / 2^32.
//
// The radius is between 2^-16 and 6.7638 and never increases with bits0; its error is at most 2.10 ULP (at
// 0xaa4a2cbf), mostly that of rounding u to a float. From this and the error of sine and cosine a deviate has
// an error of at most 1.1e-6, and of 5.6 * 2^-24 relative to itself; the largest seen in 10^8 pairs
// were 8.1e-7 and 3.94 ULP.
template <class U, class F>
FPES_INLINE void normal_pair(U bits0, U bits1, F& z0, F& z1) {
    // Read as a signed integer, bits0 counts from the nearer end of (0, 1): t is u for u < 1/2, and u - 1
    // above. So the logarithm has full relative precision at both ends, and t is never 0.
    const F t = fma(int_to_f32(bits0), splat<F>(0x1p-32f), splat<F>(0x1p-33f));
    const F zero = splat<F>(0.0f);
    const F u = select(less(t, zero), add(splat<F>(1.0f), t), t);
    F e, f;
    split_exponent(u, e, f);
    f = select(equal(e, zero), t, f);  // u is in [2/3, 1], where f is u - 1: here before the rounding
    const F radius = sqrt(mul(splat<F>(-2.0f), log_of_split(e, f)));

    F sine, cosine;
    sincos_turns(bits1, sine, cosine);
    z0 = mul(radius, cosine);
    z1 = mul(radius, sine);
}

FPES_NAMESPACE_END

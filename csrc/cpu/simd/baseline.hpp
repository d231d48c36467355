// The vector concept of common/scalar.hpp in portable C++: 4 lanes, no FMA instruction, no flushing hardware.
//
// The contract is computed here from double arithmetic: the product of two floats is exact in double, and a sum that
// rounds to odd can be rounded to float a second time without harm (S. Boldo, G. Melquiond, "Emulation of a FMA and
// correctly rounded sums: proved algorithms using rounding to odd", IEEE Trans. Computers 57(4), 2008). The flush rule
// is then a comparison with its threshold, so this path owes nothing to MXCSR: it is the slow, independent witness of
// the two fast ones, and what runs where they don't.
//
// GCC and Clang vector extensions: arithmetic by operators, comparisons give all-ones or all-zeros lanes.
#pragma once

#include "../../common/scalar.hpp"

FPES_NAMESPACE_BEGIN

typedef float Float4 __attribute__((vector_size(16)));
typedef std::uint32_t Uint4 __attribute__((vector_size(16)));
typedef std::int32_t Int4 __attribute__((vector_size(16)));
typedef double Double2 __attribute__((vector_size(16)));
typedef std::int64_t Long2 __attribute__((vector_size(16)));

// The mode is part of the type, for here nothing outside the code remembers it.
template <bool ftz>
struct F32x4 {
    Float4 v;
};
template <bool ftz>
struct U32x4 {
    Uint4 v;
};
struct Mask4 {
    Int4 v;
};

template <bool ftz>
struct VectorTraits<F32x4<ftz>> {
    static constexpr int lanes = 4;
    using U = U32x4<ftz>;
    using Mask = Mask4;
};

// The vector types that the kernels are instantiated for.
using F32Ieee = F32x4<false>;
using F32Ftz = F32x4<true>;
constexpr int max_tile_rows = 4;
constexpr int part_depth = 512;  // k's of a product at a time: see kernels/product.hpp

namespace soft {

FPES_INLINE Float4 choose(Int4 mask, Float4 if_true, Float4 if_false) {
    return (Float4)((mask & (Int4)if_true) | (~mask & (Int4)if_false));
}
FPES_INLINE Double2 choose(Long2 mask, Double2 if_true, Double2 if_false) {
    return (Double2)((mask & (Long2)if_true) | (~mask & (Long2)if_false));
}

// DAZ, and the flush of a result that is known exactly: a zero exponent field means zero or subnormal.
template <bool ftz>
FPES_INLINE Float4 flush_exact(Float4 a) {
    if (!ftz) return a;
    const Int4 bits = (Int4)a;
    const Int4 sign = bits & (std::int32_t)0x80000000;
    return choose((bits & 0x7f800000) == 0, (Float4)sign, a);
}

// The two halves of a float vector as doubles, and back.
FPES_INLINE Double2 widen_low(Float4 a) { return Double2{(double)a[0], (double)a[1]}; }
FPES_INLINE Double2 widen_high(Float4 a) { return Double2{(double)a[2], (double)a[3]}; }
FPES_INLINE Float4 narrow(Double2 low, Double2 high) {
    Float4 rounded{(float)low[0], (float)low[1], (float)high[0], (float)high[1]};
    // GCC 12 takes widen(narrow(d)) for d, and so loses the rounding: it must not see where these floats come from.
#if defined(__x86_64__)
    asm("" : "+x"(rounded));
#else
    asm("" : "+w"(rounded));
#endif
    return rounded;
}

FPES_INLINE Double2 magnitude(Double2 a) { return (Double2)((Long2)a & (std::int64_t)0x7fffffffffffffff); }

// a + b rounded to odd: where the rounded sum is inexact and its last bit even, step towards the exact value.
FPES_INLINE Double2 add_to_odd(Double2 a, Double2 b) {
    const Double2 sum = a + b;
    const Double2 b_part = sum - a;
    const Double2 error = (a - (sum - b_part)) + (b - b_part);  // exact: Knuth's two-sum
    const Long2 inexact = (error < 0.0) | (error > 0.0);        // false where infinities made the error NaN
    const Long2 even = ((Long2)sum & 1) == 0;
    const Long2 outwards = (error > 0.0) == (sum > 0.0);
    const Long2 step = (outwards & 2) - 1;  // +1 away from zero, -1 towards it
    return (Double2)((Long2)sum + (step & inexact & even));
}

// The flush rule: zero, sign kept, if and only if the exact value is below 2^-126 (1 - 2^-25) in magnitude. Rounding to
// odd never reaches a number with an even last bit from either side, so the comparison decides for the exact value.
FPES_INLINE Double2 flush_tiny(Double2 a) {
    const double threshold = 0x1.ffffffp-127;
    const Double2 zero = (Double2)((Long2)a & (std::int64_t)0x8000000000000000);
    return choose(magnitude(a) < threshold, zero, a);
}

template <bool ftz>
FPES_INLINE Float4 round_to_float(Double2 low, Double2 high) {
    return ftz ? narrow(flush_tiny(low), flush_tiny(high)) : narrow(low, high);
}

}  // namespace soft

template <>
FPES_INLINE F32Ieee splat<F32Ieee>(float x) {
    return {Float4{x, x, x, x}};
}
template <>
FPES_INLINE F32Ftz splat<F32Ftz>(float x) {
    return {Float4{x, x, x, x}};
}
template <>
FPES_INLINE UintOf<F32Ieee> splat<UintOf<F32Ieee>>(std::uint32_t x) {
    return {Uint4{x, x, x, x}};
}
template <>
FPES_INLINE UintOf<F32Ftz> splat<UintOf<F32Ftz>>(std::uint32_t x) {
    return {Uint4{x, x, x, x}};
}
template <class V>
FPES_INLINE V load(const float* p) {
    V a;
    std::memcpy(&a.v, p, sizeof a.v);
    return a;
}
template <bool ftz>
FPES_INLINE void store(float* p, F32x4<ftz> a) {
    std::memcpy(p, &a.v, sizeof a.v);
}
template <class V>
FPES_INLINE V load_u32(const std::uint32_t* p) {
    V a;
    std::memcpy(&a.v, p, sizeof a.v);
    return a;
}
// Lane i from p[i * stride].
template <class V>
FPES_INLINE V gather(const float* p, int stride) {
    return {Float4{p[0], p[stride], p[2 * stride], p[3 * stride]}};
}
// 4 signed bytes, widened to float.
template <class V>
FPES_INLINE V load_int8(const std::int8_t* p) {
    return {Float4{(float)p[0], (float)p[1], (float)p[2], (float)p[3]}};
}

template <bool ftz>
FPES_INLINE F32x4<ftz> fma(F32x4<ftz> a, F32x4<ftz> b, F32x4<ftz> c) {
    using namespace soft;
    const Float4 x = flush_exact<ftz>(a.v), y = flush_exact<ftz>(b.v), z = flush_exact<ftz>(c.v);
    const Double2 low = add_to_odd(widen_low(x) * widen_low(y), widen_low(z));
    const Double2 high = add_to_odd(widen_high(x) * widen_high(y), widen_high(z));
    return {round_to_float<ftz>(low, high)};
}
template <bool ftz>
FPES_INLINE F32x4<ftz> mul(F32x4<ftz> a, F32x4<ftz> b) {
    using namespace soft;
    const Float4 x = flush_exact<ftz>(a.v), y = flush_exact<ftz>(b.v);
    return {round_to_float<ftz>(widen_low(x) * widen_low(y), widen_high(x) * widen_high(y))};
}
// A sum of floats that falls below 2^-126 is a multiple of 2^-149 and so exact: nothing is rounded before the flush.
template <bool ftz>
FPES_INLINE F32x4<ftz> add(F32x4<ftz> a, F32x4<ftz> b) {
    return {soft::flush_exact<ftz>(soft::flush_exact<ftz>(a.v) + soft::flush_exact<ftz>(b.v))};
}
template <bool ftz>
FPES_INLINE F32x4<ftz> sub(F32x4<ftz> a, F32x4<ftz> b) {
    return {soft::flush_exact<ftz>(soft::flush_exact<ftz>(a.v) - soft::flush_exact<ftz>(b.v))};
}
template <bool ftz>
FPES_INLINE F32x4<ftz> sqrt(F32x4<ftz> a) {
    const Float4 x = soft::flush_exact<ftz>(a.v);  // the root of a normal number is normal
    return {Float4{::sqrtf(x[0]), ::sqrtf(x[1]), ::sqrtf(x[2]), ::sqrtf(x[3])}};
}

template <bool ftz>
FPES_INLINE Mask4 less(F32x4<ftz> a, F32x4<ftz> b) {
    return {soft::flush_exact<ftz>(a.v) < soft::flush_exact<ftz>(b.v)};
}
template <bool ftz>
FPES_INLINE Mask4 equal(F32x4<ftz> a, F32x4<ftz> b) {
    return {soft::flush_exact<ftz>(a.v) == soft::flush_exact<ftz>(b.v)};
}
template <bool ftz>
FPES_INLINE F32x4<ftz> select(Mask4 mask, F32x4<ftz> if_true, F32x4<ftz> if_false) {
    return {soft::choose(mask.v, if_true.v, if_false.v)};
}
template <bool ftz>
FPES_INLINE U32x4<ftz> select(Mask4 mask, U32x4<ftz> if_true, U32x4<ftz> if_false) {
    return {(Uint4)soft::choose(mask.v, (Float4)if_true.v, (Float4)if_false.v)};
}
// a if either is NaN, or both are zero.
template <bool ftz>
FPES_INLINE F32x4<ftz> larger(F32x4<ftz> a, F32x4<ftz> b) {
    return select(less(a, b), b, a);
}
template <bool ftz>
FPES_INLINE U32x4<ftz> as_u32(F32x4<ftz> a) {
    return {(Uint4)a.v};
}
template <bool ftz>
FPES_INLINE F32x4<ftz> as_f32(U32x4<ftz> a) {
    return {(Float4)a.v};
}
template <bool ftz>
FPES_INLINE F32x4<ftz> int_to_f32(U32x4<ftz> a) {
    return {__builtin_convertvector((Int4)a.v, Float4)};
}
template <bool ftz>
FPES_INLINE U32x4<ftz> f32_to_int(F32x4<ftz> a) {
    return {(Uint4) __builtin_convertvector(a.v, Int4)};
}

template <bool ftz>
FPES_INLINE U32x4<ftz> add(U32x4<ftz> a, U32x4<ftz> b) {
    return {a.v + b.v};
}
template <bool ftz>
FPES_INLINE U32x4<ftz> sub(U32x4<ftz> a, U32x4<ftz> b) {
    return {a.v - b.v};
}
template <bool ftz>
FPES_INLINE U32x4<ftz> bit_and(U32x4<ftz> a, U32x4<ftz> b) {
    return {a.v & b.v};
}
template <bool ftz>
FPES_INLINE U32x4<ftz> bit_or(U32x4<ftz> a, U32x4<ftz> b) {
    return {a.v | b.v};
}
template <bool ftz>
FPES_INLINE U32x4<ftz> bit_xor(U32x4<ftz> a, U32x4<ftz> b) {
    return {a.v ^ b.v};
}
template <int n, bool ftz>
FPES_INLINE U32x4<ftz> shift_left(U32x4<ftz> a) {
    return {a.v << n};
}
template <int n, bool ftz>
FPES_INLINE U32x4<ftz> shift_right(U32x4<ftz> a) {
    return {a.v >> n};
}
template <bool ftz>
FPES_INLINE void multiply_wide(U32x4<ftz> a, std::uint32_t factor, U32x4<ftz>& high, U32x4<ftz>& low) {
    for (int lane = 0; lane < 4; ++lane) {
        const std::uint64_t product = static_cast<std::uint64_t>(a.v[lane]) * factor;
        high.v[lane] = static_cast<std::uint32_t>(product >> 32);
        low.v[lane] = static_cast<std::uint32_t>(product);
    }
}

// sum + the products of both 16-bit halves of each lane, read as two's complement integers.
template <bool ftz>
FPES_INLINE U32x4<ftz> multiply_add_halves(U32x4<ftz> a, U32x4<ftz> b, U32x4<ftz> sum) {
    const Int4 x = (Int4)a.v, y = (Int4)b.v;
    const Int4 low = ((x << 16) >> 16) * ((y << 16) >> 16), high = (x >> 16) * (y >> 16);
    return {(Uint4)low + (Uint4)high + sum.v};
}
// Lane by lane, read as two's complement integers.
template <bool ftz>
FPES_INLINE U32x4<ftz> smaller_signed(U32x4<ftz> a, U32x4<ftz> b) {
    const Int4 less = (Int4)a.v < (Int4)b.v;
    return {(a.v & (Uint4)less) | (b.v & ~(Uint4)less)};
}
template <bool ftz>
FPES_INLINE bool any_equal(U32x4<ftz> a, std::uint32_t value) {
    return a.v[0] == value || a.v[1] == value || a.v[2] == value || a.v[3] == value;
}
// Subnormals become zeros of their sign, whatever the mode.
template <bool ftz>
FPES_INLINE F32x4<ftz> flush_subnormals(F32x4<ftz> a) {
    return {soft::flush_exact<true>(a.v)};
}
// A bit for each lane that isn't zero, of either sign.
template <bool ftz>
FPES_INLINE unsigned nonzero_lanes(F32x4<ftz> a) {
    unsigned bits = 0;
    for (int lane = 0; lane < 4; ++lane) bits |= static_cast<unsigned>((((Uint4)a.v)[lane] << 1) != 0) << lane;
    return bits;
}
// The lanes of a vector that aren't zero, of either sign, first in `order`, and how many they are.
struct NonzeroLanes4 {
    int order[4];
    int count;
};
template <bool ftz>
FPES_INLINE NonzeroLanes4 find_nonzero_lanes(F32x4<ftz> a) {
    NonzeroLanes4 lanes{};
    for (int lane = 0; lane < 4; ++lane) {
        lanes.order[lanes.count] = lane;
        lanes.count += (((Uint4)a.v)[lane] << 1) != 0;
    }
    return lanes;
}
// Stores those lanes of another vector one after another.
template <bool ftz>
FPES_INLINE void store_lanes(float* p, const NonzeroLanes4& lanes, F32x4<ftz> a) {
    for (int i = 0; i < lanes.count; ++i) p[i] = a.v[lanes.order[i]];
}
template <bool ftz>
FPES_INLINE void store_lanes(std::int32_t* p, const NonzeroLanes4& lanes, U32x4<ftz> n) {
    for (int i = 0; i < lanes.count; ++i) p[i] = static_cast<std::int32_t>(n.v[lanes.order[i]]);
}

// Ones in each 16-bit half of each lane, minus 8.
template <bool ftz>
FPES_INLINE U32x4<ftz> centred_popcount_halves(U32x4<ftz> a) {
    Uint4 n = a.v;
    n = n - ((n >> 1) & 0x55555555u);
    n = (n & 0x33333333u) + ((n >> 2) & 0x33333333u);
    n = (n + (n >> 4)) & 0x0f0f0f0fu;
    n = (n + (n >> 8)) & 0x00ff00ffu;
    return {((n | 0x80008000u) - 0x00080008u) ^ 0x80008000u};  // each half by itself: nothing is borrowed
}
// Eight small numbers of each lane's block, in the 16-bit halves of four vectors, as consecutive signed bytes:
// p[8 * lane + 2 * word + half].
template <bool ftz>
FPES_INLINE void store_halves_as_bytes(std::int8_t* p, U32x4<ftz> w0, U32x4<ftz> w1, U32x4<ftz> w2, U32x4<ftz> w3) {
    const Uint4 words[4] = {w0.v, w1.v, w2.v, w3.v};
    for (int lane = 0; lane < 4; ++lane) {
        for (int word = 0; word < 4; ++word) {
            p[8 * lane + 2 * word] = static_cast<std::int8_t>(words[word][lane] & 0xff);
            p[8 * lane + 2 * word + 1] = static_cast<std::int8_t>(words[word][lane] >> 16 & 0xff);
        }
    }
}
// p[4 * lane + i] = a, b, c or d.
template <bool ftz>
FPES_INLINE void store_interleaved(float* p, F32x4<ftz> a, F32x4<ftz> b, F32x4<ftz> c, F32x4<ftz> d) {
    for (int lane = 0; lane < 4; ++lane) {
        p[4 * lane] = a.v[lane];
        p[4 * lane + 1] = b.v[lane];
        p[4 * lane + 2] = c.v[lane];
        p[4 * lane + 3] = d.v[lane];
    }
}
// 32 bytes: +1 for each bit that is set, else -1.
template <class V>
FPES_INLINE void store_signs(std::int8_t* p, std::uint32_t bits) {
    for (int bit = 0; bit < 32; ++bit) p[bit] = (bits >> bit & 1) != 0 ? 1 : -1;
}

FPES_NAMESPACE_END

// The vector concept of common/scalar.hpp for AVX2 with FMA: 8 lanes.
//
// Flushing is the hardware's: MXCSR's FTZ and DAZ bits apply to every operation here (see fp_mode.hpp), so the same
// type serves both modes.
#pragma once

#include "../../common/scalar.hpp"

FPES_NAMESPACE_BEGIN

struct F32x8 {
    __m256 v;
};
struct U32x8 {
    __m256i v;
};
struct Mask8 {
    __m256 v;  // all bits of a lane set, or none
};

template <>
struct VectorTraits<F32x8> {
    static constexpr int lanes = 8;
    using U = U32x8;
    using Mask = Mask8;
};

// The vector types that the kernels are instantiated for.
using F32Ieee = F32x8;
using F32Ftz = F32x8;
constexpr int max_tile_rows = 6;  // 6 x 2 accumulators, 2 panel vectors, 1 broadcast: 15 of 16 registers
constexpr int part_depth = 512;   // k's of a product at a time: see kernels/product.hpp

template <>
FPES_INLINE F32x8 splat<F32x8>(float x) {
    return {_mm256_set1_ps(x)};
}
template <>
FPES_INLINE U32x8 splat<U32x8>(std::uint32_t x) {
    return {_mm256_set1_epi32(static_cast<int>(x))};
}
template <class V>
FPES_INLINE V load(const float* p);
template <>
FPES_INLINE F32x8 load<F32x8>(const float* p) {
    return {_mm256_loadu_ps(p)};
}
FPES_INLINE void store(float* p, F32x8 a) { _mm256_storeu_ps(p, a.v); }
template <class V>
FPES_INLINE V load_u32(const std::uint32_t* p);
template <>
FPES_INLINE U32x8 load_u32<U32x8>(const std::uint32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
// Lane i from p[i * stride].
template <class V>
FPES_INLINE V gather(const float* p, int stride);
template <>
FPES_INLINE F32x8 gather<F32x8>(const float* p, int stride) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_i32gather_ps(p, _mm256_mullo_epi32(lane, _mm256_set1_epi32(stride)), 4)};
}
// 8 signed bytes, widened to float.
template <class V>
FPES_INLINE V load_int8(const std::int8_t* p);
template <>
FPES_INLINE F32x8 load_int8<F32x8>(const std::int8_t* p) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))};
}

FPES_INLINE F32x8 add(F32x8 a, F32x8 b) { return {_mm256_add_ps(a.v, b.v)}; }
FPES_INLINE F32x8 sub(F32x8 a, F32x8 b) { return {_mm256_sub_ps(a.v, b.v)}; }
FPES_INLINE F32x8 mul(F32x8 a, F32x8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
FPES_INLINE F32x8 div(F32x8 a, F32x8 b) { return {_mm256_div_ps(a.v, b.v)}; }
FPES_INLINE F32x8 sqrt(F32x8 a) { return {_mm256_sqrt_ps(a.v)}; }
FPES_INLINE F32x8 fma(F32x8 a, F32x8 b, F32x8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

FPES_INLINE Mask8 less(F32x8 a, F32x8 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
FPES_INLINE Mask8 equal(F32x8 a, F32x8 b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
FPES_INLINE F32x8 select(Mask8 mask, F32x8 if_true, F32x8 if_false) {
    return {_mm256_blendv_ps(if_false.v, if_true.v, mask.v)};
}
// a if either is NaN, or both are zero: the instruction's second operand.
FPES_INLINE F32x8 larger(F32x8 a, F32x8 b) { return {_mm256_max_ps(b.v, a.v)}; }
FPES_INLINE U32x8 as_u32(F32x8 a) { return {_mm256_castps_si256(a.v)}; }
FPES_INLINE F32x8 as_f32(U32x8 a) { return {_mm256_castsi256_ps(a.v)}; }
FPES_INLINE F32x8 int_to_f32(U32x8 a) { return {_mm256_cvtepi32_ps(a.v)}; }
FPES_INLINE U32x8 f32_to_int(F32x8 a) { return {_mm256_cvtps_epi32(a.v)}; }

FPES_INLINE U32x8 select(Mask8 mask, U32x8 if_true, U32x8 if_false) {
    return as_u32(select(mask, as_f32(if_true), as_f32(if_false)));
}
FPES_INLINE U32x8 add(U32x8 a, U32x8 b) { return {_mm256_add_epi32(a.v, b.v)}; }
FPES_INLINE U32x8 sub(U32x8 a, U32x8 b) { return {_mm256_sub_epi32(a.v, b.v)}; }
FPES_INLINE U32x8 bit_and(U32x8 a, U32x8 b) { return {_mm256_and_si256(a.v, b.v)}; }
FPES_INLINE U32x8 bit_or(U32x8 a, U32x8 b) { return {_mm256_or_si256(a.v, b.v)}; }
FPES_INLINE U32x8 bit_xor(U32x8 a, U32x8 b) { return {_mm256_xor_si256(a.v, b.v)}; }
template <int n>
FPES_INLINE U32x8 shift_left(U32x8 a) {
    return {_mm256_slli_epi32(a.v, n)};
}
template <int n>
FPES_INLINE U32x8 shift_right(U32x8 a) {
    return {_mm256_srli_epi32(a.v, n)};
}
// sum + the products of both 16-bit halves of each lane, read as two's complement integers.
FPES_INLINE U32x8 multiply_add_halves(U32x8 a, U32x8 b, U32x8 sum) {
    return {_mm256_add_epi32(_mm256_madd_epi16(a.v, b.v), sum.v)};
}
// Lane by lane, read as two's complement integers.
FPES_INLINE U32x8 smaller_signed(U32x8 a, U32x8 b) { return {_mm256_min_epi32(a.v, b.v)}; }
FPES_INLINE bool any_equal(U32x8 a, std::uint32_t value) {
    return _mm256_movemask_epi8(_mm256_cmpeq_epi32(a.v, _mm256_set1_epi32(static_cast<int>(value)))) != 0;
}
// Subnormals become zeros of their sign, whatever the mode: zero where no bit of the exponent is set.
FPES_INLINE F32x8 flush_subnormals(F32x8 a) {
    const __m256i exponent = _mm256_and_si256(as_u32(a).v, _mm256_set1_epi32(0x7f800000));
    const __m256i magnitude = _mm256_srli_epi32(_mm256_cmpeq_epi32(exponent, _mm256_setzero_si256()), 1);
    return {_mm256_andnot_ps(_mm256_castsi256_ps(magnitude), a.v)};
}
// A bit for each lane that isn't zero, of either sign.
FPES_INLINE unsigned nonzero_lanes(F32x8 a) {
    const __m256i magnitude = _mm256_slli_epi32(as_u32(a).v, 1);
    const __m256i zero = _mm256_cmpeq_epi32(magnitude, _mm256_setzero_si256());
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(zero))) ^ 0xffu;
}
// The lanes of a vector that aren't zero, of either sign, first in `order`, and how many they are.
struct NonzeroLanes8 {
    __m256i order;
    int count;
};
FPES_INLINE NonzeroLanes8 find_nonzero_lanes(F32x8 a) {
    const unsigned mask = nonzero_lanes(a);
    // The bits that are set in the mask, as bytes, pick the numbers of their lanes.
    const std::uint64_t chosen = _pdep_u64(mask, 0x0101010101010101u) * 0xff;
    const std::uint64_t lanes = _pext_u64(0x0706050403020100u, chosen);
    return {_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<long long>(lanes))), __builtin_popcount(mask)};
}
// Stores those lanes of another vector one after another; what is behind them, up to a vector's length, is overwritten
// too.
FPES_INLINE void store_lanes(float* p, NonzeroLanes8 lanes, F32x8 a) {
    _mm256_storeu_ps(p, _mm256_permutevar8x32_ps(a.v, lanes.order));
}
FPES_INLINE void store_lanes(std::int32_t* p, NonzeroLanes8 lanes, U32x8 n) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permutevar8x32_epi32(n.v, lanes.order));
}
// The multiplier takes the even lanes only; the odd ones are brought down, multiplied, and the halves put back.
FPES_INLINE void multiply_wide(U32x8 a, std::uint32_t factor, U32x8& high, U32x8& low) {
    const __m256i f = _mm256_set1_epi32(static_cast<int>(factor));
    const __m256i even = _mm256_mul_epu32(a.v, f);
    const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a.v, 32), f);
    high.v = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    low.v = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}

// Ones in each 16-bit half of each lane, minus 8: a table of nibbles, then the two bytes of the half added.
FPES_INLINE U32x8 centred_popcount_halves(U32x8 a) {
    const __m256i table =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(-2, -1, -1, 0, -1, 0, 0, 1, -1, 0, 0, 1, 0, 1, 1, 2));
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i low = _mm256_shuffle_epi8(table, _mm256_and_si256(a.v, nibble));
    const __m256i high = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(a.v, 4), nibble));
    return {_mm256_maddubs_epi16(_mm256_set1_epi8(1), _mm256_add_epi8(low, high))};
}
// Eight small numbers of each lane's block, in the 16-bit halves of four vectors, as consecutive signed bytes:
// p[8 * lane + 2 * word + half].
FPES_INLINE void store_halves_as_bytes(std::int8_t* p, U32x8 w0, U32x8 w1, U32x8 w2, U32x8 w3) {
    // Packing leaves, in each half, four pairs of the one word before four pairs of the other.
    const __m256i first = _mm256_packs_epi16(w0.v, w1.v), second = _mm256_packs_epi16(w2.v, w3.v);
    const __m256i gather =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15));
    const __m256i w01 = _mm256_shuffle_epi8(first, gather), w23 = _mm256_shuffle_epi8(second, gather);
    const __m256i lower = _mm256_unpacklo_epi32(w01, w23);  // lanes 0, 1 and 4, 5
    const __m256i upper = _mm256_unpackhi_epi32(w01, w23);  // lanes 2, 3 and 6, 7
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute2x128_si256(lower, upper, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), _mm256_permute2x128_si256(lower, upper, 0x31));
}
// p[4 * lane + i] = a, b, c or d.
FPES_INLINE void store_interleaved(float* p, F32x8 a, F32x8 b, F32x8 c, F32x8 d) {
    const __m256 ab_low = _mm256_unpacklo_ps(a.v, b.v), ab_high = _mm256_unpackhi_ps(a.v, b.v);
    const __m256 cd_low = _mm256_unpacklo_ps(c.v, d.v), cd_high = _mm256_unpackhi_ps(c.v, d.v);
    // Lane 4 h + i is now in half h of the i-th of these.
    const __m256 lane0 = _mm256_shuffle_ps(ab_low, cd_low, 0x44), lane1 = _mm256_shuffle_ps(ab_low, cd_low, 0xEE);
    const __m256 lane2 = _mm256_shuffle_ps(ab_high, cd_high, 0x44), lane3 = _mm256_shuffle_ps(ab_high, cd_high, 0xEE);
    _mm256_storeu_ps(p, _mm256_permute2f128_ps(lane0, lane1, 0x20));
    _mm256_storeu_ps(p + 8, _mm256_permute2f128_ps(lane2, lane3, 0x20));
    _mm256_storeu_ps(p + 16, _mm256_permute2f128_ps(lane0, lane1, 0x31));
    _mm256_storeu_ps(p + 24, _mm256_permute2f128_ps(lane2, lane3, 0x31));
}
// 32 bytes: +1 for each bit that is set, else -1.
template <class V>
FPES_INLINE void store_signs(std::int8_t* p, std::uint32_t bits);
template <>
FPES_INLINE void store_signs<F32x8>(std::int8_t* p, std::uint32_t bits) {
    const __m256i byte_of = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1,  //
                                             2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit_of = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201u));
    const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), byte_of);
    const __m256i unset = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit_of), _mm256_setzero_si256());  // -1 or 0
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_or_si256(unset, _mm256_set1_epi8(1)));
}

FPES_NAMESPACE_END

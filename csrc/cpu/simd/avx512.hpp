// The vector concept of common/scalar.hpp for AVX-512 (F, BW, DQ, VL, and VNNI where the file has it): 16 lanes.
//
// Flushing is the hardware's: MXCSR's FTZ and DAZ bits apply to every operation here (see fp_mode.hpp), so the same
// type serves both modes.
#pragma once

#include "../../common/scalar.hpp"

FPES_NAMESPACE_BEGIN

struct F32x16 {
    __m512 v;
};
struct U32x16 {
    __m512i v;
};
struct Mask16 {
    __mmask16 v;
};

template <>
struct VectorTraits<F32x16> {
    static constexpr int lanes = 16;
    using U = U32x16;
    using Mask = Mask16;
};

// The vector types that the kernels are instantiated for.
using F32Ieee = F32x16;
using F32Ftz = F32x16;
constexpr int max_tile_rows = 12;  // 12 x 2 accumulators, 2 panel vectors, 1 broadcast: 27 of 32 registers
constexpr int part_depth = 1024;   // k's of a product at a time: see kernels/product.hpp

template <>
FPES_INLINE F32x16 splat<F32x16>(float x) {
    return {_mm512_set1_ps(x)};
}
template <>
FPES_INLINE U32x16 splat<U32x16>(std::uint32_t x) {
    return {_mm512_set1_epi32(static_cast<int>(x))};
}
template <class V>
FPES_INLINE V load(const float* p);
template <>
FPES_INLINE F32x16 load<F32x16>(const float* p) {
    return {_mm512_loadu_ps(p)};
}
FPES_INLINE void store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }
template <class V>
FPES_INLINE V load_u32(const std::uint32_t* p);
template <>
FPES_INLINE U32x16 load_u32<U32x16>(const std::uint32_t* p) {
    return {_mm512_loadu_si512(p)};
}
// Lane i from p[i * stride].
template <class V>
FPES_INLINE V gather(const float* p, int stride);
template <>
FPES_INLINE F32x16 gather<F32x16>(const float* p, int stride) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return {_mm512_i32gather_ps(_mm512_mullo_epi32(lane, _mm512_set1_epi32(stride)), p, 4)};
}
// 16 signed bytes, widened to float.
template <class V>
FPES_INLINE V load_int8(const std::int8_t* p);
template <>
FPES_INLINE F32x16 load_int8<F32x16>(const std::int8_t* p) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}

FPES_INLINE F32x16 add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
FPES_INLINE F32x16 sub(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
FPES_INLINE F32x16 mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
FPES_INLINE F32x16 div(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
FPES_INLINE F32x16 sqrt(F32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
FPES_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

FPES_INLINE Mask16 less(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
FPES_INLINE Mask16 equal(F32x16 a, F32x16 b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
FPES_INLINE F32x16 select(Mask16 mask, F32x16 if_true, F32x16 if_false) {
    return {_mm512_mask_blend_ps(mask.v, if_false.v, if_true.v)};
}
FPES_INLINE U32x16 select(Mask16 mask, U32x16 if_true, U32x16 if_false) {
    return {_mm512_mask_blend_epi32(mask.v, if_false.v, if_true.v)};
}
// a if either is NaN, or both are zero: the instruction's second operand.
FPES_INLINE F32x16 larger(F32x16 a, F32x16 b) { return {_mm512_max_ps(b.v, a.v)}; }
FPES_INLINE U32x16 as_u32(F32x16 a) { return {_mm512_castps_si512(a.v)}; }
FPES_INLINE F32x16 as_f32(U32x16 a) { return {_mm512_castsi512_ps(a.v)}; }
FPES_INLINE F32x16 int_to_f32(U32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }
FPES_INLINE U32x16 f32_to_int(F32x16 a) { return {_mm512_cvtps_epi32(a.v)}; }

FPES_INLINE U32x16 add(U32x16 a, U32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
FPES_INLINE U32x16 sub(U32x16 a, U32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
FPES_INLINE U32x16 bit_and(U32x16 a, U32x16 b) { return {_mm512_and_si512(a.v, b.v)}; }
FPES_INLINE U32x16 bit_or(U32x16 a, U32x16 b) { return {_mm512_or_si512(a.v, b.v)}; }
FPES_INLINE U32x16 bit_xor(U32x16 a, U32x16 b) { return {_mm512_xor_si512(a.v, b.v)}; }
template <int n>
FPES_INLINE U32x16 shift_left(U32x16 a) {
    return {_mm512_slli_epi32(a.v, n)};
}
template <int n>
FPES_INLINE U32x16 shift_right(U32x16 a) {
    return {_mm512_srli_epi32(a.v, n)};
}
// sum + the products of both 16-bit halves of each lane, read as two's complement integers.
FPES_INLINE U32x16 multiply_add_halves(U32x16 a, U32x16 b, U32x16 sum) {
#if defined(FPES_VNNI)
    return {_mm512_dpwssd_epi32(sum.v, a.v, b.v)};
#else
    return {_mm512_add_epi32(_mm512_madd_epi16(a.v, b.v), sum.v)};
#endif
}
// Lane by lane, read as two's complement integers.
FPES_INLINE U32x16 smaller_signed(U32x16 a, U32x16 b) { return {_mm512_min_epi32(a.v, b.v)}; }
FPES_INLINE bool any_equal(U32x16 a, std::uint32_t value) {
    return _mm512_cmpeq_epi32_mask(a.v, _mm512_set1_epi32(static_cast<int>(value))) != 0;
}
// Subnormals become zeros of their sign, whatever the mode: zero where no bit of the exponent is set.
FPES_INLINE F32x16 flush_subnormals(F32x16 a) {
    const __mmask16 tiny = _mm512_testn_epi32_mask(as_u32(a).v, _mm512_set1_epi32(0x7f800000));
    return as_f32(U32x16{_mm512_mask_and_epi32(as_u32(a).v, tiny, as_u32(a).v, _mm512_set1_epi32(INT32_MIN))});
}
// A bit for each lane that isn't zero, of either sign.
FPES_INLINE unsigned nonzero_lanes(F32x16 a) {
    return _mm512_test_epi32_mask(as_u32(a).v, _mm512_set1_epi32(0x7fffffff));
}
// The lanes of a vector that aren't zero, of either sign, and how many they are.
struct NonzeroLanes16 {
    __mmask16 mask;
    int count;
};
FPES_INLINE NonzeroLanes16 find_nonzero_lanes(F32x16 a) {
    const unsigned mask = nonzero_lanes(a);
    return {static_cast<__mmask16>(mask), __builtin_popcount(mask)};
}
// Stores those lanes of another vector one after another. What is behind them, up to a vector's length, is overwritten
// too: a compressing store that leaves it alone is slow on Zen 4.
FPES_INLINE void store_lanes(float* p, NonzeroLanes16 lanes, F32x16 a) {
    _mm512_storeu_ps(p, _mm512_maskz_compress_ps(lanes.mask, a.v));
}
FPES_INLINE void store_lanes(std::int32_t* p, NonzeroLanes16 lanes, U32x16 n) {
    _mm512_storeu_si512(p, _mm512_maskz_compress_epi32(lanes.mask, n.v));
}
// The multiplier takes the even lanes only; the odd ones are brought down, multiplied, and the halves put back.
FPES_INLINE void multiply_wide(U32x16 a, std::uint32_t factor, U32x16& high, U32x16& low) {
    const __m512i f = _mm512_set1_epi32(static_cast<int>(factor));
    const __m512i even = _mm512_mul_epu32(a.v, f);
    const __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64(a.v, 32), f);
    high.v = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
    low.v = _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CCAA);
}

// Ones in each 16-bit half of each lane, minus 8: a table of nibbles, then the two bytes of the half added.
FPES_INLINE U32x16 centred_popcount_halves(U32x16 a) {
    const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(-2, -1, -1, 0, -1, 0, 0, 1, -1, 0, 0, 1, 0, 1, 1, 2));
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i low = _mm512_shuffle_epi8(table, _mm512_and_si512(a.v, nibble));
    const __m512i high = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(a.v, 4), nibble));
    return {_mm512_maddubs_epi16(_mm512_set1_epi8(1), _mm512_add_epi8(low, high))};
}
// Eight small numbers of each lane's block, in the 16-bit halves of four vectors, as consecutive signed bytes:
// p[8 * lane + 2 * word + half].
FPES_INLINE void store_halves_as_bytes(std::int8_t* p, U32x16 w0, U32x16 w1, U32x16 w2, U32x16 w3) {
    // Packing leaves, in each quarter, four pairs of the one word before four pairs of the other.
    const __m512i first = _mm512_packs_epi16(w0.v, w1.v), second = _mm512_packs_epi16(w2.v, w3.v);
    // A block's pairs: i and i + 4 of `first`, then of `second`, whose pairs count from 32.
    const __m512i lower = _mm512_set_epi16(47, 43, 15, 11, 46, 42, 14, 10, 45, 41, 13, 9, 44, 40, 12, 8,  //
                                           39, 35, 7, 3, 38, 34, 6, 2, 37, 33, 5, 1, 36, 32, 4, 0);
    const __m512i upper = _mm512_add_epi16(lower, _mm512_set1_epi16(16));
    _mm512_storeu_si512(p, _mm512_permutex2var_epi16(first, lower, second));
    _mm512_storeu_si512(p + 64, _mm512_permutex2var_epi16(first, upper, second));
}
// p[4 * lane + i] = a, b, c or d.
FPES_INLINE void store_interleaved(float* p, F32x16 a, F32x16 b, F32x16 c, F32x16 d) {
    const __m512 ab_low = _mm512_unpacklo_ps(a.v, b.v), ab_high = _mm512_unpackhi_ps(a.v, b.v);
    const __m512 cd_low = _mm512_unpacklo_ps(c.v, d.v), cd_high = _mm512_unpackhi_ps(c.v, d.v);
    // Lane 4 q + i is now in quarter q of the i-th of these.
    const __m512 lane[4] = {_mm512_shuffle_ps(ab_low, cd_low, 0x44), _mm512_shuffle_ps(ab_low, cd_low, 0xEE),
                            _mm512_shuffle_ps(ab_high, cd_high, 0x44), _mm512_shuffle_ps(ab_high, cd_high, 0xEE)};
    const __m512 even0 = _mm512_shuffle_f32x4(lane[0], lane[1], 0x44),
                 odd0 = _mm512_shuffle_f32x4(lane[2], lane[3], 0x44);
    const __m512 even1 = _mm512_shuffle_f32x4(lane[0], lane[1], 0xEE),
                 odd1 = _mm512_shuffle_f32x4(lane[2], lane[3], 0xEE);
    _mm512_storeu_ps(p, _mm512_shuffle_f32x4(even0, odd0, 0x88));
    _mm512_storeu_ps(p + 16, _mm512_shuffle_f32x4(even0, odd0, 0xDD));
    _mm512_storeu_ps(p + 32, _mm512_shuffle_f32x4(even1, odd1, 0x88));
    _mm512_storeu_ps(p + 48, _mm512_shuffle_f32x4(even1, odd1, 0xDD));
}
// 32 bytes: +1 for each bit that is set, else -1.
template <class V>
FPES_INLINE void store_signs(std::int8_t* p, std::uint32_t bits);
template <>
FPES_INLINE void store_signs<F32x16>(std::int8_t* p, std::uint32_t bits) {
    const __m256i signs = _mm256_mask_blend_epi8(bits, _mm256_set1_epi8(-1), _mm256_set1_epi8(1));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), signs);
}

FPES_NAMESPACE_END

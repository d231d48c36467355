// The device operations (csrc/cuda/intrinsics.hpp) without a GPU.
//
// A kernel of the ftz build runs with MXCSR's FTZ and DAZ set, so plain operators flush as they do on the device. What
// must not flush is computed without the hardware's help where that could flush: from integers, and in double, which
// has room for every product of two floats and for every sum.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../../../../csrc/common/scalar.hpp"
#include "platform.hpp"

FPES_NAMESPACE_BEGIN

namespace soft {

inline double from_bits(std::uint64_t bits) {
    double a;
    std::memcpy(&a, &bits, sizeof a);
    return a;
}
inline std::uint64_t bits_of(double a) {
    std::uint64_t bits;
    std::memcpy(&bits, &a, sizeof bits);
    return bits;
}

inline bool is_subnormal(std::uint32_t bits) { return (bits & 0x7f800000u) == 0 && (bits & 0x007fffffu) != 0; }

inline double widen(float a) {
    const std::uint32_t bits = as_u32(a);
    if (!is_subnormal(bits)) return static_cast<double>(a);
    const double magnitude = static_cast<double>(static_cast<std::int32_t>(bits & 0x007fffffu)) * 0x1p-149;
    return bits >> 31 ? -magnitude : magnitude;
}

// To the nearest float, subnormal ones too. Integers of 2^-149 are the subnormal grid, and 2^23 of them 2^-126.
inline float narrow(double a) {
    if (!(std::fabs(a) < 0x1p-126)) return static_cast<float>(a);
    const auto steps = static_cast<std::uint32_t>(std::lrint(std::fabs(a) * 0x1p149));
    return as_f32(steps | (std::signbit(a) ? 0x80000000u : 0u));
}

// The sum rounded to odd, which can then be rounded to a float without harm (Boldo, Melquiond 2008; see
// csrc/cpu/simd/baseline.hpp).
inline double add_to_odd(double a, double b) {
    const double sum = a + b, b_part = sum - a;
    const double error = (a - (sum - b_part)) + (b - b_part);
    if (!(error < 0.0 || error > 0.0) || (bits_of(sum) & 1)) return sum;
    return from_bits(bits_of(sum) + ((error > 0.0) == (sum > 0.0) ? 1 : -1));
}

// Out of line: the fast path below is all that most calls need.
[[gnu::noinline]] inline float fma(float a, float b, float c) {
    return narrow(add_to_odd(widen(a) * widen(b), widen(c)));
}

}  // namespace soft

inline float fma_ieee(float a, float b, float c) {
    const float result = ::fmaf(a, b, c);
    if (FPES_FTZ) {
        // The hardware is right where no operand was a subnormal number and no result became zero.
        const bool fits = (as_u32(result) & 0x7f800000u) != 0 && !soft::is_subnormal(as_u32(a)) &&
                          !soft::is_subnormal(as_u32(b)) && !soft::is_subnormal(as_u32(c));
        if (!fits) return soft::fma(a, b, c);
    }
    return result;
}

inline double to_double(float a) { return soft::widen(a); }
inline float to_float(double a) { return soft::narrow(a); }

inline int population_count(std::uint32_t a) { return __builtin_popcount(a); }

inline void load4(const float* p, float* v) {
    shim::check_alignment(p, 16, "a load of 16 bytes");
    std::memcpy(v, p, 16);
}
inline void store4(float* p, const float* v) {
    shim::check_alignment(p, 16, "a store of 16 bytes");
    std::memcpy(p, v, 16);
}

template <int floats>
void copy_async(float* shared, const float* global, bool inside) {
    shim::start_copy(shared, global, sizeof(float) * floats, !inside);
}
inline void commit_copies() { shim::commit_copies(); }
template <int groups>
void wait_for_copies() {
    shim::wait_for_copies(groups);
}

// One block runs at a time, and one thread of it.
inline void add_integer(std::int64_t* sum, std::int64_t value) { *sum += value; }
inline unsigned publish_and_count(unsigned* count, unsigned value) {
    const unsigned before = *count;
    if (before == shim::never_set) throw std::logic_error("a kernel adds to a count that nobody has set to zero");
    *count += value;
    return before;
}
inline float load_from_other_block(const float* p) { return *p; }

FPES_NAMESPACE_END

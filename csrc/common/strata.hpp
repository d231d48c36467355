// The choice of k perturbed units among the n units of a layer. The units are divided into k strata of nearly equal
// size, and one unit is chosen in each. So the chosen units ascend and differ, and each unit has probability k / n.
#pragma once

#include "philox.hpp"

FPES_NAMESPACE_BEGIN

struct Stratum {
    std::int32_t start;
    std::uint32_t size;
};
FPES_INLINE Stratum stratum(int j, int n, int k) {
    const auto start = static_cast<std::int32_t>(static_cast<std::int64_t>(j) * n / k);
    const auto end = static_cast<std::int32_t>(static_cast<std::int64_t>(j + 1) * n / k);
    return {start, static_cast<std::uint32_t>(end - start)};
}

// The stratum of a unit.
FPES_INLINE int stratum_of(int unit, int n, int k) {
    return static_cast<int>((static_cast<std::int64_t>(unit + 1) * k - 1) / n);
}

// The unit that 32 random bits choose: start + floor(bits size / 2^32).
FPES_INLINE std::int32_t unit_in(const Stratum& stratum, std::uint32_t bits) {
    std::uint32_t offset, rest;
    multiply_wide(bits, stratum.size, offset, rest);
    return stratum.start + static_cast<std::int32_t>(offset);
}

FPES_NAMESPACE_END

// The noise of a population: which Philox counter belongs to which element of which tensor, and what the bits mean.
//
// Counter = (block, tensor, pair, generation), key = the seed. The four fields fill the four 32-bit words of the
// counter, so no two (tensor, pair, generation) can share one: Python checks that each field fits.
#pragma once

#include "philox.hpp"

namespace fpes {

enum class NoiseKind : int {
    binomial = 0,    // z = popcount(16 bits) - 8: an integer, variance 4, excess kurtosis -0.125
    rademacher = 1,  // z = +1 or -1, one bit each
    gaussian = 2,    // Box-Muller, float32: the reference
};

// What a tensor of noise is for. Eight ids for each owner; all tensors are row-major.
enum class NoiseRole : std::uint32_t {
    weight = 0,     // [fan_in, fan_out]
    bias = 1,       // [fan_out]
    factor_a = 2,   // [rank, fan_in]
    factor_b = 3,   // [rank, fan_out]
    node = 4,       // [batch, fan_out]
    positions = 5,  // which units carry sparse node noise
    direction = 6,  // of one unit's weights: signs, [batch] or [fan_in]
    init = 7,       // initial weights, [fan_in, fan_out]
};

// One tensor of noise of one pair of members in one generation.
struct NoiseStream {
    PhiloxKey key;
    std::uint32_t tensor;
    std::uint32_t pair;
    std::uint32_t generation;
    NoiseKind kind;
};

}  // namespace fpes

FPES_NAMESPACE_BEGIN

// z * noise_unit has variance 1.
FPES_INLINE constexpr double noise_unit(NoiseKind kind) { return kind == NoiseKind::binomial ? 0.5 : 1.0; }

// How many elements one 128-bit block holds.
FPES_INLINE constexpr int elements_per_block(NoiseKind kind) {
    return kind == NoiseKind::binomial ? 8 : kind == NoiseKind::rademacher ? 128 : 4;
}

// The largest |z|, which bounds exact integer sums.
FPES_INLINE constexpr int largest_integer(NoiseKind kind) { return kind == NoiseKind::binomial ? 8 : 1; }

// owner: the index of a tensor of parameters, or the position of a step where noise is on its nodes.
FPES_INLINE constexpr std::uint32_t noise_tensor(int owner, NoiseRole role) {
    return 8u * static_cast<std::uint32_t>(owner) + static_cast<std::uint32_t>(role);
}

FPES_INLINE PhiloxCounters counters_of(const NoiseStream& stream) {
    return {stream.tensor, stream.pair, stream.generation, stream.key};
}

FPES_NAMESPACE_END

// The noise of a population: the Philox counter of each element of each tensor, and the meaning of the bits.
//
// Counter = (block, tensor, pair, generation), key = the seed. The four fields fill the four 32-bit words of the
// counter, so no two (tensor, pair, generation) can share one. Python checks that each field fits.
#pragma once

#include "philox.hpp"

namespace fpes {

enum class NoiseKind : int {
    binomial = 0,    // z = popcount(16 bits) - 8: an integer, variance 4, excess kurtosis -0.125
    rademacher = 1,  // z = +1 or -1, one bit each
    gaussian = 2,    // Box-Muller, float32: the reference
};

// The role of a tensor of noise. Each owner has eight ids. All tensors are row-major.
enum class NoiseRole : std::uint32_t {
    weight = 0,     // [fan_in, fan_out]
    bias = 1,       // [fan_out]
    factor_a = 2,   // [rank, fan_in]
    factor_b = 3,   // [rank, fan_out]
    node = 4,       // [batch, fan_out]
    positions = 5,  // the perturbed units, if a pair perturbs only some
    direction = 6,  // signs for the direction of one unit's weights, [batch] or [fan_in]
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

// Number of elements in one 128-bit block.
FPES_INLINE constexpr int elements_per_block(NoiseKind kind) {
    return kind == NoiseKind::binomial ? 8 : kind == NoiseKind::rademacher ? 128 : 4;
}

// The largest |z|, which bounds exact integer sums.
FPES_INLINE constexpr int largest_integer(NoiseKind kind) { return kind == NoiseKind::binomial ? 8 : 1; }

// owner: the index of a tensor of parameters, or the position of a step if noise is on its nodes.
FPES_INLINE constexpr std::uint32_t noise_tensor(int owner, NoiseRole role) {
    return 8u * static_cast<std::uint32_t>(owner) + static_cast<std::uint32_t>(role);
}

FPES_INLINE PhiloxCounters counters_of(const NoiseStream& stream) {
    return {stream.tensor, stream.pair, stream.generation, stream.key};
}

FPES_NAMESPACE_END

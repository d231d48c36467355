// Which of a layer's units a pair perturbs, where they are few.
#pragma once

#include "../common/strata.hpp"
#include "draws.hpp"

FPES_NAMESPACE_BEGIN

// The j-th of k perturbed units of a layer, for one sample.
FPES_DEVICE int perturbed_unit(const Counters& positions, std::int64_t sample, int j, int k, int units) {
    const auto element = static_cast<std::uint64_t>(sample) * k + j;
    const auto block = philox4x32_7(positions, static_cast<std::uint32_t>(element / 4));
    return unit_in(stratum(j, units, k), word_of(block, static_cast<int>(element % 4)));
}

// Element j of a pair's right factor, [units], of which k are perturbed: zero where unit j isn't chosen. A unit can
// only be chosen in its own stratum.
FPES_DEVICE float scattered_factor(const NoiseSource& noise, NoiseRole right, int tensor, std::int64_t pair, int j,
                                   int k, int units) {
    const int mine = stratum_of(j, units, k);
    const Counters positions = noise.counters(noise_tensor(tensor, NoiseRole::positions), pair);
    if (perturbed_unit(positions, 0, mine, k, units) != j) return 0.0f;
    return draw_one(noise.kind, noise.counters(noise_tensor(tensor, right), pair), static_cast<std::uint64_t>(mine));
}

FPES_NAMESPACE_END

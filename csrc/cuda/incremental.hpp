// Which pairs perturb a layer, where each pair perturbs one, and which of its units.
#pragma once

#include "draws.hpp"
#include "population.hpp"

FPES_NAMESPACE_BEGIN

// Of every `cycle` pairs in a row, those from `offset` on, `run` of them, perturb the layer.
struct Turn {
    std::int64_t cycle;
    std::int64_t offset;
    std::int64_t run;
    // The i-th of them.
    FPES_DEVICE std::int64_t pair(std::int64_t i) const { return i / run * cycle + offset + i % run; }
    FPES_DEVICE bool has(std::int64_t pair) const {
        const std::int64_t place = pair % cycle - offset;
        return place >= 0 && place < run;
    }
};
Turn turn_of(const Population& population, int layer);

// Activations [samples, fan_out] of the unperturbed network from its sums, times a power of two.
void cross_sums(const Context& context, const DeviceLayer& layer, const float* sums, std::int64_t samples, float factor,
                float* out);

// The j-th of k perturbed units of a layer, for one sample: chosen in the j-th of k strata (cpu/kernels_changes.hpp).
FPES_DEVICE int perturbed_unit(const Counters& positions, std::int64_t sample, int j, int k, int units) {
    const auto element = static_cast<std::uint64_t>(sample) * k + j;
    const auto block = philox4x32_7(positions, static_cast<std::uint32_t>(element / 4));
    const auto start = static_cast<std::int32_t>(static_cast<std::int64_t>(j) * units / k);
    const auto end = static_cast<std::int32_t>(static_cast<std::int64_t>(j + 1) * units / k);
    std::uint32_t offset, rest;
    multiply_wide(word_of(block, static_cast<int>(element % 4)), static_cast<std::uint32_t>(end - start), offset, rest);
    return start + static_cast<int>(offset);
}

// Element j of the right factor of a rank-one perturbation of k units, [units]: zero where unit j isn't chosen. A unit
// can only be chosen in its own stratum.
FPES_DEVICE float scattered_factor(const NoiseSource& noise, int tensor, std::int64_t pair, int j, int k, int units) {
    const auto stratum = static_cast<int>((static_cast<std::int64_t>(j + 1) * k - 1) / units);
    const Counters positions = noise.counters(noise_tensor(tensor, NoiseRole::positions), pair);
    if (perturbed_unit(positions, 0, stratum, k, units) != j) return 0.0f;
    return draw_one(noise.kind, noise.counters(noise_tensor(tensor, NoiseRole::factor_b), pair),
                    static_cast<std::uint64_t>(stratum));
}

FPES_NAMESPACE_END

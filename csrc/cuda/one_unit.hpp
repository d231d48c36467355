// Members that differ in one unit, on the device: what preparation, evaluation and gradient have in common.
// docs/one-unit.md has the arithmetic; common/unit.hpp says how members come in blocks.
//
// Arithmetic in double is written with plain operators: -fmad=false keeps each of them for itself, and doubles are
// never flushed.
#pragma once

#include "../common/unit.hpp"
#include "draws.hpp"
#include "layers.hpp"

FPES_NAMESPACE_BEGIN

// A layer's inputs on every row (a sample of a batch), in the network's own scale: x, or what the boundary makes of the
// sums of the layer below, back from the scaled domain, exactly.
struct UnitInputs {
    const float* from;  // x or sums: [rows, fan_in]
    int fan_in;
    bool crosses;
    DeviceLayer below;
    float factor;

    FPES_DEVICE float at(std::int64_t row, int k) const {
        const float value = from[row * fan_in + k];
        if (!crosses) return value;
        return Ieee::mul(below.cross(value, below.scaled_bias(below.bias[k])), factor);
    }
};
UnitInputs unit_inputs(const UnitJob& job, int layer);

// The draws of a layer in each block of members, among those of all layers.
struct UnitDraws {
    NoiseSource noise;
    int layer;
    int depth;  // layers of the network
    int count;
    int first;             // draws of the layers below
    int all;               // of a block
    int samples;           // of a batch
    double sigma;          // see UnitPopulation
    std::int64_t sharing;  // blocks that see the same batch

    FPES_DEVICE std::int64_t batch_of(std::int64_t block) const { return block / sharing; }
    // Where a draw's numbers start in arrays [blocks, draws, samples].
    FPES_DEVICE std::int64_t place(std::int64_t block, int draw) const {
        return (block * all + first + draw) * samples;
    }
    FPES_DEVICE std::int64_t place_of_factor(std::int64_t batch) const { return batch * depth + layer; }
    FPES_DEVICE std::uint32_t tensor() const { return noise_tensor(layer, NoiseRole::direction); }
};
UnitDraws unit_draws(const UnitJob& job, int layer);

FPES_NAMESPACE_END

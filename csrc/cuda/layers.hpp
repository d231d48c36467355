// The network as kernels see it.
#pragma once

#include "../common/population.hpp"
#include "backend.hpp"
#include "draws.hpp"

FPES_NAMESPACE_BEGIN

// A step of the program, with its tensor at hand.
struct DeviceLayer {
    const float* weight;  // [fan_in, fan_out]
    const float* bias;    // [fan_out]
    int fan_in;
    int fan_out;
    int tensor;    // what the noise of its parameters is drawn by
    int position;  // among all steps: what noise on its nodes is drawn by
    float bias_factor;
    float enter;
    float leave;
    float scale;  // of the correction of its sums (common/perturbations/family.hpp)

    FPES_DEVICE float scaled_bias(float b) const { return b * bias_factor; }
    // The boundary after the layer, from an accumulator to an activation. Plain operations: they flush.
    FPES_DEVICE float cross(float sum, float scaled_bias) const { return ((sum + scaled_bias) * enter) * leave; }
    // Whether rows of the weights can be read 16 bytes at a time.
    FPES_DEVICE bool has_vectors() const {
        return fan_out % 4 == 0 && reinterpret_cast<std::uintptr_t>(weight) % 16 == 0;
    }
};

// The steps that one launch goes through: they travel with the launch's arguments, of which there may be 4 KB.
constexpr int most_layers = 24;
constexpr int most_argument_bytes = 4096;

struct DeviceLayers {
    int count;
    DeviceLayer layer[most_layers];
};

// Steps begin ... end - 1.
inline DeviceLayers device_layers(const Network& network, const Population* population, int begin, int end) {
    DeviceLayers layers{};
    layers.count = end - begin;
    for (int l = begin; l < end; ++l) {
        const Step& step = network.steps()[l];
        layers.layer[l - begin] = {network.theta + step.tensor.weight_offset,
                                   network.theta + step.tensor.bias_offset,
                                   static_cast<int>(step.tensor.fan_in),
                                   static_cast<int>(step.tensor.fan_out),
                                   step.tensor.index,
                                   step.position,
                                   step.bias_factor,
                                   step.enter,
                                   step.leave,
                                   population ? population->scale(step) : 0.0f};
    }
    return layers;
}
inline DeviceLayer device_layer(const Network& network, const Population* population, int layer) {
    return device_layers(network, population, layer, layer + 1).layer[0];
}

inline NoiseSource noise_source(const Noise& noise) { return {round_keys(noise.key), noise.generation, noise.kind}; }

// out = from: parameters that a member leaves alone.
void copy_floats(const Context& context, const float* from, std::int64_t count, float* to);

// Activations [samples, fan_out] of the unperturbed network from its sums, times a power of two.
void cross_sums(const Context& context, const DeviceLayer& layer, const float* sums, std::int64_t samples, float factor,
                float* out);

FPES_NAMESPACE_END

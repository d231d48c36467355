// Noise on the pre-activations, one draw for each member and sample, in units of the network's own scale. Weights and
// biases stay as they are.
#pragma once

#include "family.hpp"

namespace fpes {

struct NodePerturbation {
    static constexpr const char* name = "node";
    using Way = BySample;

    explicit NodePerturbation(const Parameters& /*none*/) {}
    Correction correction() const { return {1, false, NoiseRole::node, NoiseRole::node}; }
    bool biases() const { return false; }
    float scale(const Noise& noise, const Layer& layer) const {
        return static_cast<float>(noise.sigma * noise_unit(noise.kind) * layer.bias_factor);
    }
    double gradient_scale(const Noise& noise, const Layer& /*any*/, double evaluations) const {
        return noise.gradient_scale(evaluations);
    }
    double largest_term(NoiseKind kind) const { return largest_integer(kind); }
};

}  // namespace fpes

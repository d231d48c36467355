// Noise on the pre-activations, one draw for each member and sample, in units of the network's own scale. Weights and
// biases aren't perturbed.
#pragma once

#include "family.hpp"

namespace fpes {

struct NodePerturbation {
    static constexpr const char* name = "node";
    using Way = BySample;

    explicit NodePerturbation(const Parameters& /*none*/) {}
    Correction correction() const { return {1, false, NoiseRole::node, NoiseRole::node}; }
    bool biases() const { return false; }
    double scale(const Noise& noise, const Tensor& /*any*/) const { return noise.scale(); }
    double gradient_scale(const Noise& noise, const Tensor& /*any*/, double evaluations) const {
        return noise.gradient_scale(evaluations);
    }
    double largest_term(NoiseKind kind) const { return largest_integer(kind); }
};

}  // namespace fpes

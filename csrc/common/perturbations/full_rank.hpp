// Every weight and bias has its own noise (OpenAI-ES): w' = fma(z, +-sigma unit, w).
#pragma once

#include "family.hpp"

namespace fpes {

struct FullRank {
    static constexpr const char* name = "full_rank";
    using Way = ByElement;

    explicit FullRank(const Parameters& /*none*/) {}
    Correction correction() const { return no_correction; }
    bool biases() const { return true; }
    double scale(const Noise& noise, const Tensor& /*any*/) const { return noise.scale(); }
    double gradient_scale(const Noise& noise, const Tensor& /*any*/, double evaluations) const {
        return noise.gradient_scale(evaluations);
    }
    double largest_term(NoiseKind kind) const { return largest_integer(kind); }
};

}  // namespace fpes

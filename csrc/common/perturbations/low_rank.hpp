// A low-rank change of the weights, which is never written to memory (EGGROLL): w' = w +- sigma A B^T / sqrt(rank).
#pragma once

#include <cmath>

#include "family.hpp"

namespace fpes {

struct LowRank {
    static constexpr const char* name = "low_rank";
    using Way = ByOuterProducts;

    int rank;

    explicit LowRank(const Parameters& parameters) : rank(static_cast<int>(parameters.at("rank"))) {}
    Correction correction() const { return {rank, true, NoiseRole::factor_a, NoiseRole::factor_b}; }
    bool biases() const { return true; }
    double scale(const Noise& noise, const Tensor& /*any*/) const {
        const double unit = noise_unit(noise.kind);
        return noise.sigma * unit * unit / std::sqrt(static_cast<double>(rank));
    }
    double gradient_scale(const Noise& noise, const Tensor& /*any*/, double evaluations) const {
        const double unit = noise_unit(noise.kind);
        return unit * unit / (std::sqrt(static_cast<double>(rank)) * evaluations * noise.sigma);
    }
    double largest_term(NoiseKind kind) const {
        const double largest = largest_integer(kind);
        return largest * largest * rank;
    }
};

}  // namespace fpes

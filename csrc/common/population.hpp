// Populations of perturbed networks: what they are, which pairs are evaluated, and what they see. Host code, the same
// for every backend.
#pragma once

#include <cstdint>
#include <vector>

#include "allocation.hpp"
#include "losses/list.hpp"
#include "mean.hpp"
#include "network.hpp"
#include "noise.hpp"
#include "perturbations/perturbations.hpp"

namespace fpes {

struct Population {
    Perturbation perturbation;
    Allocation allocation;
    Noise noise;

    // What the family says (perturbations/family.hpp).
    Correction correction() const;
    float scale(const Layer& layer) const;
    double largest_term() const;
    // Whether biases have noise of their own. Where a pair perturbs one layer they don't.
    bool perturbs_biases() const;

    // What a layer's sum of weighted noise is multiplied by, to be the gradient of a population of so many pairs, of
    // which each member has a weight for each of so many samples; and likewise those of the biases.
    double gradient_scale(const Layer& layer, std::int64_t pairs, std::int64_t samples = 1) const;
    double bias_gradient_scale(std::int64_t pairs) const;
};

// A tensor's place among the parameters, and what its sums are multiplied by. A scale of zero: the gradient is zero.
struct TensorScale {
    std::size_t offset;
    std::int64_t count;
    double scale;
};
// Those of the gradient of a population whose weights are perturbed, tensor by tensor.
std::vector<TensorScale> gradient_scales(const std::vector<Layer>& layers, const Population& population,
                                         std::int64_t pairs);

// What the members see: one batch for all, or one batch for each group of pairs. x[batches, size, features], row-major,
// and a target for each of its rows.
struct Batches {
    const float* x;
    Targets targets;
    std::int64_t size;
    std::int64_t count;       // of batches, for the whole population
    std::int64_t pairs_each;  // pairs 0 ... pairs_each - 1 see batch 0, the next so many batch 1, and so on

    std::int64_t batch_of(std::int64_t pair) const { return pair / pairs_each; }
    // The row of x, and of the targets, of a sample of the pair's batch.
    std::int64_t row(std::int64_t pair, std::int64_t sample) const { return batch_of(pair) * size + sample; }
};

}  // namespace fpes

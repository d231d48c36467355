// Populations of perturbed networks: their description, the pairs to evaluate, and their batches. Host code, the same
// for every backend.
#pragma once

#include <cstdint>
#include <vector>

#include "allocation.hpp"
#include "losses/list.hpp"
#include "mean.hpp"
#include "noise.hpp"
#include "perturbations/perturbations.hpp"
#include "program.hpp"

namespace fpes {

struct Population {
    Perturbation perturbation;
    Allocation allocation;
    Noise noise;

    // The functions of the family (perturbations/family.hpp).
    Correction correction() const;
    // The factor of the draws of a tensor, of a correction at a step, and of biases; each rounded once.
    float scale(const Tensor& tensor) const;
    float scale(const Step& step) const;
    float bias_scale() const { return static_cast<float>(noise.scale()); }
    double largest_term() const;
    // Whether biases have their own noise. If each pair perturbs one layer they don't.
    bool perturbs_biases() const;

    // The factor that turns a tensor's sum of weighted noise into the gradient, and the same for biases. The population
    // has this number of pairs, and each member has a weight for each of this number of samples.
    double gradient_scale(const Tensor& tensor, std::int64_t pairs, std::int64_t samples = 1) const;
    double bias_gradient_scale(std::int64_t pairs) const;
};

// The place of some weights or biases in theta, and the factor of their sums. A factor of zero means that the gradient
// is zero.
struct PartScale {
    std::size_t offset;
    std::int64_t count;
    double scale;
};
// The places for the gradient of a population whose weights are perturbed, tensor by tensor.
std::vector<PartScale> gradient_scales(const std::vector<Tensor>& tensors, const Population& population,
                                       std::int64_t pairs);

// Batches begin ... end - 1.
struct BatchRange {
    std::int64_t begin;
    std::int64_t end;
    std::int64_t count() const { return end - begin; }
};

// The inputs of the members: one batch for all, or one batch for each group of pairs. x[batches, size, features],
// row-major, and a target for each row.
struct Batches {
    const float* x;
    Targets targets;
    std::int64_t size;
    std::int64_t count;       // number of batches of the whole population
    std::int64_t pairs_each;  // pairs 0 ... pairs_each - 1 see batch 0, the next pairs_each see batch 1, and so on

    std::int64_t batch_of(std::int64_t pair) const { return pair / pairs_each; }
    BatchRange seen_by(PairRange pairs) const { return {batch_of(pairs.begin), batch_of(pairs.end - 1) + 1}; }
    // The row of x, and of the targets, of a sample of the pair's batch.
    std::int64_t row(std::int64_t pair, std::int64_t sample) const { return batch_of(pair) * size + sample; }
};

}  // namespace fpes

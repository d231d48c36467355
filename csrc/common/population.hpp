// Populations of perturbed networks: what they are, which pairs are evaluated, and what they see. Host code, the same
// for every backend.
#pragma once

#include <cstdint>
#include <vector>

#include "losses/list.hpp"
#include "noise.hpp"
#include "program.hpp"

namespace fpes {

// The values are part of the interface with Python (fpes/perturbations.py).
enum class Family : int {
    full = 0,                // w' = fma(z, +-sigma unit, w): every weight has its own noise (OpenAI-ES)
    low_rank = 1,            // w' = w +- sigma A B^T / sqrt(rank), never formed (EGGROLL)
    node = 2,                // noise on the pre-activations, one draw for each member and sample
    one_layer = 3,           // the same, but each pair perturbs one layer only, and perhaps few of its units
    one_layer_rank_one = 4,  // likewise w' = w +- sigma a b^T, where b is zero but for these units
};

struct PairRange;

struct Population {
    Family family;
    int rank;  // of low_rank
    NoiseKind noise;
    PhiloxKey key;
    std::uint32_t generation;
    double sigma;
    // Where each pair perturbs one layer: for each layer how many units carry noise (0: all of them), and how many
    // pairs in a row, of the sum of all layers, perturb it. No weights are tied there, so a layer is a step and a
    // tensor of the same number.
    std::vector<int> units;
    std::vector<int> draws;

    bool one_layer_at_a_time() const { return family == Family::one_layer || family == Family::one_layer_rank_one; }
    int layer_of(std::int64_t pair) const;
    // For each layer those of the pairs begin ... end - 1 that perturb it, ascending.
    std::vector<std::vector<std::int64_t>> pairs_by_layer(std::int64_t begin, std::int64_t end) const;
    // Perturbed units of a layer.
    std::int64_t units_of(const Tensor& tensor) const {
        return units[tensor.index] ? units[tensor.index] : tensor.fan_out;
    }
    // owner: as for noise_tensor().
    NoiseStream stream(int owner, NoiseRole role, std::int64_t pair) const {
        return {key, noise_tensor(owner, role), static_cast<std::uint32_t>(pair), generation, noise};
    }
    // What a draw is multiplied by, for weights and biases, for the coefficients q of low rank, and for the
    // pre-activations of a layer: computed in double, rounded once.
    float weight_scale() const;
    float rank_scale() const;
    float node_scale(const Step& step) const;
    // How many of these pairs perturb a layer.
    std::int64_t pairs_of(int layer, PairRange pairs) const;
    // What a sum of weighted noise is multiplied by, to be the gradient of a population of so many pairs: for full
    // noise, for the weights of low rank and of rank one a layer, and for a layer of node perturbation, where `samples`
    // is the number of weights that a member has.
    double full_gradient_scale(std::int64_t pairs) const;
    double low_rank_gradient_scale(const Tensor& tensor, std::int64_t pairs) const;
    double node_gradient_scale(const Step& step, std::int64_t pairs, std::int64_t samples) const;
};

// Pairs begin ... end - 1: members 2 begin ... 2 end - 1. Results are written for these members only, from index 0 on,
// and don't depend on the rest of the population: it may be split anywhere.
struct PairRange {
    std::int64_t begin;
    std::int64_t end;
    std::int64_t count() const { return end - begin; }
};

// The place of some weights or biases in theta, and what their sums are multiplied by. A scale of zero: the gradient is
// zero.
struct PartScale {
    std::size_t offset;
    std::int64_t count;
    double scale;
};
// Those of the gradient of a full-rank or low-rank population, tensor by tensor.
std::vector<PartScale> gradient_scales(const std::vector<Tensor>& tensors, const Population& population,
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

// Sums over a batch have one order, whatever the tiles: samples in blocks of this many, then the blocks.
constexpr std::int64_t loss_block = 64;

}  // namespace fpes

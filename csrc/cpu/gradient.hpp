// The ES gradient: a weighted sum of the population's noise, drawn again rather than remembered.
#pragma once

#include <vector>

#include "../common/estimator.hpp"
#include "population.hpp"

namespace fpes {

// Half the weights of an ES update: one number for each pair, weight of the + member minus weight of the - member.
struct PairWeights {
    std::vector<float> difference;       // rounded
    std::vector<std::int64_t> integers;  // where weights are integers: the same, exactly. Else empty
};
PairWeights pair_weights(const float* weights, std::int64_t members);
PairWeights pair_weights(const std::int64_t* weights, std::int64_t members);

// Whether the sum over pairs is one of integers, and so exact and free of any order.
bool exact(const Population& population, const PairWeights& weights);

// Exact sums are made of pieces that machine arithmetic holds: integers, however large, are sums of `unit` times
// digits that are small.
using Integer = __int128;
struct Digit {
    std::vector<float> difference;
    Integer unit;
};
// Digits of up to `largest` in magnitude; all but the last to the base `base`, which is twice that or less.
std::vector<Digit> digits_of(const std::vector<std::int64_t>& integers, std::int64_t largest, std::int64_t base);

// Whether 64 bits hold the sum, whatever its terms are: each at most `largest` times its weight.
bool sum_fits_int64(const std::vector<Digit>& digits, double largest);

// The end of the run of terms, from `begin` on, whose sum can't leave what the sum's type holds exactly, up to `limit`.
// A pair has `per_pair` terms in a row, each at most `largest` times the pair's weight.
std::int64_t exact_run(const std::vector<float>& difference, std::int64_t begin, int per_pair, double largest,
                       double limit);
constexpr double exact_in_int32 = 0x7fffffff;

// What the pairs of a range add to gradient[parameters] = 1 / (n sigma) * sum over members of weight * perturbation,
// where weights are perturbed, tensor by tensor: a tensor counts once, however many steps take it. Exact up to the one
// rounding at the end where weights and noise are integers; otherwise pairs are added in order, in float32.
struct GradientJob {
    const Engine& engine;
    int threads;
    const std::vector<Tensor>& tensors;
    const Population& population;
    const PairWeights& weights;  // of all its pairs
    PairRange pairs;
    float* gradient;     // [parameters], scaled
    std::int64_t* sums;  // [parameters], unless it is null: instead, exact sums as they are, which add up over ranges

    std::int64_t pairs_of_population() const { return static_cast<std::int64_t>(weights.difference.size()); }
    // The gradient of parameters that nothing perturbs.
    void clear(std::size_t offset, std::int64_t count) const;
};
void gradient(const GradientJob& job);
// Its parts. Of the weights or the biases of all layers, which have noise of their own; and of weights that a
// correction of inputs changes by outer products of its factors.
void sum_noise(const GradientJob& job, NoiseRole role);
void sum_outer_products(const GradientJob& job);
// gradient[parameters] from the exact sums over all pairs.
void scale_sums(const std::vector<Tensor>& tensors, const Population& population, std::int64_t pairs,
                const std::int64_t* sums, float* gradient);

// Weight of the + member minus weight of the - member.
inline float difference(const SampleWeights& weights, std::int64_t pair, std::int64_t sample) {
    return *weights.plus(pair, sample) - *weights.minus(pair, sample);
}

// The same where noise is of samples: what the pairs of the job add to the gradient of a population of so many pairs.
// Weights are those of the job's pairs.
void sample_gradient(const Job& job, const SampleWeights& weights, std::int64_t pairs, float* gradient);
// Where each pair perturbs all layers (node_gradient.cpp).
void node_gradient(const Job& job, const SampleWeights& weights, std::int64_t pairs, float* gradient);

// Where each pair perturbs one layer (incremental_gradient.cpp). job.sums: what evaluate() kept of the same
// batch.
void incremental_gradient(const Job& job, const SampleWeights& weights, std::int64_t pairs, float* gradient);

// Rows row, row + 1, ... of a layer's gradient; all such blocks of a network.
struct RowBlock {
    int layer;
    std::int64_t row;
};
std::vector<RowBlock> row_blocks(const PackedNetwork& network, std::int64_t rows);

// sum[1, n] = init + the sum of the rows, in order: what the gradient of a bias is. Starts at +0 where init.data is
// null.
void sum_rows(const Engine& engine, Panels rows, int count, int n, Panels init, Panels sum);

// Ends of the last two: out[rows, n] = sum * scale, rounded once; and the bias of a layer, whose gradient is zero where
// the boundary flushes the bias to zero, for it has no influence there.
void write_rows(const Engine& engine, Panels sum, std::int64_t rows, std::int64_t n, double scale, float* out);
void write_bias(const Engine& engine, PackedNetwork& network, const Step& layer, Panels sum, double scale,
                float* gradient);

}  // namespace fpes

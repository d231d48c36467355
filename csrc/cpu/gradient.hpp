// The ES gradient: a weighted sum of the population's noise, which is drawn again and not stored.
#pragma once

#include <vector>

#include "../common/estimator.hpp"
#include "population.hpp"

namespace fpes {

// The weights of an ES update, one number for each pair: weight of the + member minus weight of the - member.
struct PairWeights {
    std::vector<float> difference;       // rounded
    std::vector<std::int64_t> integers;  // the same exactly, if weights are integers; otherwise empty
};
PairWeights pair_weights(const float* weights, std::int64_t members);
PairWeights pair_weights(const std::int64_t* weights, std::int64_t members);

// Whether the sum over pairs is an integer sum, and so exact in any order.
bool exact(const Population& population, const PairWeights& weights);

// Exact sums consist of pieces that machine arithmetic can hold: every integer, however large, is a sum of small
// digits, each times its `unit`.
using Integer = __int128;
struct Digit {
    std::vector<float> difference;
    Integer unit;
};
// Digits of up to `largest` in magnitude; all but the last to the base `base`, which is twice that or less.
std::vector<Digit> digits_of(const std::vector<std::int64_t>& integers, std::int64_t largest, std::int64_t base);

// Whether 64 bits always hold the sum. Each term is at most `largest` times its weight.
bool sum_fits_int64(const std::vector<Digit>& digits, double largest);

// The end of the longest run of terms from `begin` on whose sum stays within `limit`, so that its type holds it
// exactly. A pair has `per_pair` consecutive terms, each at most `largest` times the pair's weight.
std::int64_t exact_run(const std::vector<float>& difference, std::int64_t begin, int per_pair, double largest,
                       double limit);
constexpr double exact_in_int32 = 0x7fffffff;

// The part of a range of pairs in gradient[parameters] = 1 / (n sigma) * sum over members of weight * perturbation, for
// families that perturb weights, tensor by tensor. A tensor counts once, even if several steps use it. If weights and
// noise are integers, the sum is exact and rounded once at the end; otherwise pairs are added in order, in float32.
struct GradientJob {
    const Engine& engine;
    int threads;
    const std::vector<Tensor>& tensors;
    const Population& population;
    const PairWeights& weights;  // of all its pairs
    PairRange pairs;
    float* gradient;  // [parameters], scaled
    std::int64_t*
        sums;  // [parameters], or null: instead of the gradient, exact unscaled sums, which add up over ranges

    std::int64_t pairs_of_population() const { return static_cast<std::int64_t>(weights.difference.size()); }
    // The gradient of parameters without perturbation.
    void clear(std::size_t offset, std::int64_t count) const;
};
void gradient(const GradientJob& job);
// The parts of the gradient: for weights or biases of all layers with their own noise, and for weights that a
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

// The same if noise is drawn for each sample: the part of the job's pairs in the gradient of a population with this
// number of pairs. The weights are those of the job's pairs.
void sample_gradient(const Job& job, const SampleWeights& weights, std::int64_t pairs, float* gradient);
// If each pair perturbs all layers (node_gradient.cpp).
void node_gradient(const Job& job, const SampleWeights& weights, std::int64_t pairs, float* gradient);

// If each pair perturbs one layer (incremental_gradient.cpp). job.sums: the sums that evaluate() kept of the same
// batch.
void incremental_gradient(const Job& job, const SampleWeights& weights, std::int64_t pairs, float* gradient);

// Rows row, row + 1, ... of a layer's gradient; all such blocks of a network.
struct RowBlock {
    int layer;
    std::int64_t row;
};
std::vector<RowBlock> row_blocks(const PackedNetwork& network, std::int64_t rows);

// sum[1, n] = init + the sum of the rows, in order, as the gradient of a bias. Starts at +0 if init.data is null.
void sum_rows(const Engine& engine, Panels rows, int count, int n, Panels init, Panels sum);

// The last steps of these two: out[rows, n] = sum * scale, rounded once; and the same for the bias of a layer. The
// gradient of a bias that the boundary flushes to zero is zero, because the bias has no influence.
void write_rows(const Engine& engine, Panels sum, std::int64_t rows, std::int64_t n, double scale, float* out);
void write_bias(const Engine& engine, PackedNetwork& network, const Step& layer, Panels sum, double scale,
                float* gradient);

}  // namespace fpes

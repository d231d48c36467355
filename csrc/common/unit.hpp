// Populations whose members differ from the network in the weights that lead into one unit: their description, their
// results, and the arithmetic of their directions. docs/one-unit.md has the derivation.
//
// Members come in blocks. A block has, for each layer, its draws, and for each draw one pair for each unit of the
// layer. All units of a draw share its direction. Every block draws its own directions, and all its pairs see the same
// batch.
//
//      block 0                                                                    block 1
//     | layer 1, draw 0: units 0 ... n-1 | draw 1: 0 ... n-1 | layer 2, draw 0 ... | layer 1, draw 0 ...
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "noise.hpp"
#include "program.hpp"

namespace fpes {

struct UnitPopulation {
    bool span;  // directions in the span of the layer's inputs on the batch; otherwise white
    PhiloxKey key;
    std::uint32_t generation;
    double sigma;            // root mean square of a member's change of its unit's pre-activations
    std::vector<int> draws;  // of each layer in a block
};

// The place of a pair in its block.
struct UnitPlace {
    int layer;
    int draw;  // of the layer
    std::int64_t unit;
};

class UnitLayout {
   public:
    UnitLayout(const std::vector<Step>& layers, const std::vector<int>& draws);

    int depth() const { return static_cast<int>(draws_.size()); }
    int draws(int layer) const { return draws_[layer]; }
    // Number of draws in a block: all, and those of the layers below.
    int draws() const { return first_draw_.back(); }
    int first_draw(int layer) const { return first_draw_[layer]; }
    std::int64_t pairs() const { return first_pair_.back(); }
    std::int64_t first_pair(int layer, int draw) const { return first_pair_[layer] + draw * units_[layer]; }
    UnitPlace place(std::int64_t pair) const;

   private:
    std::vector<int> draws_;
    std::vector<std::int64_t> units_;
    std::vector<int> first_draw_;
    std::vector<std::int64_t> first_pair_;
};

// Preparations of a population for its batches: arrays that the caller keeps, because all later calls need them.
struct UnitState {
    float* sums;        // sums of the unperturbed network: for each layer [rows, fan_out]; a row is a sample of a batch
    float* changes;     // [blocks, draws, batch size]: the change of a unit's pre-activation in the + member of a draw
    double* solutions;  // the same shape: L^-T r, whose product with the inputs is the direction. For span only
    double* factors;    // [batches, layers]: see UnitScale
};

// Results of evaluation, for members 2 pairs.begin ... 2 pairs.end - 1 from index 0 on. Each pointer may be null.
// Without weights, each sample has weight 1.
struct UnitResults {
    const float* weights;  // input: [batches, size], the weight of each sample's loss in the fitness
    float* fitness;        // [members]: minus the mean over the batch of weight * loss
    float* losses;         // [members, size]
    float* outputs;        // [members, size, classes]
    float* centre;         // [batches, size]: losses of the unperturbed network
};

// Numbers that depend on the size of a layer's inputs on a batch.
struct UnitScale {
    double ridge;   // added to the diagonal of the Gram matrix
    double factor;  // factor times direction is the change of the weights; 0 if all inputs are zero
};

// Replaces gram[samples, samples] by L, where gram + ridge I = L L^T. Reads only the lower triangle.
void unit_factorise(double* gram, int samples, double ridge);
// solution = L^-T signs.
void unit_solve(const double* factor, int samples, const float* signs, double* solution);
// out = gram * solution, from the lower triangle.
void unit_multiply(const double* gram, int samples, const double* solution, double* out);

// Turns signs[samples] of draw 0 into those of another draw: multiplies them by a row of a Hadamard matrix.
void unit_signs(const float* first, int samples, int draw, float* signs);

}  // namespace fpes

FPES_NAMESPACE_BEGIN

// Relative to the mean squared length of a layer's inputs. docs/one-unit.md describes the effect of the ridge.
constexpr double unit_ridge_fraction = 1e-3;

// squares[i * step]: the squared length of the input of sample i.
FPES_INLINE UnitScale unit_scale(const double* squares, std::int64_t step, int samples, double sigma) {
    double sum = 0.0;
    for (int i = 0; i < samples; ++i) sum += squares[i * step];
    const double mean = sum / samples;
    if (!(mean > 0.0 && mean < HUGE_VAL)) return {0.0, 0.0};
    return {unit_ridge_fraction * mean, sigma / ::sqrt(mean)};
}

FPES_NAMESPACE_END

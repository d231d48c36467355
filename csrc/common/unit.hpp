// Populations whose members differ from the network in the weights that lead into one unit: what they are, what is
// computed of them, and the arithmetic of their directions. docs/one-unit.md has the derivation.
//
// Members come in blocks. The pairs of a block are, layer by layer, draw by draw, the units of the layer: all units of
// a draw share its direction. Every block draws directions of its own, and all pairs of a block see the same batch.
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
    double sigma;            // root mean square of what a member changes in its unit's pre-activations
    std::vector<int> draws;  // for each layer, of a block
};

// Where a pair is in its block.
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
    // Of a block: all draws, and those of the layers below.
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

// What the batches make of a population: arrays that the caller keeps, for all that follows needs them.
struct UnitState {
    float* sums;        // of the unperturbed network: for each layer [rows, fan_out]; a row is a sample of a batch
    float* changes;     // [blocks, draws, batch size]: what a draw's + member adds to its unit's pre-activation
    double* solutions;  // likewise: L^-T r, whose product with the inputs is the direction. Of span only
    double* factors;    // [batches, layers]: see UnitScale
};

// What evaluation gives, for members 2 pairs.begin ... 2 pairs.end - 1 from index 0 on; each may be null. Without
// weights those of all samples are 1.
struct UnitResults {
    const float* weights;  // in: [batches, size], of each sample's loss in the fitness
    float* fitness;        // [members]: minus the mean over the batch of weight * loss
    float* losses;         // [members, size]
    float* outputs;        // [members, size, classes]
    float* centre;         // [batches, size]: losses of the unperturbed network
};

// How large a layer's inputs are on a batch, and what follows from it.
struct UnitScale {
    double ridge;   // added to the diagonal of the Gram matrix
    double factor;  // times a direction, the change of the weights; 0 where all inputs are zero, so nothing changes
};

// gram[samples, samples], of which the lower triangle is read, becomes L: gram + ridge I = L L^T.
void unit_factorise(double* gram, int samples, double ridge);
// solution = L^-T signs.
void unit_solve(const double* factor, int samples, const float* signs, double* solution);
// out = gram * solution, from the lower triangle.
void unit_multiply(const double* gram, int samples, const double* solution, double* out);

// signs[samples] of draw 0 of a set become those of another draw: times a row of a Hadamard matrix.
void unit_signs(const float* first, int samples, int draw, float* signs);

}  // namespace fpes

FPES_NAMESPACE_BEGIN

// Of the mean squared length of a layer's inputs. What the ridge does to the estimate: docs/one-unit.md.
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

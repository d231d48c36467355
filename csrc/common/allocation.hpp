// Which pairs perturb which layers, and how many units there: all layers at once, or one a pair. Host code makes it,
// and kernels get a layer's Turn.
#pragma once

#include <cstdint>
#include <vector>

#include "program.hpp"

namespace fpes {

// Pairs begin ... end - 1: members 2 begin ... 2 end - 1. Results are written for these members only, from index 0 on,
// and don't depend on the rest of the population: it may be split anywhere.
struct PairRange {
    std::int64_t begin;
    std::int64_t end;
    std::int64_t count() const { return end - begin; }
};

}  // namespace fpes

FPES_NAMESPACE_BEGIN

// The pairs that perturb a layer: of every `cycle` pairs in a row those from `offset` on, `run` of them.
struct Turn {
    std::int64_t cycle;
    std::int64_t offset;
    std::int64_t run;
    // The i-th of them.
    FPES_INLINE std::int64_t pair(std::int64_t i) const { return i / run * cycle + offset + i % run; }
    FPES_INLINE bool has(std::int64_t pair) const {
        const std::int64_t place = pair % cycle - offset;
        return place >= 0 && place < run;
    }
    // How many of them come before this pair.
    FPES_INLINE std::int64_t before(std::int64_t pair) const {
        const std::int64_t place = pair % cycle - offset;
        return pair / cycle * run + (place < 0 ? 0 : place < run ? place : run);
    }
};

FPES_NAMESPACE_END

namespace fpes {

struct Allocation {
    // Where each pair perturbs one layer, else empty: for each layer how many units carry noise (0: all of them), and
    // how many pairs in a row, of the sum of all layers, perturb it. No weights are tied there, so a layer is a step
    // and a tensor of the same number.
    std::vector<int> units;
    std::vector<int> pairs;

    bool one_layer() const { return !pairs.empty(); }
    Turn turn(int layer) const;
    // How many of these pairs perturb a layer, and which: ascending.
    std::int64_t count(int layer, PairRange range) const;
    std::vector<std::int64_t> pairs_of(int layer, PairRange range) const;
    // Perturbed units of a layer, if they are few; else 0.
    int few_units(int layer) const { return one_layer() ? units[layer] : 0; }
    std::int64_t perturbed_units(const Tensor& tensor) const;
    // A unit is perturbed in k of n pairs only, which the factor n / k of an estimate makes up for.
    double makes_up(const Tensor& tensor) const;
};

}  // namespace fpes

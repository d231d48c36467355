// Allocations: which pairs perturb which layers (each pair all layers, or one layer), and how many units there. Host
// code computes them. A kernel receives the Turn of its layer.
#pragma once

#include <cstdint>
#include <vector>

#include "program.hpp"

namespace fpes {

// Pairs begin ... end - 1: members 2 begin ... 2 end - 1. Results are written for these members only, from index 0 on.
// They don't depend on the rest of the population, so it may be split anywhere.
struct PairRange {
    std::int64_t begin;
    std::int64_t end;
    std::int64_t count() const { return end - begin; }
};

}  // namespace fpes

FPES_NAMESPACE_BEGIN

// The pairs that perturb a layer: in every `cycle` consecutive pairs, `run` pairs from `offset` on.
struct Turn {
    std::int64_t cycle;
    std::int64_t offset;
    std::int64_t run;
    // The i-th of these pairs.
    FPES_INLINE std::int64_t pair(std::int64_t i) const { return i / run * cycle + offset + i % run; }
    FPES_INLINE bool has(std::int64_t pair) const {
        const std::int64_t place = pair % cycle - offset;
        return place >= 0 && place < run;
    }
    // Number of these pairs before a pair.
    FPES_INLINE std::int64_t before(std::int64_t pair) const {
        const std::int64_t place = pair % cycle - offset;
        return pair / cycle * run + (place < 0 ? 0 : place < run ? place : run);
    }
};

FPES_NAMESPACE_END

namespace fpes {

struct Allocation {
    // If each pair perturbs one layer: for each layer the number of units with noise (0: all), and the number of
    // consecutive pairs that perturb it; otherwise empty. No weights are tied in this case, so a layer, its step and
    // its tensor have the same number.
    std::vector<int> units;
    std::vector<int> pairs;

    bool one_layer() const { return !pairs.empty(); }
    Turn turn(int layer) const;
    // The number of pairs of a range that perturb a layer, and these pairs, ascending.
    std::int64_t count(int layer, PairRange range) const;
    std::vector<std::int64_t> pairs_of(int layer, PairRange range) const;
    // Perturbed units of a layer, if they are few; else 0.
    int few_units(int layer) const { return one_layer() ? units[layer] : 0; }
    std::int64_t perturbed_units(const Tensor& tensor) const;
    // A unit is perturbed only in k of n pairs. The factor n / k in the estimate corrects for this.
    double makes_up(const Tensor& tensor) const;
};

}  // namespace fpes

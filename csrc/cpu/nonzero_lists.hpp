// If few elements of a left operand are nonzero, a product uses only these (kernels/nonzeros.hpp).
#pragma once

#include "engine.hpp"

namespace fpes {

// Terms may be skipped only if the other factor is finite. Noise times a number below this limit is finite, and a
// finite weight plus this product stays finite: 8 times the limit is below half a unit in the last place of the largest
// float.
constexpr float harmless = 0x1p100f;

// Lists count in 32 bits.
constexpr std::int64_t most_listed = std::int64_t{1} << 31;

// The nonzeros of a matrix of up to [rows, k].
class NonzeroLists {
   public:
    NonzeroLists(const Engine& engine, std::int64_t rows, std::int64_t k)
        : kernels_(engine.kernels()),
          value_(rows * k + engine.width()),
          row_(rows * k + engine.width()),
          begin_(rows * (k / engine.kernels().nonzero_run + 1) + 1) {}

    // Lists the nonzeros of a. Returns whether they are few enough to make the product faster.
    bool fill(Panels a, int rows, int k) {
        const std::int64_t found = kernels_.find_nonzeros(a, rows, k, view());
        return static_cast<double>(found) < sparse_enough * rows * k;
    }
    Nonzeros view() { return {value_.data(), row_.data(), begin_.data()}; }

   private:
    static constexpr double sparse_enough = 0.6;

    const Kernels& kernels_;
    Buffer<float> value_;
    Buffer<std::int32_t> row_;
    Buffer<std::int32_t> begin_;
};

}  // namespace fpes

// Where a left operand has few elements that aren't zero, a product takes only those (kernels/nonzeros.hpp).
#pragma once

#include "engine.hpp"

namespace fpes {

// Terms may be left out where what they would be multiplied by is finite. Noise times a number below this is, and takes
// no finite weight beyond the largest float: 8 times it is below half a unit in that number's last place.
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

    // Lists those of a, and tells whether they are few enough for the product to be faster by them.
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

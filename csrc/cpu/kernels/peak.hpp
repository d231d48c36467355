// The peak of the machine: what a benchmark divides by.
//
// As many independent chains of fused multiply-adds as the product's tile has (kernels/product.hpp), and nothing else:
// no loads, no stores. No product of floats on this instruction set can be faster.
#pragma once

#include "panels.hpp"

FPES_NAMESPACE_BEGIN

constexpr int peak_chains = 2 * max_tile_rows;

// `steps` multiply-adds in each lane of each chain. The sum of everything is stored, so that nothing is left out.
template <class F>
void multiply_add_chains(std::int64_t steps, float* out) {
    F chain[peak_chains];
#pragma GCC unroll 24
    for (int i = 0; i < peak_chains; ++i) chain[i] = splat<F>(static_cast<float>(i));
    const F factor = splat<F>(0.5f), term = splat<F>(1.0f);
    for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 24
        for (int i = 0; i < peak_chains; ++i) chain[i] = fma(chain[i], factor, term);
    }
    F sum = splat<F>(0.0f);
    for (int i = 0; i < peak_chains; ++i) sum = add(sum, chain[i]);
    store(out, sum);
}

FPES_NAMESPACE_END

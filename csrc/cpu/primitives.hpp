// The primitives of the network, one call each: what fpes.gemm, fpes.bias_add, fpes.multiply and fpes.loss run.
#pragma once

#include <cstdint>

#include "engine.hpp"

namespace fpes {

// c[m, n] = a[m, k] b[k, n], all row-major.
void gemm(const Engine& engine, int threads, const float* a, const float* b, float* c, std::int64_t m, std::int64_t n,
          std::int64_t k);

// out[rows, n] = v[rows, n] + bias[n].
void bias_add(const Engine& engine, int threads, const float* v, const float* bias, float* out, std::int64_t rows,
              std::int64_t n);

// out[count] = v[count] * factor.
void multiply(const Engine& engine, int threads, const float* v, float factor, float* out, std::int64_t count);

// losses[rows] of outputs[rows, count].
void losses(const Engine& engine, int threads, const float* outputs, std::int64_t rows, std::int64_t count,
            const Targets& targets, float* losses);

// The peak that benchmarks divide by: `steps` multiply-adds in each lane of each chain, on every thread.
void multiply_add_chains(const Engine& engine, int threads, std::int64_t steps);

}  // namespace fpes

// The steps of the optimisers.
//
// Memory bandwidth limits a step, so each step makes one pass: Adam reads four arrays and writes three. The arithmetic
// is plain C++, the same for every instruction set, in IEEE mode and without fused multiply-adds (see CMakeLists.txt),
// so all machines take the same step. Results go to separate arrays, so the old state survives an interrupt.
#pragma once

#include <cstdint>

namespace fpes {

// The numbers of one step of Adam (Kingma & Ba 2015, algorithm 1):
//
//     g = factor gradient
//     m' = m + (g - m) (1 - beta1)
//     v' = v + (g g - v) (1 - beta2)
//     theta' = theta + rate m' / (sqrt(v' / (1 - beta2^t)) + epsilon)
//
// where rate is the learning rate over 1 - beta1^t.
struct AdamStep {
    float factor;
    float beta1_rest;
    float beta2_rest;
    float inverse_correction2;
    float rate;
    float epsilon;
};

struct AdamState {
    const float* theta;
    const float* mean;
    const float* square;
};
struct AdamResult {
    float* theta;
    float* mean;
    float* square;
};

void adam(int threads, const AdamStep& step, const float* gradient, AdamState before, std::int64_t count,
          AdamResult after);

// out = a * x + b * y, each product rounded: velocities, running means, and steps along them.
void weighted_sum(int threads, float a, const float* x, float b, const float* y, std::int64_t count, float* out);

// The sum of squares in float64: within a block of 4096 element i goes to accumulator i mod 8, the eight are added in
// pairs, then blocks in order. So it depends neither on threads nor on the width of vectors.
double sum_of_squares(int threads, const float* x, std::int64_t count);

}  // namespace fpes

#include "optimiser.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "parallel.hpp"

namespace fpes {
namespace {

// Elements that one thread takes at a time: a few arrays of them fit the second-level cache.
constexpr std::int64_t grain = 1 << 14;
constexpr std::int64_t block = 4096;
constexpr int accumulators = 8;

// Loops over plain arrays that don't overlap, so that the compiler can vectorise them.
void adam_range(const AdamStep& step, std::int64_t count, const float* __restrict gradient,
                const float* __restrict theta, const float* __restrict mean, const float* __restrict square,
                float* __restrict new_theta, float* __restrict new_mean, float* __restrict new_square) {
    const AdamStep s = step;
    for (std::int64_t i = 0; i < count; ++i) {
        const float g = gradient[i] * s.factor;
        const float m = mean[i] + (g - mean[i]) * s.beta1_rest;
        const float v = square[i] + (g * g - square[i]) * s.beta2_rest;
        new_mean[i] = m;
        new_square[i] = v;
        new_theta[i] = theta[i] + s.rate * m / (std::sqrt(v * s.inverse_correction2) + s.epsilon);
    }
}

void weighted_sum_range(std::int64_t count, float a, const float* __restrict x, float b, const float* __restrict y,
                        float* __restrict out) {
    for (std::int64_t i = 0; i < count; ++i) out[i] = a * x[i] + b * y[i];
}

double sum_of_squares_of_block(const float* x, std::int64_t count) {
    double sum[accumulators] = {};
    std::int64_t i = 0;
    for (; i + accumulators <= count; i += accumulators) {
        for (int j = 0; j < accumulators; ++j) sum[j] += static_cast<double>(x[i + j]) * x[i + j];
    }
    for (int j = 0; i + j < count; ++j) sum[j] += static_cast<double>(x[i + j]) * x[i + j];
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

}  // namespace

void adam(int threads, const AdamStep& step, const float* gradient, AdamState before, std::int64_t count,
          AdamResult after) {
    parallel_ranges(threads, count, grain, [&](std::int64_t begin, std::int64_t end) {
        adam_range(step, end - begin, gradient + begin, before.theta + begin, before.mean + begin,
                   before.square + begin, after.theta + begin, after.mean + begin, after.square + begin);
    });
}

void weighted_sum(int threads, float a, const float* x, float b, const float* y, std::int64_t count, float* out) {
    parallel_ranges(threads, count, grain, [&](std::int64_t begin, std::int64_t end) {
        weighted_sum_range(end - begin, a, x + begin, b, y + begin, out + begin);
    });
}

double sum_of_squares(int threads, const float* x, std::int64_t count) {
    std::vector<double> sums(static_cast<std::size_t>((count + block - 1) / block));
    parallel_ranges(threads, count, block, [&](std::int64_t begin, std::int64_t end) {
        sums[static_cast<std::size_t>(begin / block)] = sum_of_squares_of_block(x + begin, end - begin);
    });
    return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace fpes

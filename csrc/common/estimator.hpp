// Definitions that the gradients of both backends share.
#pragma once

#include "flush.hpp"
#include "program.hpp"

namespace fpes {

// Integers up to this magnitude add up exactly in a float.
constexpr int exact_in_float = 1 << 24;

// Factor from the scaled domain, where activations are from step 2 on, back to the network's own scale; and half of
// this factor, which turns the sum of two activations into their mean. Both are powers of two, so products are exact.
inline float to_own_scale(const Step& step) { return 1.0f / step.bias_factor; }
inline float half_to_own_scale(const Step& step) {
    return static_cast<float>(0.5 / static_cast<double>(step.bias_factor));
}

// Whether the boundary may flush biases to zero. Such a bias has no influence, and its gradient is zero.
inline bool may_have_dead_biases(const Step& step, Flush flush) {
    return !step.reads_input() && elementwise_flushes(flush);
}

}  // namespace fpes

FPES_NAMESPACE_BEGIN

// Weights for families that draw noise for each sample, values[members, samples]: `samples` is the batch size, or 1 if
// a member has one weight. The difference of a pair is the weight of + minus the weight of -.
struct SampleWeights {
    const float* values;
    std::int64_t samples;

    FPES_INLINE const float* plus(std::int64_t pair, std::int64_t sample) const {
        return values + 2 * pair * samples + (samples == 1 ? 0 : sample);
    }
    FPES_INLINE const float* minus(std::int64_t pair, std::int64_t sample) const {
        return plus(pair, sample) + samples;
    }
};

FPES_NAMESPACE_END

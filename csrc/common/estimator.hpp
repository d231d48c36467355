// What the gradients of both backends agree on.
#pragma once

#include "flush.hpp"
#include "program.hpp"

namespace fpes {

// Integers up to this magnitude add up exactly in a float.
constexpr int exact_in_float = 1 << 24;

// Back from the scaled domain, where activations lie from step 2 on, to the network's own scale; and half of that, of
// which the sum of two is their mean. Exact: factors are powers of two.
inline float to_own_scale(const Step& step) { return 1.0f / step.bias_factor; }
inline float half_to_own_scale(const Step& step) {
    return static_cast<float>(0.5 / static_cast<double>(step.bias_factor));
}

// A bias that the boundary flushes to zero has no influence, and its gradient is zero. Whether there may be any.
inline bool may_have_dead_biases(const Step& step, Flush flush) {
    return !step.reads_input() && elementwise_flushes(flush);
}

}  // namespace fpes

FPES_NAMESPACE_BEGIN

// Weights where noise is of samples, values[members, samples]: `samples` is the batch, or 1 where a weight is for all
// of it. A pair's difference is that of plus and minus.
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

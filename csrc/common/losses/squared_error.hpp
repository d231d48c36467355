// The mean over outputs of (output - target)^2.
#pragma once

#include "../scalar.hpp"
#include "list.hpp"

FPES_NAMESPACE_BEGIN

struct SquaredError {
    using Target = Values;

    template <class F, class Outputs, class TargetOf>
    static FPES_IN_KERNEL F of(int count, float share, Outputs& outputs, const TargetOf& target) {
        F sum = splat<F>(0.0f);
        for (int j = 0; j < count; ++j) {
            const F error = sub(outputs.first(j), target(j));
            sum = fma(error, error, sum);
        }
        return mul(sum, splat<F>(share));
    }
};

FPES_NAMESPACE_END

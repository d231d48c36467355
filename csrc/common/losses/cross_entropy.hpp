// Cross-entropy of a softmax, in nats: log(sum_j exp(output_j)) - output_label.
#pragma once

#include "../elementary.hpp"
#include "list.hpp"

FPES_NAMESPACE_BEGIN

struct CrossEntropy {
    using Target = Label;

    // The largest output is subtracted first, so no exponential overflows.
    template <class F, class Outputs, class TargetOf>
    static FPES_IN_KERNEL F of(int count, float, Outputs& outputs, const TargetOf& target) {
        F largest = outputs.first(0);
        for (int j = 1; j < count; ++j) {
            largest = larger(largest, outputs.first(j));
        }
        F sum = splat<F>(0.0f);
        for (int j = 0; j < count; ++j) sum = add(sum, exp_of_nonpositive(sub(outputs(j), largest)));
        return add(log_of_normal(sum), sub(largest, target.chosen()));
    }
};

FPES_NAMESPACE_END

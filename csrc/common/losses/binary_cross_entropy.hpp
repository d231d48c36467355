// Several independent labels, each true or false: the mean over outputs of the cross-entropy of a sigmoid, in nats,
//
//     -t log(s(v)) - (1 - t) log(1 - s(v))  =  max(v, 0) - v t + log(1 + exp(-|v|)),       s(v) = 1 / (1 + exp(-v)).
//
// The right-hand side neither overflows nor takes the logarithm of 0.
#pragma once

#include "../elementary.hpp"
#include "list.hpp"

FPES_NAMESPACE_BEGIN

struct BinaryCrossEntropy {
    using Target = Values;

    template <class F, class Outputs, class TargetOf>
    static FPES_IN_KERNEL F of(int count, float share, Outputs& outputs, const TargetOf& target) {
        const F zero = splat<F>(0.0f), one = splat<F>(1.0f);
        F sum = zero;
        for (int j = 0; j < count; ++j) {
            const F v = outputs.first(j), t = probability(target(j));
            const F above = select(less(v, zero), zero, v), below = select(less(v, zero), v, zero);
            const F rest = log_of_normal(add(one, exp_of_nonpositive(sub(below, above))));  // below - above = -|v|
            sum = add(sum, add(sub(above, mul(v, t)), rest));
        }
        return mul(sum, splat<F>(share));
    }

   private:
    // t, or NaN if t isn't in 0 ... 1. A GPU can't refuse it without waiting for its value.
    template <class F>
    static FPES_IN_KERNEL F probability(F t) {
        const F low = select(less(t, splat<F>(0.0f)), splat<F>(not_a_number), t);
        return select(less(splat<F>(1.0f), t), splat<F>(not_a_number), low);
    }
};

FPES_NAMESPACE_END

// A loss is a type that compares the outputs of one sample with its target:
//
//     struct MyLoss {
//         using Target = Values;  // or Label
//         template <class F, class Outputs, class TargetOf>
//         static F of(int count, float share, Outputs& outputs, const TargetOf& target);
//     };
//
// F is a float vector of the concept in scalar.hpp, with one sample in each lane. So the same code serves the vectors
// of the CPU and the threads of a GPU. Sums over outputs run in order of output on both, for any number of lanes.
//
//   - outputs.first(j) is output j. Call it once for each j = 0 ... count - 1, in this order, because some callers
//     compute the outputs in these calls. Afterwards outputs(j) returns the same value.
//   - target(j) is the target of output j. For a Label, target.chosen() is the output at the label. Call it after all
//     calls of outputs.first().
//   - share is 1 / count: a mean is a sum times share.
//
// Operations are outside a matrix product: they flush in every mode except "never".
#pragma once

#include "binary_cross_entropy.hpp"
#include "cross_entropy.hpp"
#include "list.hpp"
#include "squared_error.hpp"

FPES_NAMESPACE_BEGIN

// body(L()) for the type L of a loss.
template <class Body>
FPES_IN_KERNEL auto with_loss(Loss loss, Body body) {
    switch (loss) {
#define FPES_LOSS(name, Type) \
    case Loss::name: return body(Type());
        FPES_LOSSES(FPES_LOSS)
#undef FPES_LOSS
    }
    __builtin_unreachable();
}

FPES_NAMESPACE_END

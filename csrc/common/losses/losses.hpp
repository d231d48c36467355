// A loss is a type that compares the outputs of one sample with its target:
//
//     struct MyLoss {
//         using Target = Values;  // or Label
//         template <class F, class Outputs, class TargetOf>
//         static F of(int count, float share, Outputs& outputs, const TargetOf& target);
//     };
//
// F is a float vector of the concept in scalar.hpp, and a lane of it is a sample. So the same text serves the vectors
// of the CPU and the threads of a GPU, and sums over outputs run in order of output on both, whatever the lanes.
//
//   - outputs.first(j) is output j. It is called once for each j = 0 ... count - 1, in this order: some callers compute
//     the outputs meanwhile. Afterwards outputs(j) is the same again.
//   - target(j) is the number that output j is compared with; of a Label, target.chosen() is the output of the label,
//     and may be asked for once all outputs have been seen.
//   - share is 1 / count: a mean is a sum times it.
//
// Operations are plain ones, outside a matrix product: they flush in every mode but "never".
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

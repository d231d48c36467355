// The losses that there are. Whatever needs a list of them is made of this one: the enum, its names in Python, the
// choice among the functions (losses.hpp).
#pragma once

#include <cstdint>

#include "../target.hpp"

// each(name, type): the name that users write, and the type that computes it, in a file of its own.
// clang-format off
#define FPES_LOSSES(each)             \
    each(cross_entropy, CrossEntropy) \
    each(squared_error, SquaredError) \
    each(binary_cross_entropy, BinaryCrossEntropy)
// clang-format on

namespace fpes {

enum class Loss : int {
#define FPES_LOSS(name, Type) name,
    FPES_LOSSES(FPES_LOSS)
#undef FPES_LOSS
};

// What a sample's outputs are compared with: a type of target says which numbers an array of targets holds.
struct Label {  // one class: std::int32_t [rows]
    using Number = std::int32_t;
    static constexpr bool each_output = false;
};
struct Values {  // a number for each output: float [rows, outputs]
    using Number = float;
    static constexpr bool each_output = true;
};

// The targets of many rows, for one loss.
struct Targets {
    Loss loss;
    const void* numbers;  // of the loss's type of target; null where no loss is wanted
    float share;          // of an output in a mean over them: 1 / outputs, rounded
};

}  // namespace fpes

FPES_NAMESPACE_BEGIN

inline Targets targets_at(Loss loss, const void* numbers, std::int64_t outputs) {
    return {loss, numbers, 1.0f / static_cast<float>(outputs)};
}

FPES_NAMESPACE_END

// The list of losses. It generates the enum, its names in Python, and the choice among the functions (losses.hpp).
#pragma once

#include <cstdint>

#include "../target.hpp"

// each(name, type): the name that users write, and the type that computes the loss, in its own file.
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

// Types of targets. A type of target defines the numbers in an array of targets.
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
    const void* numbers;  // of the loss's type of target; null if no loss is computed
    float share;          // weight of an output in a mean over outputs: 1 / outputs, rounded
};

}  // namespace fpes

FPES_NAMESPACE_BEGIN

inline Targets targets_at(Loss loss, const void* numbers, std::int64_t outputs) {
    return {loss, numbers, 1.0f / static_cast<float>(outputs)};
}

FPES_NAMESPACE_END

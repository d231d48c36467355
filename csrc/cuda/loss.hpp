// What becomes of outputs: losses, and the fitness of a member from its losses, in one order whatever the tiles.
#pragma once

#include "../common/losses/losses.hpp"
#include "../common/mean.hpp"
#include "intrinsics.hpp"

FPES_NAMESPACE_BEGIN

// A thread has a sample: output(j) is its output j, wherever that comes from.
template <class Output>
struct OutputsOf {
    Output output;

    FPES_DEVICE float first(int j) const { return output(j); }
    FPES_DEVICE float operator()(int j) const { return output(j); }
};

// The output of a label. One that isn't a class, which nobody can refuse without waiting for its value, gives NaN.
template <class Output>
struct LabelOf {
    Output output;
    int label;
    int count;

    FPES_DEVICE float chosen() const {
        return static_cast<unsigned>(label) < static_cast<unsigned>(count) ? output(label) : as_f32(0x7fc00000u);
    }
};
template <class Output>
FPES_DEVICE LabelOf<Output> target_of(Label, const std::int32_t* label, int count, Output output) {
    return {output, *label, count};
}

struct ValuesOf {
    const float* values;

    FPES_DEVICE float operator()(int j) const { return values[j]; }
};
template <class Output>
FPES_DEVICE ValuesOf target_of(Values, const float* values, int, Output) {
    return {values};
}

// The loss of `count` outputs and of the target in a row of them.
template <class Output>
FPES_DEVICE float loss_of(const Targets& targets, std::int64_t row, int count, Output output) {
    return with_loss(targets.loss, [&](auto loss) {
        using L = decltype(loss);
        using Target = typename L::Target;
        const auto* const numbers = static_cast<const typename Target::Number*>(targets.numbers);
        const OutputsOf<Output> outputs{output};
        const auto target = target_of(Target(), numbers + row * (Target::each_output ? count : 1), count, output);
        return L::template of<float>(count, targets.share, outputs, target);
    });
}

// Minus the mean of `batch` losses: loss(i), a double.
template <class LossAt>
FPES_DEVICE float fitness_of(std::int64_t batch, LossAt loss) {
    return to_float(-mean_of_blocks(batch, [&](std::int64_t block) { return sum_of_block(block, batch, loss); }));
}

// Where losses go. A member is finished by whoever adds its last loss: `counts` has a number for each antithetic pair,
// of losses written, and starts at zero.
struct LossSink {
    Targets targets;   // without numbers: no losses are wanted
    float* losses;     // [members, batch]
    float* fitness;    // [members]
    unsigned* counts;  // [pairs]
    std::int64_t batch;

    FPES_DEVICE bool wanted() const { return targets.numbers != nullptr; }
    // Of the pairs from this one on.
    LossSink from(std::int64_t pair) const {
        if (!targets.numbers) return *this;
        return {targets, losses + 2 * pair * batch, fitness + 2 * pair, counts + pair, batch};
    }
    // A pair has `added` losses more, all of them written before by this thread, or by its block before a barrier.
    FPES_DEVICE void finish(std::int64_t pair, unsigned added) const {
        if (publish_and_count(counts + pair, added) + added != 2 * batch) return;
        for (std::int64_t member = 2 * pair; member < 2 * pair + 2; ++member) {
            const float* const mine = losses + member * batch;
            fitness[member] =
                fitness_of(batch, [=](std::int64_t i) { return to_double(load_from_other_block(mine + i)); });
        }
    }
};

FPES_NAMESPACE_END

// What becomes of logits: losses, and the fitness of a member from its losses, in one order whatever the tiles.
#pragma once

#include "../common/elementary.hpp"
#include "../common/population.hpp"
#include "intrinsics.hpp"

FPES_NAMESPACE_BEGIN

// log(sum_j exp(logit(j))) - logit(label), classes in order. Plain operations: they flush. A label that isn't a class,
// which nobody can refuse without waiting for its value, gives NaN.
template <class Logit>
FPES_DEVICE float cross_entropy_of(int classes, int label, Logit logit) {
    if (static_cast<unsigned>(label) >= static_cast<unsigned>(classes)) return as_f32(0x7fc00000u);
    float largest = logit(0);
    for (int j = 1; j < classes; ++j) {
        const float one = logit(j);
        largest = select(less(largest, one), one, largest);
    }
    float sum = 0.0f;
    for (int j = 0; j < classes; ++j) sum = add(sum, exp(sub(logit(j), largest)));
    return add(log(sum), sub(largest, logit(label)));
}
// The same of logits in memory, `stride` floats apart.
FPES_DEVICE float cross_entropy(const float* logits, int stride, int classes, int label) {
    return cross_entropy_of(classes, label, [=](int j) { return logits[j * stride]; });
}

// Minus the mean of losses[batch], which other blocks may have written: sums of loss_block samples, then their sum.
FPES_DEVICE float fitness_of(const float* losses, std::int64_t batch) {
    double total = 0.0;
    for (std::int64_t first = 0; first < batch; first += loss_block) {
        const std::int64_t end = first + loss_block < batch ? first + loss_block : batch;
        double sum = 0.0;
        for (std::int64_t i = first; i < end; ++i) sum += to_double(load_from_other_block(losses + i));
        total += sum;
    }
    return to_float(-(total / static_cast<double>(batch)));
}

// Where losses go. A member is finished by whoever adds its last loss: `counts` has a number for each antithetic pair,
// of losses written, and starts at zero.
struct LossSink {
    const std::int32_t* labels;  // null: no losses are wanted
    float* losses;               // [members, batch]
    float* fitness;              // [members]
    unsigned* counts;            // [pairs]
    std::int64_t batch;

    // A pair has `added` losses more, all of them written before by this thread, or by its block before a barrier.
    FPES_DEVICE void finish(std::int64_t pair, unsigned added) const {
        if (publish_and_count(counts + pair, added) + added != 2 * batch) return;
        for (std::int64_t member = 2 * pair; member < 2 * pair + 2; ++member) {
            fitness[member] = fitness_of(losses + member * batch, batch);
        }
    }
};

FPES_NAMESPACE_END

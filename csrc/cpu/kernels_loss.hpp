// Cross-entropy of rows of logits, with our own exp and log (common/elementary.hpp), so that every target gives the
// same bits.
#pragma once

#include "../common/elementary.hpp"
#include "kernels_panels.hpp"

FPES_NAMESPACE_BEGIN

// log(sum_c exp(logit(c))) - chosen, where a lane is a sample: the sum over classes then runs in order of class,
// whatever the number of lanes.
template <class F, class Logit>
FPES_INLINE F loss_of(int classes, F largest, F chosen, Logit logit) {
    F sum = splat<F>(0.0f);
    for (int c = 0; c < classes; ++c) sum = add(sum, exp(sub(logit(c), largest)));
    return add(log(sum), sub(largest, chosen));
}

template <class F>
void cross_entropy(Panels logits, int rows, int classes, const std::int32_t* labels, float* losses) {
    constexpr int lanes = lanes_of<F>, width = panel_width<F>;
    for (int row = 0; row < rows; row += lanes) {
        auto logit = [&](int j) { return gather<F>(panel_row<F>(logits, row, j / width * width) + j % width, width); };
        F largest = logit(0);
        for (int j = 1; j < classes; ++j) {
            const F z = logit(j);
            largest = select(less(largest, z), z, largest);
        }
        float chosen[lanes];
        for (int lane = 0; lane < lanes; ++lane) {
            const int label = row + lane < rows ? labels[row + lane] : 0;
            chosen[lane] = panel_row<F>(logits, row + lane, label / width * width)[label % width];
        }
        store(losses + row, loss_of<F>(classes, largest, load<F>(chosen), logit));
    }
}

FPES_NAMESPACE_END

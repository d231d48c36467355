// The deep linear network: where each layer's parameters lie in theta, and which factors its boundary applies.
//
//     h1 = bias_add(matmul(x , w1), b1) / scaling
//     hl = bias_add(matmul(hl-1, wl), bl / scaling)        l = 2 ... L
//     logits = hL * scaling
//
// (OpenAI 2017, "Nonlinear computation in deep linear networks".) The first layer enters the scaled domain, the last
// one leaves it; a network of one layer does both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "target.hpp"

namespace fpes {

// One affine layer. theta holds, for each layer in order, weight [fan_in, fan_out] row-major and bias [fan_out].
struct Layer {
    int index;
    std::int64_t fan_in;
    std::int64_t fan_out;
    std::size_t weight_offset;
    std::size_t bias_offset;
    // Factors of the elementwise operations. They are powers of two, so dividing is multiplying; a factor of 1 changes
    // no bits, for what it is applied to has already been flushed.
    float bias_factor;  // 1 in the first layer, 1 / scaling after it: the unit of the layer's pre-activation
    float enter;        // 1 / scaling in the first layer, else 1
    float leave;        // scaling in the last layer, else 1
};

// The layers of a network with these sizes: [inputs, width, ..., outputs].
std::vector<Layer> make_layers(const std::vector<std::int64_t>& sizes, float scaling);

}  // namespace fpes

// The deep linear network as a program: tensors, which hold parameters, and steps, which are computed in order.
//
//     h1 = bias_add(matmul(x , w1), b1) / scaling
//     hl = bias_add(matmul(hl-1, wl), bl / scaling)        l = 2 ... L
//     logits = hL * scaling
//
// (OpenAI 2017, "Nonlinear computation in deep linear networks".) Each line is a step. The first step enters the
// scaled domain, and the last step leaves it. In a network of one layer one step does both.
//
// Several steps may use the same tensor: the weights of their layers are tied. Properties of parameters are indexed by
// tensor: place in theta, noise, gradient. Properties of activations are indexed by step: sums, outputs, boundary,
// noise on pre-activations.
//
//     sizes 784, 256, 256, 256, 10      step 0     step 1     step 2     step 3
//     layers 2 and 3 tied               tensor 0   tensor 1   tensor 1   tensor 2
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "target.hpp"

namespace fpes {

// The parameters of an affine map: weight [fan_in, fan_out], row-major, and then bias [fan_out]. theta holds them
// tensor by tensor.
struct Tensor {
    int index;  // its place in the order of theta, and the owner of its noise
    std::int64_t fan_in;
    std::int64_t fan_out;
    std::size_t weight_offset;
    std::size_t bias_offset;
};

// The value of `reads` for a step that reads the network's input.
constexpr int network_input = -1;

// An affine map and the boundary after it.
struct Step {
    int position;  // its place in the order of execution, and the index of its activations
    Tensor tensor;
    int reads;  // the position of the step whose output it reads (the previous step), or network_input
    // Factors of the elementwise operations. They are powers of two, so a division is a multiplication. A factor of 1
    // changes no bits, because its operand has already been flushed.
    float bias_factor;  // 1 in the first step, 1 / scaling after it: the unit of the step's pre-activation
    float enter;        // 1 / scaling in the first step, else 1
    float leave;        // scaling in the last step, else 1

    bool reads_input() const { return reads == network_input; }
};

struct Program {
    std::vector<Tensor> tensors;
    std::vector<Step> steps;
};

// The program of a network with these sizes: [inputs, width, ..., outputs]. tensors: the tensor of each step, numbered
// in the order of first use.
Program make_program(const std::vector<std::int64_t>& sizes, const std::vector<int>& tensors, float scaling);

}  // namespace fpes

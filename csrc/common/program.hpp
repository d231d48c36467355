// The deep linear network as a program: tensors, which have parameters, and steps, which are computed one after
// another.
//
//     h1 = bias_add(matmul(x , w1), b1) / scaling
//     hl = bias_add(matmul(hl-1, wl), bl / scaling)        l = 2 ... L
//     logits = hL * scaling
//
// (OpenAI 2017, "Nonlinear computation in deep linear networks".) Each line is a step. The first one enters the scaled
// domain, the last one leaves it; the only step of a network of one layer does both.
//
// Several steps may take the same tensor: the weights of their layers are tied. What belongs to parameters goes by
// tensor: their place in theta, their noise, their gradient. What belongs to activations goes by step: sums, outputs,
// the boundary, noise on pre-activations.
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
    int index;  // its place in the order of theta; its noise is drawn by it
    std::int64_t fan_in;
    std::int64_t fan_out;
    std::size_t weight_offset;
    std::size_t bias_offset;
};

// What a step reads where it isn't the output of another.
constexpr int network_input = -1;

// An affine map and the boundary after it.
struct Step {
    int position;  // its place in the order of execution; its activations are kept by it
    Tensor tensor;
    int reads;  // the position of the step whose output it reads, the one before; or network_input
    // Factors of the elementwise operations. They are powers of two, so dividing is multiplying; a factor of 1 changes
    // no bits, for what it is applied to has already been flushed.
    float bias_factor;  // 1 in the first step, 1 / scaling after it: the unit of the step's pre-activation
    float enter;        // 1 / scaling in the first step, else 1
    float leave;        // scaling in the last step, else 1

    bool reads_input() const { return reads == network_input; }
};

struct Program {
    std::vector<Tensor> tensors;
    std::vector<Step> steps;
};

// The program of a network with these sizes: [inputs, width, ..., outputs]. tensors: which one each step takes,
// numbered in the order in which they are first taken.
Program make_program(const std::vector<std::int64_t>& sizes, const std::vector<int>& tensors, float scaling);

}  // namespace fpes

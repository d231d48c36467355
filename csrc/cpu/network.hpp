// A network for the engine: its steps, and its parameters, packed once for all readers.
#pragma once

#include <vector>

#include "engine.hpp"

namespace fpes {

// The program of a network, and the parameters of each tensor in panels: weights [fan_in, fan_out], bias [1, fan_out].
class PackedNetwork {
   public:
    PackedNetwork(const Engine& engine, int threads, Program program, const float* theta);

    int depth() const { return static_cast<int>(program_.steps.size()); }
    const Step& step(int l) const { return program_.steps[l]; }
    const std::vector<Tensor>& tensors() const { return program_.tensors; }
    Panels weight(const Tensor& tensor) { return weights_[tensor.index].view(); }
    Panels bias(const Tensor& tensor) { return biases_[tensor.index].view(); }
    std::int64_t features() const { return program_.steps.front().tensor.fan_in; }
    std::int64_t classes() const { return program_.steps.back().tensor.fan_out; }
    // The widest tensor, counting only outputs, and counting inputs too.
    std::int64_t widest_output() const;
    std::int64_t widest() const;

   private:
    Program program_;
    std::vector<PanelMatrix> weights_;  // of each tensor
    std::vector<PanelMatrix> biases_;
};

// The boundary after a step, from rows of accumulators v to activations out, which may be v. bias: [1, fan_out], from
// theta or perturbed. scaled_bias: memory for the bias times its factor.
void cross_boundary(const Engine& engine, const Step& step, Panels v, std::int64_t rows, Panels bias,
                    Panels scaled_bias, Panels out);

// outputs[batch, classes] of the unperturbed network for x[batch, features], both row-major.
void forward(const Engine& engine, int threads, PackedNetwork& network, const float* x, std::int64_t batch,
             float* outputs);

}  // namespace fpes

// A network as the engine sees it: its layers, and its parameters packed once for all who will read them.
#pragma once

#include <vector>

#include "engine.hpp"

namespace fpes {

// The parameters of a network, in panels: weights [fan_in, fan_out], biases [1, fan_out].
class PackedNetwork {
   public:
    PackedNetwork(const Engine& engine, int threads, std::vector<Layer> layers, const float* theta);

    int depth() const { return static_cast<int>(layers_.size()); }
    const Layer& layer(int l) const { return layers_[l]; }
    Panels weight(int l) { return weights_[l].view(); }
    Panels bias(int l) { return biases_[l].view(); }
    std::int64_t features() const { return layers_.front().fan_in; }
    std::int64_t classes() const { return layers_.back().fan_out; }
    // The widest layer, counting only outputs, and counting inputs too.
    std::int64_t widest_output() const;
    std::int64_t widest() const;

   private:
    std::vector<Layer> layers_;
    std::vector<PanelMatrix> weights_;
    std::vector<PanelMatrix> biases_;
};

// The boundary after a layer, from rows of accumulators v to activations out, which may be v. bias: [1, fan_out], as it
// stands in theta or perturbed. scaled_bias: somewhere to put it after its own factor.
void cross_boundary(const Engine& engine, const Layer& layer, Panels v, std::int64_t rows, Panels bias,
                    Panels scaled_bias, Panels out);

// outputs[batch, classes] of the unperturbed network for x[batch, features], both row-major.
void forward(const Engine& engine, int threads, PackedNetwork& network, const float* x, std::int64_t batch,
             float* outputs);

}  // namespace fpes

// One member of a population, written out, tensor by tensor: what a family of perturbations makes its layers of.
#pragma once

#include "population.hpp"

namespace fpes {

class MemberWriter {
   public:
    // theta: [parameters].
    MemberWriter(const Engine& engine, PackedNetwork& network, const Population& population, std::int64_t member,
                 float* theta);

    // A layer as it stands in the network; or its bias alone.
    void copy(const Layer& layer);
    void copy_bias(const Layer& layer);
    // Weights, or biases, with noise of their own.
    void perturb_weights(const Layer& layer);
    void perturb_bias(const Layer& layer);
    // w + (+-scale left^T) right, term by term: what a correction of inputs applies without ever writing it down.
    void add_outer_products(const Layer& layer);

   private:
    void perturb(const Layer& layer, NoiseRole role, std::int64_t first, Panels from, std::int64_t rows,
                 std::size_t offset);
    void add_outer_products(const Layer& layer, Panels weight, std::int64_t row, std::int64_t rows);
    template <class Body>
    void for_each_block(const Layer& layer, Body body);

    const Engine& engine_;
    PackedNetwork& network_;
    const Population& population_;
    Correction correction_;
    std::int64_t pair_;
    bool minus_;
    float* theta_;
    PanelMatrix written_[2];
    Buffer<float> scratch_;
};

}  // namespace fpes

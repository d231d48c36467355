// Writes out one member of a population, tensor by tensor, as its family of perturbations defines it.
#pragma once

#include "population.hpp"

namespace fpes {

class MemberWriter {
   public:
    // theta: [parameters].
    MemberWriter(const Engine& engine, PackedNetwork& network, const Population& population, std::int64_t member,
                 float* theta);

    // An unperturbed tensor, or only its bias.
    void copy(const Tensor& tensor);
    void copy_bias(const Tensor& tensor);
    // Weights or biases with their own noise.
    void perturb_weights(const Tensor& tensor);
    void perturb_bias(const Tensor& tensor);
    // w + (+-scale left^T) right, term by term. Evaluation of a correction of inputs never writes this matrix.
    void add_outer_products(const Tensor& tensor);

   private:
    void perturb(const Tensor& tensor, NoiseRole role, std::int64_t first, Panels from, std::int64_t rows,
                 std::size_t offset);
    void add_outer_products(const Tensor& tensor, Panels weight, std::int64_t row, std::int64_t rows);
    template <class Body>
    void for_each_block(const Tensor& tensor, Body body);

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

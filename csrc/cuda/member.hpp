// One member of a population, written out, tensor by tensor: what a family of perturbations makes its tensors of.
#pragma once

#include "layers.hpp"

FPES_NAMESPACE_BEGIN

class MemberWriter {
   public:
    // theta: [parameters].
    MemberWriter(Context& context, const Network& network, const Population& population, std::int64_t member,
                 float* theta)
        : context_(context), network_(network), population_(population), member_(member), theta_(theta) {}

    // A tensor as it stands in the network; or its bias alone.
    void copy(const Tensor& tensor) const;
    void copy_bias(const Tensor& tensor) const;
    // Weights, or biases, with noise of their own.
    void perturb_weights(const Tensor& tensor) const;
    void perturb_bias(const Tensor& tensor) const;
    // w + (+-scale left^T) right, term by term: what a correction of inputs applies without ever writing it down.
    void add_outer_products(const Tensor& tensor) const;

   private:
    void perturb(const Tensor& tensor, NoiseRole role, std::size_t offset, std::int64_t count) const;

    Context& context_;
    const Network& network_;
    const Population& population_;
    std::int64_t member_;
    float* theta_;
};

FPES_NAMESPACE_END

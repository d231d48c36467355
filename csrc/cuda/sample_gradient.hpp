// The gradient where noise is of samples.
#pragma once

#include "backend.hpp"

FPES_NAMESPACE_BEGIN

struct SampleGradientJob {
    const Network& network;
    const Population& population;
    PairRange pairs;
    std::int64_t pairs_of_population;
    const Batches& batch;
    SampleWeights weights;  // of the pairs of the range
    const float* sums;      // of the unperturbed network: what evaluate() kept of the same batch
    float* gradient;        // [parameters]
};
// Where each pair perturbs all layers, or one (node_gradient.cu).
void node_gradient(Context& context, const SampleGradientJob& job);
void incremental_gradient(Context& context, const SampleGradientJob& job);

FPES_NAMESPACE_END

// The sums of each sample have noise of their own.
#pragma once

#include "way.hpp"

namespace fpes {

template <>
struct OnCpu<BySample> : OfSamples {
    static void run(const Job& job, Sink& sink) { run_corrected(job, sink); }
    static void sample_gradient(const Job& job, const SampleWeights& weights, std::int64_t pairs, float* gradient) {
        if (job.population.allocation.one_layer()) {
            incremental_gradient(job, weights, pairs, gradient);
        } else {
            node_gradient(job, weights, pairs, gradient);
        }
    }
};

}  // namespace fpes

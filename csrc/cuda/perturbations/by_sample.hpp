// The sums of each sample have noise of their own.
#pragma once

#include "way.hpp"

FPES_NAMESPACE_BEGIN

template <>
struct OnCuda<BySample> : OfSamples {
    static void run(Context& context, const Job& job) { run_corrected(context, job); }
    static std::string plan(const Device& device, const Job& job) { return corrected_plan(device, job); }
    static void sample_gradient(Context& context, const SampleGradientJob& job) {
        if (job.population.allocation.one_layer()) {
            incremental_gradient(context, job);
        } else {
            node_gradient(context, job);
        }
    }
};

FPES_NAMESPACE_END

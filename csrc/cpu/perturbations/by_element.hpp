// Every weight has noise of its own.
#pragma once

#include "way.hpp"

namespace fpes {

template <>
struct OnCpu<ByElement> : OfWeights {
    static void run(const Job& job, Sink& sink) { run_full_rank(job, sink); }
    static void write_weights(MemberWriter& writer, const Tensor& tensor) { writer.perturb_weights(tensor); }
    static void weight_gradient(const GradientJob& job) { sum_noise(job, NoiseRole::weight); }
};

}  // namespace fpes

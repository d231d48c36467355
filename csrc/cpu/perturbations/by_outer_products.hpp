// Weights change by outer products of noise, which evaluation never forms.
#pragma once

#include "way.hpp"

namespace fpes {

template <>
struct OnCpu<ByOuterProducts> : OfWeights {
    static void run(const Job& job, Sink& sink) { run_corrected(job, sink); }
    static void write_weights(MemberWriter& writer, const Tensor& tensor) { writer.add_outer_products(tensor); }
    static void weight_gradient(const GradientJob& job) { sum_outer_products(job); }
};

}  // namespace fpes

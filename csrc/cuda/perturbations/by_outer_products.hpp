// Weights change by outer products of noise, which evaluation never forms.
#pragma once

#include "way.hpp"

FPES_NAMESPACE_BEGIN

template <>
struct OnCuda<ByOuterProducts> : OfWeights {
    static void run(Context& context, const Job& job) { run_corrected(context, job); }
    static std::string plan(const Device& device, const Job& job) { return corrected_plan(device, job); }
    static void write_weights(const MemberWriter& writer, const Tensor& tensor) { writer.add_outer_products(tensor); }
    template <class Run>
    static void weight_gradient(Run& run, const Tensor& tensor) {
        run.sum_outer_products(tensor);
    }
};

FPES_NAMESPACE_END

// Weights change by outer products of noise, which evaluation never forms.
#pragma once

#include "way.hpp"

FPES_NAMESPACE_BEGIN

template <>
struct OnCuda<ByOuterProducts> : OfWeights {
    static void run(Context& context, const Job& job) { run_corrected(context, job); }
    static std::string plan(const Device& device, const Job& job) { return corrected_plan(device, job); }
    static void write_weights(const MemberWriter& writer, const Layer& layer) { writer.add_outer_products(layer); }
    template <class Run>
    static void weight_gradient(Run& run, const Layer& layer) {
        run.sum_outer_products(layer);
    }
};

FPES_NAMESPACE_END

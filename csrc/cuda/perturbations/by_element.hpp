// Every weight has noise of its own.
#pragma once

#include "way.hpp"

FPES_NAMESPACE_BEGIN

template <>
struct OnCuda<ByElement> : OfWeights {
    static void run(Context& context, const Job& job) { run_full_rank(context, job); }
    static std::string plan(const Device& device, const Job& job) { return full_rank_plan(device, job); }
    static void write_weights(const MemberWriter& writer, const Layer& layer) { writer.perturb_weights(layer); }
    template <class Run>
    static void weight_gradient(Run& run, const Layer& layer) {
        run.sum_weight_noise(layer);
    }
};

FPES_NAMESPACE_END

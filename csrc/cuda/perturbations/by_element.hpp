// Every weight has noise of its own.
#pragma once

#include "way.hpp"

FPES_NAMESPACE_BEGIN

template <>
struct OnCuda<ByElement> : OfWeights {
    static void run(Context& context, const Job& job) { run_full_rank(context, job); }
    static std::string plan(const Device& device, const Job& job) { return full_rank_plan(device, job); }
    static void write_weights(const MemberWriter& writer, const Tensor& tensor) { writer.perturb_weights(tensor); }
    template <class Run>
    static void weight_gradient(Run& run, const Tensor& tensor) {
        run.sum_weight_noise(tensor);
    }
};

FPES_NAMESPACE_END

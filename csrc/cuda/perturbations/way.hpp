// How noise meets the network on a GPU: for each way (common/perturbations/family.hpp) a specialisation
//
//     template <>
//     struct OnCuda<MyWay> : OfWeights {
//         static void run(Context& context, const Job& job);  // evaluates
//         static std::string plan(const Device& device, const Job& job);  // how, in words
//         // Of a member, where it perturbs them.
//         static void write_weights(const MemberWriter& writer, const Tensor& tensor);
//         template <class Run>  // a GradientRun (gradient.cu)
//         static void weight_gradient(Run& run, const Tensor& tensor);  // biases are added to it
//     };
//
// or, where noise is of samples and members have no weights of their own,
//
//     template <>
//     struct OnCuda<MyWay> : OfSamples {
//         static void run(Context& context, const Job& job);
//         static std::string plan(const Device& device, const Job& job);
//         static void sample_gradient(Context& context, const SampleGradientJob& job);
//     };
#pragma once

#include <stdexcept>

#include "../member.hpp"
#include "../population.hpp"
#include "../sample_gradient.hpp"

FPES_NAMESPACE_BEGIN

template <class Way>
struct OnCuda;

// What the other sort is never asked for, because Python's description of it says so.
struct OfWeights {
    [[noreturn]] static void sample_gradient(Context&, const SampleGradientJob&) {
        throw std::logic_error("the gradient of this family needs no batch");
    }
};
struct OfSamples {
    [[noreturn]] static void write_weights(const MemberWriter&, const Tensor&) {
        throw std::logic_error("a member of this family has no parameters of its own");
    }
    template <class Run>
    [[noreturn]] static void weight_gradient(Run&, const Tensor&) {
        throw std::logic_error("the gradient of this family needs a batch");
    }
};

FPES_NAMESPACE_END

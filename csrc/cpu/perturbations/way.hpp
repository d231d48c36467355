// How noise meets the network on the CPU: for each way (common/perturbations/family.hpp) a specialisation
//
//     template <>
//     struct OnCpu<MyWay> : OfWeights {
//         static void run(const Job& job, Sink& sink);  // evaluates
//         static void write_weights(MemberWriter& writer, const Tensor& tensor);  // of a member
//         static void weight_gradient(const GradientJob& job);  // biases are added to it
//     };
//
// or, where noise is of samples and members have no weights of their own,
//
//     template <>
//     struct OnCpu<MyWay> : OfSamples {
//         static void run(const Job& job, Sink& sink);
//         static void sample_gradient(const Job&, const SampleWeights&, std::int64_t pairs, float* gradient);
//     };
#pragma once

#include <stdexcept>

#include "../gradient.hpp"
#include "../member.hpp"
#include "../population.hpp"

namespace fpes {

template <class Way>
struct OnCpu;

// What the other sort is never asked for, because Python's description of it says so.
struct OfWeights {
    [[noreturn]] static void sample_gradient(const Job&, const SampleWeights&, std::int64_t, float*) {
        throw std::logic_error("the gradient of this family needs no batch");
    }
};
struct OfSamples {
    [[noreturn]] static void write_weights(MemberWriter&, const Tensor&) {
        throw std::logic_error("a member of this family has no parameters of its own");
    }
    [[noreturn]] static void weight_gradient(const GradientJob&) {
        throw std::logic_error("the gradient of this family needs a batch");
    }
};

}  // namespace fpes

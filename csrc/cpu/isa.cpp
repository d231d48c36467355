#include "isa.hpp"

#include <stdexcept>

namespace fpes {
namespace {

struct Candidate {
    bool supported;
    const Kernels& (*kernels)();
};

std::vector<Candidate> candidates() {
#if defined(__x86_64__)
    // These ask the operating system too: whether it saves the wide registers.
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return {
        {true, baseline_kernels},
#if defined(__x86_64__)
        {avx2, avx2_kernels},
        {avx512, avx512_kernels},
        {avx512 && __builtin_cpu_supports("avx512vnni"), avx512vnni_kernels},
#endif
    };
}

}  // namespace

std::vector<std::string> supported_isas() {
    std::vector<std::string> names;
    for (const Candidate& candidate : candidates()) {
        if (candidate.supported) names.emplace_back(candidate.kernels().name);
    }
    return names;
}

const Kernels& kernels_for(const std::string& isa) {
    std::string choices;
    for (const Candidate& candidate : candidates()) {
        if (!candidate.supported) continue;
        const Kernels& kernels = candidate.kernels();
        if (isa == kernels.name) return kernels;
        choices += std::string(choices.empty() ? "" : ", ") + kernels.name;
    }
    throw std::invalid_argument("isa is '" + isa + "', expected one that this machine runs: " + choices);
}

}  // namespace fpes

// All families on the CPU.
#pragma once

#include "full_rank.hpp"
#include "low_rank.hpp"
#include "node.hpp"

namespace fpes {

// body(OnCpu<P>()) for the population's family P.
template <class Body>
void on_cpu(const Population& population, Body body) {
    std::visit([&](const auto& family) { body(OnCpu<std::decay_t<decltype(family)>>()); }, population.perturbation);
}

}  // namespace fpes

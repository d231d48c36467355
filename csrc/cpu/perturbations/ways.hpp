// All ways on the CPU.
#pragma once

#include "by_element.hpp"
#include "by_outer_products.hpp"
#include "by_sample.hpp"

namespace fpes {

// body(OnCpu<W>()) for the way W of the population's family.
template <class Body>
void on_cpu(const Population& population, Body body) {
    std::visit([&](const auto& family) { body(OnCpu<typename std::decay_t<decltype(family)>::Way>()); },
               population.perturbation);
}

}  // namespace fpes

// All ways on a GPU.
#pragma once

#include "by_element.hpp"
#include "by_outer_products.hpp"
#include "by_sample.hpp"

FPES_NAMESPACE_BEGIN

// body(OnCuda<W>()) for the way W of the population's family.
template <class Body>
void on_cuda(const Population& population, Body body) {
    std::visit([&](const auto& family) { body(OnCuda<typename std::decay_t<decltype(family)>::Way>()); },
               population.perturbation);
}

FPES_NAMESPACE_END

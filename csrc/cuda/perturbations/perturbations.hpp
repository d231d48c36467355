// All families on a GPU.
#pragma once

#include "full_rank.hpp"
#include "low_rank.hpp"
#include "node.hpp"

FPES_NAMESPACE_BEGIN

// body(OnCuda<P>()) for the population's family P.
template <class Body>
void on_cuda(const Population& population, Body body) {
    std::visit([&](const auto& family) { body(OnCuda<std::decay_t<decltype(family)>>()); }, population.perturbation);
}

FPES_NAMESPACE_END

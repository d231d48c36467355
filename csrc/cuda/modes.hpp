// The flush modes of a build, brought from a run-time argument to a template argument.
#pragma once

#include "../common/flush.hpp"
#include "intrinsics.hpp"

FPES_NAMESPACE_BEGIN

constexpr bool build_flushes = FPES_FTZ != 0;

// Refuses a mode that the other build computes.
inline void check_flush(Flush flush) {
    if (elementwise_flushes(flush) != build_flushes) {
        throw std::invalid_argument(build_flushes
                                        ? "the build that flushes doesn't compute the flush mode 'never'"
                                        : "the build that doesn't flush computes the flush mode 'never' only");
    }
}

// Calls body(Mode()) with the arithmetic of the product in this mode.
template <class Body>
void in_product_mode(Flush flush, Body body) {
    if constexpr (build_flushes) {
        if (product_flushes(flush)) return body(Plain());
    }
    body(Ieee());
}

FPES_NAMESPACE_END

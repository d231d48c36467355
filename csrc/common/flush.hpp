// The flush modes: where float32 underflow is flushed to zero. Host and device share these names.
#pragma once

#include "target.hpp"

namespace fpes {

enum class Flush : int {
    never = 0,     // IEEE 754 everywhere
    boundary = 1,  // a matrix product keeps subnormals; every other operation flushes
    always = 2,    // every operation flushes, each fused multiply-add of a matrix product too
};

}  // namespace fpes

FPES_NAMESPACE_BEGIN

constexpr bool product_flushes(Flush flush) { return flush == Flush::always; }
constexpr bool elementwise_flushes(Flush flush) { return flush != Flush::never; }

FPES_NAMESPACE_END

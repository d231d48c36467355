// The kernels for whatever the compiler targets by default.
#define FPES_TARGET baseline

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "../kernels.hpp"
#include "../simd/baseline.hpp"
//
#include "../kernel_set.hpp"

namespace fpes {

const Kernels& baseline_kernels() {
    static constexpr Kernels kernels = kernel_set("baseline", /*hardware_flush=*/false);
    return kernels;
}

}  // namespace fpes

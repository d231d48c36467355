// The shim's one device, and what its tests may change about it.
#include <cstdlib>

#include "../../csrc/cuda/backend.hpp"
#include "shim/platform.hpp"

namespace fpes::shim {

// Shared memory of an H100's block; tests lower it to see what smaller devices do.
int shared_per_block = 232448;
// Few, so that small cases take the path of large ones.
int multiprocessors = 4;
// Tests lower it to see populations taken in parts.
std::int64_t floats_at_a_time = 1 << 25;

}  // namespace fpes::shim

FPES_NAMESPACE_BEGIN

int device_count() { return 1; }

Device device_properties(int device) {
    if (device != 0) throw CudaError(101, "cudaErrorInvalidDevice", "invalid device ordinal " + std::to_string(device));
    return {shim::multiprocessors, shim::shared_per_block, 90, "host shim", shim::floats_at_a_time};
}

CurrentDevice::CurrentDevice(int device) : before_(0) { device_properties(device); }
CurrentDevice::~CurrentDevice() = default;

FPES_NAMESPACE_END

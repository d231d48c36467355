// Devices: how many there are, what they can do, which one is current.
#include <map>
#include <mutex>

#include "backend.hpp"
#include "platform.hpp"

FPES_NAMESPACE_BEGIN
namespace {

int attribute(cudaDeviceAttr which, int device) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, which, device), "reading a property of the device");
    return value;
}

Device read_properties(int index) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, index), "reading the properties of the device");
    return {attribute(cudaDevAttrMultiProcessorCount, index), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, index),
            10 * properties.major + properties.minor, properties.name};
}

}  // namespace

int device_count() {
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
    cudaGetLastError();  // no driver, or none that this runtime can use
    return 0;
}

Device device_properties(int index) {
    // Reading a name takes milliseconds, and no device changes.
    static std::map<int, Device> known;
    static std::mutex mutex;
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = known.find(index);
    if (found != known.end()) return found->second;
    return known.emplace(index, read_properties(index)).first->second;
}

CurrentDevice::CurrentDevice(int device) : before_(0) {
    check(cudaGetDevice(&before_), "asking for the current device");
    if (device != before_) check(cudaSetDevice(device), "choosing a device");
}

// A destructor has nobody to tell of a failure, and the next call tells.
CurrentDevice::~CurrentDevice() { cudaSetDevice(before_); }

FPES_NAMESPACE_END

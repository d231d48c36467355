#include "layers.hpp"

FPES_NAMESPACE_BEGIN
namespace {

__global__ __launch_bounds__(elementwise_threads) void cross_kernel(DeviceLayer layer, const float* sums,
                                                                    std::int64_t count, float factor, float* out) {
    const std::int64_t i = global_index(elementwise_threads);
    if (i >= count) return;
    out[i] = Ieee::mul(layer.cross(sums[i], layer.scaled_bias(layer.bias[i % layer.fan_out])), factor);
}

__global__ __launch_bounds__(elementwise_threads) void copy_kernel(const float* from, std::int64_t count, float* to) {
    const std::int64_t i = global_index(elementwise_threads);
    if (i < count) to[i] = from[i];
}

}  // namespace

void cross_sums(const Context& context, const DeviceLayer& layer, const float* sums, std::int64_t samples, float factor,
                float* out) {
    const std::int64_t count = samples * layer.fan_out;
    launch(cross_kernel, Grid{parts(count, elementwise_threads)}, elementwise_threads, 0, context, layer, sums, count,
           factor, out);
}

void copy_floats(const Context& context, const float* from, std::int64_t count, float* to) {
    launch(copy_kernel, Grid{parts(count, elementwise_threads)}, elementwise_threads, 0, context, from, count, to);
}

FPES_NAMESPACE_END

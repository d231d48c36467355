#include "network.hpp"

#include <algorithm>

#include "parallel.hpp"

namespace fpes {
namespace {

// Samples that one thread carries through the network at a time: activations of two steps stay in its cache.
constexpr std::int64_t tile_samples = 96;

}  // namespace

PackedNetwork::PackedNetwork(const Engine& engine, int threads, Program program, const float* theta)
    : program_(std::move(program)) {
    const Kernels& kernels = engine.kernels();
    for (const Tensor& tensor : program_.tensors) {
        weights_.push_back(engine.matrix(tensor.fan_in, tensor.fan_out));
        biases_.push_back(engine.matrix(1, tensor.fan_out));
        const float* weight = theta + tensor.weight_offset;
        const int n = static_cast<int>(tensor.fan_out);
        parallel_ranges(threads, tensor.fan_in, 512, [&](std::int64_t begin, std::int64_t end) {
            kernels.pack(weight + begin * n, n, static_cast<int>(end - begin), n, weights_.back().from_row(begin));
        });
        kernels.pack(theta + tensor.bias_offset, n, 1, n, biases_.back().view());
    }
}

std::int64_t PackedNetwork::widest_output() const {
    std::int64_t widest = 0;
    for (const Tensor& tensor : program_.tensors) widest = std::max(widest, tensor.fan_out);
    return widest;
}

std::int64_t PackedNetwork::widest() const { return std::max(features(), widest_output()); }

void cross_boundary(const Engine& engine, const Step& step, Panels v, std::int64_t rows, Panels bias,
                    Panels scaled_bias, Panels out) {
    const int n = static_cast<int>(step.tensor.fan_out);
    engine.elementwise(&ModeKernels::scale, bias, 1, n, step.bias_factor, scaled_bias);
    engine.elementwise(&ModeKernels::boundary, v, static_cast<int>(rows), n, scaled_bias, step.enter, step.leave, out);
}

void forward(const Engine& engine, int threads, PackedNetwork& network, const float* x, std::int64_t batch,
             float* outputs) {
    const Kernels& kernels = engine.kernels();
    const std::int64_t tile = std::min(tile_samples, (batch + threads - 1) / threads);
    parallel(threads, (batch + tile - 1) / tile, [&](WorkQueue& queue) {
        PanelMatrix input = engine.matrix(tile, network.features());
        PanelMatrix hidden[2] = {engine.matrix(tile, network.widest_output()),
                                 engine.matrix(tile, network.widest_output())};
        PanelMatrix scaled_bias = engine.matrix(1, network.widest_output());
        for (std::int64_t item; queue.take(item);) {
            const std::int64_t sample = item * tile;
            const int rows = static_cast<int>(std::min(tile, batch - sample));
            const std::int64_t features = network.features(), classes = network.classes();
            kernels.pack(x + sample * features, features, rows, static_cast<int>(features), input.view());
            Panels in = input.view();
            for (int l = 0; l < network.depth(); ++l) {
                const Step& step = network.step(l);
                const Panels out = hidden[l % 2].view();
                engine.in_product(&ModeKernels::product, in, network.weight(step.tensor), Panels{}, out, rows,
                                  static_cast<int>(step.tensor.fan_out), static_cast<int>(step.tensor.fan_in));
                cross_boundary(engine, step, out, rows, network.bias(step.tensor), scaled_bias.view(), out);
                in = out;
            }
            kernels.unpack(in, rows, static_cast<int>(classes), outputs + sample * classes, classes);
        }
    });
}

}  // namespace fpes

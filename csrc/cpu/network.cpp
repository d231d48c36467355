#include "network.hpp"

#include <algorithm>

#include "parallel.hpp"

namespace fpes {
namespace {

// Samples that one thread carries through the network at a time: activations of two layers stay in its cache.
constexpr std::int64_t tile_samples = 96;

}  // namespace

PackedNetwork::PackedNetwork(const Engine& engine, int threads, std::vector<Layer> layers, const float* theta)
    : layers_(std::move(layers)) {
    const Kernels& kernels = engine.kernels();
    for (const Layer& layer : layers_) {
        weights_.push_back(engine.matrix(layer.fan_in, layer.fan_out));
        biases_.push_back(engine.matrix(1, layer.fan_out));
        const float* weight = theta + layer.weight_offset;
        const int n = static_cast<int>(layer.fan_out);
        parallel_ranges(threads, layer.fan_in, 512, [&](std::int64_t begin, std::int64_t end) {
            kernels.pack(weight + begin * n, n, static_cast<int>(end - begin), n, weights_.back().from_row(begin));
        });
        kernels.pack(theta + layer.bias_offset, n, 1, n, biases_.back().view());
    }
}

std::int64_t PackedNetwork::widest_output() const {
    std::int64_t widest = 0;
    for (const Layer& layer : layers_) widest = std::max(widest, layer.fan_out);
    return widest;
}

std::int64_t PackedNetwork::widest() const { return std::max(features(), widest_output()); }

void cross_boundary(const Engine& engine, const Layer& layer, Panels v, std::int64_t rows, Panels bias,
                    Panels scaled_bias, Panels out) {
    const int n = static_cast<int>(layer.fan_out);
    engine.elementwise(&ModeKernels::scale, bias, 1, n, layer.bias_factor, scaled_bias);
    engine.elementwise(&ModeKernels::boundary, v, static_cast<int>(rows), n, scaled_bias, layer.enter, layer.leave,
                       out);
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
                const Layer& layer = network.layer(l);
                const Panels out = hidden[l % 2].view();
                engine.in_product(&ModeKernels::product, in, network.weight(l), Panels{}, out, rows,
                                  static_cast<int>(layer.fan_out), static_cast<int>(layer.fan_in));
                cross_boundary(engine, layer, out, rows, network.bias(l), scaled_bias.view(), out);
                in = out;
            }
            kernels.unpack(in, rows, static_cast<int>(classes), outputs + sample * classes, classes);
        }
    });
}

}  // namespace fpes

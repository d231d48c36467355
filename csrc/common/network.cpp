#include "network.hpp"

namespace fpes {

std::vector<Layer> make_layers(const std::vector<std::int64_t>& sizes, float scaling) {
    std::vector<Layer> layers;
    std::size_t offset = 0;
    const int depth = static_cast<int>(sizes.size()) - 1;
    for (int l = 0; l < depth; ++l) {
        Layer layer{};
        layer.index = l;
        layer.fan_in = sizes[l];
        layer.fan_out = sizes[l + 1];
        layer.weight_offset = offset;
        layer.bias_offset = offset + static_cast<std::size_t>(layer.fan_in) * layer.fan_out;
        offset = layer.bias_offset + layer.fan_out;
        layer.bias_factor = l == 0 ? 1.0f : 1.0f / scaling;
        layer.enter = l == 0 ? 1.0f / scaling : 1.0f;
        layer.leave = l == depth - 1 ? scaling : 1.0f;
        layers.push_back(layer);
    }
    return layers;
}

}  // namespace fpes

#include "population.hpp"

namespace fpes {

Correction Population::correction() const {
    return std::visit([](const auto& family) { return family.correction(); }, perturbation);
}

float Population::scale(const Layer& layer) const {
    return std::visit([&](const auto& family) { return family.scale(noise, layer); }, perturbation);
}

double Population::largest_term() const {
    return std::visit([&](const auto& family) { return family.largest_term(noise.kind); }, perturbation);
}

bool Population::perturbs_biases() const {
    return !allocation.one_layer() && std::visit([](const auto& family) { return family.biases(); }, perturbation);
}

double Population::gradient_scale(const Layer& layer, std::int64_t pairs, std::int64_t samples) const {
    const double members = 2.0 * static_cast<double>(allocation.count(layer.index, {0, pairs}));
    const double evaluations = members * static_cast<double>(samples);
    const double scale =
        std::visit([&](const auto& family) { return family.gradient_scale(noise, layer, evaluations); }, perturbation);
    return scale * allocation.makes_up(layer);
}

double Population::bias_gradient_scale(std::int64_t pairs) const {
    return perturbs_biases() ? noise.gradient_scale(2.0 * static_cast<double>(pairs)) : 0.0;
}

std::vector<TensorScale> gradient_scales(const std::vector<Layer>& layers, const Population& population,
                                         std::int64_t pairs) {
    std::vector<TensorScale> scales;
    for (const Layer& layer : layers) {
        scales.push_back({layer.weight_offset, layer.fan_in * layer.fan_out, population.gradient_scale(layer, pairs)});
        scales.push_back({layer.bias_offset, layer.fan_out, population.bias_gradient_scale(pairs)});
    }
    return scales;
}

}  // namespace fpes

#include "population.hpp"

namespace fpes {

Correction Population::correction() const {
    return std::visit([](const auto& family) { return family.correction(); }, perturbation);
}

float Population::scale(const Tensor& tensor) const {
    return static_cast<float>(
        std::visit([&](const auto& family) { return family.scale(noise, tensor); }, perturbation));
}

// Activations of a step that isn't the first lie in the scaled domain, and so does noise on them.
float Population::scale(const Step& step) const {
    const double scale = std::visit([&](const auto& family) { return family.scale(noise, step.tensor); }, perturbation);
    const Correction correction = this->correction();
    return static_cast<float>(correction.terms > 0 && !correction.of_inputs ? scale * step.bias_factor : scale);
}

double Population::largest_term() const {
    return std::visit([&](const auto& family) { return family.largest_term(noise.kind); }, perturbation);
}

bool Population::perturbs_biases() const {
    return !allocation.one_layer() && std::visit([](const auto& family) { return family.biases(); }, perturbation);
}

double Population::gradient_scale(const Tensor& tensor, std::int64_t pairs, std::int64_t samples) const {
    const double members = 2.0 * static_cast<double>(allocation.count(tensor.index, {0, pairs}));
    const double evaluations = members * static_cast<double>(samples);
    const double scale =
        std::visit([&](const auto& family) { return family.gradient_scale(noise, tensor, evaluations); }, perturbation);
    return scale * allocation.makes_up(tensor);
}

double Population::bias_gradient_scale(std::int64_t pairs) const {
    return perturbs_biases() ? noise.gradient_scale(2.0 * static_cast<double>(pairs)) : 0.0;
}

std::vector<PartScale> gradient_scales(const std::vector<Tensor>& tensors, const Population& population,
                                       std::int64_t pairs) {
    std::vector<PartScale> scales;
    for (const Tensor& tensor : tensors) {
        scales.push_back(
            {tensor.weight_offset, tensor.fan_in * tensor.fan_out, population.gradient_scale(tensor, pairs)});
        scales.push_back({tensor.bias_offset, tensor.fan_out, population.bias_gradient_scale(pairs)});
    }
    return scales;
}

}  // namespace fpes

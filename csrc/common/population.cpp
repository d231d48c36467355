#include "population.hpp"

#include <cmath>
#include <numeric>

namespace fpes {

float Population::weight_scale() const { return static_cast<float>(sigma * noise_unit(noise)); }

float Population::rank_scale() const {
    const double unit = noise_unit(noise);
    return static_cast<float>(sigma * unit * unit / std::sqrt(static_cast<double>(rank)));
}

float Population::node_scale(const Step& step) const {
    return static_cast<float>(sigma * noise_unit(noise) * step.bias_factor);
}

int Population::layer_of(std::int64_t pair) const {
    std::int64_t place = pair % std::accumulate(draws.begin(), draws.end(), std::int64_t{0});
    int layer = 0;
    while (place >= draws[layer]) place -= draws[layer++];
    return layer;
}

std::vector<std::vector<std::int64_t>> Population::pairs_by_layer(std::int64_t begin, std::int64_t end) const {
    std::vector<std::vector<std::int64_t>> pairs(draws.size());
    if (begin >= end) return pairs;
    const auto cycle = std::accumulate(draws.begin(), draws.end(), std::int64_t{0});
    auto layer = static_cast<std::size_t>(layer_of(begin));
    // The first pair, of this turn, that perturbs the next layer.
    std::int64_t next =
        begin - begin % cycle + std::accumulate(draws.begin(), draws.begin() + layer + 1, std::int64_t{0});
    for (std::int64_t pair = begin; pair < end; ++pair) {
        if (pair == next) {
            layer = (layer + 1) % draws.size();
            next += draws[layer];
        }
        pairs[layer].push_back(pair);
    }
    return pairs;
}

std::int64_t Population::pairs_of(int layer, PairRange pairs) const {
    if (!one_layer_at_a_time()) return pairs.count();
    std::int64_t count = 0;
    for (std::int64_t pair = pairs.begin; pair < pairs.end; ++pair) count += layer_of(pair) == layer;
    return count;
}

double Population::full_gradient_scale(std::int64_t pairs) const {
    return noise_unit(noise) / (2.0 * static_cast<double>(pairs) * sigma);
}

double Population::low_rank_gradient_scale(const Tensor& tensor, std::int64_t pairs) const {
    const double unit = noise_unit(noise);
    const double members = 2.0 * static_cast<double>(pairs_of(tensor.index, {0, pairs}));
    const double scale = unit * unit / (std::sqrt(static_cast<double>(rank)) * members * sigma);
    if (!one_layer_at_a_time()) return scale;
    // A unit is perturbed in k of n pairs only, which the factor n / k makes up for.
    return scale * (static_cast<double>(tensor.fan_out) / static_cast<double>(units_of(tensor)));
}

double Population::node_gradient_scale(const Step& step, std::int64_t pairs, std::int64_t samples) const {
    const double members = 2.0 * static_cast<double>(pairs_of(step.position, {0, pairs}));
    const double scale = noise_unit(noise) / (members * static_cast<double>(samples) * sigma);
    // A unit is perturbed in k of n draws only, which the factor n / k makes up for.
    const int k = one_layer_at_a_time() ? units[step.position] : 0;
    return k ? scale * (static_cast<double>(step.tensor.fan_out) / k) : scale;
}

std::vector<PartScale> gradient_scales(const std::vector<Tensor>& tensors, const Population& population,
                                       std::int64_t pairs) {
    std::vector<PartScale> scales;
    const double full = population.full_gradient_scale(pairs);
    for (const Tensor& tensor : tensors) {
        scales.push_back(
            {tensor.weight_offset, tensor.fan_in * tensor.fan_out,
             population.family == Family::full ? full : population.low_rank_gradient_scale(tensor, pairs)});
        scales.push_back({tensor.bias_offset, tensor.fan_out, population.one_layer_at_a_time() ? 0.0 : full});
    }
    return scales;
}

}  // namespace fpes

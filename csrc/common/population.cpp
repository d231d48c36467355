#include "population.hpp"

#include <cmath>
#include <numeric>

namespace fpes {

float Population::weight_scale() const { return static_cast<float>(sigma * noise_unit(noise)); }

float Population::rank_scale() const {
    const double unit = noise_unit(noise);
    return static_cast<float>(sigma * unit * unit / std::sqrt(static_cast<double>(rank)));
}

float Population::node_scale(const Layer& layer) const {
    return static_cast<float>(sigma * noise_unit(noise) * layer.bias_factor);
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

}  // namespace fpes

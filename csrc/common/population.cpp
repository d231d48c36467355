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

}  // namespace fpes

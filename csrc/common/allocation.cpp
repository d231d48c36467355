#include "allocation.hpp"

#include <numeric>

namespace fpes {

Turn Allocation::turn(int layer) const {
    if (!one_layer()) return {1, 0, 1};
    const auto begin = pairs.begin();
    return {std::accumulate(begin, pairs.end(), std::int64_t{0}),
            std::accumulate(begin, begin + layer, std::int64_t{0}), pairs[layer]};
}

std::int64_t Allocation::count(int layer, PairRange range) const {
    const Turn mine = turn(layer);
    return mine.before(range.end) - mine.before(range.begin);
}

std::vector<std::int64_t> Allocation::pairs_of(int layer, PairRange range) const {
    if (range.begin >= range.end) return {};
    const Turn mine = turn(layer);
    const std::int64_t first = mine.before(range.begin);
    std::vector<std::int64_t> found(mine.before(range.end) - first);
    for (std::size_t i = 0; i < found.size(); ++i) found[i] = mine.pair(first + static_cast<std::int64_t>(i));
    return found;
}

std::int64_t Allocation::perturbed_units(const Tensor& tensor) const {
    const int few = few_units(tensor.index);
    return few ? few : tensor.fan_out;
}

double Allocation::makes_up(const Tensor& tensor) const {
    return static_cast<double>(tensor.fan_out) / static_cast<double>(perturbed_units(tensor));
}

}  // namespace fpes

// A network can be carried through in one launch by a tile if
//
//     - the tile has a column for each unit of the widest layer, and its shared memory fits the device;
//     - the network has no more layers than travel with a launch;
//     - the coefficients q of all terms of a correction of inputs fit: a layer overwrites its inputs.
//
// Else it is taken a layer at a time; for full rank also where that is expected to take less time. Of the tiles that
// can do it, the one with the least expected time does.
//
// Time is counted in multiply-adds of a multiprocessor: rounds of blocks, times blocks at a time, times columns, times
// rows plus what a column costs whatever the number of rows (for full rank the drawing of a weight, some ten
// instructions); of layers, times their inputs.
#include "choice.hpp"

#include <algorithm>
#include <limits>

#include "launch.hpp"

FPES_NAMESPACE_BEGIN
namespace {

std::int64_t widest_output(const Network& network, int begin) {
    std::int64_t widest = 0;
    for (std::size_t l = begin; l < network.steps().size(); ++l)
        widest = std::max(widest, network.steps()[l].tensor.fan_out);
    return widest;
}

struct Candidate {
    std::int64_t blocks;
    int bytes;
    int rows;
    int columns;
    bool fits;
};

double expected_time(const Device& device, const Candidate& candidate, int cost_of_column) {
    const std::int64_t at_a_time = device.shared_per_block / candidate.bytes;
    const std::int64_t rounds = parts(candidate.blocks, at_a_time * device.multiprocessors);
    return static_cast<double>(rounds) * static_cast<double>(at_a_time) * candidate.columns *
           (candidate.rows + cost_of_column);
}

// candidate(tile) says what a tile would mean.
template <class CandidateOf>
Choice choose(const Device& device, const Network& network, int begin, int cost_of_column, CandidateOf candidate) {
    Choice best = layer_at_a_time;
    double best_time = std::numeric_limits<double>::infinity();
    if (network.steps().size() - static_cast<std::size_t>(begin) > static_cast<std::size_t>(most_layers)) return best;
    const std::int64_t widest = widest_output(network, begin);
    for (const TileName name : all_tiles) {
        const Candidate it = with_tile(name, candidate);
        if (!it.fits || it.columns < widest || it.bytes > device.shared_per_block) continue;
        const double time = expected_time(device, it, cost_of_column);
        if (time < best_time) {
            best = {true, name};
            best_time = time;
        }
    }
    return best;
}

// What a column of a block costs besides its multiply-adds, in multiply-adds.
constexpr int cost_of_drawing = 12;
constexpr int cost_of_reading = 2;
// And what a launch costs, some microseconds.
constexpr double cost_of_launch = 1e6;

}  // namespace

Choice choose_full_rank(const Device& device, const Network& network, std::int64_t pairs, std::int64_t batch) {
    const auto candidate = [&](auto shape) {
        using T = decltype(shape);
        using Shape = FullRankTile<T>;
        return Candidate{pairs * parts(batch, Shape::samples), Shape::shared_bytes(true), T::rows, T::columns, true};
    };
    const Choice fused = choose(device, network, 0, cost_of_drawing, candidate);
    if (!fused.fused) return fused;
    // The last layer, where it is narrow, costs little in both ways.
    using T = OwnWeightsLayerTile;
    const std::vector<Step>& steps = network.steps();
    const bool narrow = steps.back().tensor.fan_out <= narrow_columns;
    const double time = expected_time(device, with_tile(fused.tile, candidate), cost_of_drawing);
    double in_one = 0.0, by_layers = 0.0;
    for (std::size_t l = 0; l < std::max<std::size_t>(steps.size() - narrow, 1); ++l) {
        const Tensor& tensor = steps[l].tensor;
        const std::int64_t blocks = pairs * parts(batch, FullRankTile<T>::samples) * parts(tensor.fan_out, T::columns);
        const std::int64_t rounds = parts(blocks, full_rank_blocks<T> * device.multiprocessors);
        in_one += time * static_cast<double>(tensor.fan_in);
        by_layers += cost_of_launch + static_cast<double>(rounds * full_rank_blocks<T> * T::columns *
                                                          (T::rows + cost_of_drawing) * tensor.fan_in);
    }
    return by_layers < in_one ? layer_at_a_time : fused;
}

Choice choose_shared_weights(const Device& device, const Network& network, int begin, std::int64_t rows,
                             std::int64_t batch, int products) {
    return choose(device, network, begin, cost_of_reading, [&](auto shape) {
        using T = decltype(shape);
        using Shape = SharedWeightsTile<T>;
        // Pairs that may have rows in one tile.
        const std::int64_t places = std::min<std::int64_t>((T::rows - 1) / (2 * batch) + 2, T::rows / 2 + 1);
        const bool fits = products <= Shape::terms_at_a_time(static_cast<int>(places));
        return Candidate{parts(rows, T::rows), Shape::shared_bytes(true), T::rows, T::columns, fits};
    });
}

namespace {

template <class LayerTile, class BytesOf>
std::string in_words(const Choice& choice, BytesOf bytes_of) {
    std::string words;
    with_choice<LayerTile>(choice, [&](auto shape, auto fused) {
        using T = decltype(shape);
        words = std::string(fused ? "one launch for all layers, activations in shared memory"
                                  : "a launch for each layer, activations in global memory") +
                "; tiles of " + std::to_string(T::rows) + " rows x " + std::to_string(T::columns) + " columns, " +
                std::to_string(T::threads) + " threads, " + std::to_string(bytes_of(shape)) +
                " bytes of shared memory a block";
    });
    return words;
}

}  // namespace

std::string full_rank_in_words(const Choice& choice) {
    return in_words<OwnWeightsLayerTile>(
        choice, [&](auto shape) { return FullRankTile<decltype(shape)>::shared_bytes(choice.fused); });
}
std::string shared_weights_in_words(const Choice& choice) {
    return in_words<SharedWeightsLayerTile>(
        choice, [&](auto shape) { return SharedWeightsTile<decltype(shape)>::shared_bytes(choice.fused); });
}

FPES_NAMESPACE_END

// A network is carried through in one launch by the tile that is expected to do it in the least time, if any can:
//
//     - the tile has a column for each unit of the widest layer, and its shared memory fits the device;
//     - the network has no more layers than travel with a launch;
//     - the coefficients q of all terms of a correction of inputs fit: a layer overwrites its inputs.
//
// The time is counted in multiply-adds of a multiprocessor: rounds of blocks, times blocks at a time, times columns,
// times rows plus what a column costs whatever the number of rows (for full rank the drawing of a weight, some ten
// instructions). Nothing here has been tuned on a GPU yet.
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

}  // namespace

Choice choose_full_rank(const Device& device, const Network& network, std::int64_t pairs, std::int64_t batch) {
    return choose(device, network, 0, cost_of_drawing, [&](auto shape) {
        using T = decltype(shape);
        using Shape = FullRankTile<T>;
        return Candidate{pairs * parts(batch, Shape::samples), Shape::shared_bytes(true), T::rows, T::columns, true};
    });
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

std::string in_words(const Choice& choice, bool full_rank) {
    return with_tile(choice.tile, [&](auto shape) {
        using T = decltype(shape);
        const int bytes =
            full_rank ? FullRankTile<T>::shared_bytes(choice.fused) : SharedWeightsTile<T>::shared_bytes(choice.fused);
        return std::string(choice.fused ? "one launch for all layers, activations in shared memory"
                                        : "a launch for each layer, activations in global memory") +
               "; tiles of " + std::to_string(T::rows) + " rows x " + std::to_string(T::columns) + " columns, " +
               std::to_string(T::threads) + " threads, " + std::to_string(bytes) + " bytes of shared memory a block";
    });
}

FPES_NAMESPACE_END

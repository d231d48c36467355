// The heuristic: which tile carries a network, or whether it is taken a layer at a time.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>

#include "../common/population.hpp"
#include "backend.hpp"
#include "tiles.hpp"

FPES_NAMESPACE_BEGIN

struct Choice {
    bool fused;     // all layers in one launch
    TileName tile;  // of that launch
};

// For full rank: `batch` samples of `pairs` pairs, two members each.
Choice choose_full_rank(const Device& device, const Network& network, std::int64_t pairs, std::int64_t batch);
// For members that share weights: `rows` of activations, through layers begin ... of the network. `products`: of a
// row of inputs, that a correction takes.
Choice choose_shared_weights(const Device& device, const Network& network, int begin, std::int64_t rows,
                             std::int64_t batch, int products);

// The tile of launches that take a layer at a time, whatever the network: where members have weights of their own, and
// where they share them.
using OwnWeightsLayerTile = SquareTile;
using SharedWeightsLayerTile = NarrowTile;
constexpr Choice layer_at_a_time{false, TileName::narrow};

// Calls body(tile, fused), the latter a constant.
template <class LayerTile, class Body>
void with_choice(const Choice& choice, Body body) {
    if (!choice.fused) return body(LayerTile(), std::false_type());
    with_tile(choice.tile, [&](auto tile) { body(tile, std::true_type()); });
}

// The choice in words.
std::string full_rank_in_words(const Choice& choice);
std::string shared_weights_in_words(const Choice& choice);

FPES_NAMESPACE_END

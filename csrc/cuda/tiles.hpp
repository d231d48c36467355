// The tiles of the population kernels, rows x columns; and the choice among those that carry a network in one launch,
// all of them 256 threads.
#pragma once

#include <cstdint>

#include "tile.hpp"

FPES_NAMESPACE_BEGIN

enum class TileName : int { wide, middle, narrow, low, lowest };
constexpr TileName all_tiles[] = {TileName::wide, TileName::middle, TileName::narrow, TileName::low, TileName::lowest};

using WideTile = Tile<2, 4, 4, 8, 8, 16>;    //  64 x 512
using MiddleTile = Tile<4, 2, 4, 8, 8, 16>;  // 128 x 256
using NarrowTile = Tile<8, 1, 4, 8, 8, 16>;  // 256 x 128
using LowTile = Tile<2, 4, 2, 16, 8, 8>;     //  32 x 512, for smaller batches and smaller multiprocessors
using LowestTile = Tile<2, 4, 1, 32, 8, 4>;  //  16 x 512
using SquareTile = Tile<4, 1, 4, 8, 8, 16>;  // 128 x 128, two blocks a multiprocessor, for one layer of full rank
static_assert(WideTile::threads == 256 && MiddleTile::threads == 256 && NarrowTile::threads == 256 &&
                  LowTile::threads == 256 && LowestTile::threads == 256 && SquareTile::threads == 128,
              "255 registers a thread, which the largest tiles need, are there for 256 threads of a multiprocessor");

// Calls body(tile) with the tile of that name.
template <class Body>
auto with_tile(TileName name, Body body) {
    switch (name) {
        case TileName::wide: return body(WideTile());
        case TileName::middle: return body(MiddleTile());
        case TileName::narrow: return body(NarrowTile());
        case TileName::low: return body(LowTile());
        case TileName::lowest: break;
    }
    return body(LowestTile());
}

FPES_NAMESPACE_END

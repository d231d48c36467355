// The tiles of the population kernels: rows x columns, all of them 256 threads.
#pragma once

#include "tile.hpp"

FPES_NAMESPACE_BEGIN

using WideTile = Tile<2, 4, 4, 8, 8, 16>;     //  64 x 512
using MiddleTile = Tile<4, 2, 4, 8, 8, 16>;   // 128 x 256
using NarrowTile = Tile<8, 1, 4, 8, 8, 16>;   // 256 x 128
using LowTile = Tile<2, 4, 2, 16, 8, 8>;      //  32 x 512
using LowestTile = Tile<2, 4, 1, 32, 8, 4>;   //  16 x 512

// What a launch that takes one layer at a time uses, whatever the network.
using LayerTile = NarrowTile;

FPES_NAMESPACE_END

// The network's inputs as full rank multiplies them: without what is zero in all of a tile's samples.
//
//     x [batch, fan_in]                 columns [fan_in][samples]         order
//     +-----------------------+         +----------+
//     | 0 0 . . 0 . 0 0 . 0 0 |         | . . . .  |                      2      k's that aren't zero in
//     | 0 0 0 . 0 . 0 0 . 0 0 |   ->    | . 0 . .  |                      3      every sample, ascending
//     | 0 0 . . 0 . 0 0 0 0 0 |         | . . . .  |                      5
//     | 0 0 . . 0 . 0 0 . 0 0 |         | . . 0 .  |                      8
//     +-----------------------+         | 0 0 0 0  |                      10     and the others
//      a tile's samples                 | 0 0 0 0  |                      9
//
// Why. Many pixels of an image are zero: of 32 random images of MNIST, 42 % of the pixels are in all of them. Such a k
// needs no weights either, and drawing them is a sixth of the work.
//
// What is left out. A term of +-0 leaves an accumulator as it is but one of -0, which may become +0: sums differ at
// most in the sign of a zero, and only if the shorter one is -0 (full_rank.hpp, mend_zeros). That holds where zero
// times a weight is zero. If a weight is infinite or NaN, `wild`, nothing is left out. A perturbation makes no finite
// weight infinite: sigma is 2^100 at most, and half the last bit of the largest float is 2^103.
#pragma once

#include "platform.hpp"

FPES_NAMESPACE_BEGIN

// Blocks that look for wild weights, each with a flag of its own: so nobody has to clear them before.
constexpr int wild_flags = 16;

struct PackedInputs {
    const float* x;            // [batches, batch, fan_in]
    std::int64_t first_batch;  // of those that are packed
    const float* columns;      // [tiles of the batches][fan_in][samples of a tile]
    const int* order;          // [tiles][fan_in]: the k of each column
    const int* counts;         // [tiles]: the columns that aren't zero
    const unsigned* wild;      // [wild_flags]

    // Columns to multiply: a whole number of blocks of `depth`, if there are as many.
    FPES_DEVICE int needed(std::int64_t tile, int fan_in, int depth) const {
        unsigned any = 0;
        FPES_UNROLL
        for (int i = 0; i < wild_flags; ++i) any |= wild[i];
        if (any) return fan_in;
        return smaller(fan_in, (counts[tile] + depth - 1) / depth * depth);
    }
};

FPES_NAMESPACE_END

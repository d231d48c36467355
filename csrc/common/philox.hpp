// Philox4x32 with 7 rounds: a counter-based random number generator.
//
// J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
// section 3.2 and table 2 (7 rounds pass BigCrush; the customary 10 are a safety margin that costs 40 % more).
// A pure function from (counter, key) to 128 random bits: nothing is stored, any block can be drawn anywhere.
#pragma once

#include "scalar.hpp"

namespace fpes {

struct PhiloxKey {
    std::uint32_t word[2];
};

}  // namespace fpes

FPES_NAMESPACE_BEGIN

// One 128-bit block in each lane of U: a counter on the way in, random bits on the way out.
template <class U>
struct PhiloxBlock {
    U word[4];
};

template <class U>
FPES_INLINE PhiloxBlock<U> philox4x32_7(PhiloxBlock<U> counter, PhiloxKey key) {
    constexpr int rounds = 7;
    constexpr std::uint32_t multiplier[2] = {0xD2511F53u, 0xCD9E8D57u};
    constexpr std::uint32_t weyl[2] = {0x9E3779B9u, 0xBB67AE85u};  // golden ratio, sqrt(3) - 1
    for (int round = 0; round < rounds; ++round) {
        U high[2], low[2];
        multiply_wide(counter.word[0], multiplier[0], high[0], low[0]);
        multiply_wide(counter.word[2], multiplier[1], high[1], low[1]);
        counter = {{bit_xor(bit_xor(high[1], counter.word[1]), splat<U>(key.word[0])), low[1],
                    bit_xor(bit_xor(high[0], counter.word[3]), splat<U>(key.word[1])), low[0]}};
        key = {{key.word[0] + weyl[0], key.word[1] + weyl[1]}};
    }
    return counter;
}

FPES_NAMESPACE_END

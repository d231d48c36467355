// Philox4x32 with 7 rounds: a counter-based random number generator.
//
// J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
// section 3.2 and table 2 (7 rounds pass BigCrush; the customary 10 are a safety margin that costs 40 % more).
// It is a pure function from (counter, key) to 128 random bits. Nothing is stored, and any block can be drawn anywhere.
#pragma once

#include "scalar.hpp"

namespace fpes {

struct PhiloxKey {
    std::uint32_t word[2];
};

}  // namespace fpes

FPES_NAMESPACE_BEGIN

// Not arrays: device code may use the value of a constant, but not its address.
constexpr std::uint32_t philox_multiplier_0 = 0xD2511F53u, philox_multiplier_1 = 0xCD9E8D57u;
constexpr std::uint32_t philox_weyl_0 = 0x9E3779B9u, philox_weyl_1 = 0xBB67AE85u;  // golden ratio, sqrt(3) - 1

FPES_INLINE PhiloxKey next_key(PhiloxKey key) { return {{key.word[0] + philox_weyl_0, key.word[1] + philox_weyl_1}}; }

// One 128-bit block in each lane of U.
template <class U>
struct PhiloxBlock {
    U word[4];
};

// A round on the words c. The words of the key are already added to c[1] and c[3].
template <class U>
FPES_INLINE PhiloxBlock<U> philox_round(U c0, U c1_and_key, U c2, U c3_and_key) {
    U high[2], low[2];
    multiply_wide(c0, philox_multiplier_0, high[0], low[0]);
    multiply_wide(c2, philox_multiplier_1, high[1], low[1]);
    return {{bit_xor(high[1], c1_and_key), low[1], bit_xor(high[0], c3_and_key), low[0]}};
}

// The counters (n, tensor, pair, generation) for many n.
//
// Only the first word differs between them. After one round it affects half of the words, and only two rounds later all
// of them. So the common part of the first two rounds is computed once, and each of these rounds needs only one more
// multiplication.
struct PhiloxCounters {
    PhiloxKey key;               // the key of the third round
    std::uint32_t to_word2;      // after round 1, word 2 is high(n * m0) ^ to_word2, and word 3 is low(n * m0)
    std::uint32_t to_word0;      // after round 2, word 0 is high(word 2 * m1) ^ to_word0, word 1 is low(word 2 * m1),
    std::uint32_t to_new_word2;  // word 2 is word 3 ^ to_new_word2,
    std::uint32_t word3;         // and this is word 3

    FPES_INLINE PhiloxCounters(std::uint32_t tensor, std::uint32_t pair, std::uint32_t generation, PhiloxKey first) {
        const PhiloxKey second = next_key(first);
        std::uint32_t high, low;
        multiply_wide(pair, philox_multiplier_1, high, low);
        const std::uint32_t word0 = high ^ tensor ^ first.word[0], word1 = low;
        to_word2 = generation ^ first.word[1];
        multiply_wide(word0, philox_multiplier_0, high, low);
        to_word0 = word1 ^ second.word[0];
        to_new_word2 = high ^ second.word[1];
        word3 = low;
        key = next_key(second);
    }
    // The key of the round after `round`, from the key of `round`.
    FPES_INLINE PhiloxKey key_after(PhiloxKey now, int /*round*/) const { return next_key(now); }
};

// The blocks with numbers n. Counters is PhiloxCounters, or a type that gets its keys in another way.
template <class U, class Counters>
FPES_INLINE PhiloxBlock<U> philox4x32_7(const Counters& counters, U n) {
    U high, low, word0, word1;
    multiply_wide(n, philox_multiplier_0, high, low);
    multiply_wide(bit_xor(high, splat<U>(counters.to_word2)), philox_multiplier_1, word0, word1);
    PhiloxBlock<U> c = {{bit_xor(word0, splat<U>(counters.to_word0)), word1,
                         bit_xor(low, splat<U>(counters.to_new_word2)), splat<U>(counters.word3)}};
    PhiloxKey key = counters.key;
    for (int round = 3; round <= 7; key = counters.key_after(key, round), ++round) {
        c = philox_round(c.word[0], bit_xor(c.word[1], splat<U>(key.word[0])), c.word[2],
                         bit_xor(c.word[3], splat<U>(key.word[1])));
    }
    return c;
}

FPES_NAMESPACE_END

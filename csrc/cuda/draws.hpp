// Noise in registers: a few consecutive elements of a stream at a time, drawn by the thread that uses them.
#pragma once

#include <cmath>

#include "../common/elementary.hpp"
#include "../common/noise.hpp"
#include "intrinsics.hpp"

FPES_NAMESPACE_BEGIN

// The keys of Philox's rounds, worked out on the host: a launch's arguments are constant memory, from where an
// operation takes an operand for nothing, while nine additions for every block of noise are 1 % of a perturbed product.
struct RoundKeys {
    PhiloxKey round[7];
};
inline RoundKeys round_keys(PhiloxKey key) {
    RoundKeys keys;
    for (PhiloxKey& each : keys.round) {
        each = key;
        key = next_key(key);
    }
    return keys;
}

struct Counters : PhiloxCounters {
    const RoundKeys* keys;

    FPES_DEVICE Counters(std::uint32_t tensor, std::uint32_t pair, std::uint32_t generation, const RoundKeys& all)
        : PhiloxCounters(tensor, pair, generation, all.round[0]), keys(&all) {
        key = all.round[2];
    }
    FPES_DEVICE PhiloxKey key_after(PhiloxKey /*now*/, int round) const { return keys->round[round < 7 ? round : 6]; }
};

// The stream of one tensor for a pair, from the parts of a NoiseStream that a launch shares.
struct NoiseSource {
    RoundKeys keys;
    std::uint32_t generation;
    NoiseKind kind;

    FPES_DEVICE Counters counters(std::uint32_t tensor, std::int64_t pair) const {
        return {tensor, static_cast<std::uint32_t>(pair), generation, keys};
    }
};

// popcount - 8 of the low 16 bits, as a float. The count is put into the last bits of 2^23, so that a subtraction
// converts it, which runs where multiply-adds do; a conversion instruction has a quarter of that rate at most.
//
// In units of 2^-22 it takes an operation less: the count as it is, read as a float, is count times 2^-149, and a
// multiply-add that keeps subnormals makes a normal float of it.
template <bool small>
FPES_DEVICE float centred_popcount(std::uint32_t bits) {
    const auto count = static_cast<std::uint32_t>(population_count(bits & 0xffffu));
    if constexpr (small) return fma_ieee(as_f32(count), 0x1p127f, -8.0f * 0x1p-22f);
    return as_f32(0x4b000000u | count) - (0x1p23f + 8.0f);
}

// A draw in small units times small_scale(kind, scale) is the draw times the scale, both products exact; where that
// isn't so, for the scale is huge or subnormal, small_scale is 0.
inline float small_scale(NoiseKind kind, float scale) {
    if (kind != NoiseKind::binomial) return scale;
    const float size = std::fabs(scale);
    return size >= 0x1p-126f && size < 0x1p105f ? scale * 0x1p22f : 0.0f;
}

FPES_DEVICE std::uint32_t word_of(const PhiloxBlock<std::uint32_t>& block, int i) {
    const std::uint32_t low = i & 1 ? block.word[1] : block.word[0];
    const std::uint32_t high = i & 1 ? block.word[3] : block.word[2];
    return i & 2 ? high : low;
}

// Elements first ... first + count - 1 of a stream, where first is a multiple of count, 4 or 8: what a block's bits
// mean is told in common/noise.hpp and cpu/kernels/noise.hpp.
template <NoiseKind kind, int count, bool small = false>
FPES_DEVICE void draw_aligned(const Counters& counters, std::uint64_t first, float* z) {
    static_assert(count == 4 || count == 8,
                  "a Philox block of any kind is a whole number of such groups, or half of one");
    const auto number = static_cast<std::uint32_t>(first / elements_per_block(kind));
    if constexpr (kind == NoiseKind::gaussian) {
        FPES_UNROLL
        for (int i = 0; i < count / 4; ++i) {
            const auto block = philox4x32_7(counters, number + static_cast<std::uint32_t>(i));
            normal_pair(block.word[0], block.word[1], z[4 * i], z[4 * i + 1]);
            normal_pair(block.word[2], block.word[3], z[4 * i + 2], z[4 * i + 3]);
        }
    } else if constexpr (kind == NoiseKind::binomial) {
        const auto block = philox4x32_7(counters, number);
        const int half = static_cast<int>(first % 8) / 4;  // 0 where count is 8
        FPES_UNROLL
        for (int i = 0; i < count / 2; ++i) {
            const std::uint32_t word = count == 8 ? block.word[i] : half ? block.word[2 + i] : block.word[i];
            z[2 * i] = centred_popcount<small>(word);
            z[2 * i + 1] = centred_popcount<small>(word >> 16);
        }
    } else {
        const auto block = philox4x32_7(counters, number);
        const std::uint32_t bits = word_of(block, static_cast<int>(first % 128) / 32) >> (first % 32);
        FPES_UNROLL
        for (int i = 0; i < count; ++i)
            z[i] = as_f32(0xbf800000u ^ ((bits >> i & 1u) << 31));  // +1 where the bit is set
    }
}

// v[i] = v[i + skipped] for i < count, skipped < 2 distance, a bit of it after another, so that every index is known at
// compile time and v stays in registers.
template <int count, int distance>
FPES_DEVICE void move_down(float (&v)[2 * count], int skipped) {
    FPES_UNROLL
    for (int i = 0; i < count + distance - 1; ++i) v[i] = skipped & distance ? v[i + distance] : v[i];
    if constexpr (distance > 1) move_down<count, distance / 2>(v, skipped);
}

// The same for any first. Where it isn't a multiple of count, two groups are drawn and moved into place.
template <NoiseKind kind, int count>
FPES_DEVICE void draw(const Counters& counters, std::uint64_t first, float* z) {
    const int skipped = static_cast<int>(first % count);
    if (skipped == 0) return draw_aligned<kind, count>(counters, first, z);
    float both[2 * count];
    draw_aligned<kind, count>(counters, first - skipped, both);
    draw_aligned<kind, count>(counters, first - skipped + count, both + count);
    move_down<count, count / 2>(both, skipped);
    FPES_UNROLL
    for (int i = 0; i < count; ++i) z[i] = both[i];
}

// The same where the kind is known only at run time.
template <int count>
FPES_DEVICE void draw_aligned(NoiseKind kind, const Counters& counters, std::uint64_t first, float* z) {
    switch (kind) {
        case NoiseKind::binomial: return draw_aligned<NoiseKind::binomial, count>(counters, first, z);
        case NoiseKind::rademacher: return draw_aligned<NoiseKind::rademacher, count>(counters, first, z);
        case NoiseKind::gaussian: return draw_aligned<NoiseKind::gaussian, count>(counters, first, z);
    }
}
template <int count>
FPES_DEVICE void draw(NoiseKind kind, const Counters& counters, std::uint64_t first, float* z) {
    switch (kind) {
        case NoiseKind::binomial: return draw<NoiseKind::binomial, count>(counters, first, z);
        case NoiseKind::rademacher: return draw<NoiseKind::rademacher, count>(counters, first, z);
        case NoiseKind::gaussian: return draw<NoiseKind::gaussian, count>(counters, first, z);
    }
}

// Elements first ... first + 7 of a stream, to shared memory: little code, for uses that are not hot.
FPES_DEVICE void draw_to(float* to, NoiseKind kind, const Counters& counters, std::uint64_t first) {
    const int skipped = static_cast<int>(first % 8);
    FPES_ROLLED
    for (int half = 0; half < (skipped ? 2 : 1); ++half) {
        float z[8];
        draw_aligned<8>(kind, counters, first - skipped + 8 * half, z);
        FPES_UNROLL
        for (int i = 0; i < 8; ++i) {
            const int place = 8 * half + i - skipped;
            if (place >= 0 && place < 8) to[place] = z[i];
        }
    }
}

// One element, for uses that are few.
FPES_DEVICE float draw_one(NoiseKind kind, const Counters& counters, std::uint64_t element) {
    float z[4];
    const auto place = static_cast<int>(element % 4);
    draw_aligned<4>(kind, counters, element - place, z);
    const float low = place & 1 ? z[1] : z[0], high = place & 1 ? z[3] : z[2];
    return place & 2 ? high : low;
}

FPES_NAMESPACE_END

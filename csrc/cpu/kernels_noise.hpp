// Noise, drawn where it is used: strips of it live in the first-level cache for as long as it takes to apply them.
#pragma once

#include "../common/elementary.hpp"
#include "../common/noise.hpp"
#include "kernels_panels.hpp"

FPES_NAMESPACE_BEGIN

// Consecutive block numbers, one in each lane.
template <class F>
FPES_INLINE UintOf<F> block_numbers(std::uint64_t first) {
    std::uint32_t block[lanes_of<F>];
    for (int lane = 0; lane < lanes_of<F>; ++lane) block[lane] = static_cast<std::uint32_t>(first) + lane;
    return load_u32<UintOf<F>>(block);
}

// The elements of `lanes` blocks, as floats.
template <class F>
FPES_INLINE void store_binomial(PhiloxBlock<UintOf<F>> bits, float* z) {
    constexpr int lanes = lanes_of<F>;
    std::int8_t ones[8 * lanes];
    store_halves_as_bytes(ones, popcount_halves(bits.word[0]), popcount_halves(bits.word[1]),
                          popcount_halves(bits.word[2]), popcount_halves(bits.word[3]));
    const F mean = splat<F>(8.0f);
    for (int i = 0; i < 8 * lanes; i += lanes) store(z + i, sub(load_int8<F>(ones + i), mean));
}

// One after another the bits of a block become signs: bit b of word w is element 32 w + b.
template <class F>
FPES_INLINE void store_rademacher(PhiloxBlock<UintOf<F>> bits, float* z) {
    using U = UintOf<F>;
    constexpr int lanes = lanes_of<F>;
    std::uint32_t words[4 * lanes];
    for (int word = 0; word < 4; ++word) {
        float lane_of[lanes];
        store(lane_of, as_f32(bits.word[word]));
        for (int lane = 0; lane < lanes; ++lane) std::memcpy(&words[4 * lane + word], &lane_of[lane], sizeof(float));
    }
    std::uint32_t bit_of_lane[lanes];
    for (int lane = 0; lane < lanes; ++lane) bit_of_lane[lane] = 1u << lane;
    const U which = load_u32<U>(bit_of_lane);
    for (int word = 0; word < 4 * lanes; ++word) {
        for (int bit = 0; bit < 32; bit += lanes, z += lanes) {
            const U chosen = bit_and(splat<U>(words[word] >> bit), which);
            store(z, select(equal(int_to_f32(chosen), splat<F>(0.0f)), splat<F>(-1.0f), splat<F>(1.0f)));
        }
    }
}

// Words 0 and 1 give elements 0 and 1 of a block, words 2 and 3 elements 2 and 3.
template <class F>
FPES_INLINE void store_gaussian(PhiloxBlock<UintOf<F>> bits, float* z) {
    constexpr int lanes = lanes_of<F>;
    for (int word = 0; word < 4; word += 2) {
        F z0, z1;
        normal_pair(bits.word[word], bits.word[word + 1], z0, z1);
        float first[lanes], second[lanes];
        store(first, z0);
        store(second, z1);
        for (int lane = 0; lane < lanes; ++lane) {
            z[4 * lane + word] = first[lane];
            z[4 * lane + word + 1] = second[lane];
        }
    }
}

// Draws whole groups of `lanes` blocks until elements first ... first + count - 1 are there. The strip begins at a
// block, so the wanted elements begin a little after the start of scratch.
template <class F>
const float* noise(const NoiseStream& stream, std::uint64_t first, int count, float* scratch) {
    constexpr int lanes = lanes_of<F>;
    const int per_block = elements_per_block(stream.kind);
    const int skipped = static_cast<int>(first % per_block);
    std::uint64_t block = first / per_block;
    for (int made = 0; made < skipped + count; made += lanes * per_block, block += lanes) {
        const PhiloxBlock<UintOf<F>> bits = noise_blocks(stream, block_numbers<F>(block));
        switch (stream.kind) {
            case NoiseKind::binomial: store_binomial<F>(bits, scratch + made); break;
            case NoiseKind::rademacher: store_rademacher<F>(bits, scratch + made); break;
            case NoiseKind::gaussian: store_gaussian<F>(bits, scratch + made); break;
        }
    }
    return scratch + skipped;
}

template <class F>
void perturb(const NoiseStream& stream, std::uint64_t first, float scale, int rows, int n, Panels in_plus,
             Panels in_minus, Panels plus, Panels minus, float* scratch) {
    constexpr int lanes = lanes_of<F>, width = panel_width<F>;
    const F up = splat<F>(scale), down = splat<F>(-scale);
    const int rows_per_strip = n < noise_strip ? noise_strip / n : 1;
    for (int done = 0; done < rows; done += rows_per_strip) {
        const int strip = smaller(rows_per_strip, rows - done);
        const float* z = noise<F>(stream, first + static_cast<std::uint64_t>(done) * n, strip * n, scratch);
        for (int j = 0; j < n; j += width) {
            for (int row = 0; row < strip; ++row) {
                for (int v = 0; v < width; v += lanes) {
                    const F draw = load<F>(z + row * n + j + v);
                    const F a = load<F>(panel_row<F>(in_plus, done + row, j) + v);
                    const F b = load<F>(panel_row<F>(in_minus, done + row, j) + v);
                    store(panel_row<F>(plus, done + row, j) + v, fma(draw, up, a));
                    store(panel_row<F>(minus, done + row, j) + v, fma(draw, down, b));
                }
            }
        }
    }
}

template <class F>
void accumulate_noise(const NoiseStream& stream, std::uint64_t first, float weight, int count, float* sum,
                      float* scratch) {
    const float* z = noise<F>(stream, first, count, scratch);
    const F factor = splat<F>(weight);
    for (int i = 0; i < count; i += lanes_of<F>) store(sum + i, fma(factor, load<F>(z + i), load<F>(sum + i)));
}

template <class F>
void normal_pairs(const std::uint32_t* bits0, const std::uint32_t* bits1, std::int64_t count, float* z0, float* z1) {
    constexpr int lanes = lanes_of<F>;
    for (std::int64_t i = 0; i < count; i += lanes) {
        const int part = static_cast<int>(count - i < lanes ? count - i : lanes);
        std::uint32_t side0[lanes] = {}, side1[lanes] = {};
        std::memcpy(side0, bits0 + i, sizeof(float) * part);
        std::memcpy(side1, bits1 + i, sizeof(float) * part);
        F first, second;
        normal_pair(load_u32<UintOf<F>>(side0), load_u32<UintOf<F>>(side1), first, second);
        float out0[lanes], out1[lanes];
        store(out0, first);
        store(out1, second);
        std::memcpy(z0 + i, out0, sizeof(float) * part);
        std::memcpy(z1 + i, out1, sizeof(float) * part);
    }
}

FPES_NAMESPACE_END

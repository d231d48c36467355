// Noise, drawn where it is used: strips of it live in the first-level cache for as long as it takes to apply them.
#pragma once

#include "../../common/elementary.hpp"
#include "../../common/noise.hpp"
#include "elementwise.hpp"
#include "panels.hpp"

FPES_NAMESPACE_BEGIN

// The elements of `lanes` blocks. Integers are kept as bytes: a quarter of the memory, and a load converts them.
template <class F>
FPES_INLINE void store_binomial(const PhiloxBlock<UintOf<F>>& bits, std::int8_t* z) {
    store_halves_as_bytes(z, centred_popcount_halves(bits.word[0]), centred_popcount_halves(bits.word[1]),
                          centred_popcount_halves(bits.word[2]), centred_popcount_halves(bits.word[3]));
}

// The bits themselves: the words of each block, one block after another.
template <class F>
FPES_INLINE void store_words(const PhiloxBlock<UintOf<F>>& bits, float* words) {
    store_interleaved(words, as_f32(bits.word[0]), as_f32(bits.word[1]), as_f32(bits.word[2]), as_f32(bits.word[3]));
}

// One after another the bits of a block become signs: bit b of word w is element 32 w + b.
template <class F>
FPES_INLINE void store_rademacher(const PhiloxBlock<UintOf<F>>& bits, std::int8_t* z) {
    constexpr int lanes = lanes_of<F>;
    float words[4 * lanes];
    store_words<F>(bits, words);
    for (int i = 0; i < 4 * lanes; ++i) {
        std::uint32_t word;
        std::memcpy(&word, &words[i], sizeof word);
        store_signs<F>(z + 32 * i, word);
    }
}

// Words 0 and 1 give elements 0 and 1 of a block, words 2 and 3 elements 2 and 3.
template <class F>
FPES_INLINE void store_gaussian(const PhiloxBlock<UintOf<F>>& bits, float* z) {
    F z0, z1, z2, z3;
    normal_pair(bits.word[0], bits.word[1], z0, z1);
    normal_pair(bits.word[2], bits.word[3], z2, z3);
    store_interleaved(z, z0, z1, z2, z3);
}

// Draws whole groups of `lanes` blocks until elements first ... first + count - 1 are there, and returns where they
// begin: a little after the start of scratch, which holds the beginning of a block.
template <class F, int per_block, class Element>
FPES_INLINE const Element* draw(const NoiseStream& stream, std::uint64_t first, int count, Element* scratch,
                                void (*store_blocks)(const PhiloxBlock<UintOf<F>>&, Element*)) {
    constexpr int lanes = lanes_of<F>;
    const PhiloxCounters counters = counters_of(stream);
    const int skipped = static_cast<int>(first % per_block);
    UintOf<F> block = consecutive<F>(static_cast<std::uint32_t>(first / per_block));
    for (int made = 0; made < skipped + count; made += lanes * per_block) {
        store_blocks(philox4x32_7(counters, block), scratch + made);
        block = add(block, splat<UintOf<F>>(std::uint32_t{lanes}));
    }
    return scratch + skipped;
}

// Elements of a strip of noise, by vectors: draws(i) is elements i, i + 1, ...
template <class F>
struct ByteDraws {
    const std::int8_t* z;
    FPES_INLINE F operator()(int i) const { return load_int8<F>(z + i); }
};
template <class F>
struct FloatDraws {
    const float* z;
    FPES_INLINE F operator()(int i) const { return load<F>(z + i); }
};

// Calls use(draws) with elements first ... first + count - 1 of a stream.
template <class F, class Use>
FPES_INLINE void with_draws(const NoiseStream& stream, std::uint64_t first, int count, float* scratch, Use use) {
    auto* bytes = reinterpret_cast<std::int8_t*>(scratch);
    switch (stream.kind) {
        case NoiseKind::binomial:
            return use(ByteDraws<F>{
                draw<F, elements_per_block(NoiseKind::binomial)>(stream, first, count, bytes, store_binomial<F>)});
        case NoiseKind::rademacher:
            return use(ByteDraws<F>{
                draw<F, elements_per_block(NoiseKind::rademacher)>(stream, first, count, bytes, store_rademacher<F>)});
        case NoiseKind::gaussian:
            return use(FloatDraws<F>{
                draw<F, elements_per_block(NoiseKind::gaussian)>(stream, first, count, scratch, store_gaussian<F>)});
    }
}

template <class F>
void noise(const NoiseStream& stream, std::uint64_t first, int count, float* z, float* scratch) {
    with_draws<F>(stream, first, count, scratch, [&](auto draws) {
        for_each_part<F>(count, [&](std::int64_t i, int part) { store_part(z + i, draws(static_cast<int>(i)), part); });
    });
}

// Calls use(row, j, within, z) for each vector of `n` columns of `rows` rows of a tensor of noise, strip by strip. A
// row of the tensor is `ld` elements long, and the first column of the first row is element `first`.
template <class F, class Use>
FPES_INLINE void for_each_draw(const NoiseStream& stream, std::uint64_t first, std::int64_t ld, int rows, int n,
                               float* scratch, Use use) {
    const int rows_per_strip = n == ld && n < noise_strip ? noise_strip / n : 1;
    for (int done = 0; done < rows; done += rows_per_strip) {
        const int strip = smaller(rows_per_strip, rows - done);
        with_draws<F>(stream, first + static_cast<std::uint64_t>(done) * ld, strip * n, scratch, [&](auto draws) {
            for_each_vector<F>(
                strip, n, [&](int row, int j, int within) { use(done + row, j, within, draws(row * n + j + within)); });
        });
    }
}

template <class F>
void noise_panels(const NoiseStream& stream, std::uint64_t first, int rows, int n, Panels out, float* scratch) {
    for_each_draw<F>(stream, first, n, rows, n, scratch,
                     [&](int row, int j, int within, F z) { store(panel_row<F>(out, row, j) + within, z); });
}

template <class F>
void perturb(const NoiseStream& stream, std::uint64_t first, std::int64_t ld, float scale, int rows, int n,
             Panels in_plus, Panels in_minus, Panels plus, Panels minus, float* scratch) {
    const F up = splat<F>(scale), down = splat<F>(-scale);
    for_each_draw<F>(stream, first, ld, rows, n, scratch, [&](int row, int j, int within, F z) {
        const F a = load<F>(panel_row<F>(in_plus, row, j) + within);
        const F b = load<F>(panel_row<F>(in_minus, row, j) + within);
        store(panel_row<F>(plus, row, j) + within, fma(z, up, a));
        store(panel_row<F>(minus, row, j) + within, fma(z, down, b));
    });
}

template <class F>
void accumulate_noise(const NoiseStream& stream, std::uint64_t first, float weight, int count, float* sum,
                      float* scratch) {
    const F factor = splat<F>(weight);
    with_draws<F>(stream, first, count, scratch, [&](auto draws) {
        for (int i = 0; i < count; i += lanes_of<F>) store(sum + i, fma(factor, draws(i), load<F>(sum + i)));
    });
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

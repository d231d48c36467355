// The matrix product without the terms whose left operand is exactly zero.
//
// A unit that the boundary flushes is zero, and about three quarters are at the start of training. Members that see the
// same sample differ by small perturbations, so mostly the same units are zero in all of them: a tile is made of rows
// of one sample, one of each member, and skips every k where all its rows are zero.
//
//          k: . . x . x x . . . x .                b: one panel
//      +-------------------------+        +--------+--------+
//      | member 0, sample s      |     x  | vector | vector |
// rows | member 1, sample s      |     x  | vector | vector |   only these rows of b are read
//      | ...                     |     x  | vector | vector |
//      +-------------------------+     x  | vector | vector |
//
// Why that changes no bits. A skipped term adds +0 or -0 to the accumulator, for b is finite. That leaves every
// accumulator as it is but one that is -0, which becomes +0 when +0 is added; and what is added to a zero later gives
// the same nonzero number, or the same rounding of a nonzero number to zero, whichever zero it was. So with and without
// the terms accumulators differ at most in the sign of a zero, and only where the shorter chain ends at -0. Such a tile
// is computed again with all terms.
#pragma once

#include "panels.hpp"

FPES_NAMESPACE_BEGIN

// -0 as bits, which are those of the smallest integer.
constexpr std::uint32_t minus_zero = 0x80000000u;

// Samples that pass by a panel of b while it is in the cache.
constexpr int samples_at_a_time = skipping_samples;

// Where a term's operands are: offsets into a row of a, and into a panel of b.
struct Term {
    std::int32_t a;
    std::int32_t b;
};
static_assert(sizeof(Term) == integers_of_a_term * sizeof(std::int32_t), "scratch is so many integers");

// The terms in which one of `rows` rows of a, `step` floats apart, is not zero. Returns how many.
template <class F>
int find_terms(Panels a, std::size_t step, int rows, int k, bool all, Term* terms) {
    constexpr int width = panel_width<F>;
    int count = 0;
    for (int first = 0; first < k; first += width) {
        const float* panel = panel_row<F>(a, 0, first);
        std::uint32_t any[width] = {};
        for (int row = 0; row < rows; ++row) {
            for (int i = 0; i < width; ++i) {
                std::uint32_t bits;
                std::memcpy(&bits, panel + row * step + i, sizeof bits);
                any[i] |= bits << 1;  // either zero is no bits but the sign
            }
        }
        for (int i = 0; i < smaller(width, k - first); ++i) {
            terms[count] = {static_cast<std::int32_t>(panel - a.data) + i, (first + i) * width};
            count += all || any[i] != 0;
        }
    }
    return count;
}

// Sums of the terms for one tile. Says whether any of them is -0.
template <class F, int rows, int vectors>
bool sum_terms(const float* a, std::size_t step, const float* b, const Term* terms, int count, float* c) {
    constexpr int lanes = lanes_of<F>;
    F sum[rows][vectors];
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) sum[row][v] = splat<F>(0.0f);
    }
    for (int term = 0; term < count; ++term) {
        const float *left = a + terms[term].a, *right = b + terms[term].b;
        F vector[vectors];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) vector[v] = load<F>(right + v * lanes);
#pragma GCC unroll 16
        for (int row = 0; row < rows; ++row) {
            const F value = splat<F>(left[row * step]);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) sum[row][v] = fma(value, vector[v], sum[row][v]);
        }
    }
    UintOf<F> smallest = as_u32(sum[0][0]);
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) {
            smallest = smaller_signed(smallest, as_u32(sum[row][v]));
            store(c + row * step + v * lanes, sum[row][v]);
        }
    }
    return any_equal(smallest, minus_zero);
}

template <class F, int vectors, int rows = max_tile_rows>
bool sum_terms_of(int height, const float* a, std::size_t step, const float* b, const Term* terms, int count,
                  float* c) {
    if (height == rows) return sum_terms<F, rows, vectors>(a, step, b, terms, count, c);
    if constexpr (rows > 1) return sum_terms_of<F, vectors, rows - 1>(height, a, step, b, terms, count, c);
    return false;
}

// The members first_member ... first_member + height - 1 of samples first ... first + samples - 1.
template <class F>
void skipping_tiles(Panels a, Panels b, Panels c, int first, int samples, int first_member, int height, int period,
                    int n, int k, std::int32_t* scratch) {
    constexpr int width = panel_width<F>;
    const std::size_t step = static_cast<std::size_t>(period) * width;
    Term* terms[samples_at_a_time];
    int count[samples_at_a_time];
    for (int s = 0; s < samples; ++s) {
        terms[s] = reinterpret_cast<Term*>(scratch) + static_cast<std::size_t>(s) * k;
        const Panels rows = {panel_row<F>(a, first_member * period + first + s, 0), a.stride};
        count[s] = find_terms<F>(rows, step, height, k, false, terms[s]);
    }
    for (int j = 0; j < n; j += width) {
        const float* right = panel_row<F>(b, 0, j);
        const auto sum = n - j > lanes_of<F> ? sum_terms_of<F, 2> : sum_terms_of<F, 1>;
        for (int s = 0; s < samples; ++s) {
            const Panels rows = {panel_row<F>(a, first_member * period + first + s, 0), a.stride};
            float* to = panel_row<F>(c, first_member * period + first + s, j);
            if (sum(height, rows.data, step, right, terms[s], count[s], to)) {
                Term* every = reinterpret_cast<Term*>(scratch) + static_cast<std::size_t>(samples_at_a_time) * k;
                sum(height, rows.data, step, right, every, find_terms<F>(rows, step, height, k, true, every), to);
            }
        }
    }
}

template <class F>
void product_skipping(Panels a, Panels b, Panels c, int samples, int members, int n, int k, std::int32_t* scratch) {
    const int tiles = (members + max_tile_rows - 1) / max_tile_rows;
    for (int first = 0; first < samples; first += samples_at_a_time) {
        for (int tile = 0, member = 0; tile < tiles; ++tile) {
            const int height = (members - member + tiles - tile - 1) / (tiles - tile);
            skipping_tiles<F>(a, b, c, first, smaller(samples_at_a_time, samples - first), member, height, samples, n,
                              k, scratch);
            member += height;
        }
    }
}

FPES_NAMESPACE_END

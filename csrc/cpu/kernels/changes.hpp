// Kernels for perturbing a few units of a layer: which units, and what their change does to the next layer's sums.
#pragma once

#include "../../common/strata.hpp"
#include "noise.hpp"
#include "nonzeros.hpp"

FPES_NAMESPACE_BEGIN

// Elements of an [rows, k] tensor of positions, row-major, of which row 0 here is row `first`: each word of the stream
// chooses a unit of its stratum, of the n units that there are.
template <class F>
void unit_positions(const NoiseStream& stream, std::uint64_t first, int rows, int n, int k, std::int32_t* units,
                    float* scratch) {
    const float* words = draw<F, 4>(stream, first * k, rows * k, scratch, store_words<F>);
    for (int j = 0; j < k; ++j) {
        const Stratum mine = stratum(j, n, k);
        for (int i = j; i < rows * k; i += k) {
            std::uint32_t word;
            std::memcpy(&word, words + i, sizeof word);
            units[i] = unit_in(mine, word);
        }
    }
}

// out[i, j] = m[i, units[i, j]], or m[0, units[i, j]] where m has one row for all. out is [rows, k], row-major.
template <class F>
void gather_units(Panels m, bool one_row, const std::int32_t* units, int rows, int k, float* out) {
    constexpr int width = panel_width<F>;
    for (int row = 0; row < rows; ++row) {
        for (int j = 0; j < k; ++j, ++units, ++out) {
            *out = panel_row<F>(m, one_row ? 0 : row, *units / width * width)[*units % width];
        }
    }
}

// One row of `add_changes`, `vectors` vectors from column j on: its changes are all the terms that there are.
template <class F, int vectors>
FPES_INLINE void add_row_of_changes(const Change* change, const Change* end, Panels sums, int sums_row, Panels weights,
                                    int j, Panels out, int row) {
    sum_row<F, vectors, true>(weights, j, sums, sums_row, out, row, [&](auto use) {
        for (const Change* c = change; c < end; ++c) use(c->value, c->unit);
    });
}

template <class F>
void add_changes(RowChanges changes, Panels sums, int period, Panels weights, Panels out, int rows, int n) {
    // As many columns at a time as there are accumulators to hide the latency of the multiply-add.
    constexpr int width = panel_width<F>, vectors = 8;
    constexpr int columns = vectors * lanes_of<F>;
    for (int row = 0; row < rows; ++row) {
        const Change *begin = changes.list + changes.begin[row], *end = changes.list + changes.begin[row + 1];
        int j = 0;
        for (; j + columns <= n; j += columns) {
            add_row_of_changes<F, vectors>(begin, end, sums, row % period, weights, j, out, row);
        }
        for (; j < n; j += width) {
            add_row_of_changes<F, 2>(begin, end, sums, row % period, weights, j, out, row);
        }
    }
}

// fma(weight, z, sum), or sum where plus and minus are both zero.
template <class F>
FPES_INLINE F accumulate_if_reached(F weight, F z, F plus, F minus, F sum) {
    const F zero = splat<F>(0.0f), more = fma(weight, z, sum);
    return select(equal(plus, zero), select(equal(minus, zero), sum, more), more);
}

// sums[i, units[i, j]] = fma(weight[i], z[i, j], that), but where plus and minus are both zero it stays what it is. A
// row's units are all different.
template <class F>
void accumulate_units(const NoiseStream& stream, std::uint64_t first, const float* weight, const std::int32_t* units,
                      int rows, int k, const float* plus, const float* minus, Panels sums, float* scratch) {
    constexpr int lanes = lanes_of<F>, width = panel_width<F>;
    with_draws<F>(stream, first * k, rows * k, scratch, [&](auto draws) {
        for (int row = 0; row < rows; ++row) {
            for_each_part<F>(k, [&](std::int64_t j, int part) {
                const std::int64_t begin = static_cast<std::int64_t>(row) * k + j;
                float side[lanes] = {};
                float* at[lanes];
                for (int i = 0; i < part; ++i) {
                    const std::int32_t unit = units[begin + i];
                    at[i] = panel_row<F>(sums, row, unit / width * width) + unit % width;
                    side[i] = *at[i];
                }
                store(side, accumulate_if_reached(splat<F>(weight[row]), draws(static_cast<int>(begin)),
                                                  load_part<F>(plus + begin, part), load_part<F>(minus + begin, part),
                                                  load<F>(side)));
                for (int i = 0; i < part; ++i) *at[i] = side[i];
            });
        }
    });
}

// The same for all units.
template <class F>
void accumulate_rows(const NoiseStream& stream, std::uint64_t first, const float* weight, int rows, int n, Panels plus,
                     Panels minus, Panels sums, float* scratch) {
    for_each_draw<F>(stream, first * n, n, rows, n, scratch, [&](int row, int j, int within, F z) {
        float* at = panel_row<F>(sums, row, j) + within;
        store(at, accumulate_if_reached(splat<F>(weight[row]), z, load<F>(panel_row<F>(plus, row, j) + within),
                                        load<F>(panel_row<F>(minus, row, j) + within), load<F>(at)));
    });
}

FPES_NAMESPACE_END

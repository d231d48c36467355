// The matrix product: c[m, n] = init + a[m, k] b[k, n].
//
//                       b: one panel, read straight through
//                      +--------+--------+
//                    k | vector | vector |
//                      +--------+--------+
//             k
//      +-------------+ +--------+--------+
//      |             | |        |        |  up to max_tile_rows rows x 2 vectors of accumulators,
// rows |  broadcast  | |  c     |  c     |  in registers from the first k to the last
//      |             | |        |        |
//      +-------------+ +--------+--------+
//
// Why this shape. The contract gives each output element one accumulator and one order, k ascending, so the chain of
// fused multiply-adds along k can't be split; throughput comes from many independent chains at once. A tile of R rows
// and 2 vectors runs 2 R chains, which hides the latency of the multiply-add (4 cycles) from R = 4 on; for each k it
// loads 2 vectors and broadcasts R floats for 2 R multiply-adds, so with R = 12 the load ports are half idle, and b
// may stream from the second-level cache: 2 vectors in 24 multiply-adds. Since b is read once for every R rows and c
// not at all in between, there is no need to block k.
//
// The same tile serves integers of 16 bits, two of them in a lane: k counts pairs of terms then, and one multiply-add
// does both. Sums are exact 32-bit integers, so their order is free, but there is nothing to gain from another one.
#pragma once

#include "kernels_panels.hpp"

FPES_NAMESPACE_BEGIN

// How the left operand lies in memory: as it is multiplied, [m, k], or transposed, [k, m].
enum class Left { rows, columns };

// What one step along k adds to a sum: a term, or two that are integers.
struct FloatStep {
    template <class F>
    static FPES_INLINE F add_to(F sum, F left, F right) {
        return fma(left, right, sum);
    }
};
struct IntegerStep {
    template <class F>
    static FPES_INLINE F add_to(F sum, F left, F right) {
        return as_f32(multiply_add_halves(as_u32(left), as_u32(right), as_u32(sum)));
    }
};

// One tile. `vectors` is 2, or 1 where the panel has no columns in its second vector. a_stride: floats from one run of
// `width` k's to the next.
template <class F, class Step, int rows, int vectors, Left layout>
void product_tile(const float* a, std::size_t a_stride, const float* b, const float* init, float* c, int k) {
    constexpr int lanes = lanes_of<F>, width = panel_width<F>;
    F sum[rows][vectors];
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) {
            sum[row][v] = init ? load<F>(init + row * width + v * lanes) : splat<F>(0.0f);
        }
    }
    // The left operand is cut into panels too: within one, its rows lie `width` floats apart, or, transposed, its k's.
    for (int done = 0; done < k; done += width, a += a_stride) {
        const int depth = smaller(width, k - done);
        for (int i = 0; i < depth; ++i, b += width) {
            F right[vectors];
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) {
                right[v] = load<F>(b + v * lanes);
            }
#pragma GCC unroll 16
            for (int row = 0; row < rows; ++row) {
                const F left = splat<F>(layout == Left::rows ? a[row * width + i] : a[i * width + row]);
#pragma GCC unroll 2
                for (int v = 0; v < vectors; ++v) sum[row][v] = Step::add_to(sum[row][v], left, right[v]);
            }
        }
    }
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) store(c + row * width + v * lanes, sum[row][v]);
    }
}

// The tile of a height known only at run time.
template <class F, class Step, int vectors, Left layout, int rows = max_tile_rows>
void product_tile_of(int height, const float* a, std::size_t a_stride, const float* b, const float* init, float* c,
                     int k) {
    if (height == rows) {
        product_tile<F, Step, rows, vectors, layout>(a, a_stride, b, init, c, k);
    } else if constexpr (rows > 1) {
        product_tile_of<F, Step, vectors, layout, rows - 1>(height, a, a_stride, b, init, c, k);
    }
}

// Rows first ... first + m - 1 of the result, whose part of the left operand begins at `a`, a row's `row_step` floats
// after the one before.
template <class F, class Step, Left layout>
FPES_INLINE void product_rows(const float* a, std::size_t a_stride, int row_step, Panels b, Panels init, Panels c,
                              int first, int m, int n, int k) {
    constexpr int width = panel_width<F>;
    // Tiles of nearly equal height rather than full ones and a flat rest, which would hide no latency.
    const int tiles = (m + max_tile_rows - 1) / max_tile_rows;
    for (int j = 0; j < n; j += width) {
        const float* right = panel_row<F>(b, 0, j);
        for (int tile = 0, i = 0; tile < tiles; ++tile) {
            const int height = (m - i + tiles - tile - 1) / (tiles - tile);
            const float* start = init.data ? panel_row<F>(init, first + i, j) : nullptr;
            const float* left = a + static_cast<std::size_t>(i) * row_step;
            float* to = panel_row<F>(c, first + i, j);
            if (n - j > lanes_of<F>) {
                product_tile_of<F, Step, 2, layout>(height, left, a_stride, right, start, to, k);
            } else {
                product_tile_of<F, Step, 1, layout>(height, left, a_stride, right, start, to, k);
            }
            i += height;
        }
    }
}

template <class F>
void product(Panels a, Panels b, Panels init, Panels c, int m, int n, int k) {
    product_rows<F, FloatStep, Left::rows>(a.data, a.stride, panel_width<F>, b, init, c, 0, m, n, k);
}

// A tile's rows are columns of `a` here, and lie side by side; so they must belong to one panel.
template <class F, class Step>
FPES_INLINE void product_of_columns(Panels a, Panels b, Panels init, Panels c, int m, int n, int k) {
    constexpr int width = panel_width<F>;
    for (int i = 0; i < m; i += width) {
        product_rows<F, Step, Left::columns>(panel_row<F>(a, 0, i), width * width, 1, b, init, c, i,
                                             smaller(width, m - i), n, k);
    }
}

template <class F>
void product_transposed(Panels a, Panels b, Panels init, Panels c, int m, int n, int k) {
    product_of_columns<F, FloatStep>(a, b, init, c, m, n, k);
}

template <class F>
void integer_product_transposed(Panels a, Panels b, Panels init, Panels c, int m, int n, int k) {
    product_of_columns<F, IntegerStep>(a, b, init, c, m, n, k);
}

// Rows 2 i and 2 i + 1 side by side, in the lower and the upper halves of the lanes.
template <class F>
void to_integer_terms(Panels in, int rows, int n, Panels out) {
    using U = UintOf<F>;
    constexpr int lanes = lanes_of<F>, width = panel_width<F>;
    for (int j = 0; j < n; j += lanes) {
        const int panel = j / width * width, within = j % width;
        auto integers = [&](int row) { return f32_to_int(load<F>(panel_row<F>(in, row, panel) + within)); };
        for (int row = 0; row < rows; row += 2) {
            const U lower = bit_and(integers(row), splat<U>(0xffffu));
            const U upper = row + 1 < rows ? shift_left<16>(integers(row + 1)) : splat<U>(0u);
            store(panel_row<F>(out, row / 2, panel) + within, as_f32(bit_or(lower, upper)));
        }
    }
}

FPES_NAMESPACE_END

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
// may stream from the second-level cache: 2 vectors in 24 multiply-adds. The layers of networks need no more than that.
//
// A product of any size takes a part of k at a time (product_part), so that the rows of the left operand that pass by a
// panel stay in the second-level cache, whatever k is: 96 rows of 512 k's are 192 KB for AVX2, whose processors have
// 256 or 512 KB, and of 1,024 k's 384 KB for AVX-512, whose have 1 MB or more. The accumulators are stored and loaded
// again in between, which changes no bits. Shorter parts, of which a panel would stay in the first-level cache, were
// tried on Zen 4 and took 3 to 5 % longer: loading the accumulators costs more than the second-level cache does. The
// loop over k unrolled by four took 1 to 6 % longer on Zen 5.
//
// The same tile serves integers of 16 bits, two of them in a lane: k counts pairs of terms then, and one multiply-add
// does both. Sums are exact 32-bit integers, so their order is free, but there is nothing to gain from another one.
#pragma once

#include "panels.hpp"

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

// A tile of the result, and where its accumulators begin if not at 0; may be the same. step: floats from row to row.
// Of a panel it is a constant, which goes into the addresses of instructions; worked out at run time, it made low rank
// 6 % slower with AVX2.
template <class F>
struct InPanel {
    const float* init;
    float* c;
    static constexpr std::size_t step = panel_width<F>;
    InPanel at_row(int row) const { return {init ? init + row * step : nullptr, c + row * step}; }
    void look_ahead(int) const {}
};
// The same in an array. Meanwhile the panel that is multiplied next comes into the second-level cache, a line with each
// k: one tile calls the first half of it, the next tile the second, if a panel's row is two lines. Without that the
// first tile of a panel waits, and a product of 2048^3 takes 5 % longer (Zen 5); so it does with a few lines at once.
template <class F>
struct InRows {
    static constexpr int line = 16, lines = panel_width<F> > line ? panel_width<F> / line : 1;
    const float* init;
    float* c;
    std::size_t step;
    const float* next;
    int k;
    int first_line = 0;
    InRows at_row(int row) const {
        const int tile = row / max_tile_rows;
        return {init ? init + row * step : nullptr, c + row * step, step, next, k, tile % lines * k};
    }
    FPES_INLINE void look_ahead(int i) const { __builtin_prefetch(next + (first_line + i) * line, 0, 2); }
};

// A panel of the right operand: packed, to be read straight through.
template <class F>
struct PackedPanel {
    const float* b;
    FPES_INLINE F vector(int v) const { return load<F>(b + v * lanes_of<F>); }
    FPES_INLINE void move_on() { b += panel_width<F>; }
};
// Or as it lies in an array, and packed on the way: stores are free where multiply-adds are the limit. What the array
// has beside it is the next panel's.
template <class F>
struct PanelBeingPacked {
    const float* rows;
    std::size_t step;
    float* packed;
    FPES_INLINE F vector(int v) const {
        const F right = load<F>(rows + v * lanes_of<F>);
        store(packed + v * lanes_of<F>, right);
        __builtin_prefetch(rows + panel_width<F> + v * lanes_of<F>, 0, 2);
        return right;
    }
    FPES_INLINE void move_on() {
        rows += step;
        packed += panel_width<F>;
    }
};

// One tile. `vectors` is 2, or 1 where the panel has no columns in its second vector. a_stride: floats from one run of
// `width` k's to the next.
template <class F, class Step, int rows, int vectors, Left layout, class Result, class Right>
void product_tile(const float* a, std::size_t a_stride, Right b, Result result, int k) {
    constexpr int lanes = lanes_of<F>, width = panel_width<F>;
    F sum[rows][vectors];
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) {
            sum[row][v] = result.init ? load<F>(result.init + row * result.step + v * lanes) : splat<F>(0.0f);
        }
    }
    // The left operand is cut into panels too: within one, its rows lie `width` floats apart, or, transposed, its k's.
    for (int done = 0; done < k; done += width, a += a_stride) {
        const int depth = smaller(width, k - done);
        for (int i = 0; i < depth; ++i, b.move_on()) {
            result.look_ahead(done + i);
            F right[vectors];
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) right[v] = b.vector(v);
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
        for (int v = 0; v < vectors; ++v) store(result.c + row * result.step + v * lanes, sum[row][v]);
    }
}

// The tile of a height known only at run time.
template <class F, class Step, int vectors, Left layout, int rows = max_tile_rows, class Result, class Right>
void product_tile_of(int height, const float* a, std::size_t a_stride, Right b, Result result, int k) {
    if (height == rows) {
        product_tile<F, Step, rows, vectors, layout>(a, a_stride, b, result, k);
    } else if constexpr (rows > 1) {
        product_tile_of<F, Step, vectors, layout, rows - 1>(height, a, a_stride, b, result, k);
    }
}

// The first tile of `m` rows is so high, for all to be nearly equal: full ones and a flat rest would hide no latency.
FPES_INLINE int first_height(int m) {
    const int tiles = (m + max_tile_rows - 1) / max_tile_rows;
    return (m + tiles - 1) / tiles;
}

// All rows of one panel's columns. row_step: floats from a row of the left operand to the next.
template <class F, class Step, Left layout, class Result>
FPES_INLINE void product_panel(const float* a, std::size_t a_stride, int row_step, const float* b, Result result, int m,
                               int columns, int k, int first = 0) {
    for (int i = first; i < m;) {
        const int height = first_height(m - i);
        const float* left = a + static_cast<std::size_t>(i) * row_step;
        const Result at = result.at_row(i);
        const PackedPanel<F> right = {b};
        if (columns > lanes_of<F>) {
            product_tile_of<F, Step, 2, layout>(height, left, a_stride, right, at, k);
        } else {
            product_tile_of<F, Step, 1, layout>(height, left, a_stride, right, at, k);
        }
        i += height;
    }
}

// Rows first ... first + m - 1 of the result, whose part of the left operand begins at `a`, a row's `row_step` floats
// after the one before.
template <class F, class Step, Left layout>
FPES_INLINE void product_rows(const float* a, std::size_t a_stride, int row_step, Panels b, Panels init, Panels c,
                              int first, int m, int n, int k) {
    constexpr int width = panel_width<F>;
    for (int j = 0; j < n; j += width) {
        const InPanel<F> result = {init.data ? panel_row<F>(init, first, j) : nullptr, panel_row<F>(c, first, j)};
        product_panel<F, Step, layout>(a, a_stride, row_step, panel_row<F>(b, 0, j), result, m, n - j, k);
    }
}

template <class F>
void product(Panels a, Panels b, Panels init, Panels c, int m, int n, int k) {
    product_rows<F, FloatStep, Left::rows>(a.data, a.stride, panel_width<F>, b, init, c, 0, m, n, k);
}

template <class F>
void product_part(const float* a, std::size_t a_stride, RightPart b, bool goes_on, float* c, std::int64_t step, int m,
                  int columns, int k) {
    const InRows<F> result = {goes_on ? c : nullptr, c, static_cast<std::size_t>(step), b.next, k};
    int done = 0;
    if (b.rows) {
        done = first_height(m);
        const PanelBeingPacked<F> right = {b.rows, static_cast<std::size_t>(b.step), b.panel};
        product_tile_of<F, FloatStep, 2, Left::rows>(done, a, a_stride, right, result.at_row(0), k);
    }
    product_panel<F, FloatStep, Left::rows>(a, a_stride, panel_width<F>, b.panel, result, m, columns, k, done);
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

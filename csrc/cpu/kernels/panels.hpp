// Panels: addressing, and the copies between panels and row-major arrays. No arithmetic, so no mode.
#pragma once

#include "../../common/scalar.hpp"
#include "../kernels.hpp"

FPES_NAMESPACE_BEGIN

template <class F>
constexpr int lanes_of = VectorTraits<F>::lanes;

// Two vectors: a product tile then loads two vectors for each broadcast of the left operand.
template <class F>
constexpr int panel_width = 2 * lanes_of<F>;

// Where row i of the panel that holds column j begins. j is a multiple of the panel's width.
template <class F>
FPES_INLINE float* panel_row(Panels panels, int i, int j) {
    constexpr int width = panel_width<F>;
    return panels.data + static_cast<std::size_t>(j / width) * panels.stride + static_cast<std::size_t>(i) * width;
}

FPES_INLINE int smaller(int a, int b) { return a < b ? a : b; }

// first, first + 1, ...: one in each lane.
template <class F>
FPES_INLINE UintOf<F> consecutive(std::uint32_t first) {
    static constexpr std::uint32_t lane[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return add(splat<UintOf<F>>(first), load_u32<UintOf<F>>(lane));
}
// Stores the lanes of a that aren't zero, of either sign, one after another, and the same lanes of n. Returns how many;
// what is behind them, up to a vector's length, is overwritten too.
template <class F>
FPES_INLINE int compress_nonzeros(F a, UintOf<F> n, float* values, std::int32_t* numbers) {
    const auto lanes = find_nonzero_lanes(a);
    store_lanes(values, lanes, a);
    store_lanes(numbers, lanes, n);
    return lanes.count;
}

// `columns` floats, at most a panel's width. Whole rows by vectors: compilers make of a short memcpy of unknown length
// a string instruction, which takes longer to start than such a row to copy.
template <class F>
FPES_INLINE void copy_row(const float* from, int columns, float* to) {
    constexpr int lanes = lanes_of<F>;
    if (columns == panel_width<F>) {
        for (int v = 0; v < panel_width<F>; v += lanes) store(to + v, load<F>(from + v));
    } else {
        for (int column = 0; column < columns; ++column) to[column] = from[column];
    }
}

// Row by row, into a few panels at a time: so memory is read straight on, where a panel alone would read a line here
// and a line there.
template <class F>
void pack(const float* rows, std::size_t ld, int m, int n, Panels out) {
    constexpr int width = panel_width<F>, panels = 8;
    for (int first = 0; first < n; first += panels * width) {
        const int end = smaller(n, first + panels * width);
        for (int i = 0; i < m; ++i) {
            for (int j = first; j < end; j += width) {
                const int columns = smaller(width, n - j);
                float* to = panel_row<F>(out, i, j);
                copy_row<F>(rows + i * ld + j, columns, to);
                // The padding must hold numbers: what is computed from it is thrown away, but it is computed.
                for (int column = columns; column < width; ++column) to[column] = 0.0f;
            }
        }
    }
}

template <class F>
void unpack(Panels in, int m, int n, float* rows, std::size_t ld) {
    constexpr int width = panel_width<F>;
    for (int j = 0; j < n; j += width) {
        const int columns = smaller(width, n - j);
        const float* panel = panel_row<F>(in, 0, j);
        for (int i = 0; i < m; ++i, panel += width) copy_row<F>(panel, columns, rows + i * ld + j);
    }
}

template <class F>
void transpose(Panels in, int m, int n, Panels out) {
    constexpr int width = panel_width<F>;
    for (int j = 0; j < n; j += width) {
        const int columns = smaller(width, n - j);
        for (int i = 0; i < m; i += width) {
            const int rows = smaller(width, m - i);
            const float* from = panel_row<F>(in, j, i);  // [columns, rows] of one panel of `in`
            float* to = panel_row<F>(out, i, j);
            for (int column = 0; column < columns; ++column) {
                for (int row = 0; row < rows; ++row) to[row * width + column] = from[column * width + row];
            }
        }
    }
}

FPES_NAMESPACE_END

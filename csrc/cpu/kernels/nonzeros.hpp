// The matrix product of a left operand with many zeros, each row with zeros of its own:
// c[m, n] = init + a[m, k] b[k, n].
//
// A unit that the boundary flushes is zero, and so are most pixels of an image. Which ones differs from row to row, so
// a row is a list of the terms that are left, and goes through b alone:
//
//        row i of a, its terms                b: a run of rows, as many columns as fit the first-level cache
//      +-----------------------+            +--------+--------+-- --+--------+
//      |  k: 3  8  9  15  21 ..|          3 | vector | vector | ... | vector |
//      +-----------------------+          8 | vector | vector | ... | vector |   -> accumulators in registers,
//                                         9 | vector | vector | ... | vector |      read and written once a run
//                                           +--------+--------+-- --+--------+
//
// Why this shape. Rows share no terms, so no vector of b that is loaded serves two of them: a load for each
// multiply-add, as many as the machine can do if they come from the first-level cache. So b is taken in parts that fit
// there (`nonzero_run` rows), and every row passes by before the next part comes. The tile of kernels/product.hpp needs
// a twelfth of the loads and does all the terms: it is better where more than 0.6 of them are not zero.
//
// Why leaving terms out changes no bits, and when: see kernels/skipping.hpp. A row whose sums end at -0 is done again
// with all terms.
#pragma once

#include "skipping.hpp"

FPES_NAMESPACE_BEGIN

// Vectors of columns at a time, and rows of b that, so many columns wide, take 32 KB: a first-level cache. Half of
// either was slower.
constexpr int nonzero_vectors = 8;
template <class F>
constexpr int nonzero_run =
    (32 << 10) / (int{sizeof(float)} * nonzero_vectors * lanes_of<F>) / panel_width<F> * panel_width<F>;

template <class F>
std::int64_t find_nonzeros(Panels a, int rows, int k, Nonzeros out) {
    constexpr int lanes = lanes_of<F>, width = panel_width<F>, run = nonzero_run<F>;
    std::int32_t count = 0, list = 0;
    for (int first = 0; first < k; first += run) {
        const int depth = smaller(run, k - first);
        for (int row = 0; row < rows; ++row) {
            out.begin[list++] = count;
            auto at = [&](int i) { return panel_row<F>(a, row, (first + i) / width * width) + i % width; };
            int i = 0;
            for (; i + lanes <= depth; i += lanes) {
                count += compress_nonzeros(load<F>(at(i)), consecutive<F>(static_cast<std::uint32_t>(i)),
                                           out.value + count, out.row + count);
            }
            for (; i < depth; ++i) {
                std::uint32_t bits;
                std::memcpy(&bits, at(i), sizeof bits);
                out.value[count] = *at(i);
                out.row[count] = i;
                count += (bits << 1) != 0;  // either zero is no bits but the sign
            }
        }
    }
    out.begin[list] = count;
    return count;
}

// Adds terms to `vectors` vectors of the sums of one row: terms(use) calls use(value, row of b) for each. Where a sum
// ends at -0 and `all` of the row's terms weren't there, nothing is written, and the answer is false.
template <class F, int vectors, bool all, class Terms>
FPES_INLINE bool sum_row(Panels b, int j, Panels init, int init_row, Panels c, int row, Terms terms) {
    constexpr int lanes = lanes_of<F>, width = panel_width<F>, per_panel = width / lanes;
    auto at = [&](Panels panels, int i, int v) {
        return panel_row<F>(panels, i, j + v / per_panel * width) + v % per_panel * lanes;
    };
    F sum[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) sum[v] = init.data ? load<F>(at(init, init_row, v)) : splat<F>(0.0f);
    terms([&](float value, int i) {
        const F left = splat<F>(value);
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[v] = fma(left, load<F>(at(b, i, v)), sum[v]);
    });
    if constexpr (!all) {
        UintOf<F> smallest = as_u32(sum[0]);
#pragma GCC unroll 8
        for (int v = 1; v < vectors; ++v) smallest = smaller_signed(smallest, as_u32(sum[v]));
        if (any_equal(smallest, minus_zero)) return false;
    }
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) store(at(c, row, v), sum[v]);
    return true;
}

// One run of all rows, `vectors` vectors from column j on.
template <class F, int vectors>
void sum_run(Nonzeros terms, const std::int32_t* begin, Panels a, Panels b, int j, Panels init, Panels c, int m,
             int k) {
    constexpr int width = panel_width<F>;
    for (int row = 0; row < m; ++row) {
        const bool done = sum_row<F, vectors, false>(b, j, init, row, c, row, [&](auto use) {
            for (std::int32_t t = begin[row]; t < begin[row + 1]; ++t) use(terms.value[t], terms.row[t]);
        });
        if (done) continue;
        sum_row<F, vectors, true>(b, j, init, row, c, row, [&](auto use) {
            for (int i = 0; i < k; ++i) use(panel_row<F>(a, row, i / width * width)[i % width], i);
        });
    }
}

template <class F>
void product_nonzeros(Nonzeros terms, int first_run, Panels a, Panels b, Panels init, Panels c, int m, int n, int k) {
    constexpr int width = panel_width<F>, columns = nonzero_vectors * lanes_of<F>, run = nonzero_run<F>;
    for (int j = 0; j < n; j += columns) {
        for (int i = 0; i < k; i += run) {
            const std::int32_t* begin = terms.begin + (first_run + i / run) * static_cast<std::int64_t>(m);
            const Panels left = {panel_row<F>(a, 0, i), a.stride}, right = {panel_row<F>(b, i, 0), b.stride};
            const Panels from = i ? c : init;
            const int depth = smaller(run, k - i);
            if (j + columns <= n) {
                sum_run<F, nonzero_vectors>(terms, begin, left, right, j, from, c, m, depth);
            } else {
                for (int rest = j; rest < n; rest += width) {
                    sum_run<F, 2>(terms, begin, left, right, rest, from, c, m, depth);
                }
            }
        }
    }
}

FPES_NAMESPACE_END

// A sum of outer products: out[i, j] = sum over terms t of left_t[i] right_t[j], which gradients are made of.
//
//              t: 16                           64 columns
//            +--------+                      +------------+
//   64 rows  | left   |    x        t: 16    | right      |      The block makes both factors as it needs them, by
//            | (t, i) |                      | (t, j)     |      drawing or from activations, in shared memory only.
//            +--------+                      +------------+      A thread has 4 x 4 sums, for all terms.
//
// Why this shape. The order of the terms is part of the contract where they are floats: one chain of multiply-adds, t
// ascending. So all terms of an element belong to one thread, and what is parallel are the elements: small tiles make
// enough blocks. Integers have no order: their terms may be split among blocks, which add to the sums.
#pragma once

#include "intrinsics.hpp"
#include "tile.hpp"

FPES_NAMESPACE_BEGIN

using SumTile = Tile<4, 2, 4, 8, 4, 4>;  // 64 x 64
constexpr int sum_depth = 16;

// What the elements of a product are: floats, added in order and never flushed, or exact integers.
struct FloatSums {
    using Factor = float;
    using Sum = float;
    static FPES_DEVICE float add(float left, float right, float sum) { return Ieee::fma(left, right, sum); }
};
struct IntegerSums {
    using Factor = int;
    using Sum = std::int64_t;
    static FPES_DEVICE std::int64_t add(int left, int right, std::int64_t sum) {
        return sum + static_cast<std::int64_t>(left) * right;
    }
};

// Terms begin ... end - 1 of a block's share. Source has rows(), columns(), left(t, i, to) and right(t, j, to), which
// make four factors from row i or column j on, a multiple of 4; those outside the matrix are never looked at.
// sums[i][j] are those of rows first_row + SumTile::row(i).
template <class Sums, class Source>
FPES_DEVICE void sum_outer_products(const Source& source, std::int64_t begin, std::int64_t end, std::int64_t first_row,
                                    std::int64_t first_column, typename Sums::Sum (&sums)[SumTile::tm][SumTile::tn]) {
    using T = SumTile;
    using Factor = typename Sums::Factor;
    constexpr int stride = T::rows + 4;
    static_assert(T::rows == T::columns, "both factors are made by the same threads");
    static_assert(T::rows % 4 == 0, "factors are made four at a time");
    static_assert(sizeof(Factor) == sizeof(float), "sum_shared_bytes has room for both kinds of factors");
    auto* const left = dynamic_shared<Factor>();
    auto* const right = left + sum_depth * stride;
    constexpr int groups = sum_depth * T::rows / 4;
    for (std::int64_t t = begin; t < end; t += sum_depth) {
        const int depth = end - t < sum_depth ? static_cast<int>(end - t) : sum_depth;
        __syncthreads();  // everybody is done with the factors
        FPES_ROLLED
        for (int group = thread_index(); group < 2 * groups; group += T::threads) {
            const int term = group % groups / (T::rows / 4), place = group % (T::rows / 4) * 4;
            if (term >= depth) continue;
            Factor four[4];
            if (group < groups) {
                source.left(t + term, first_row + place, four);
            } else {
                source.right(t + term, first_column + place, four);
            }
            Factor* const to = (group < groups ? left : right) + term * stride + place;
            FPES_UNROLL
            for (int i = 0; i < 4; ++i) to[i] = four[i];
        }
        __syncthreads();
        FPES_ROLLED
        for (int term = 0; term < depth; ++term) {
            Factor a[T::tm], b[T::tn];
            FPES_UNROLL
            for (int i = 0; i < T::tm; ++i) a[i] = left[term * stride + T::row(i)];
            FPES_UNROLL
            for (int j = 0; j < T::tn; ++j) b[j] = right[term * stride + T::column(j)];
            FPES_UNROLL
            for (int i = 0; i < T::tm; ++i) {
                FPES_UNROLL
                for (int j = 0; j < T::tn; ++j) sums[i][j] = Sums::add(a[i], b[j], sums[i][j]);
            }
        }
    }
}

constexpr int sum_shared_bytes = 2 * sum_depth * (SumTile::rows + 4) * static_cast<int>(sizeof(float));

FPES_NAMESPACE_END

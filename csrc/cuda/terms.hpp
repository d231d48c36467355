// A sum of outer products, out[i, j] = sum over terms t of left[t, i] right[t, j], which gradients are made of: a
// matrix product whose k's are the terms. Both factors are in memory, made once for all tiles:
//
//              t: 16                           columns of right, filled up to a multiple of 4
//            +--------+                      +------------+
//    columns | left   |    x        t: 16    | right      |      A block has a tile of the sums, for all of its terms.
//    of left |        |                      |            |
//            +--------+                      +------------+
//
// Why this shape. The order of the terms is part of the contract where they are floats: one chain of multiply-adds, t
// ascending. So all terms of an element belong to one thread, and what is parallel are the elements: small tiles make
// enough blocks. Integers have no order: their terms may be split among blocks, which add to the sums.
#pragma once

#include "tile.hpp"

FPES_NAMESPACE_BEGIN

constexpr int terms_depth = 16;

// Floats from one term of a factor to the next: rows begin at multiples of 16 bytes.
FPES_INLINE constexpr std::int64_t factor_stride(std::int64_t n) { return (n + 3) / 4 * 4; }

// The blocks of both factors (multiply_blocks), for the tile T at first_row, first_column. Block 0 is ready after the
// first turn.
template <class T>
class TermsOperands {
    static constexpr int left_floats = terms_depth * padded_rows(T::rows);
    static constexpr int right_floats = terms_depth * T::columns;

   public:
    static constexpr bool draws_between = false;
    static constexpr int shared_bytes = 2 * (left_floats + right_floats) * static_cast<int>(sizeof(float));

    FPES_DEVICE TermsOperands(const float* left, std::int64_t left_stride, const float* right,
                              std::int64_t right_stride, std::int64_t terms, int first_row, int first_column)
        : left_(left, terms, left_stride, 0, first_row), right_(right, terms, right_stride, 0, first_column) {
        start(0);
    }
    FPES_DEVICE float* left(int block) const { return dynamic_shared<float>() + block % 2 * left_floats; }
    FPES_DEVICE float* right(int block) const {
        return dynamic_shared<float>() + 2 * left_floats + block % 2 * right_floats;
    }
    FPES_DEVICE void start(int block) {
        left_.start(left(block), padded_rows(T::rows));
        right_.start(right(block), T::columns);
        commit_copies();
    }
    FPES_DEVICE void finish(int) const {}
    FPES_DEVICE void turn() const {
        wait_for_copies<0>();
        __syncthreads();
    }

   private:
    WindowCopy<T::threads, terms_depth, T::rows, 4> left_;
    WindowCopy<T::threads, terms_depth, T::columns, 4> right_;
};

FPES_NAMESPACE_END

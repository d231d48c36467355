// A product with few columns, as the last layer's is: most columns of a tile would be empty.
//
//      k                      columns
//     +-----------+          +---------+
// row | a         |        k | 4 | 4 | |      A thread computes four columns of a row. The 32 rows of a warp have the
//     +-----------+          +---------+      same columns, so weights are broadcast, four at a time; and of a they
//     read
//                                             32 values side by side, for a lies by columns, as activations do.
#pragma once

#include "tile.hpp"

FPES_NAMESPACE_BEGIN

constexpr int narrow_columns = 16;
FPES_INLINE constexpr int narrow_padded(int n) { return (n + 3) / 4 * 4; }

// sum[4] = a[k] b[k, 4], k in order. a's columns are `a_stride` floats apart, b's rows `stride`; b is in shared memory,
// at a multiple of 16 bytes.
template <class Mode, int a_stride>
FPES_DEVICE void multiply_narrow(const float* a, const float* b, int stride, int depth, float (&sum)[4]) {
    FPES_UNROLL
    for (int i = 0; i < 4; ++i) sum[i] = 0.0f;
    for (int k = 0; k < depth; ++k) {
        const float left = a[k * a_stride];
        float right[4];
        load4(b + k * stride, right);
        FPES_UNROLL
        for (int i = 0; i < 4; ++i) sum[i] = Mode::fma(left, right[i], sum[i]);
    }
}

FPES_NAMESPACE_END

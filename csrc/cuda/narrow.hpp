// A product with few columns, as the last layer's is: most columns of a tile would be empty.
//
//      k                      columns
//     +-----------+          +---------+
// row | float4    |        k | 4 | 4 | |      A thread computes four columns of a row. The 32 rows of a warp have the
//     +-----------+          +---------+      same columns, so weights are broadcast, four at a time.
#pragma once

#include "tile.hpp"

FPES_NAMESPACE_BEGIN

constexpr int narrow_columns = 16;
// Floats from row to row of the result.
constexpr int narrow_stride = 20;
static_assert(narrow_stride >= narrow_columns && narrow_stride % 4 == 0, "a row of results is stored by fours");

FPES_INLINE constexpr int narrow_padded(int n) { return (n + 3) / 4 * 4; }

// sum[4] = a[k] b[k, 4], k in order; b's rows are `stride` floats apart. Both are in shared memory, at multiples of 16
// bytes.
template <class Mode>
FPES_DEVICE void multiply_narrow(const float* a, const float* b, int stride, int depth, float (&sum)[4]) {
    FPES_UNROLL
    for (int i = 0; i < 4; ++i) sum[i] = 0.0f;
    int k = 0;
    for (; k + 4 <= depth; k += 4) {
        float left[4];
        load4(a + k, left);
        FPES_UNROLL
        for (int step = 0; step < 4; ++step) {
            float right[4];
            load4(b + (k + step) * stride, right);
            FPES_UNROLL
            for (int i = 0; i < 4; ++i) sum[i] = Mode::fma(left[step], right[i], sum[i]);
        }
    }
    for (; k < depth; ++k) {
        float right[4];
        load4(b + k * stride, right);
        FPES_UNROLL
        for (int i = 0; i < 4; ++i) sum[i] = Mode::fma(a[k], right[i], sum[i]);
    }
}

FPES_NAMESPACE_END

// The end of sums: from panels of floats or integers to the floats that they are rounded to.
#pragma once

#include "panels.hpp"

FPES_NAMESPACE_BEGIN

// Calls use(k, sum) for each element of m rows of n columns, k counting row-major.
template <class F, class Sum, class Use>
FPES_INLINE void for_each_sum(Panels sums, int m, int n, Use use) {
    constexpr int width = panel_width<F>;
    for (int j = 0; j < n; j += width) {
        const int columns = smaller(width, n - j);
        for (int i = 0; i < m; ++i) {
            const float* from = panel_row<F>(sums, i, j);
            const std::int64_t to = static_cast<std::int64_t>(i) * n + j;
            for (int column = 0; column < columns; ++column) {
                Sum sum;
                std::memcpy(&sum, from + column, sizeof sum);
                use(to + column, static_cast<double>(sum));
            }
        }
    }
}

// The same for either type of sum.
template <class F, class Use>
FPES_INLINE void for_each_sum(Panels sums, SumType type, int m, int n, Use use) {
    if (type == SumType::int32) {
        for_each_sum<F, std::int32_t>(sums, m, n, use);
    } else {
        for_each_sum<F, float>(sums, m, n, use);
    }
}

template <class F>
void finish_sums(Panels sums, SumType type, int m, int n, double scale, float* out) {
    // A sum of -0 gives +0.
    for_each_sum<F>(sums, type, m, n,
                    [=](std::int64_t k, double sum) { out[k] = static_cast<float>((0.0 + sum) * scale); });
}

FPES_NAMESPACE_END

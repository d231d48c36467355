// Kernels for members that differ from the network in one unit: what its change does to the rest of the network.
//
// Two layouts. Where all that matters of a layer is one unit, the lanes are samples: [units, samples], a row a unit.
// Where a unit's change spreads over the next layer, they are the units of that layer: [rows, units], and a row is a
// member on a sample.
#pragma once

#include "kernels_elementwise.hpp"
#include "kernels_loss.hpp"

FPES_NAMESPACE_BEGIN

// plus[i, b] = fma(change[b], unit, sums[i, b]), minus[i, b] = fma(change[b], -unit, sums[i, b]).
template <class F>
void unit_perturb(const float* sums, const float* change, float unit, int units, int samples, float* plus,
                  float* minus) {
    constexpr int lanes = lanes_of<F>;
    const F up = splat<F>(unit), down = splat<F>(-unit);
    for (int i = 0; i < units; ++i) {
        for (int b = 0; b < samples; b += lanes, sums += lanes, plus += lanes, minus += lanes) {
            const F sum = load<F>(sums), by = load<F>(change + b);
            store(plus, fma(by, up, sum));
            store(minus, fma(by, down, sum));
        }
    }
}

// v[i, b] = ((v[i, b] + bias[i]) * enter) * leave.
template <class F>
void unit_boundary(float* v, const float* bias, float enter, float leave, int units, int samples) {
    constexpr int lanes = lanes_of<F>;
    const F enter_factor = splat<F>(enter), leave_factor = splat<F>(leave);
    for (int i = 0; i < units; ++i) {
        const F own = splat<F>(bias[i]);
        for (int b = 0; b < samples; b += lanes, v += lanes) {
            store(v, mul(mul(add(load<F>(v), own), enter_factor), leave_factor));
        }
    }
}

// v[i] -= before[i]. count is a multiple of the lanes.
template <class F>
void unit_subtract(float* v, const float* before, std::int64_t count) {
    for (std::int64_t i = 0; i < count; i += lanes_of<F>) store(v + i, sub(load<F>(v + i), load<F>(before + i)));
}

// The sums of the last layer after a unit below it has changed: out[e][c, lane] = fma(change, weights[c], sums[c, b]),
// of a vector of samples for each entry.
template <class F>
void unit_output_sums(const UnitEntry* entries, int count, const float* sums, int samples, int classes, float* out) {
    constexpr int lanes = lanes_of<F>;
    for (int e = 0; e < count; ++e) {
        const F change = load<F>(entries[e].change);
        const float *weight = entries[e].weights, *sum = sums + entries[e].sample;
        for (int c = 0; c < classes; ++c, sum += samples, out += lanes) {
            store(out, fma(change, splat<F>(weight[c]), load<F>(sum)));
        }
    }
}

// The boundary of the last layer, on sums [c, lane] of each entry, in place; and the cross-entropy of what it gives.
// masks[c, b]: all bits set where c is the label of sample b, else none.
template <class F>
void unit_losses(const UnitEntry* entries, int count, float* sums, int classes, const float* bias, float enter,
                 float leave, const std::uint32_t* masks, int samples) {
    constexpr int lanes = lanes_of<F>;
    const F enter_factor = splat<F>(enter), leave_factor = splat<F>(leave);
    for (int e = 0; e < count; ++e, sums += classes * lanes) {
        const std::uint32_t* mask = masks + entries[e].sample;
        F largest = splat<F>(0.0f);
        UintOf<F> chosen = splat<UintOf<F>>(0u);
        for (int c = 0; c < classes; ++c, mask += samples) {
            float* at = sums + c * lanes;
            const F logit = mul(mul(add(load<F>(at), splat<F>(bias[c])), enter_factor), leave_factor);
            store(at, logit);
            largest = c == 0 ? logit : select(less(largest, logit), logit, largest);
            chosen = bit_or(chosen, bit_and(as_u32(logit), load_u32<UintOf<F>>(mask)));
        }
        const float* logits = sums;
        store(entries[e].loss, loss_of<F>(classes, largest, as_f32(chosen),
                                          [=](int c) { return load<F>(logits + c * lanes); }));
    }
}

// out[row, k] = fma(change, weights[k], sums[k]): the sums of a whole layer after a unit below it has changed, for
// several members on one sample.
template <class F>
void unit_next_sums(const UnitRow* rows, int count, const float* sums, int n, float* out, std::int64_t stride) {
    for (int row = 0; row < count; ++row, out += stride) {
        const F change = splat<F>(rows[row].change);
        const float* weights = rows[row].weights;
        for_each_part<F>(n, [&](std::int64_t k, int part) {
            store_part(out + k, fma(change, load_part<F>(weights + k, part), load_part<F>(sums + k, part)), part);
        });
    }
}

// v[row, k] = v[row, k] + bias[k], the boundary of a layer between scaled ones, in place. Lists the k where any row
// isn't zero, ascending, and counts them; a vector's worth beyond them is written too.
template <class F>
void unit_cross(float* v, std::int64_t stride, const float* bias, int rows, int n, std::int32_t* nonzeros,
                int* count) {
    constexpr int lanes = lanes_of<F>;
    int found = 0;
    for_each_part<F>(n, [&](std::int64_t k, int part) {
        const F own = load_part<F>(bias + k, part);
        UintOf<F> any = splat<UintOf<F>>(0u);
        for (int row = 0; row < rows; ++row) {
            float* at = v + row * stride + k;
            F sum = add(load_part<F>(at, part), own);
            store_part(at, sum, part);
            any = bit_or(any, as_u32(part == lanes ? sum : load_part<F>(at, part)));
        }
        float side[lanes];
        found += compress_nonzeros(as_f32(any), consecutive<F>(static_cast<std::uint32_t>(k)), side, nonzeros + found);
    });
    *count = found;
}

// One tile of unit_product(), a panel's `vectors` vectors. Says whether any of the sums is -0.
template <class F, int rows, int vectors>
bool unit_product_tile(const float* a, std::int64_t stride, const float* b, const std::int32_t* terms, int count,
                       float* out) {
    constexpr int lanes = lanes_of<F>, width = panel_width<F>;
    F sum[rows][vectors];
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) sum[row][v] = splat<F>(0.0f);
    }
    for (int term = 0; term < count; ++term) {
        const float *left = a + terms[term], *right = b + static_cast<std::int64_t>(terms[term]) * width;
        F vector[vectors];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) vector[v] = load<F>(right + v * lanes);
#pragma GCC unroll 16
        for (int row = 0; row < rows; ++row) {
            const F value = splat<F>(left[row * stride]);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) sum[row][v] = fma(value, vector[v], sum[row][v]);
        }
    }
    UintOf<F> smallest = as_u32(sum[0][0]);
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) {
            smallest = smaller_signed(smallest, as_u32(sum[row][v]));
            store(out + row * width + v * lanes, sum[row][v]);
        }
    }
    return any_equal(smallest, 0x80000000u);
}

template <class F, int vectors, int rows = max_tile_rows>
bool unit_product_tile_of(int height, const float* a, std::int64_t stride, const float* b, const std::int32_t* terms,
                          int count, float* out) {
    if (height == rows) return unit_product_tile<F, rows, vectors>(a, stride, b, terms, count, out);
    if constexpr (rows > 1) {
        return unit_product_tile_of<F, vectors, rows - 1>(height, a, stride, b, terms, count, out);
    }
    return false;
}

// out[rows, n] = a[rows, k] b[k, n] over the listed k, up to unit_tile_rows() rows. Why the others may be left out, and
// why a sum of -0 is done again with all terms: see kernels_skipping.hpp. every: the list of all k.
template <class F>
void unit_product(const float* a, std::int64_t stride, int rows, const std::int32_t* terms, int count,
                  const std::int32_t* every, int k, Panels b, int n, Panels out) {
    constexpr int width = panel_width<F>;
    for (int j = 0; j < n; j += width) {
        const auto tile = n - j > lanes_of<F> ? unit_product_tile_of<F, 2> : unit_product_tile_of<F, 1>;
        const float* right = panel_row<F>(b, 0, j);
        float* to = panel_row<F>(out, 0, j);
        if (tile(rows, a, stride, right, terms, count, to)) tile(rows, a, stride, right, every, k, to);
    }
}

// gram[i, j] = the sum over k, in order, of inputs[k, i] * inputs[k, j], for j <= i. Products of floats are exact in
// double.
template <class F>
void unit_gram(const float* inputs, std::int64_t features, int samples, std::int64_t stride, double* gram) {
    constexpr int rows = 4, columns = 16;
    for (int i = 0; i < samples; i += rows) {
        for (int j = 0; j < i + rows; j += columns) {
            double sum[rows][columns] = {};
            for (std::int64_t k = 0; k < features; ++k) {
                const float *left = inputs + k * stride + i, *right = inputs + k * stride + j;
                for (int row = 0; row < rows; ++row) {
                    const double value = left[row];
                    for (int column = 0; column < columns; ++column) {
                        sum[row][column] += value * static_cast<double>(right[column]);
                    }
                }
            }
            for (int row = i; row < smaller(i + rows, samples); ++row) {
                for (int column = j; column < smaller(j + columns, row + 1); ++column) {
                    gram[static_cast<std::int64_t>(row) * samples + column] = sum[row - i][column - j];
                }
            }
        }
    }
}

// out[b] = the sum over k, in order, of inputs[k, b] * direction[k]. stride is a multiple of 16.
template <class F>
void unit_project(const float* inputs, std::int64_t features, std::int64_t stride, const float* direction,
                  double* out) {
    constexpr int columns = 16;
    for (std::int64_t b = 0; b < stride; b += columns) {
        double sum[columns] = {};
        for (std::int64_t k = 0; k < features; ++k) {
            const double value = direction[k];
            for (int column = 0; column < columns; ++column) {
                sum[column] += static_cast<double>(inputs[k * stride + b + column]) * value;
            }
        }
        for (int column = 0; column < columns; ++column) out[b + column] = sum[column];
    }
}

FPES_NAMESPACE_END

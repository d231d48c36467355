// Kernels for members that differ from the network in one unit: what its change does to the rest of the network.
//
// Two layouts. Where all that matters of a layer is one unit, the lanes are samples: [units, samples], a row a unit.
// Where a unit's change spreads over the next layer, they are the units of that layer: [rows, units], and a row is a
// member on a sample.
#pragma once

#include "../../common/mean.hpp"
#include "../simd/wide.hpp"
#include "elementwise.hpp"
#include "loss.hpp"

FPES_NAMESPACE_BEGIN

// out[i, b] = fma(change[b], unit, sums[i, b]).
template <class F>
void unit_perturb(const float* sums, const float* change, float unit, int units, int samples, float* out) {
    constexpr int lanes = lanes_of<F>;
    const F factor = splat<F>(unit);
    for (int i = 0; i < units; ++i) {
        for (int b = 0; b < samples; b += lanes, sums += lanes, out += lanes) {
            store(out, fma(load<F>(change + b), factor, load<F>(sums)));
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

// The sums of the last layer after a unit below it has changed, fma(change, weights[c], sums[c, b]), for the samples on
// which it has. Takes vectors *next, *next + 1, ... of the changes [units, width], whose units have weights [units,
// classes], until `end` or until the lanes are full, and leaves *next where it has stopped.
//
// Of the samples of a member, about half have changed. To leave out the others here costs a tenth of their losses.
template <class F>
void unit_output_sums(const float* changes, int* next, int end, const float* weights, int classes,
                      const UnitBatch* batch, UnitLanes* out) {
    constexpr int lanes = lanes_of<F>;
    const UnitBatch of = *batch;
    const std::int64_t stride = out->stride;
    const int vectors = of.width / lanes, most = out->capacity - lanes;
    int count = out->count, vector = *next, sample = vector % vectors * lanes;
    weights += static_cast<std::int64_t>(vector / vectors) * classes;
    for (; vector < end && count <= most; ++vector) {
        const F change = load<F>(changes + static_cast<std::int64_t>(vector) * lanes);
        const auto changed = find_nonzero_lanes(change);
        if (changed.count != 0) {
            const float *weight = weights, *sum = of.sums + sample, *target = of.targets + sample;
            float *to = out->sums + count, *target_to = out->targets + count;
            for (int c = 0; c < classes; ++c, sum += of.width, to += stride) {
                store_lanes(to, changed, fma(change, splat<F>(weight[c]), load<F>(sum)));
            }
            for (int row = 0; row < of.target_rows; ++row, target += of.width, target_to += stride) {
                store_lanes(target_to, changed, load<F>(target));
            }
            store_lanes(out->places + count, changed, consecutive<F>(static_cast<std::uint32_t>(vector * lanes)));
            count += changed.count;
        }
        sample += lanes;
        if (sample == of.width) {
            sample = 0;
            weights += classes;
        }
    }
    out->count = count;
    *next = vector;
}

// Targets of `count` vectors of lanes, side by side.
template <class F, int count>
class UnitValues {
   public:
    FPES_INLINE UnitValues(const float* targets, std::int64_t stride) : targets_(targets), stride_(stride) {}
    // Of output c.
    FPES_INLINE Wide<F, count> operator()(int c) const {
        const float* row = targets_ + c * stride_;
        return each_part<F, count>([&](int e) { return load<F>(row + e * lanes_of<F>); });
    }
    FPES_INLINE void see(const Wide<F, count>&) {}

   private:
    const float* targets_;
    std::int64_t stride_;
};
// The outputs of their labels are picked as the outputs pass by, in order.
template <class F, int count>
class UnitLabels {
   public:
    FPES_INLINE UnitLabels(const float* labels, std::int64_t)
        : labels_(each_part<F, count>([&](int e) { return load<F>(labels + e * lanes_of<F>); })),
          passing_(splat<F>(0.0f)),
          chosen_(splat<Wide<F, count>>(0.0f)) {}
    FPES_INLINE void see(const Wide<F, count>& output) {
        chosen_ = each_part<F, count>(
            [&](int e) { return select(equal(labels_.part[e], passing_), output.part[e], chosen_.part[e]); });
        passing_ = add(passing_, splat<F>(1.0f));
    }
    FPES_INLINE Wide<F, count> chosen() const { return chosen_; }

   private:
    Wide<F, count> labels_;
    F passing_;
    Wide<F, count> chosen_;
};
template <class F, int count>
UnitLabels<F, count> unit_target(Label);
template <class F, int count>
UnitValues<F, count> unit_target(Values);

// Outputs of `count` vectors of lanes: each takes the place of its sum when it is asked for first.
template <class F, int count, class Target>
struct UnitOutputs {
    Target& target;
    float* sums;
    std::int64_t stride;
    const float* bias;
    F enter;
    F leave;

    FPES_INLINE Wide<F, count> first(int c) const {
        const F own = splat<F>(bias[c]);
        const Wide<F, count> output = each_part<F, count>([&](int e) {
            const F one = mul(mul(add(load<F>(at(e, c)), own), enter), leave);
            store(at(e, c), one);
            return one;
        });
        target.see(output);
        return output;
    }
    FPES_INLINE Wide<F, count> operator()(int c) const {
        return each_part<F, count>([&](int e) { return load<F>(at(e, c)); });
    }

   private:
    FPES_INLINE float* at(int e, int c) const { return sums + c * stride + e * lanes_of<F>; }
};

// The boundary of the last layer, on the sums of all lanes, in place; and losses[lane] of what it gives. The lanes up
// to the next multiple of two vectors are read and written too.
template <class F, class L>
void unit_losses_of(const UnitLanes& lanes, int classes, const float* bias, float enter, float leave, float share,
                    float* losses) {
    constexpr int side = 2, step = side * lanes_of<F>;
    using Target = decltype(unit_target<F, side>(typename L::Target()));
    for (int first = 0; first < lanes.count; first += step) {
        Target target(lanes.targets + first, lanes.stride);
        UnitOutputs<F, side, Target> outputs{target, lanes.sums + first, lanes.stride,
                                             bias,   splat<F>(enter),    splat<F>(leave)};
        const auto lost = L::template of<Wide<F, side>>(classes, share, outputs, target);
#pragma GCC unroll 4
        for (int e = 0; e < side; ++e) store(losses + first + e * lanes_of<F>, lost.part[e]);
    }
}
template <class F>
void unit_losses(const UnitLanes* lanes, int classes, const float* bias, float enter, float leave, Loss loss,
                 float share, float* losses) {
    with_loss(loss,
              [&](auto of) { unit_losses_of<F, decltype(of)>(*lanes, classes, bias, enter, leave, share, losses); });
}

// Calls body(k, load, store) for vectors k, k + lanes, ... of a row of n floats, the last of them by its parts.
template <class F, class Body>
FPES_INLINE void for_each_lane_vector(int n, Body body) {
    constexpr int lanes = lanes_of<F>;
    int k = 0;
    for (; k + lanes <= n; k += lanes) {
        body(k, [](const float* p) { return load<F>(p); }, [](float* p, F v) { store(p, v); });
    }
    if (const int rest = n - k) {
        body(k, [=](const float* p) { return load_part<F>(p, rest); }, [=](float* p, F v) { store_part(p, v, rest); });
    }
}

// out[row, k] = fma(change, weights[k], sums[k]) + bias[k]: the activations of a whole layer between scaled ones after
// a unit below it has changed, for several members on one sample. Lists the k where any row isn't zero, ascending, and
// counts them; a vector's worth beyond them is written too.
//
// The sums belong to the matrix product, in whose mode this is called, and the rest to the boundary: where that
// flushes, `flush`, it is done by hand. That gives the same bits: a sum of floats that falls below 2^-126 is exact.
template <class F, bool flush>
void unit_activations_of(const UnitRow* rows, int count, const float* sums, const float* bias, int n, float* out,
                         std::int64_t stride, std::int32_t* nonzeros, int* found) {
    auto flushed = [](F v) {
        if constexpr (flush) return flush_subnormals(v);
        return v;
    };
    int listed = 0;
    for_each_lane_vector<F>(n, [&](int k, auto get, auto put) {
        const F sum = get(sums + k), own = get(bias + k);
        UintOf<F> any = splat<UintOf<F>>(0u);
        float* to = out + k;
        for (int row = 0; row < count; ++row, to += stride) {
            const F changed = fma(splat<F>(rows[row].change), get(rows[row].weights + k), sum);
            const F activation = flushed(add(flushed(changed), own));
            put(to, activation);
            any = bit_or(any, as_u32(activation));
        }
        // Beyond the end of the row all is zero.
        float side[lanes_of<F>];
        listed +=
            compress_nonzeros(as_f32(any), consecutive<F>(static_cast<std::uint32_t>(k)), side, nonzeros + listed);
    });
    *found = listed;
}

template <class F>
void unit_activations(const UnitRow* rows, int count, const float* sums, const float* bias, bool flush, int n,
                      float* out, std::int64_t stride, std::int32_t* nonzeros, int* found) {
    const auto kernel = flush ? unit_activations_of<F, true> : unit_activations_of<F, false>;
    kernel(rows, count, sums, bias, n, out, stride, nonzeros, found);
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
// why a sum of -0 is done again with all terms: see kernels/skipping.hpp. every: the list of all k.
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

// Eight doubles, which the compiler makes of as many registers as it takes.
typedef double Double8 __attribute__((vector_size(64)));
FPES_INLINE Double8 load_double8(const double* p) {
    Double8 v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

// gram[i, j] = the sum over k, in order, of inputs[k, i] * inputs[k, j], for j <= i: [samples, samples]. Products of
// floats are exact in double. stride is a multiple of 16.
template <class F>
void unit_gram(const double* inputs, std::int64_t features, int samples, std::int64_t stride, double* gram) {
    // As many sums as fit the registers: half of 16 of them, or of 32 that are twice as wide.
    constexpr int rows = 4, vectors = lanes_of<F> >= 16 ? 2 : 1, columns = 8 * vectors;
    for (int i = 0; i < samples; i += rows) {
        for (int j = 0; j < i + rows; j += columns) {
            Double8 sum[rows][vectors] = {};
            for (std::int64_t k = 0; k < features; ++k) {
                const double *left = inputs + k * stride + i, *right = inputs + k * stride + j;
#pragma GCC unroll 4
                for (int row = 0; row < rows; ++row) {
#pragma GCC unroll 2
                    for (int v = 0; v < vectors; ++v) sum[row][v] += left[row] * load_double8(right + 8 * v);
                }
            }
            for (int row = i; row < smaller(i + rows, samples); ++row) {
                double side[columns];
                std::memcpy(side, sum[row - i], sizeof side);
                for (int column = j; column < smaller(j + columns, row + 1); ++column) {
                    gram[static_cast<std::int64_t>(row) * samples + column] = side[column - j];
                }
            }
        }
    }
}

// out[b] = the sum over k, in order, of inputs[k, b] * direction[k]. stride is a multiple of 16.
template <class F>
void unit_project(const double* inputs, std::int64_t features, std::int64_t stride, const float* direction,
                  double* out) {
    for (std::int64_t b = 0; b < stride; b += 8) {
        Double8 sum = {};
        for (std::int64_t k = 0; k < features; ++k) {
            sum += load_double8(inputs + k * stride + b) * static_cast<double>(direction[k]);
        }
        std::memcpy(out + b, &sum, sizeof sum);
    }
}

typedef float Float8 __attribute__((vector_size(32)));
typedef std::int32_t Int8 __attribute__((vector_size(32)));

// Row i of the result is column i of what the rows were.
FPES_INLINE void transpose8(Float8 (&rows)[8]) {
    auto exchange = [&](int distance, Int8 lower, Int8 upper) {
        for (int i = 0; i < 8; ++i) {
            if (i & distance) continue;
            const Float8 a = rows[i], b = rows[i + distance];
            rows[i] = __builtin_shuffle(a, b, lower);
            rows[i + distance] = __builtin_shuffle(a, b, upper);
        }
    };
    exchange(4, Int8{0, 1, 2, 3, 8, 9, 10, 11}, Int8{4, 5, 6, 7, 12, 13, 14, 15});
    exchange(2, Int8{0, 1, 8, 9, 4, 5, 12, 13}, Int8{2, 3, 10, 11, 6, 7, 14, 15});
    exchange(1, Int8{0, 8, 2, 10, 4, 12, 6, 14}, Int8{1, 9, 3, 11, 5, 13, 7, 15});
}

// fitness[m] = minus the mean over the batch of weights[b] * losses[m, b], for eight members at a time: samples in
// blocks in order, then the blocks. Rows of losses up to a multiple of 8 are read; weights[stride] are 0 beyond the
// batch, as are the losses.
template <class F>
void unit_fitness(const float* losses, std::int64_t stride, int members, const float* weights, int samples,
                  float* fitness) {
    constexpr int block = static_cast<int>(loss_block);
    for (int m = 0; m < members; m += 8, losses += 8 * stride) {
        Double8 total = {};
        for (int first = 0; first < samples; first += block) {
            Double8 sum = {};
            for (int b = first; b < smaller(samples, first + block); b += 8) {
                Float8 rows[8];
#pragma GCC unroll 8
                for (int i = 0; i < 8; ++i) std::memcpy(&rows[i], losses + i * stride + b, sizeof rows[i]);
                transpose8(rows);
                const int part = smaller(8, samples - b);
#pragma GCC unroll 8
                for (int i = 0; i < 8; ++i) {
                    if (i >= part) break;
                    sum += static_cast<double>(weights[b + i]) * __builtin_convertvector(rows[i], Double8);
                }
            }
            total += sum;
        }
        for (int i = 0; i < smaller(8, members - m); ++i) {
            fitness[m + i] = static_cast<float>(-(total[i] / static_cast<double>(samples)));
        }
    }
}

// Bit b of bits[i]: whether sample 16 i + b of v isn't zero. count is a multiple of 16.
template <class F>
void unit_reached(const float* v, std::int64_t count, std::uint16_t* bits) {
    constexpr int lanes = lanes_of<F>;
    for (std::int64_t i = 0; i < count; i += 16) {
        unsigned word = 0;
        for (int lane = 0; lane < 16; lane += lanes) word |= nonzero_lanes(load<F>(v + i + lane)) << lane;
        bits[i / 16] = static_cast<std::uint16_t>(word);
    }
}

FPES_NAMESPACE_END

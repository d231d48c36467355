// Low-rank and node perturbation, and the unperturbed network: all members share the weights, and differ by a
// correction of the accumulators.
//
// So rows of all members (pair, sign, sample) form one tall matrix, and a block carries a tile of it through the
// network:
//
//                                 columns of the layer: 512
//                                 +------------------------+
//                             k 8 | w                      |   copied behind the threads' backs, two buffers
//       activations, in           +------------------------+
//       shared memory             +------------------------+      corrections
//      +-----------------+        | accumulators of the    |      low rank: += q_r B_r, r ascending, q = (h A) +-scale
//   64 | h               |        | layer, in registers    |      node:     += z +-scale
// rows |                 |        |                        |   then the boundary, and they take the place of h
//      +-----------------+        +------------------------+
//
// Why this shape: as for full rank (full_rank.hpp), without the drawing of weights. A tile's rows may belong to one
// member or to thirty, so no batch leaves it half empty.
//
// Where all members see the same samples, the first layer's sums are the same for all, too. They are computed once, by
// a plain product before the launch, and a tile starts from them.
//
// The corrections, and the boundary, are applied to the sums in memory: drawn by the whole block into the buffers that
// held weights, some rows of them at a time, each number once, and then added.
//
// The same kernel serves networks that don't fit: it is launched a layer at a time, for some of the columns.
#pragma once

#include "draws.hpp"
#include "layers.hpp"
#include "loss.hpp"
#include "narrow.hpp"
#include "rows.hpp"
#include "tile.hpp"

FPES_NAMESPACE_BEGIN

enum class Correction : int { none, low_rank, node };

struct SharedWeightsJob {
    DeviceLayers layers;
    Rows rows;
    NoiseSource noise;
    Correction correction;
    int corrected_layers;  // the first so many of these layers are corrected
    int rank;
    float weight_scale;  // of a bias's draw
    float rank_scale;    // of h A
    // What the first layer starts from: sums, if there are any, else inputs. Each by row, or by sample (Row::input).
    const float* inputs;
    bool inputs_by_sample;
    const float* sums;
    bool sums_by_sample;
    bool fused;      // all layers in one launch, activations on the chip
    float* outputs;  // [rows, fan_out] of the whole call (Row::output) where fused, else of the launch; or null
    LossSink sink;
};
static_assert(sizeof(SharedWeightsJob) <= most_argument_bytes, "a job travels with the launch");

template <class T>
struct SharedWeightsTile {
    static constexpr int depth = 8;  // k's of a block of weights
    static constexpr int activation_stride = padded_stride(T::columns);
    static constexpr int stage_stride = padded_stride(depth);
    static constexpr int activation_floats = T::rows * activation_stride;
    static constexpr int matrix_floats = depth * T::columns;
    static constexpr int buffer_floats = 2 * matrix_floats;
    static constexpr int stage_floats = 2 * T::rows * stage_stride;
    static constexpr int most_ranks = 16;  // of q, at a time
    static constexpr int coefficient_floats = T::rows * most_ranks;
    static constexpr int shared_bytes(bool fused) {
        return static_cast<int>(sizeof(float)) *
                   ((fused ? activation_floats : 0) + buffer_floats + stage_floats + coefficient_floats) +
               T::rows * static_cast<int>(sizeof(Row));
    }
    // Rows of drawn numbers, a number for each column, that the buffers hold.
    static constexpr int drawn_rows = buffer_floats / T::columns;

    static_assert(T::columns % 8 == 0, "numbers are drawn eight at a time");
    static_assert(narrow_columns * T::columns <= buffer_floats, "a narrow layer's weights fit where blocks do");
    static_assert(narrow_stride <= 2 * stage_stride, "a narrow layer's outputs fit where inputs are staged");
    static_assert((T::rows / 2 + 1) * 8 <= buffer_floats, "eight k's of one rank's A of every pair of a tile fit");
};

template <class T, class Mode>
class SharedWeightsBlock {
    using Shape = SharedWeightsTile<T>;
    static constexpr int depth = Shape::depth;

   public:
    FPES_DEVICE SharedWeightsBlock(const SharedWeightsJob& job)
        : job_(job),
          rows_(dynamic_shared<Row>()),
          activations_(reinterpret_cast<float*>(rows_ + T::rows)),
          buffers_(activations_ + (job.fused ? Shape::activation_floats : 0)),
          stage_(buffers_ + Shape::buffer_floats),
          coefficients_(stage_ + Shape::stage_floats),
          first_row_(static_cast<std::int64_t>(block_index()) * T::rows) {}

    FPES_DEVICE void run() {
        for (int i = thread_index(); i < T::rows; i += T::threads) {
            rows_[i] = row_of(job_.rows, first_row_, first_row_ + i);
        }
        __syncthreads();
        const int last = job_.layers.count - 1;
        for (int l = 0; l <= last; ++l) {
            const DeviceLayer& layer = job_.layers.layer[l];
            if (job_.fused && l == last && l > 0 && layer.fan_out <= narrow_columns) {
                narrow_layer(layer, l);
                finish(stage_, narrow_stride, layer.fan_out);
                return;
            }
            wide_layer(layer, l);
        }
        if (job_.fused) finish(activations_, Shape::activation_stride, job_.layers.layer[last].fan_out);
    }

   private:
    FPES_DEVICE Correction correction(int l) const {
        return l < job_.corrected_layers ? job_.correction : Correction::none;
    }
    // Places that have rows in the tile.
    FPES_DEVICE int places() const { return rows_[T::rows - 1].place + 1; }
    FPES_DEVICE PhiloxCounters counters(const DeviceLayer& layer, NoiseRole role, std::int64_t pair) const {
        return job_.noise.counters(noise_tensor(layer.index, role), pair);
    }
    FPES_DEVICE std::int64_t pair_at(int place) const {
        return pair_of_place(job_.rows, place_of_row(job_.rows, first_row_) + place);
    }
    FPES_DEVICE float signed_scale(int row, float scale) const { return rows_[row].sign ? opposite(scale) : scale; }

    FPES_DEVICE void wide_layer(const DeviceLayer& layer, int l) {
        const int first_column = block_index_y() * T::columns;
        const int columns = smaller(T::columns, layer.fan_out - first_column);
        Result result{activations_, Shape::activation_stride, T::rows, columns};
        if (!job_.fused) {
            const std::int64_t left = job_.rows.count - first_row_;
            result = {job_.outputs + first_row_ * layer.fan_out + first_column, layer.fan_out,
                      left < T::rows ? static_cast<int>(left) : T::rows, columns};
        }
        // What a correction needs of the layer's inputs, before the sums take their place.
        if (correction(l) == Correction::low_rank) multiply_by_factors(layer, l, 0);
        if (l == 0 && job_.sums) {
            for_each_column(result, 0, result.rows, [&](int row, int column, float* sum) {
                *sum = job_.sums[sums_row(row) * layer.fan_out + first_column + column];
            });
        } else {
            Accumulators<T> acc;
            multiply(layer, first_column, l == 0, acc);
            store_sums<T>(acc, result);
        }
        __syncthreads();
        finish_layer(layer, l, first_column, result);
    }
    FPES_DEVICE std::int64_t sums_row(int row) const {
        if (job_.sums_by_sample) return rows_[row].input;
        return first_row_ + row < job_.rows.count ? first_row_ + row : 0;
    }

    FPES_DEVICE void multiply(const DeviceLayer& layer, int first_column, bool staged, Accumulators<T>& acc) {
        acc.clear();
        const auto copy = [&](int block) {
            copy_weights(layer, block * depth, first_column, buffers_ + block % 2 * Shape::matrix_floats);
            if (staged) copy_inputs(layer.fan_in, block * depth, stage_ + block % 2 * (T::rows * Shape::stage_stride));
            commit_copies();
        };
        copy(0);
        const int blocks = static_cast<int>(parts(layer.fan_in, depth));
        const bool works = T::first_column() - T::lane() % T::lanes_n * 4 < layer.fan_out - first_column;
        FPES_ROLLED
        for (int block = 0; block < blocks; ++block) {
            wait_for_copies<0>();
            __syncthreads();  // and everybody is done with the other buffer
            if (block + 1 < blocks) copy(block + 1);
            if (!works) continue;
            const int k = block * depth;
            const int stride = staged ? Shape::stage_stride : Shape::activation_stride;
            const float* a = staged ? stage_ + block % 2 * (T::rows * Shape::stage_stride) : activations_ + k;
            const float* b = buffers_ + block % 2 * Shape::matrix_floats;
            if (k + depth <= layer.fan_in) {
                multiply_block<T, Mode, depth>(a, stride, b, acc);
            } else {
                multiply_rest<T, Mode>(a, stride, b, layer.fan_in - k, acc);
            }
        }
        __syncthreads();
    }

    static FPES_DEVICE void copy_weights(const DeviceLayer& layer, int k, int first_column, float* to) {
        if (layer.has_vectors()) {
            WindowCopy<T::threads, depth, T::columns, 4>(layer.weight, layer.fan_in, layer.fan_out, k, first_column)
                .start(to, T::columns);
        } else {
            copy_scalars(layer, k, first_column, to);
        }
    }
    // A tile's row may be longer than the block has threads, so a thread's columns change from pass to pass.
    static FPES_DEVICE void copy_scalars(const DeviceLayer& layer, int k, int first_column, float* to) {
        FPES_ROLLED
        for (int i = thread_index(); i < depth * T::columns; i += T::threads) {
            const int row = k + i / T::columns, column = first_column + i % T::columns;
            const bool inside = row < layer.fan_in && column < layer.fan_out;
            const float* from = layer.weight + static_cast<std::int64_t>(row) * layer.fan_out + column;
            copy_async<1>(to + i, inside ? from : layer.weight, inside);
        }
    }

    FPES_DEVICE void copy_inputs(int fan_in, int k, float* to) const {
        const std::int64_t count = job_.rows.count;
        if (fan_in % 4 == 0 && reinterpret_cast<std::uintptr_t>(job_.inputs) % 16 == 0) {
            WindowCopy<T::threads, T::rows, depth, 4>(job_.inputs, count, fan_in, first_row_, k)
                .start(to, Shape::stage_stride);
        } else {
            WindowCopy<T::threads, T::rows, depth, 1>(job_.inputs, count, fan_in, first_row_, k)
                .start(to, Shape::stage_stride);
        }
    }

    FPES_DEVICE void narrow_layer(const DeviceLayer& layer, int l) {
        if (correction(l) == Correction::low_rank) multiply_by_factors(layer, l, 0);
        const int n = layer.fan_out, stride = narrow_padded(n), weights = layer.fan_in * n;
        for (int i = thread_index(); i < weights; i += T::threads) buffers_[i / n * stride + i % n] = layer.weight[i];
        __syncthreads();
        for (int task = thread_index(); task < T::rows * (stride / 4); task += T::threads) {
            const int row = task % T::rows, column = task / T::rows * 4;
            float sum[4];
            multiply_narrow<Mode>(activations_ + row * Shape::activation_stride, buffers_ + column, stride,
                                  layer.fan_in, sum);
            store4(stage_ + row * narrow_stride + column, sum);
        }
        __syncthreads();
        finish_layer(layer, l, 0, {stage_, narrow_stride, T::rows, n});
    }

    // Corrections and the boundary: from sums to activations, in place.
    FPES_DEVICE void finish_layer(const DeviceLayer& layer, int l, int first_column, const Result& result) {
        switch (correction(l)) {
            case Correction::node: add_noise(layer, NoiseRole::node, 0, first_column, result); break;
            case Correction::low_rank:
                for (int r = 0; r < job_.rank; ++r) {
                    if (r > 0 && r % ranks_at_a_time() == 0) multiply_by_factors(layer, l, r);
                    add_noise(layer, NoiseRole::factor_b, r, first_column, result);
                }
                return add_noise(layer, NoiseRole::bias, 0, first_column, result);
            case Correction::none: break;
        }
        for_each_column(result, 0, result.rows, [&](int, int column, float* sum) {
            *sum = layer.cross(*sum, layer.scaled_bias(layer.bias[first_column + column]));
        });
        __syncthreads();
    }

    // Calls use(row, column, sum) for rows begin ... end - 1 of the result.
    template <class Use>
    FPES_DEVICE void for_each_column(const Result& result, int begin, int end, Use use) const {
        for (int i = thread_index(); i < (end - begin) * result.columns; i += T::threads) {
            const int row = begin + i / result.columns, column = i % result.columns;
            use(row, column, result.row(row) + column);
        }
    }

    // One step of a correction. Its numbers, a row of them for each place or, of node noise, for each row of the tile,
    // are drawn by as many rows at a time as the buffers hold.
    FPES_DEVICE void add_noise(const DeviceLayer& layer, NoiseRole role, int rank, int first_column,
                               const Result& result) {
        const bool by_row = role == NoiseRole::node;
        const int count = by_row ? result.rows : places(), groups = (result.columns + 7) / 8;
        FPES_ROLLED
        for (int begin = 0; begin < count; begin += Shape::drawn_rows) {
            const int end = smaller(count, begin + Shape::drawn_rows);
            FPES_ROLLED
            for (int i = thread_index(); i < (end - begin) * groups; i += T::threads) {
                const int id = begin + i / groups, column = i % groups * 8;
                const int row_of_tensor = by_row ? rows_[id].sample : rank;
                const std::uint64_t first = static_cast<std::uint64_t>(row_of_tensor) * layer.fan_out +
                                            static_cast<std::uint64_t>(first_column + column);
                draw_to(buffers_ + (id - begin) * T::columns + column, job_.noise.kind,
                        counters(layer, role, by_row ? rows_[id].pair : pair_at(id)), first);
            }
            __syncthreads();
            for_each_column(
                result, by_row ? begin : 0, by_row ? end : result.rows, [&](int row, int column, float* sum) {
                    const int id = by_row ? row : rows_[row].place;
                    if (id < begin || id >= end) return;
                    const float z = buffers_[(id - begin) * T::columns + column];
                    if (role == NoiseRole::bias) {
                        const float bias =
                            Mode::fma(z, signed_scale(row, job_.weight_scale), layer.bias[first_column + column]);
                        *sum = layer.cross(*sum, layer.scaled_bias(bias));
                    } else if (role == NoiseRole::factor_b) {
                        *sum = Mode::fma(z, coefficients_[row * Shape::most_ranks + rank % ranks_at_a_time()], *sum);
                    } else {
                        *sum = Mode::fma(z, signed_scale(row, layer.node_scale), *sum);
                    }
                });
            __syncthreads();
        }
    }

    // Ranks whose A fit the buffers, eight k's of each pair at least.
    FPES_DEVICE int ranks_at_a_time() const {
        return smaller(smaller(job_.rank, Shape::most_ranks), Shape::buffer_floats / (8 * places()));
    }

    // coefficients_[row][r] = (h A_r) * +-scale, for some ranks from `first` on: a chain each, k in order. A is drawn
    // some k's at a time, [place][rank][k's].
    FPES_DEVICE void multiply_by_factors(const DeviceLayer& layer, int l, int first) {
        const int ranks = smaller(ranks_at_a_time(), job_.rank - first);
        const int factors = places() * ranks, step = Shape::buffer_floats / factors / 8 * 8;
        for (int k = 0; k < layer.fan_in; k += step) {
            const int width = smaller(step, layer.fan_in - k), groups = (width + 7) / 8;
            for (int i = thread_index(); i < factors * groups; i += T::threads) {
                const int factor = i / groups, column = i % groups * 8;
                const auto element = static_cast<std::uint64_t>(first + factor % ranks) * layer.fan_in +
                                     static_cast<std::uint64_t>(k + column);
                draw_to(buffers_ + factor * step + column, job_.noise.kind,
                        counters(layer, NoiseRole::factor_a, pair_at(factor / ranks)), element);
            }
            __syncthreads();
            for (int task = thread_index(); task < T::rows * ranks; task += T::threads) {
                const int row = task % T::rows, r = task / T::rows;
                float& q = coefficients_[row * Shape::most_ranks + r];
                const float* a = buffers_ + (rows_[row].place * ranks + r) * step;
                q = chain(inputs_of(layer, l, row) + k, a, width, k ? q : 0.0f);
                if (k + step >= layer.fan_in) q = Mode::mul(q, signed_scale(row, job_.rank_scale));
            }
            __syncthreads();
        }
    }
    FPES_DEVICE const float* inputs_of(const DeviceLayer& layer, int l, int row) const {
        if (l > 0) return activations_ + row * Shape::activation_stride;
        // A row beyond the last has no inputs, and nobody asks for its outputs.
        const std::int64_t by_row = first_row_ + row < job_.rows.count ? first_row_ + row : 0;
        return job_.inputs + (job_.inputs_by_sample ? rows_[row].input : by_row) * layer.fan_in;
    }
    static FPES_DEVICE float chain(const float* a, const float* b, int count, float sum) {
        for (int k = 0; k < count; ++k) sum = Mode::fma(a[k], b[k], sum);
        return sum;
    }

    // The logits, in shared memory, to where they are wanted.
    FPES_DEVICE void finish(const float* logits, int stride, int classes) const {
        if (job_.outputs) {
            for (int i = thread_index(); i < T::rows * classes; i += T::threads) {
                const Row& row = rows_[i / classes];
                const int column = i % classes;
                if (row.inside) job_.outputs[row.output * classes + column] = logits[i / classes * stride + column];
            }
        }
        if (!job_.sink.labels) return;
        for (int i = thread_index(); i < T::rows; i += T::threads) {
            const Row& row = rows_[i];
            if (!row.inside) continue;
            job_.sink.losses[row.output] = cross_entropy(logits + i * stride, classes, job_.sink.labels[row.input]);
        }
        __syncthreads();
        for (int place = thread_index(); place < places(); place += T::threads) {
            unsigned added = 0;
            for (int i = 0; i < T::rows; ++i) added += rows_[i].place == place && rows_[i].inside;
            if (added) job_.sink.finish(pair_at(place) - job_.rows.begin, added);
        }
    }

    const SharedWeightsJob& job_;
    Row* rows_;
    float* activations_;
    float* buffers_;
    float* stage_;
    float* coefficients_;
    std::int64_t first_row_;
};

template <class T, class Mode>
__global__ __launch_bounds__(T::threads, 1) void shared_weights_kernel(const FPES_CONSTANT SharedWeightsJob job) {
    SharedWeightsBlock<T, Mode>(job).run();
}

FPES_NAMESPACE_END

// Members that share the weights and differ by a correction of the accumulators (common/perturbations/family.hpp), and
// the unperturbed network.
//
// So rows of all members (pair, sign, sample) form one tall matrix, and a block carries a tile of it through the
// network:
//
//                                 columns of the layer: 512
//                                 +------------------------+
//                             k 8 | w                      |   copied behind the threads' backs, two buffers
//       activations, in           +------------------------+
//       shared memory             +------------------------+      corrections
//      +-----------------+        | accumulators of the    |      of inputs: += q_t B_t, t ascending, q = (h A) +-scale
//   64 | h               |        | layer, in registers    |      others:    += z +-scale
// rows |                 |        |                        |   then the boundary, and they take the place of h
//      +-----------------+        +------------------------+
//
// Why this shape: as for full rank (full_rank.hpp), without the drawing of weights. A tile's rows may belong to one
// member or to thirty, so no batch leaves it half empty.
//
// Where all members see the same samples, the first layer's sums are the same for all, too. They are computed once, by
// a plain product before the launch, and a tile starts from them.
//
// The corrections, and the boundary, are applied to the sums in shared memory, by threads that each take four rows of
// eight columns at a time, draw what these need, and put them back.
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

struct SharedWeightsJob {
    DeviceLayers layers;
    Rows rows;
    NoiseSource noise;
    Correction correction;
    int corrected_layers;  // the first so many of these layers are corrected
    bool biases;           // whether those have noise of their own there,
    float bias_scale;      // times this
    // What the first layer starts from: sums, if there are any, else inputs. Each by row, or by sample (Row::input).
    const float* inputs;
    bool inputs_by_sample;
    const float* sums;
    bool sums_by_sample;
    float* outputs;  // [rows, fan_out]; fused: of the whole call (Row::output), or null
    LossSink sink;
};
static_assert(sizeof(SharedWeightsJob) <= most_argument_bytes, "a job travels with the launch");

template <class T>
struct SharedWeightsTile {
    // k's of a block of weights: more where only a multiprocessor with much shared memory holds the tile anyway.
    static constexpr int depth = T::rows >= 64 && T::columns >= 256 ? 16 : 8;
    static constexpr int k_stride = padded_rows(T::rows);
    static constexpr int activation_floats = T::columns * k_stride;
    static constexpr int matrix_floats = depth * T::columns;
    static constexpr int buffer_floats = 2 * matrix_floats;
    static constexpr int stage_block = depth * k_stride;
    static constexpr int stage_floats = 2 * stage_block;
    static constexpr int most_coefficients = 16;  // q of a row, at a time
    static constexpr int coefficient_floats = T::rows * most_coefficients;
    static constexpr int shared_bytes(bool fused) {
        return static_cast<int>(sizeof(float)) *
                   ((fused ? activation_floats : 0) + buffer_floats + stage_floats + coefficient_floats) +
               T::rows * static_cast<int>(sizeof(Row));
    }

    // Terms whose coefficients fit, and whose A do, eight k's of each of so many pairs at least.
    static FPES_INLINE constexpr int terms_at_a_time(int pairs) {
        return smaller(most_coefficients, buffer_floats / (8 * pairs));
    }

    static_assert(T::columns % 8 == 0, "numbers are drawn eight at a time");
    static_assert(narrow_columns * T::columns <= buffer_floats, "a narrow layer's weights fit where blocks do");
    static_assert(narrow_columns <= 2 * depth, "a narrow layer's outputs fit where inputs are staged");
    static_assert((T::rows / 2 + 1) * 8 <= buffer_floats, "eight k's of one term's A of every pair of a tile fit");
};

template <class T, class Mode, bool fused>
class SharedWeightsBlock {
    using Shape = SharedWeightsTile<T>;
    static constexpr int depth = Shape::depth;

   public:
    FPES_DEVICE SharedWeightsBlock(const SharedWeightsJob& job)
        : job_(job),
          rows_(dynamic_shared<Row>()),
          activations_(reinterpret_cast<float*>(rows_ + T::rows)),
          buffers_(activations_ + (fused ? Shape::activation_floats : 0)),
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
            if (fused && l == last && l > 0 && layer.fan_out <= narrow_columns) {
                narrow_layer(layer, l);
                return finish(stage_, layer.fan_out);
            }
            wide_layer(layer, l);
        }
        if (fused) finish(activations_, job_.layers.layer[last].fan_out);
    }

   private:
    FPES_DEVICE bool corrected(int l) const { return l < job_.corrected_layers; }
    FPES_DEVICE bool of_inputs(int l) const { return corrected(l) && job_.correction.of_inputs; }
    // Places that have rows in the tile.
    FPES_DEVICE int places() const { return rows_[T::rows - 1].place + 1; }
    FPES_DEVICE Counters counters(int owner, NoiseRole role, std::int64_t pair) const {
        return job_.noise.counters(noise_tensor(owner, role), pair);
    }
    FPES_DEVICE std::int64_t pair_at(int place) const {
        return pair_of_place(job_.rows, place_of_row(job_.rows, first_row_) + place);
    }
    FPES_DEVICE float signed_scale(const Row& row, float scale) const { return row.sign ? opposite(scale) : scale; }

    // Where a layer's sums are, and its activations will be: in shared memory as the next product's left operand, or
    // rows in global memory.
    struct Values {
        bool shared;
        float* operand;  // [columns][k_stride]
        Window window;
    };

    FPES_DEVICE void wide_layer(const DeviceLayer& layer, int l) {
        const int first_column = block_index_y() * T::columns;
        const int columns = smaller(T::columns, layer.fan_out - first_column);
        Values values{fused, activations_, {nullptr, 0, T::rows, columns}};
        if constexpr (!fused) {
            values.window = {job_.outputs + first_row_ * layer.fan_out + first_column, layer.fan_out,
                             smaller(T::rows, within_int(job_.rows.count - first_row_)), columns};
        }
        // What a correction needs of the layer's inputs, before the sums take their place.
        if (of_inputs(l)) multiply_by_factors(layer, l, 0);
        const bool started = l == 0 && job_.sums;
        if (!started) {
            Accumulators<T> acc;
            multiply(layer, first_column, l == 0, acc);
            if constexpr (fused) {
                store_as_operand<T>(acc, activations_, padded_rows(T::rows), T::columns);
            } else {
                store_rows<T>(acc, values.window);
            }
            __syncthreads();
        }
        finish_layer(layer, l, first_column, started, values);
    }

    // Ends with all threads done with the activations.
    FPES_DEVICE void multiply(const DeviceLayer& layer, int first_column, bool staged, Accumulators<T>& acc) const {
        acc.clear();
        Operands operands(*this, layer, first_column, staged);
        operands.start(0);
        operands.turn();
        multiply_blocks<T, Mode, depth>(operands, layer.fan_in, T::warp_column() < layer.fan_out - first_column, acc);
    }

    // The blocks of inputs and weights that are multiplied (multiply_blocks): weights are copied into two buffers,
    // inputs are there already, or come from memory through a stage.
    class Operands {
       public:
        static constexpr bool draws_between = false;
        FPES_DEVICE Operands(const SharedWeightsBlock& block, const DeviceLayer& layer, int first_column, bool staged)
            : block_(block),
              layer_(layer),
              first_column_(first_column),
              vectors_(layer.has_vectors()),
              staged_(staged),
              weights_(layer.weight, layer.fan_in, layer.fan_out, 0, first_column),
              inputs_(block.job_.inputs, block.job_.rows.count, layer.fan_in, block.first_row_, 0) {}
        FPES_DEVICE const float* left(int number) const {
            return staged_ ? stage(number) : block_.activations_ + number * (depth * Shape::k_stride);
        }
        FPES_DEVICE const float* right(int number) const { return buffer(number); }
        FPES_DEVICE void start(int number) {
            if (vectors_) {
                weights_.start(buffer(number));
            } else {
                copy_scalars(layer_, number * depth, first_column_, buffer(number));
            }
            if (staged_) {
                inputs_.start(stage(number), Shape::k_stride);
                inputs_.move_right();
            }
            commit_copies();
        }
        FPES_DEVICE void finish(int) const {}
        FPES_DEVICE void turn() const {
            wait_for_copies<0>();
            __syncthreads();
        }

       private:
        FPES_DEVICE float* buffer(int number) const { return block_.buffers_ + number % 2 * Shape::matrix_floats; }
        FPES_DEVICE float* stage(int number) const { return block_.stage_ + number % 2 * Shape::stage_block; }

        const SharedWeightsBlock& block_;
        const DeviceLayer& layer_;
        int first_column_;
        bool vectors_;
        bool staged_;
        WindowCopy<T::threads, depth, T::columns, 4> weights_;
        TurningCopy<T::threads, T::rows, depth> inputs_;
    };

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

    FPES_DEVICE void narrow_layer(const DeviceLayer& layer, int l) const {
        if (of_inputs(l)) multiply_by_factors(layer, l, 0);
        const int n = layer.fan_out, stride = narrow_padded(n), weights = layer.fan_in * n;
        for (int i = thread_index(); i < weights; i += T::threads) buffers_[i / n * stride + i % n] = layer.weight[i];
        __syncthreads();
        for (int task = thread_index(); task < T::rows * (stride / 4); task += T::threads) {
            const int row = task % T::rows, column = task / T::rows * 4;
            float sum[4];
            multiply_narrow<Mode, Shape::k_stride>(activations_ + row, buffers_ + column, stride, layer.fan_in, sum);
            FPES_UNROLL
            for (int i = 0; i < 4; ++i) stage_[(column + i) * Shape::k_stride + row] = sum[i];
        }
        __syncthreads();
        finish_layer(layer, l, 0, false, {true, stage_, {nullptr, 0, T::rows, n}});
    }

    // Corrections and the boundary: from sums to activations, in place, or from the first layer's sums where the layer
    // is started by them. A thread takes four rows of eight columns at a time: what a Philox block is for.
    FPES_DEVICE void finish_layer(const DeviceLayer& layer, int l, int first_column, bool started,
                                  const Values& values) const {
        constexpr int groups = T::rows / 4;
        const int tasks = static_cast<int>(parts(values.window.columns, 8)) * groups;
        const bool corrected = this->corrected(l), of_inputs = this->of_inputs(l);
        const int terms = corrected ? job_.correction.terms : 0;
        int first_term = 0;
        do {
            if (first_term > 0) multiply_by_factors(layer, l, first_term);
            const int end = of_inputs ? smaller(terms, first_term + terms_at_a_time()) : terms;
            FPES_ROLLED
            for (int task = thread_index(); task < tasks; task += T::threads) {
                const int row = task % groups * 4, column = task / groups * 8;
                float sum[4][8];
                if (started && first_term == 0) {
                    read_first_sums(layer, values.window, row, first_column, column, sum);
                } else {
                    read(values, row, column, sum);
                }
                float bias[8];
                FPES_UNROLL
                for (int c = 0; c < 8; ++c) {
                    bias[c] = column + c < values.window.columns ? layer.bias[first_column + column + c] : 0.0f;
                }
                FPES_ROLLED
                for (int term = first_term; term < end; ++term) {
                    const auto factor = [&](const Row& of, int i) {
                        if (!of_inputs) return signed_scale(of, layer.scale);
                        return coefficients_[term % terms_at_a_time() * T::rows + row + i];
                    };
                    add_noise(layer, job_.correction.right, !of_inputs, term, row, first_column + column, factor,
                              [&](int i, int c, float z, float times) { sum[i][c] = Mode::fma(z, times, sum[i][c]); });
                }
                if (end == terms) {
                    if (corrected && job_.biases) {
                        const auto factor = [&](const Row& of, int) { return signed_scale(of, job_.bias_scale); };
                        add_noise(layer, NoiseRole::bias, false, 0, row, first_column + column, factor,
                                  [&](int i, int c, float z, float times) {
                                      const float moved = Mode::fma(z, times, bias[c]);
                                      sum[i][c] = layer.cross(sum[i][c], layer.scaled_bias(moved));
                                  });
                    } else {
                        FPES_UNROLL
                        for (int c = 0; c < 8; ++c) {
                            const float scaled = layer.scaled_bias(bias[c]);
                            FPES_UNROLL
                            for (int i = 0; i < 4; ++i) sum[i][c] = layer.cross(sum[i][c], scaled);
                        }
                    }
                }
                write(values, row, column, sum);
            }
            first_term = end;
            __syncthreads();
        } while (first_term < terms);
    }

    // Noise of four rows and eight columns: calls use(row, column, z, factor(row)), rows counted from first_row. Of a
    // tensor of noise it is the row of each sample, or `row_of_all`.
    template <class Factor, class Use>
    FPES_DEVICE void add_noise(const DeviceLayer& layer, NoiseRole role, bool by_sample, int row_of_all, int first_row,
                               int column, Factor factor_of, Use use) const {
        float z[8];
        FPES_ROLLED
        for (int i = 0; i < 4; ++i) {
            const Row& row = rows_[first_row + i];
            if (i == 0 || by_sample || row.place != rows_[first_row + i - 1].place) {
                const int row_of_tensor = by_sample ? row.sample : row_of_all;
                draw<8>(job_.noise.kind, counters(by_sample ? layer.position : layer.tensor, role, row.pair),
                        static_cast<std::uint64_t>(row_of_tensor) * layer.fan_out + static_cast<std::uint64_t>(column),
                        z);
            }
            const float factor = factor_of(row, i);
            // Registers have no index that is known at run time only.
            FPES_UNROLL
            for (int same = 0; same < 4; ++same) {
                if (same != i) continue;
                FPES_UNROLL
                for (int c = 0; c < 8; ++c) use(same, c, z[c], factor);
            }
        }
    }

    // Four rows of eight sums. Of columns that the layer doesn't have, anything.
    static FPES_DEVICE void read_rows(const Window& window, const float* const (&from)[4], int column,
                                      float (&sum)[4][8]) {
        const bool vectors = window.vectors() && column + 8 <= window.columns;
        FPES_UNROLL
        for (int i = 0; i < 4; ++i) {
            if (vectors) {
                load4(from[i] + column, sum[i]);
                load4(from[i] + column + 4, sum[i] + 4);
            } else {
                FPES_UNROLL
                for (int c = 0; c < 8; ++c) sum[i][c] = column + c < window.columns ? from[i][column + c] : 0.0f;
            }
        }
    }
    FPES_DEVICE void read_first_sums(const DeviceLayer& layer, const Window& window, int row, int first_column,
                                     int column, float (&sum)[4][8]) const {
        const float* from[4];
        FPES_UNROLL
        for (int i = 0; i < 4; ++i) from[i] = job_.sums + sums_row(row + i) * layer.fan_out + first_column;
        const Window sums{const_cast<float*>(job_.sums + first_column), layer.fan_out, window.rows, window.columns};
        read_rows(sums, from, column, sum);
    }
    FPES_DEVICE std::int64_t sums_row(int row) const {
        if (job_.sums_by_sample) return rows_[row].input;
        return first_row_ + row < job_.rows.count ? first_row_ + row : 0;
    }
    static FPES_DEVICE void read(const Values& values, int row, int column, float (&sum)[4][8]) {
        const Window& window = values.window;
        if (values.shared) {
            FPES_UNROLL
            for (int c = 0; c < 8; ++c) {
                float four[4];
                load4(values.operand + (column + c) * Shape::k_stride + row, four);
                FPES_UNROLL
                for (int i = 0; i < 4; ++i) sum[i][c] = four[i];
            }
            return;
        }
        const float* from[4];
        FPES_UNROLL
        for (int i = 0; i < 4; ++i) from[i] = window.data + (row + i < window.rows ? row + i : 0) * window.stride;
        read_rows(window, from, column, sum);
    }
    static FPES_DEVICE void write(const Values& values, int row, int column, const float (&sum)[4][8]) {
        const Window& window = values.window;
        if (values.shared) {
            FPES_UNROLL
            for (int c = 0; c < 8; ++c) {
                const float four[4] = {sum[0][c], sum[1][c], sum[2][c], sum[3][c]};
                store4(values.operand + (column + c) * Shape::k_stride + row, four);
            }
            return;
        }
        const bool vectors = window.vectors() && column + 8 <= window.columns;
        FPES_UNROLL
        for (int i = 0; i < 4; ++i) {
            if (row + i >= window.rows) continue;
            float* const to = window.data + (row + i) * window.stride + column;
            if (vectors) {
                store4(to, sum[i]);
                store4(to + 4, sum[i] + 4);
            } else {
                FPES_UNROLL
                for (int c = 0; c < 8; ++c) {
                    if (column + c < window.columns) to[c] = sum[i][c];
                }
            }
        }
    }

    FPES_DEVICE int terms_at_a_time() const { return smaller(job_.correction.terms, Shape::terms_at_a_time(places())); }

    // coefficients_[t][row] = (h A_t) * +-scale, for some terms from `first` on: a chain each, k in order. A is drawn
    // some k's at a time, [place][term][k's]. Inputs from memory are turned into columns first, where there is room.
    FPES_DEVICE void multiply_by_factors(const DeviceLayer& layer, int l, int first) const {
        const int terms = smaller(terms_at_a_time(), job_.correction.terms - first), factors = places() * terms;
        const bool gather = l == 0 && fused;
        const int room = Shape::buffer_floats / factors / 8 * 8;
        const int step = gather ? smaller(room, T::columns) : room;
        for (int k = 0; k < layer.fan_in; k += step) {
            const int width = smaller(step, layer.fan_in - k), groups = (width + 7) / 8;
            if (gather) gather_inputs(layer, k, width);
            for (int i = thread_index(); i < factors * groups; i += T::threads) {
                const int factor = i / groups, column = i % groups * 8;
                const auto element = static_cast<std::uint64_t>(first + factor % terms) * layer.fan_in +
                                     static_cast<std::uint64_t>(k + column);
                draw_to(buffers_ + factor * step + column, job_.noise.kind,
                        counters(layer.tensor, job_.correction.left, pair_at(factor / terms)), element);
            }
            wait_for_copies<0>();
            __syncthreads();
            for (int task = thread_index(); task < T::rows * terms; task += T::threads) {
                const int row = task % T::rows, t = task / T::rows;
                float& q = coefficients_[t * T::rows + row];
                const float* a = buffers_ + (rows_[row].place * terms + t) * step;
                const float before = k ? q : 0.0f;
                float sum;
                if (gather || l > 0) {
                    sum = chain<Shape::k_stride>(activations_ + (gather ? 0 : k) * Shape::k_stride + row, a, width,
                                                 before);
                } else {
                    sum = chain<1>(inputs_of(layer, row) + k, a, width, before);
                }
                q = k + step >= layer.fan_in ? Mode::mul(sum, signed_scale(rows_[row], layer.scale)) : sum;
            }
            __syncthreads();
        }
    }
    // Columns k ... k + width - 1 of the inputs, to where activations will be: eight k's of four rows a warp.
    FPES_DEVICE void gather_inputs(const DeviceLayer& layer, int k, int width) const {
        const int mine = thread_index() % 8;
        for (int row = thread_index() / 8; row < T::rows; row += T::threads / 8) {
            const float* const from = inputs_of(layer, row) + k;
            for (int c = mine; c < width; c += 8)
                copy_async<1>(activations_ + c * Shape::k_stride + row, from + c, true);
        }
        commit_copies();
    }
    FPES_DEVICE const float* inputs_of(const DeviceLayer& layer, int row) const {
        // A row beyond the last has no inputs, and nobody asks for its outputs.
        const std::int64_t by_row = first_row_ + row < job_.rows.count ? first_row_ + row : 0;
        return job_.inputs + (job_.inputs_by_sample ? rows_[row].input : by_row) * layer.fan_in;
    }
    // sum + a b, k in order; a's elements are `stride` floats apart. What many k's need is loaded before they are
    // added: one element's chain can't hide how long a load takes.
    template <int stride>
    static FPES_DEVICE float chain(const float* a, const float* b, int count, float sum) {
        constexpr int ahead = 16;
        int k = 0;
        FPES_ROLLED
        for (; k + ahead <= count; k += ahead) {
            float left[ahead], right[ahead];
            FPES_UNROLL
            for (int i = 0; i < ahead; ++i) left[i] = a[(k + i) * stride];
            FPES_UNROLL
            for (int i = 0; i < ahead; i += 4) load4(b + k + i, right + i);
            FPES_UNROLL
            for (int i = 0; i < ahead; ++i) sum = Mode::fma(left[i], right[i], sum);
        }
        for (; k < count; ++k) sum = Mode::fma(a[k * stride], b[k], sum);
        return sum;
    }

    // The logits, in shared memory, to where they are wanted.
    FPES_DEVICE void finish(const float* logits, int classes) const {
        if (job_.outputs) {
            for (int i = thread_index(); i < T::rows * classes; i += T::threads) {
                const Row& row = rows_[i / classes];
                const int column = i % classes;
                if (row.inside) {
                    job_.outputs[row.output * classes + column] = logits[column * Shape::k_stride + i / classes];
                }
            }
        }
        if (!job_.sink.wanted()) return;
        for (int i = thread_index(); i < T::rows; i += T::threads) {
            const Row& row = rows_[i];
            if (!row.inside) continue;
            job_.sink.losses[row.output] =
                loss_of(job_.sink.targets, row.input, classes, [=](int j) { return logits[j * Shape::k_stride + i]; });
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

// fused: all layers in one launch, activations on the chip; else one layer.
template <class T, class Mode, bool fused>
__global__ __launch_bounds__(T::threads, 1) void shared_weights_kernel(const FPES_CONSTANT SharedWeightsJob job) {
    SharedWeightsBlock<T, Mode, fused>(job).run();
}

FPES_NAMESPACE_END

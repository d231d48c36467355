// Full-rank perturbation: every member has weights of its own, which are never in memory.
//
// A block carries a tile of samples of one antithetic pair through the whole network. Half of its rows are the samples
// as the + member sees them, half as the - member does:
//
//                                  z drawn once           columns of the layer: 512
//                                  w + s z  and  w - s z  +------------------------+
//                                                     k 8 | w+                     |   two buffers of each: while
//            activations, in                              +------------------------+   one is multiplied, weights
//            shared memory            k 8             k 8 | w-                     |   of the next 8 k's are drawn
//            +-----------------+-----+--------+           +------------------------+   and put into the other
//    + : 32  |                 |     |        |           +------------------------+
//   samples  |                 |     |        |           | h+ w+                  |   accumulators of the whole layer,
//            +-----------------+-----+--------+           +------------------------+   in registers: 128 a thread
//    - : 32  |                 |     |        |           | h- w-                  |
//   samples  |                 |     |        |           |                        |
//            +-----------------+-----+--------+           +------------------------+
//
// When the last k is done the accumulators cross the boundary and take the place of the activations they came from: so
// a layer needs room for its inputs only, and nothing leaves the chip until the losses do.
//
// Why this shape. A weight that is drawn and perturbed, at some 10 instructions, serves 64 multiply-adds here, and the
// unperturbed weights come from the second-level cache at 8 bytes a cycle and multiprocessor. Registers (128 of 255 a
// thread are accumulators) and shared memory are both nearly full, so a multiprocessor has one block. Narrower networks
// get more samples in place of columns, small batches fewer rows.
//
// The first layer's inputs are copied in as the weights are, 8 k's at a time. A last layer with few outputs would leave
// most threads without a column; it is computed a row and four columns a thread.
//
// The same kernel serves networks that don't fit: it is launched a layer at a time, for some of the columns, reads
// activations as it reads x, and writes them to memory.
#pragma once

#include "draws.hpp"
#include "layers.hpp"
#include "loss.hpp"
#include "narrow.hpp"
#include "tile.hpp"

FPES_NAMESPACE_BEGIN

struct FullRankJob {
    DeviceLayers layers;
    NoiseSource noise;
    float scale;              // of a draw: sigma times the noise's unit
    float small_scale;        // of a draw in small units (draws.hpp), or 0
    std::int64_t first_pair;  // of the launch
    std::int64_t batch;       // samples of a batch
    std::int64_t pairs_each;  // that see the same batch
    const float* inputs;      // x[batches, batch, fan_in], or activations[pairs, 2, batch, fan_in]
    bool inputs_of_members;   // the latter
    float* outputs;           // [pairs, 2, batch, fan_out], or null
    LossSink sink;
};
static_assert(sizeof(FullRankJob) <= most_argument_bytes, "a job travels with the launch");

template <class T>
struct FullRankTile {
    static constexpr int depth = 8;  // k's of a block of weights
    static constexpr int samples = T::rows / 2;
    static constexpr int k_stride = padded_rows(T::rows);
    static constexpr int activation_floats = T::columns * k_stride;
    static constexpr int matrix_floats = depth * T::columns;     // a block of one member's weights
    static constexpr int weight_floats = 2 * 2 * matrix_floats;  // [buffer][sign]
    static constexpr int stage_block = depth * k_stride;
    static constexpr int stage_floats = 2 * stage_block;
    static constexpr int bias_floats = 2 * T::columns;
    static constexpr int shared_bytes(bool fused) {
        return static_cast<int>(sizeof(float)) *
               ((fused ? activation_floats : 0) + weight_floats + stage_floats + bias_floats);
    }

    static_assert(T::warps_m % 2 == 0, "a warp works for one member");
    static_assert(T::columns % 8 == 0, "weights are drawn eight at a time");
    static_assert(2 * narrow_columns * T::columns <= weight_floats, "a narrow layer's weights fit where blocks do");
    static_assert(narrow_columns <= 2 * depth, "a narrow layer's outputs fit where inputs are staged");
};

template <class T, class Mode, NoiseKind kind, bool fused>
class FullRankBlock {
    using Shape = FullRankTile<T>;
    static constexpr int depth = Shape::depth;
    // Who draws what of a block of weights: a thread eight columns of every rows_per_pass-th row.
    static constexpr int groups = T::columns / 8;
    static constexpr int rows_per_pass = T::threads / groups;
    static constexpr int passes = rows_per_pass < depth ? depth / rows_per_pass : 1;
    static_assert(T::threads % groups == 0 && (rows_per_pass >= depth || depth % rows_per_pass == 0),
                  "a thread stays in its columns, and passes are equal");

   public:
    FPES_DEVICE FullRankBlock(const FullRankJob& job)
        : job_(job),
          activations_(dynamic_shared<float>()),
          weights_(activations_ + (fused ? Shape::activation_floats : 0)),
          stage_(weights_ + Shape::weight_floats),
          bias_(stage_ + Shape::stage_floats) {
        const int tiles = static_cast<int>(parts(job.batch, Shape::samples));
        place_ = block_index() / tiles;
        first_sample_ = static_cast<std::int64_t>(block_index() % tiles) * Shape::samples;
        pair_ = job.first_pair + place_;
        const std::int64_t left = job.batch - first_sample_;
        samples_ = left < Shape::samples ? static_cast<int>(left) : Shape::samples;
    }

    FPES_DEVICE void run() {
        const int last = job_.layers.count - 1;
        for (int l = 0; l <= last; ++l) {
            const DeviceLayer& layer = job_.layers.layer[l];
            if (fused && l == last && l > 0 && layer.fan_out <= narrow_columns) {
                narrow_layer(layer);
                return finish(stage_, layer.fan_out);
            }
            wide_layer(layer, l == 0);
        }
        if (fused) finish(activations_, job_.layers.layer[last].fan_out);
    }

   private:
    static FPES_DEVICE int sign_of(int row) { return row / Shape::samples; }
    static FPES_DEVICE int sign() { return T::first_row() / Shape::samples; }
    // The index of a row's member and sample in arrays [pairs, 2, batch].
    FPES_DEVICE std::int64_t place_of(int row) const {
        return (2 * place_ + sign_of(row)) * job_.batch + first_sample_ + row % Shape::samples;
    }
    FPES_DEVICE bool inside(int row) const { return row % Shape::samples < samples_; }

    FPES_DEVICE void wide_layer(const DeviceLayer& layer, bool staged) {
        const int first_column = block_index_y() * T::columns;
        Accumulators<T> acc;
        multiply(layer, first_column, staged, acc);
        cross(layer, acc);
        if constexpr (fused) {
            store_as_operand<T>(acc, activations_);
            __syncthreads();
        } else {
            // Rows of both signs are `batch` rows apart in memory, and `samples` rows here.
            const std::int64_t gap = sign() * (job_.batch - Shape::samples);
            float* const to = job_.outputs + (place_of(0) + gap) * layer.fan_out + first_column;
            store_rows<T>(acc, {to, layer.fan_out, sign() * Shape::samples + samples_, layer.fan_out - first_column});
        }
    }

    // Ends with all threads done with the activations.
    FPES_DEVICE void multiply(const DeviceLayer& layer, int first_column, bool staged, Accumulators<T>& acc) const {
        acc.clear();
        perturb_bias(layer, first_column);
        const bool whole = layer.has_vectors() && layer.fan_out % 8 == 0 && !is_zero(job_.small_scale);
        if (staged) {
            whole ? multiply<DrawnBetween<true>>(layer, first_column, acc)
                  : multiply<DrawnBefore<true>>(layer, first_column, acc);
        } else {
            whole ? multiply<DrawnBetween<false>>(layer, first_column, acc)
                  : multiply<DrawnBefore<false>>(layer, first_column, acc);
        }
    }
    template <class Operands>
    FPES_DEVICE void multiply(const DeviceLayer& layer, int first_column, Accumulators<T>& acc) const {
        Operands operands(*this, layer, first_column);
        operands.turn();
        const bool works = T::warp_column() < layer.fan_out - first_column;
        if constexpr (Operands::draws_between) {
            multiply_blocks<T, Mode, depth>(operands, layer.fan_in, works, acc);
        } else {
            multiply_blocks_simply<T, Mode, depth>(operands, layer.fan_in, works, acc);
        }
    }

    FPES_DEVICE void cross(const DeviceLayer& layer, Accumulators<T>& acc) const {
        const float* const bias = bias_ + sign() * T::columns + T::first_column();
        FPES_UNROLL
        for (int j = 0; j < T::tn; j += 4) {
            float four[4];
            load4(bias + j * T::lanes_n, four);
            FPES_UNROLL
            for (int i = 0; i < T::tm; ++i) {
                FPES_UNROLL
                for (int c = 0; c < 4; ++c) acc.sum[i][j + c] = layer.cross(acc.sum[i][j + c], four[c]);
            }
        }
    }

    // The inputs of the first layer walk through the stage as the weights do.
    using InputCopy = TurningCopy<T::threads, Shape::samples, depth>;
    FPES_DEVICE InputCopy inputs_of(const DeviceLayer& layer) const {
        const std::int64_t matrix = job_.inputs_of_members ? 2 * place_ : pair_ / job_.pairs_each;
        return {job_.inputs + matrix * job_.batch * layer.fan_in, job_.batch, layer.fan_in, first_sample_, 0};
    }

    // The blocks of inputs and weights that are multiplied (multiply_blocks): weights are drawn into two buffers,
    // inputs are there already, or are `staged`: copied from memory into two buffers of their own.
    //
    // A thread perturbs the same eight columns of every (depth / passes)-th row. `rows_` counts the layer's rows from
    // the thread's next one on; where another thread is enough, or the layer has no such columns, there are none.
    template <bool staged>
    class Operands {
       public:
        FPES_DEVICE const float* left(int number) const {
            if (!staged) return block_.activations_ + number * (depth * Shape::k_stride);
            // Both members see the same inputs of the first layer, so only one copy of them is there.
            return stage(number) - (block_.job_.inputs_of_members ? 0 : sign() * Shape::samples);
        }
        FPES_DEVICE const float* right(int number) const { return weights(number) + sign() * Shape::matrix_floats; }
        FPES_DEVICE void turn() const {
            if (staged) wait_for_copies<0>();
            __syncthreads();
        }

       protected:
        static constexpr int distance = depth / passes;  // of the thread's rows

        FPES_DEVICE Operands(const FullRankBlock& block, const DeviceLayer& layer, int first_column)
            : block_(block),
              fan_out_(layer.fan_out),
              counters_(block.job_.noise.counters(noise_tensor(layer.tensor, NoiseRole::weight), block.pair_)),
              inputs_(staged ? block.inputs_of(layer) : InputCopy()) {
            const int row = thread_index() / groups, column = first_column + thread_index() % groups * 8;
            columns_ = row < depth && column < layer.fan_out ? layer.fan_out - column : 0;
            rows_ = columns_ > 0 ? layer.fan_in - row : 0;
            element_ = static_cast<std::uint64_t>(row) * layer.fan_out + column;
            from_ = layer.weight + element_;
            copy_inputs(0);
        }
        FPES_DEVICE void copy_inputs(int number) {
            if (!staged) return;
            inputs_.start(stage(number), Shape::k_stride);
            if (block_.job_.inputs_of_members) {
                inputs_.start(stage(number) + Shape::samples, Shape::k_stride, block_.job_.batch * fan_in());
            }
            inputs_.move_right();
            commit_copies();
        }
        // Where the thread's part of the + member's weights belongs.
        FPES_DEVICE float* drawn(int number) const {
            return weights(number) + thread_index() / groups * T::columns + thread_index() % groups * 8;
        }

        const FullRankBlock& block_;
        const float* from_;      // the thread's next weights
        std::uint64_t element_;  // of the layer's noise
        int fan_out_;
        int rows_;
        int columns_;
        Counters counters_;

       private:
        FPES_DEVICE std::int64_t fan_in() const { return block_.job_.layers.layer[0].fan_in; }
        FPES_DEVICE float* weights(int number) const {
            return block_.weights_ + number % 2 * (2 * Shape::matrix_floats);
        }
        FPES_DEVICE float* stage(int number) const { return block_.stage_ + number % 2 * Shape::stage_block; }

        InputCopy inputs_;
    };

    // Weight by weight, before a block is multiplied: for any shape, and little code.
    template <bool staged>
    class DrawnBefore : public Operands<staged> {
       public:
        static constexpr bool draws_between = false;

        // Block 0 is ready after the first turn.
        FPES_DEVICE DrawnBefore(const FullRankBlock& block, const DeviceLayer& layer, int first_column)
            : Operands<staged>(block, layer, first_column) {
            draw(0);
        }
        FPES_DEVICE void start(int number) {
            this->copy_inputs(number);
            draw(number);
        }

       private:
        FPES_DEVICE void draw(int number) {
            const float scale = this->block_.job_.scale;
            float* plus = this->drawn(number);
            FPES_ROLLED
            for (int pass = 0; pass < passes; ++pass) {
                if (this->rows_ > 0) {
                    draw_to(plus, kind, this->counters_, this->element_);
                    FPES_ROLLED
                    for (int i = 0; i < 8 && i < this->columns_; ++i) {
                        const float z = plus[i], w = this->from_[i];
                        plus[i] = Mode::fma(z, scale, w);
                        plus[Shape::matrix_floats + i] = Mode::fma(z, opposite(scale), w);
                    }
                }
                plus += this->distance * T::columns;
                this->from_ += static_cast<std::int64_t>(this->distance) * this->fan_out_;
                this->element_ += static_cast<std::uint64_t>(this->distance) * this->fan_out_;
                this->rows_ -= this->distance;
            }
        }
    };

    // Where eight columns are always a Philox block's: a row at a time, in the midst of multiply-adds and without a
    // branch (multiply_drawing). What is perturbed next is loaded long before.
    template <bool staged>
    class DrawnBetween : public Operands<staged> {
       public:
        static constexpr bool draws_between = true;

        // Block 0 is ready after the first turn.
        FPES_DEVICE DrawnBetween(const FullRankBlock& block, const DeviceLayer& layer, int first_column)
            : Operands<staged>(block, layer, first_column),
              anywhere_(layer.weight),
              step_(static_cast<std::int64_t>(this->distance) * layer.fan_out),
              eight_(static_cast<std::uint32_t>(this->element_ / 8)) {
            load();
            start_drawing(0);
            FPES_ROLLED
            for (int part = 0; part < depth / 4; ++part) go_on(part);
        }
        FPES_DEVICE void start(int number) {
            this->copy_inputs(number);
            start_drawing(number);
        }
        FPES_DEVICE void go_on(int part) {
            if constexpr (passes > 1) draw_row(part);
        }

       private:
        static_assert(passes == 1 || passes == depth / 4, "a row for four k's");
        static_assert(passes == 1 || rows_per_pass < depth, "every thread draws");

        FPES_DEVICE void start_drawing(int number) {
            to_ = this->drawn(number);
            if (passes == 1 && thread_index() / groups < depth) draw_row(0);
        }
        FPES_DEVICE void draw_row(int pass) {
            float z[8];
            draw_aligned<kind, 8, true>(this->counters_, std::uint64_t{eight_} * 8, z);
            this->block_.store_both(z, next_, to_ + pass * (rows_per_pass * T::columns));
            eight_ += static_cast<std::uint32_t>(step_ / 8);
            this->from_ += step_;
            this->rows_ -= this->distance;
            load();
        }
        // Beyond the layer's last row and column, anything.
        FPES_DEVICE void load() {
            const float* const from = this->rows_ > 0 ? this->from_ : anywhere_;
            load4(from, next_);
            load4(from + 4, next_ + 4);
        }

        const float* anywhere_;
        std::int64_t step_;
        std::uint32_t eight_;  // the number of the next eight of the layer's weights
        float* to_;
        float next_[8];
    };

    FPES_DEVICE void store_both(const float (&z)[8], const float (&w)[8], float* plus) const {
        float up[8], down[8];
        FPES_UNROLL
        for (int i = 0; i < 8; ++i) {
            up[i] = Mode::fma(z[i], job_.small_scale, w[i]);
            down[i] = Mode::fma(z[i], opposite(job_.small_scale), w[i]);
        }
        store4(plus, up);
        store4(plus + 4, up + 4);
        store4(plus + Shape::matrix_floats, down);
        store4(plus + Shape::matrix_floats + 4, down + 4);
    }

    // Both members' biases, after their own factor: bias_[sign][column].
    FPES_DEVICE void perturb_bias(const DeviceLayer& layer, int first_column) const {
        const Counters counters = job_.noise.counters(noise_tensor(layer.tensor, NoiseRole::bias), pair_);
        const int columns = smaller(T::columns, layer.fan_out - first_column);
        for (int first = 8 * thread_index(); first < columns; first += 8 * T::threads) {
            float z[8];
            draw<kind, 8>(counters, static_cast<std::uint64_t>(first_column + first), z);
            FPES_UNROLL
            for (int i = 0; i < 8; ++i) {
                if (first + i >= columns) continue;
                const float b = layer.bias[first_column + first + i];
                bias_[first + i] = layer.scaled_bias(Mode::fma(z[i], job_.scale, b));
                bias_[T::columns + first + i] = layer.scaled_bias(Mode::fma(z[i], opposite(job_.scale), b));
            }
        }
    }

    FPES_DEVICE void narrow_layer(const DeviceLayer& layer) const {
        const int n = layer.fan_out, stride = narrow_padded(n), weights = layer.fan_in * n;
        const Counters counters = job_.noise.counters(noise_tensor(layer.tensor, NoiseRole::weight), pair_);
        float* const plus = weights_;
        float* const minus = weights_ + layer.fan_in * stride;
        for (int first = 8 * thread_index(); first < weights; first += 8 * T::threads) {
            float z[8];
            draw<kind, 8>(counters, static_cast<std::uint64_t>(first), z);
            FPES_UNROLL
            for (int i = 0; i < 8; ++i) {
                if (first + i >= weights) continue;
                const int to = (first + i) / n * stride + (first + i) % n;
                plus[to] = Mode::fma(z[i], job_.scale, layer.weight[first + i]);
                minus[to] = Mode::fma(z[i], opposite(job_.scale), layer.weight[first + i]);
            }
        }
        perturb_bias(layer, 0);
        __syncthreads();
        for (int task = thread_index(); task < T::rows * (stride / 4); task += T::threads) {
            const int row = task % T::rows, column = task / T::rows * 4;
            float sum[4];
            multiply_narrow<Mode, Shape::k_stride>(activations_ + row, (sign_of(row) ? minus : plus) + column, stride,
                                                   layer.fan_in, sum);
            FPES_UNROLL
            for (int i = 0; i < 4; ++i) {
                if (column + i >= n) continue;
                stage_[(column + i) * Shape::k_stride + row] =
                    layer.cross(sum[i], bias_[sign_of(row) * T::columns + column + i]);
            }
        }
        __syncthreads();
    }

    // The logits, in shared memory, to where they are wanted.
    FPES_DEVICE void finish(const float* logits, int classes) const {
        if (job_.outputs) {
            for (int i = thread_index(); i < T::rows * classes; i += T::threads) {
                const int row = i / classes, column = i % classes;
                if (inside(row))
                    job_.outputs[place_of(row) * classes + column] = logits[column * Shape::k_stride + row];
            }
        }
        if (!job_.sink.wanted()) return;
        for (int row = thread_index(); row < T::rows; row += T::threads) {
            if (!inside(row)) continue;
            const std::int64_t input = pair_ / job_.pairs_each * job_.batch + first_sample_ + row % Shape::samples;
            job_.sink.losses[place_of(row)] =
                loss_of(job_.sink.targets, input, classes, [=](int j) { return logits[j * Shape::k_stride + row]; });
        }
        __syncthreads();
        if (thread_index() == 0) job_.sink.finish(place_, 2u * static_cast<unsigned>(samples_));
    }

    const FullRankJob& job_;
    float* activations_;
    float* weights_;
    float* stage_;
    float* bias_;
    std::int64_t place_;  // of the pair, in the launch
    std::int64_t first_sample_;
    std::int64_t pair_;
    int samples_;
};

// fused: all layers in one launch, activations on the chip; else one layer.
template <class T, class Mode, NoiseKind kind, bool fused>
__global__ __launch_bounds__(T::threads, 1) void full_rank_kernel(const FPES_CONSTANT FullRankJob job) {
    FullRankBlock<T, Mode, kind, fused>(job).run();
}

FPES_NAMESPACE_END

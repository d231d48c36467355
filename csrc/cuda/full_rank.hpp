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
// The first layer's inputs are copied in as the weights are, 8 k's at a time, from where packed_inputs.hpp has put
// them: without the k's that are zero in all of the block's samples, whose weights are then not drawn either. A last
// layer with few outputs would leave most threads without a column; it is computed a row and four columns a thread.
//
// The same kernel goes a layer at a time. The inputs of all layers walk through the stage then, and activations pass
// through memory, in panels [k][rows] that are copied as they lie. So a tile may have more rows and fewer columns, 128
// x 128: a weight that is drawn serves 128 multiply-adds, and a multiprocessor has two blocks, of which one multiplies
// where the other waits at a barrier. That is for batches that fill its 64 samples, where it is faster, and for
// networks whose activations no chip has room for.
#pragma once

#include "pair_tile.hpp"
#include "tile.hpp"

FPES_NAMESPACE_BEGIN

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
    using At = PairTile<Shape::samples>;
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
          bias_(stage_ + Shape::stage_floats),
          at_(job) {}

    FPES_DEVICE void run() {
        if constexpr (fused) {
            const int last = job_.layers.count - 1;
            wide_layer<From::samples>(job_.layers.layer[0]);
            for (int l = 1; l <= last; ++l) {
                const DeviceLayer& layer = job_.layers.layer[l];
                if (l == last && layer.fan_out <= narrow_columns) {
                    narrow_layer(layer);
                    return finish(stage_, layer.fan_out);
                }
                wide_layer<From::chip>(layer);
            }
            finish(activations_, job_.layers.layer[last].fan_out);
        } else if (job_.panels) {
            wide_layer<From::panels>(job_.layers.layer[0]);
        } else {
            wide_layer<From::samples>(job_.layers.layer[0]);
        }
    }

   private:
    static FPES_DEVICE int sign() { return At::sign_of(T::first_row()); }

    // Where a layer's inputs are: the network's, for both members; on the chip; or in panels in memory.
    enum class From { samples, chip, panels };

    template <From from>
    FPES_DEVICE void wide_layer(const DeviceLayer& layer) const {
        const int first_column = block_index_y() * T::columns, columns = layer.fan_out - first_column;
        Accumulators<T> acc;
        multiply<from>(layer, first_column, acc);
        cross(layer, acc);
        if constexpr (fused) {
            store_as_operand<T>(acc, activations_, Shape::k_stride, T::columns);
        } else if (job_.next_panels) {
            store_as_operand<T>(acc, next_panel(layer.fan_out, first_column), T::rows, columns);
        } else {
            // Rows of both signs are `batch` rows apart in memory, and `samples` rows here.
            const std::int64_t gap = sign() * (job_.batch - Shape::samples);
            float* const to = job_.outputs + (at_.place_of(job_, 0) + gap) * layer.fan_out + first_column;
            store_rows<T>(acc, {to, layer.fan_out, sign() * Shape::samples + at_.samples, columns});
        }
        if constexpr (from == From::samples) mend_zeros(layer, first_column);
        if constexpr (fused) __syncthreads();
    }
    FPES_DEVICE float* next_panel(int fan_out, int first_column) const {
        return job_.next_panels + (static_cast<std::int64_t>(block_index()) * fan_out + first_column) * T::rows;
    }

    // Ends with all threads done with the activations.
    template <From from>
    FPES_DEVICE void multiply(const DeviceLayer& layer, int first_column, Accumulators<T>& acc) const {
        acc.clear();
        const int columns = smaller(T::columns, layer.fan_out - first_column);
        perturb_biases<T::threads, Mode, kind>(job_, layer, at_.pair, first_column, columns, bias_, bias_ + T::columns);
        const bool whole = layer.has_vectors() && layer.fan_out % 8 == 0 && !is_zero(job_.small_scale);
        whole ? multiply<DrawnBetween<from>>(layer, first_column, acc)
              : multiply<DrawnBefore<from>>(layer, first_column, acc);
    }
    template <class Operands>
    FPES_DEVICE void multiply(const DeviceLayer& layer, int first_column, Accumulators<T>& acc) const {
        const int k_count =
            Operands::listed ? job_.inputs.needed(at_.tile_of_inputs(job_), layer.fan_in, depth) : layer.fan_in;
        Operands operands(*this, layer, first_column, k_count);
        operands.turn();
        const bool works = T::warp_column() < layer.fan_out - first_column;
        if constexpr (Operands::draws_between) {
            multiply_blocks<T, Mode, depth>(operands, k_count, works, acc);
        } else {
            multiply_blocks_simply<T, Mode, depth>(operands, k_count, works, acc);
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

    // The blocks of inputs and weights that are multiplied (multiply_blocks): weights are drawn into two buffers,
    // inputs are on the chip already, or are copied from memory into two buffers of their own.
    //
    // A thread perturbs the same eight columns of every (depth / passes)-th row of weights. Rows come in the order of
    // the inputs, where that is listed: `rows_` counts those from the thread's next one on, of which k_ is the k. Where
    // another thread is enough, or the layer has no such columns, there are none.
    template <From from>
    class Operands {
       public:
        static constexpr bool listed = from == From::samples;

        FPES_DEVICE const float* left(int number) const {
            if constexpr (from == From::chip) return block_.activations_ + number * (depth * Shape::k_stride);
            // Both members see the same samples, so only one copy of them is there.
            return stage(number) - (from == From::samples ? sign() * Shape::samples : 0);
        }
        FPES_DEVICE const float* right(int number) const { return weights(number) + sign() * Shape::matrix_floats; }
        FPES_DEVICE void turn() const {
            if (from != From::chip) wait_for_copies<0>();
            __syncthreads();
        }

       protected:
        static constexpr int distance = depth / passes;  // of the thread's rows

        FPES_DEVICE Operands(const FullRankBlock& block, const DeviceLayer& layer, int first_column, int k_count)
            : block_(block),
              fan_out_(layer.fan_out),
              counters_(block.job_.noise.counters(noise_tensor(layer.tensor, NoiseRole::weight), block.at_.pair)) {
            const int row = thread_index() / groups, column = first_column + thread_index() % groups * 8;
            columns_ = row < depth && column < layer.fan_out ? layer.fan_out - column : 0;
            column_ = columns_ > 0 ? column : 0;
            rows_ = columns_ > 0 ? k_count - row : 0;
            weight_ = layer.weight + column_;
            k_ = row;
            if constexpr (listed) {
                order_ = block.job_.inputs.order + block.at_.tile_of_inputs(block.job_) * layer.fan_in + row;
                inputs_ =
                    block.job_.inputs.columns + block.at_.tile_of_inputs(block.job_) * layer.fan_in * Shape::samples;
            } else if constexpr (from == From::panels) {
                inputs_ = block.job_.panels + static_cast<std::int64_t>(block_index()) * layer.fan_in * T::rows;
            }
            inputs_left_ = k_count;
            look_up();
            copy_inputs(0);
        }
        // With a copy for every thread, where that can be: a branch would stand in the way of multiply-adds.
        FPES_DEVICE void copy_inputs(int number) {
            if constexpr (from == From::chip) return;
            constexpr int width = listed ? Shape::samples : T::rows;
            constexpr int floats = depth * width / 4 % T::threads == 0 ? 4 : 1, copies = depth * width / floats;
            FPES_UNROLL
            for (int first = 0; first < copies; first += T::threads) {
                const int copy = first + thread_index(), k = copy / (width / floats);
                if (copies % T::threads != 0 && copy >= copies) break;
                copy_async<floats>(stage(number) + k * Shape::k_stride + copy % (width / floats) * floats,
                                   inputs_ + floats * copy, k < inputs_left_);
            }
            inputs_ += depth * width;
            inputs_left_ -= depth;
            commit_copies();
        }
        // On to the thread's next row of weights. Beyond the last, k_ is that of any row.
        FPES_DEVICE void move_on() {
            rows_ -= distance;
            if constexpr (listed) {
                order_ += distance;
            } else {
                k_ += distance;
            }
            look_up();
        }
        // Where the thread's part of the + member's weights belongs.
        FPES_DEVICE float* drawn(int number) const {
            return weights(number) + thread_index() / groups * T::columns + thread_index() % groups * 8;
        }

        const FullRankBlock& block_;
        const float* weight_;  // of the layer's first row and the thread's first column
        int fan_out_;
        int column_;
        int columns_;
        int rows_;
        int k_;
        Counters counters_;

       private:
        FPES_DEVICE void look_up() {
            if constexpr (listed) {
                k_ = rows_ > 0 ? *order_ : 0;
            } else {
                k_ = rows_ > 0 ? k_ : 0;
            }
        }
        FPES_DEVICE float* weights(int number) const {
            return block_.weights_ + number % 2 * (2 * Shape::matrix_floats);
        }
        FPES_DEVICE float* stage(int number) const { return block_.stage_ + number % 2 * Shape::stage_block; }

        const float* inputs_;
        const int* order_;
        int inputs_left_;
    };

    // Weight by weight, before a block is multiplied: for any shape, and little code.
    template <From from>
    class DrawnBefore : public Operands<from> {
       public:
        static constexpr bool draws_between = false;

        // Block 0 is ready after the first turn.
        FPES_DEVICE DrawnBefore(const FullRankBlock& block, const DeviceLayer& layer, int first_column, int k_count)
            : Operands<from>(block, layer, first_column, k_count) {
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
                    const std::int64_t row = static_cast<std::int64_t>(this->k_) * this->fan_out_;
                    draw_to(plus, kind, this->counters_, static_cast<std::uint64_t>(row + this->column_));
                    FPES_ROLLED
                    for (int i = 0; i < 8 && i < this->columns_; ++i) {
                        const float z = plus[i], w = this->weight_[row + i];
                        plus[i] = Mode::fma(z, scale, w);
                        plus[Shape::matrix_floats + i] = Mode::fma(z, opposite(scale), w);
                    }
                }
                plus += this->distance * T::columns;
                this->move_on();
            }
        }
    };

    // Where eight columns are always a Philox block's: a row at a time, in the midst of multiply-adds and without a
    // branch (multiply_drawing). What is perturbed next is loaded long before.
    template <From from>
    class DrawnBetween : public Operands<from> {
       public:
        static constexpr bool draws_between = true;

        // Block 0 is ready after the first turn.
        FPES_DEVICE DrawnBetween(const FullRankBlock& block, const DeviceLayer& layer, int first_column, int k_count)
            : Operands<from>(block, layer, first_column, k_count),
              from_(this->weight_ + static_cast<std::int64_t>(this->k_) * layer.fan_out),
              step_(static_cast<std::int64_t>(this->distance) * layer.fan_out),
              first_eight_(static_cast<std::uint32_t>(this->column_ / 8)),
              eights_of_a_row_(static_cast<std::uint32_t>(layer.fan_out / 8)),
              eight_(first_eight_ + static_cast<std::uint32_t>(this->k_ - this->distance) * eights_of_a_row_) {
            load();
            start_drawing(0);
            FPES_UNROLL
            for (int part = 0; part < depth / 4; ++part) go_on(part);
        }
        FPES_DEVICE void start(int number) {
            this->copy_inputs(number);
            start_drawing(number);
        }
        FPES_DEVICE void go_on(int part) {
            if (all_draw && part % parts_of_a_pass == 0) draw_row(part / parts_of_a_pass);
        }

       private:
        static_assert(depth / 4 % passes == 0, "a row of weights for a number of k's");
        static constexpr int parts_of_a_pass = depth / 4 / passes;
        // Else some of the warps do, before they multiply.
        static constexpr bool all_draw = rows_per_pass <= depth;

        FPES_DEVICE void start_drawing(int number) {
            to_ = this->drawn(number);
            if (!all_draw && thread_index() / groups < depth) draw_row(0);
        }
        FPES_DEVICE void draw_row(int pass) {
            float z[8];
            draw_aligned<kind, 8, true>(this->counters_, std::uint64_t{eight_} * 8, z);
            this->block_.store_both(z, next_, to_ + pass * (rows_per_pass * T::columns));
            load();
        }
        // Loads the thread's next row, and moves on. Beyond the last, anything.
        FPES_DEVICE void load() {
            if constexpr (Operands<from>::listed) {
                const float* const row = this->weight_ + static_cast<std::int64_t>(this->k_) * this->fan_out_;
                load4(row, next_);
                load4(row + 4, next_ + 4);
                eight_ = first_eight_ + static_cast<std::uint32_t>(this->k_) * eights_of_a_row_;
                this->move_on();
            } else {
                const float* const row = this->rows_ > 0 ? from_ : this->weight_;
                load4(row, next_);
                load4(row + 4, next_ + 4);
                from_ += step_;
                eight_ += static_cast<std::uint32_t>(step_ / 8);
                this->rows_ -= this->distance;
            }
        }

        const float* from_;
        std::int64_t step_;
        std::uint32_t first_eight_;
        std::uint32_t eights_of_a_row_;
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

    // Terms that are left out (packed_inputs.hpp) can't be told from +0 or -0, so a sum of -0 might have been +0. A
    // bias adds nothing to that only if it is -0 itself: such elements are computed again, from all terms.
    FPES_DEVICE void mend_zeros(const DeviceLayer& layer, int first_column) const {
        constexpr std::uint32_t minus_zero = 0x80000000u;
        const float* const bias = bias_ + sign() * T::columns;
        FPES_ROLLED
        for (int j = 0; j < T::tn; ++j) {
            const int column = T::column(j);
            if (first_column + column >= layer.fan_out || as_u32(bias[column]) != minus_zero) continue;
            FPES_ROLLED
            for (int i = 0; i < T::tm; ++i) {
                if (!at_.inside(T::row(i))) continue;
                float* const result = place_of_result(layer, first_column, T::row(i), column);
                if (as_u32(*result) != minus_zero) continue;
                *result = layer.cross(whole_sum(layer, T::row(i), first_column + column), bias[column]);
            }
        }
    }
    FPES_DEVICE float* place_of_result(const DeviceLayer& layer, int first_column, int row, int column) const {
        if constexpr (fused) return activations_ + column * Shape::k_stride + row;
        if (job_.next_panels) return next_panel(layer.fan_out, first_column) + column * T::rows + row;
        return job_.outputs + at_.place_of(job_, row) * layer.fan_out + first_column + column;
    }
    FPES_DEVICE float whole_sum(const DeviceLayer& layer, int row, int column) const {
        const Counters counters = job_.noise.counters(noise_tensor(layer.tensor, NoiseRole::weight), at_.pair);
        const float scale = At::sign_of(row) ? opposite(job_.scale) : job_.scale;
        const float* const x = job_.inputs.x + at_.input_of(job_, row) * layer.fan_in;
        float sum = 0.0f;
        FPES_ROLLED
        for (int k = 0; k < layer.fan_in; ++k) {
            const std::int64_t element = static_cast<std::int64_t>(k) * layer.fan_out + column;
            const float z = draw_one(kind, counters, static_cast<std::uint64_t>(element));
            sum = Mode::fma(x[k], Mode::fma(z, scale, layer.weight[element]), sum);
        }
        return sum;
    }

    FPES_DEVICE void narrow_layer(const DeviceLayer& layer) const {
        const int n = layer.fan_out, stride = narrow_padded(n);
        float* const plus = weights_;
        float* const minus = weights_ + layer.fan_in * stride;
        perturb_narrow<T::threads, Mode, kind>(job_, layer, at_.pair, 0, layer.fan_in, plus, minus);
        perturb_biases<T::threads, Mode, kind>(job_, layer, at_.pair, 0, n, bias_, bias_ + T::columns);
        __syncthreads();
        for (int task = thread_index(); task < T::rows * (stride / 4); task += T::threads) {
            const int row = task % T::rows, column = task / T::rows * 4;
            float sum[4];
            multiply_narrow<Mode, Shape::k_stride>(activations_ + row, (At::sign_of(row) ? minus : plus) + column,
                                                   stride, layer.fan_in, sum);
            FPES_UNROLL
            for (int i = 0; i < 4; ++i) {
                if (column + i >= n) continue;
                stage_[(column + i) * Shape::k_stride + row] =
                    layer.cross(sum[i], bias_[At::sign_of(row) * T::columns + column + i]);
            }
        }
        __syncthreads();
    }

    // Of logits in shared memory.
    FPES_DEVICE void finish(const float* logits, int classes) const {
        at_.template finish<T::threads>(job_, logits, Shape::k_stride, classes);
    }

    const FullRankJob& job_;
    float* activations_;
    float* weights_;
    float* stage_;
    float* bias_;
    At at_;
};

// Blocks that a multiprocessor has registers for.
template <class T>
constexpr int full_rank_blocks = 256 / T::threads;

// fused: all layers in one launch, activations on the chip; else one layer.
template <class T, class Mode, NoiseKind kind, bool fused>
__global__ __launch_bounds__(T::threads,
                             full_rank_blocks<T>) void full_rank_kernel(const FPES_CONSTANT FullRankJob job) {
    FullRankBlock<T, Mode, kind, fused>(job).run();
}

FPES_NAMESPACE_END

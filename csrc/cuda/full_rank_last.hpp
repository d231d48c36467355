// The last layer of full rank, where it has few outputs and layers are taken one at a time.
//
//                          k                            columns, up to 16
//              +-------------------------+     k     +--------+--------+
//     rows of  | panel, in memory:       |    256    | w+     | w-     |    of both members, in shared memory,
//     a tile   | a warp reads 128 rows   |           +--------+--------+    256 k's at a time
//              | of a k side by side     |
//              +-------------------------+           A warp has four columns of 128 rows, and a lane four of the rows.
//
// Why another kernel. The tile of full_rank.hpp has 128 columns, of which nearly all would be empty. This one waits for
// memory, and hides that by many blocks side by side.
#pragma once

#include "pair_tile.hpp"

FPES_NAMESPACE_BEGIN

template <int rows, class Mode, NoiseKind kind>
class LastLayerBlock {
    using At = PairTile<rows / 2>;
    static constexpr int depth = 256;  // k's of weights that are drawn at a time
    static constexpr int matrix_floats = depth * narrow_columns;

   public:
    static_assert(rows % 128 == 0, "a warp has 128 rows");
    static constexpr int threads = rows / 4 * (narrow_columns / 4);
    // Weights, and in their place logits; then biases.
    static_assert(rows * narrow_columns <= 2 * matrix_floats, "logits fit where weights do");
    static constexpr int shared_bytes = static_cast<int>(sizeof(float)) * (2 * matrix_floats + 2 * narrow_columns);

    FPES_DEVICE explicit LastLayerBlock(const FullRankJob& job)
        : job_(job), weights_(dynamic_shared<float>()), bias_(weights_ + 2 * matrix_floats), at_(job) {}

    FPES_DEVICE void run() const {
        const DeviceLayer& layer = job_.layers.layer[0];
        const int stride = narrow_padded(layer.fan_out);
        const bool works = column() < stride;
        float* const minus = weights_ + matrix_floats;
        const float* left = job_.panels + static_cast<std::int64_t>(block_index()) * layer.fan_in * rows + row();
        const float* const right = (At::sign_of(row()) ? minus : weights_) + column();
        float sum[4][4] = {};
        for (int first = 0; first < layer.fan_in; first += depth) {
            const int count = smaller(depth, layer.fan_in - first);
            perturb_narrow<threads, Mode, kind>(job_, layer, at_.pair, first, count, weights_, minus);
            __syncthreads();
            if (works) multiply(left, right, stride, count, sum);
            left += depth * rows;
            __syncthreads();
        }
        perturb_biases<threads, Mode, kind>(job_, layer, at_.pair, 0, layer.fan_out, bias_, bias_ + narrow_columns);
        __syncthreads();
        cross(layer, sum);
        __syncthreads();
        at_.template finish<threads>(job_, weights_, rows, layer.fan_out);
    }

   private:
    // The first of the thread's rows and columns.
    static FPES_DEVICE int row() { return thread_index() % (rows / 4) * 4; }
    static FPES_DEVICE int column() { return thread_index() / (rows / 4) * 4; }

    static FPES_DEVICE void multiply(const float* left, const float* right, int stride, int count, float (&sum)[4][4]) {
        constexpr int at_a_time = 4;  // so that as many reads are under way
        int k = 0;
        for (; k + at_a_time <= count; k += at_a_time) {
            float a[at_a_time][4];
            FPES_UNROLL
            for (int i = 0; i < at_a_time; ++i) load4(left + (k + i) * rows, a[i]);
            FPES_UNROLL
            for (int i = 0; i < at_a_time; ++i) multiply_one(a[i], right + (k + i) * stride, sum);
        }
        for (; k < count; ++k) {
            float a[4];
            load4(left + k * rows, a);
            multiply_one(a, right + k * stride, sum);
        }
    }
    static FPES_DEVICE void multiply_one(const float (&a)[4], const float* right, float (&sum)[4][4]) {
        float b[4];
        load4(right, b);
        FPES_UNROLL
        for (int j = 0; j < 4; ++j) {
            FPES_UNROLL
            for (int i = 0; i < 4; ++i) sum[j][i] = Mode::fma(a[i], b[j], sum[j][i]);
        }
    }

    // To logits in shared memory, by columns.
    FPES_DEVICE void cross(const DeviceLayer& layer, const float (&sum)[4][4]) const {
        const float* const bias = bias_ + At::sign_of(row()) * narrow_columns;
        FPES_UNROLL
        for (int j = 0; j < 4; ++j) {
            if (column() + j >= layer.fan_out) continue;
            float logits[4];
            FPES_UNROLL
            for (int i = 0; i < 4; ++i) logits[i] = layer.cross(sum[j][i], bias[column() + j]);
            store4(weights_ + (column() + j) * rows + row(), logits);
        }
    }

    const FullRankJob& job_;
    float* weights_;
    float* bias_;
    At at_;
};

template <int rows, class Mode, NoiseKind kind>
__global__ __launch_bounds__(LastLayerBlock<rows, Mode, kind>::threads) void full_rank_last_kernel(
    const FPES_CONSTANT FullRankJob job) {
    LastLayerBlock<rows, Mode, kind>(job).run();
}

FPES_NAMESPACE_END

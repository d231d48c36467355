// One member of a population, written out: a thread eight parameters side by side.
//
// Full rank: fma(z, +-sigma unit, w). Low rank: w + (+-scale A^T) B, rank by rank, the perturbation that a population
// applies without ever writing it down.
#include "backend.hpp"
#include "incremental.hpp"
#include "layers.hpp"
#include "modes.hpp"
#include "population.hpp"

FPES_NAMESPACE_BEGIN
namespace {

struct MemberJob {
    NoiseSource noise;
    std::int64_t pair;
    bool minus;
    float weight_scale;
    float rank_scale;
    int rank;
    int units;  // that the right factors reach, or 0 for all
};

// Those of a tensor.
struct Weights {
    int tensor;
    const float* weight;  // [fan_in, fan_out]
    int fan_in;
    int fan_out;
};

// Elements of a tensor of full noise.
template <class Mode>
__global__ __launch_bounds__(elementwise_threads) void full_kernel(MemberJob job, std::uint32_t tensor,
                                                                   const float* from, std::int64_t count, float* to) {
    const std::int64_t first = global_index(elementwise_threads) * 8;
    if (first >= count) return;
    float z[8];
    draw<8>(job.noise.kind, job.noise.counters(tensor, job.pair), static_cast<std::uint64_t>(first), z);
    const float scale = job.minus ? opposite(job.weight_scale) : job.weight_scale;
    FPES_UNROLL
    for (int i = 0; i < 8; ++i) {
        if (first + i < count) to[first + i] = Mode::fma(z[i], scale, from[first + i]);
    }
}

// Eight columns of a row of a weight matrix.
template <class Mode>
__global__ __launch_bounds__(elementwise_threads) void low_rank_kernel(const FPES_CONSTANT MemberJob job, Weights from,
                                                                       float* to) {
    const std::int64_t groups = parts(from.fan_out, 8), number = global_index(elementwise_threads);
    if (number >= groups * from.fan_in) return;
    const std::int64_t row = number / groups, column = number % groups * 8;
    const std::int64_t first = row * from.fan_out + column;
    const Counters of_a = job.noise.counters(noise_tensor(from.tensor, NoiseRole::factor_a), job.pair);
    float sum[8];
    FPES_UNROLL
    for (int i = 0; i < 8; ++i) sum[i] = column + i < from.fan_out ? from.weight[first + i] : 0.0f;
    for (int r = 0; r < job.rank; ++r) {
        const float a = draw_one(job.noise.kind, of_a, static_cast<std::uint64_t>(r * std::int64_t{from.fan_in} + row));
        const float left = Mode::mul(a, job.minus ? opposite(job.rank_scale) : job.rank_scale);
        float b[8];
        if (job.units == 0) {
            const Counters of_b = job.noise.counters(noise_tensor(from.tensor, NoiseRole::factor_b), job.pair);
            draw<8>(job.noise.kind, of_b, static_cast<std::uint64_t>(r * std::int64_t{from.fan_out} + column), b);
        } else {
            FPES_UNROLL
            for (int i = 0; i < 8; ++i) {
                const auto unit = static_cast<int>(column) + i;
                b[i] = unit < from.fan_out
                           ? scattered_factor(job.noise, from.tensor, job.pair, unit, job.units, from.fan_out)
                           : 0.0f;
            }
        }
        FPES_UNROLL
        for (int i = 0; i < 8; ++i) sum[i] = Mode::fma(left, b[i], sum[i]);
    }
    FPES_UNROLL
    for (int i = 0; i < 8; ++i) {
        if (column + i < from.fan_out) to[first + i] = sum[i];
    }
}

template <class Mode>
void write_full(const Context& context, const MemberJob& job, std::uint32_t tensor, const float* from,
                std::int64_t count, float* to) {
    launch(full_kernel<Mode>, Grid{parts(count, std::int64_t{elementwise_threads} * 8)}, elementwise_threads, 0,
           context, job, tensor, from, count, to);
}

__global__ __launch_bounds__(elementwise_threads) void copy_kernel(const float* from, std::int64_t count, float* to) {
    const std::int64_t i = global_index(elementwise_threads);
    if (i < count) to[i] = from[i];
}

}  // namespace

void copy_floats(const Context& context, const float* from, std::int64_t count, float* to) {
    launch(copy_kernel, Grid{parts(count, elementwise_threads)}, elementwise_threads, 0, context, from, count, to);
}

void member(Context& context, const Network& network, const Population& population, std::int64_t member, float* theta) {
    check_flush(network.flush);
    if (context.arena.measuring()) return;
    MemberJob job{
        noise_source(population), member / 2, member % 2 != 0, population.weight_scale(), population.rank_scale(),
        population.rank,          0};
    in_product_mode(network.flush, [&](auto mode) {
        using Mode = decltype(mode);
        for (const Tensor& tensor : network.program.tensors) {
            const std::int64_t weights = tensor.fan_in * tensor.fan_out;
            const bool one_layer = population.one_layer_at_a_time();
            if (one_layer && population.layer_of(job.pair) != tensor.index) {
                copy_floats(context, network.theta + tensor.weight_offset, weights + tensor.fan_out,
                            theta + tensor.weight_offset);
                continue;
            }
            if (population.family == Family::full) {
                write_full<Mode>(context, job, noise_tensor(tensor.index, NoiseRole::weight),
                                 network.theta + tensor.weight_offset, weights, theta + tensor.weight_offset);
            } else {
                if (one_layer) job.units = population.units[tensor.index];
                const Weights from{tensor.index, network.theta + tensor.weight_offset, static_cast<int>(tensor.fan_in),
                                   static_cast<int>(tensor.fan_out)};
                const std::int64_t groups = parts(tensor.fan_out, 8) * tensor.fan_in;
                launch(low_rank_kernel<Mode>, Grid{parts(groups, elementwise_threads)}, elementwise_threads, 0, context,
                       job, from, theta + tensor.weight_offset);
            }
            if (one_layer) {
                copy_floats(context, network.theta + tensor.bias_offset, tensor.fan_out, theta + tensor.bias_offset);
                continue;
            }
            write_full<Mode>(context, job, noise_tensor(tensor.index, NoiseRole::bias),
                             network.theta + tensor.bias_offset, tensor.fan_out, theta + tensor.bias_offset);
        }
    });
}

FPES_NAMESPACE_END

// One member of a population, written out: a thread eight parameters side by side.
#include "member.hpp"

#include "modes.hpp"
#include "perturbations/ways.hpp"
#include "units.hpp"

FPES_NAMESPACE_BEGIN
namespace {

struct MemberJob {
    NoiseSource noise;
    std::int64_t pair;
    bool minus;
    float scale;  // of a parameter's own noise
    Correction correction;
    int units;  // that the right factors reach, or 0 for all
};

// Those of a tensor.
struct Weights {
    int tensor;
    const float* weight;  // [fan_in, fan_out]
    int fan_in;
    int fan_out;
    float scale;
};

// Elements of a tensor with noise of its own.
template <class Mode>
__global__ __launch_bounds__(elementwise_threads) void perturb_kernel(MemberJob job, std::uint32_t tensor,
                                                                      const float* from, std::int64_t count,
                                                                      float* to) {
    const std::int64_t first = global_index(elementwise_threads) * 8;
    if (first >= count) return;
    float z[8];
    draw<8>(job.noise.kind, job.noise.counters(tensor, job.pair), static_cast<std::uint64_t>(first), z);
    const float scale = job.minus ? opposite(job.scale) : job.scale;
    FPES_UNROLL
    for (int i = 0; i < 8; ++i) {
        if (first + i < count) to[first + i] = Mode::fma(z[i], scale, from[first + i]);
    }
}

// Eight columns of a row of a weight matrix. Two blocks are enough: told of one, ptxas aims at four, and spills.
template <class Mode>
__global__ __launch_bounds__(elementwise_threads, 2) void outer_products_kernel(const FPES_CONSTANT MemberJob job,
                                                                                Weights from, float* to) {
    const std::int64_t groups = parts(from.fan_out, 8), number = global_index(elementwise_threads);
    if (number >= groups * from.fan_in) return;
    const std::int64_t row = number / groups, column = number % groups * 8;
    const std::int64_t first = row * from.fan_out + column;
    const Counters of_a = job.noise.counters(noise_tensor(from.tensor, job.correction.left), job.pair);
    float sum[8];
    FPES_UNROLL
    for (int i = 0; i < 8; ++i) sum[i] = column + i < from.fan_out ? from.weight[first + i] : 0.0f;
    for (int t = 0; t < job.correction.terms; ++t) {
        const float a = draw_one(job.noise.kind, of_a, static_cast<std::uint64_t>(t * std::int64_t{from.fan_in} + row));
        const float left = Mode::mul(a, job.minus ? opposite(from.scale) : from.scale);
        float b[8];
        if (job.units == 0) {
            const Counters of_b = job.noise.counters(noise_tensor(from.tensor, job.correction.right), job.pair);
            draw<8>(job.noise.kind, of_b, static_cast<std::uint64_t>(t * std::int64_t{from.fan_out} + column), b);
        } else {
            FPES_UNROLL
            for (int i = 0; i < 8; ++i) {
                const auto unit = static_cast<int>(column) + i;
                b[i] = unit < from.fan_out ? scattered_factor(job.noise, job.correction.right, from.tensor, job.pair,
                                                              unit, job.units, from.fan_out)
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

MemberJob member_job(const Population& population, std::int64_t member, int tensor) {
    return {noise_source(population.noise),
            member / 2,
            member % 2 != 0,
            population.bias_scale(),
            population.correction(),
            population.allocation.few_units(tensor)};
}

}  // namespace

void MemberWriter::copy(const Tensor& tensor) const {
    copy_floats(context_, network_.theta + tensor.weight_offset, tensor.fan_in * tensor.fan_out,
                theta_ + tensor.weight_offset);
    copy_bias(tensor);
}

void MemberWriter::copy_bias(const Tensor& tensor) const {
    copy_floats(context_, network_.theta + tensor.bias_offset, tensor.fan_out, theta_ + tensor.bias_offset);
}

void MemberWriter::perturb_weights(const Tensor& tensor) const {
    perturb(tensor, NoiseRole::weight, tensor.weight_offset, tensor.fan_in * tensor.fan_out);
}

void MemberWriter::perturb_bias(const Tensor& tensor) const {
    perturb(tensor, NoiseRole::bias, tensor.bias_offset, tensor.fan_out);
}

void MemberWriter::perturb(const Tensor& tensor, NoiseRole role, std::size_t offset, std::int64_t count) const {
    const MemberJob job = member_job(population_, member_, tensor.index);
    const Grid grid{parts(count, std::int64_t{elementwise_threads} * 8)};
    in_product_mode(network_.flush, [&](auto mode) {
        launch(perturb_kernel<decltype(mode)>, grid, elementwise_threads, 0, context_, job,
               noise_tensor(tensor.index, role), network_.theta + offset, count, theta_ + offset);
    });
}

void MemberWriter::add_outer_products(const Tensor& tensor) const {
    const MemberJob job = member_job(population_, member_, tensor.index);
    const Weights from{tensor.index, network_.theta + tensor.weight_offset, static_cast<int>(tensor.fan_in),
                       static_cast<int>(tensor.fan_out), population_.scale(tensor)};
    const Grid grid{parts(parts(tensor.fan_out, 8) * tensor.fan_in, elementwise_threads)};
    in_product_mode(network_.flush, [&](auto mode) {
        launch(outer_products_kernel<decltype(mode)>, grid, elementwise_threads, 0, context_, job, from,
               theta_ + tensor.weight_offset);
    });
}

void member(Context& context, const Network& network, const Population& population, std::int64_t member, float* theta) {
    check_flush(network.flush);
    if (context.arena.measuring()) return;
    const MemberWriter writer(context, network, population, member, theta);
    for (const Tensor& tensor : network.program.tensors) {
        if (!population.allocation.turn(tensor.index).has(member / 2)) {  // the member leaves it alone
            writer.copy(tensor);
            continue;
        }
        on_cuda(population, [&](auto family) { family.write_weights(writer, tensor); });
        if (population.perturbs_biases()) {
            writer.perturb_bias(tensor);
        } else {
            writer.copy_bias(tensor);
        }
    }
}

FPES_NAMESPACE_END

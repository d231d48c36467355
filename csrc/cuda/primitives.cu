// The elementwise primitives, the noise itself, and what benchmarks and tests need: a thread an element.
#include "backend.hpp"
#include "draws.hpp"
#include "loss.hpp"
#include "modes.hpp"

FPES_NAMESPACE_BEGIN
namespace {

__global__ __launch_bounds__(elementwise_threads) void bias_add_kernel(const float* v, const float* bias, float* out,
                                                                       std::int64_t count, std::int64_t n) {
    const std::int64_t i = global_index(elementwise_threads);
    if (i < count) out[i] = v[i] + bias[i % n];
}

__global__ __launch_bounds__(elementwise_threads) void multiply_kernel(const float* v, float factor, float* out,
                                                                       std::int64_t count) {
    const std::int64_t i = global_index(elementwise_threads);
    if (i < count) out[i] = v[i] * factor;
}

__global__ __launch_bounds__(elementwise_threads) void losses_kernel(const float* outputs, std::int64_t rows, int count,
                                                                     Targets targets, float* losses) {
    const std::int64_t i = global_index(elementwise_threads);
    if (i < rows) losses[i] = loss_of(targets, i, count, [=](int j) { return outputs[i * count + j]; });
}

constexpr int per_draw = 8;

__global__ __launch_bounds__(elementwise_threads) void noise_kernel(NoiseSource noise, std::uint32_t tensor,
                                                                    std::uint32_t pair, std::uint64_t first,
                                                                    std::int64_t count, float* out) {
    const std::int64_t begin = global_index(elementwise_threads) * per_draw;
    if (begin >= count) return;
    float z[per_draw];
    const Counters counters = noise.counters(tensor, pair);
    draw<per_draw>(noise.kind, counters, first + static_cast<std::uint64_t>(begin), z);
    FPES_UNROLL
    for (int i = 0; i < per_draw; ++i) {
        if (begin + i < count) out[begin + i] = z[i];
    }
}

template <bool logarithm>
__global__ __launch_bounds__(elementwise_threads) void elementary_kernel(const float* x, std::int64_t count,
                                                                         float* out) {
    const std::int64_t i = global_index(elementwise_threads);
    if (i >= count) return;
    if constexpr (logarithm) {
        out[i] = log(x[i]);
    } else {
        out[i] = exp(x[i]);
    }
}

// Enough independent chains to hide how long a multiply-add takes, and enough of them in a turn of the loop that
// nothing else counts: 256 for three other instructions.
constexpr int chains = 32, per_step = 8;

__global__ __launch_bounds__(elementwise_threads, 2) void chains_kernel(std::int64_t steps, float* out) {
    float sum[chains];
    // Neither number is known to the compiler, and the products stay normal.
    const float factor = 1.0f - 0x1p-20f * static_cast<float>(thread_index() + 1);
    FPES_UNROLL
    for (int i = 0; i < chains; ++i) sum[i] = factor + static_cast<float>(i);
    FPES_ROLLED
    for (std::int64_t step = 0; step < steps; ++step) {
        FPES_UNROLL
        for (int turn = 0; turn < per_step; ++turn) {
            FPES_UNROLL
            for (int i = 0; i < chains; ++i) sum[i] = Plain::fma(sum[i], factor, 1.0f);
        }
    }
    float total = 0.0f;
    FPES_UNROLL
    for (int i = 0; i < chains; ++i) total += sum[i];
    if (total < 0.0f) *out = total;  // never, but the compiler can't know
}

}  // namespace

void bias_add(Context& context, Flush flush, const float* v, const float* bias, float* out, std::int64_t rows,
              std::int64_t n) {
    check_flush(flush);
    if (context.arena.measuring()) return;
    launch(bias_add_kernel, Grid{parts(rows * n, elementwise_threads)}, elementwise_threads, 0, context, v, bias, out,
           rows * n, n);
}

void multiply(Context& context, Flush flush, const float* v, float factor, float* out, std::int64_t count) {
    check_flush(flush);
    if (context.arena.measuring()) return;
    launch(multiply_kernel, Grid{parts(count, elementwise_threads)}, elementwise_threads, 0, context, v, factor, out,
           count);
}

void losses(Context& context, Flush flush, const float* outputs, std::int64_t rows, std::int64_t count,
            const Targets& targets, float* losses) {
    check_flush(flush);
    if (context.arena.measuring()) return;
    launch(losses_kernel, Grid{parts(rows, elementwise_threads)}, elementwise_threads, 0, context, outputs, rows,
           static_cast<int>(count), targets, losses);
}

void draw_noise(Context& context, const NoiseStream& stream, std::uint64_t first, std::int64_t count, float* out) {
    if (context.arena.measuring()) return;
    const NoiseSource noise{round_keys(stream.key), stream.generation, stream.kind};
    launch(noise_kernel, Grid{parts(count, std::int64_t{elementwise_threads} * per_draw)}, elementwise_threads, 0,
           context, noise, stream.tensor, stream.pair, first, count, out);
}

void elementary(Context& context, bool logarithm, const float* x, std::int64_t count, float* out) {
    if (context.arena.measuring()) return;
    launch(logarithm ? elementary_kernel<true> : elementary_kernel<false>, Grid{parts(count, elementwise_threads)},
           elementwise_threads, 0, context, x, count, out);
}

std::int64_t multiply_add_chains(Context& context, std::int64_t steps, float* out) {
    const std::int64_t blocks = 2 * context.device.multiprocessors;
    launch(chains_kernel, Grid{blocks}, elementwise_threads, 0, context, steps, out);
    return blocks * elementwise_threads * chains * per_step * steps;
}

FPES_NAMESPACE_END

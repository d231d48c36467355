// The gradient of a population of one-unit members, and its members.
//
// A layer's estimate is one product, whatever the number of pairs (csrc/cpu/unit_gradient.cpp has a picture): in the
// span a row of its factors is a sample, with the layer's input there on the left, and on the right, for each unit, the
// sum over the draws that saw it of L^-T r times the difference of weights; for white directions a row is a draw.
#include <algorithm>

#include "modes.hpp"
#include "one_unit.hpp"

FPES_NAMESPACE_BEGIN
namespace {

struct FactorsJob {
    UnitDraws draws;
    UnitInputs inputs;
    bool span;
    int fan_out;
    std::int64_t rows;
    std::int64_t block_pairs;
    std::int64_t first_pair;  // of the layer, in a block
    double all_draws;         // of the layer, in all blocks
    const double* solutions;
    const double* factors;
    float* left;   // [fan_in, rows]
    float* right;  // [rows, fan_out]

    // What a draw's difference counts.
    FPES_DEVICE double share(std::int64_t batch) const {
        const double factor = factors[draws.place_of_factor(batch)];
        return factor == 0.0 ? 0.0 : 1.0 / (2.0 * factor * all_draws);
    }
};

// The left factor, transposed. White directions are drawn eight signs at a time.
__global__ __launch_bounds__(elementwise_threads) void unit_left_kernel(const FPES_CONSTANT FactorsJob job) {
    const int each = job.span ? 1 : 8;
    const std::int64_t groups = parts(job.inputs.fan_in, each), t = global_index(elementwise_threads);
    if (t >= groups * job.rows) return;
    const std::int64_t row = t % job.rows;
    const int k = static_cast<int>(t / job.rows) * each;
    if (job.span) {
        job.left[k * job.rows + row] = job.inputs.at(row, k);
        return;
    }
    float signs[8];
    draw_aligned<8>(job.draws.noise.kind, job.draws.noise.counters(job.draws.tensor(), row),
                    static_cast<std::uint64_t>(k), signs);
    FPES_UNROLL
    for (int i = 0; i < 8; ++i) {
        if (k + i < job.inputs.fan_in) job.left[(k + i) * job.rows + row] = signs[i];
    }
}

// The right factor, a thread for each element.
template <class Weight>
__global__ __launch_bounds__(elementwise_threads) void unit_right_kernel(const FPES_CONSTANT FactorsJob job,
                                                                         const Weight* weights) {
    const std::int64_t t = global_index(elementwise_threads);
    if (t >= job.rows * job.fan_out) return;
    const UnitDraws& draws = job.draws;
    const std::int64_t row = t / job.fan_out;
    const int unit = static_cast<int>(t % job.fan_out);
    // Weight of the + member minus weight of the - member.
    const auto difference = [&](std::int64_t block, int draw) {
        const std::int64_t pair =
            block * job.block_pairs + job.first_pair + static_cast<std::int64_t>(draw) * job.fan_out + unit;
        if constexpr (std::is_same_v<Weight, float>) {
            return to_double(weights[2 * pair]) - to_double(weights[2 * pair + 1]);
        } else {
            return static_cast<double>(weights[2 * pair]) - static_cast<double>(weights[2 * pair + 1]);
        }
    };
    if (!job.span) {
        const std::int64_t block = row / draws.count;
        job.right[t] =
            to_float(job.share(draws.batch_of(block)) * difference(block, static_cast<int>(row % draws.count)));
        return;
    }
    const std::int64_t batch = row / draws.samples, sample = row % draws.samples;
    const double share = job.share(batch);
    double sum = 0.0;
    for (std::int64_t block = batch * draws.sharing; block < (batch + 1) * draws.sharing; ++block) {
        for (int draw = 0; draw < draws.count; ++draw) {
            const double coefficient = job.solutions[draws.place(block, draw) + sample] * share;
            sum += coefficient * difference(block, draw);
        }
    }
    job.right[t] = to_float(sum);
}

class UnitGradientRun {
   public:
    UnitGradientRun(Context& context, const UnitJob& job) : job_(job) {
        std::int64_t left = 0, right = 0;
        for (const Step& layer : job.network.steps()) {
            left = std::max(left, layer.tensor.fan_in * rows(layer));
            right = std::max(right, layer.tensor.fan_out * rows(layer));
        }
        left_ = context.arena.take<float>(left);
        right_ = context.arena.take<float>(right);
    }

    template <class Weight>
    void run(Context& context, const Weight* weights, float* gradient) const {
        // Whatever the mode of the network, this product keeps subnormal numbers.
        const Flush flush = build_flushes ? Flush::boundary : Flush::never;
        for (const Step& layer : job_.network.steps()) {
            const FactorsJob job = factors(layer);
            const std::int64_t left = job.rows * parts(layer.tensor.fan_in, job.span ? 1 : 8),
                               right = job.rows * layer.tensor.fan_out;
            launch(unit_left_kernel, Grid{parts(left, elementwise_threads)}, elementwise_threads, 0, context, job);
            launch(unit_right_kernel<Weight>, Grid{parts(right, elementwise_threads)}, elementwise_threads, 0, context,
                   job, weights);
            gemm(context, flush, left_, right_, gradient + layer.tensor.weight_offset, layer.tensor.fan_in,
                 layer.tensor.fan_out, job.rows);
            fill_with_zeros(gradient + layer.tensor.bias_offset,
                            static_cast<std::size_t>(layer.tensor.fan_out) * sizeof(float), context);
        }
    }

   private:
    // Of the product of a layer.
    std::int64_t rows(const Step& layer) const {
        return job_.population.span ? job_.rows() : job_.blocks() * job_.layout.draws(layer.position);
    }

    FactorsJob factors(const Step& layer) const {
        return {unit_draws(job_, layer.position),
                unit_inputs(job_, layer.position),
                job_.population.span,
                static_cast<int>(layer.tensor.fan_out),
                rows(layer),
                job_.layout.pairs(),
                job_.layout.first_pair(layer.position, 0),
                static_cast<double>(job_.blocks() * job_.layout.draws(layer.position)),
                job_.state.solutions,
                job_.state.factors,
                left_,
                right_};
    }

    const UnitJob& job_;
    float* left_;
    float* right_;
};

template <class Weight>
void run_gradient(Context& context, const UnitJob& job, const Weight* weights, float* gradient) {
    check_flush(job.network.flush);
    const UnitGradientRun run(context, job);
    if (!context.arena.measuring()) run.run(context, weights, gradient);
}

// --- Members ---

struct OneMemberJob {
    UnitDraws draws;
    UnitInputs inputs;
    bool span;
    bool minus;
    std::int64_t block;
    int draw;
    int unit;
    int fan_out;
    const double* solutions;
    const double* factors;
    float* weight;  // [fan_in, fan_out], a copy of the network's

    // Element k of the direction: H^T L^-T r, samples in order, or a sign.
    FPES_DEVICE double direction(int k) const {
        if (!span) {
            const auto counters = draws.noise.counters(draws.tensor(), block * draws.count + draw);
            return to_double(draw_one(draws.noise.kind, counters, static_cast<std::uint64_t>(k)));
        }
        const std::int64_t row = draws.batch_of(block) * draws.samples;
        const double* const solution = solutions + draws.place(block, draw);
        double sum = 0.0;
        for (int b = 0; b < draws.samples; ++b) sum += to_double(inputs.at(row + b, k)) * solution[b];
        return sum;
    }
};

__global__ __launch_bounds__(elementwise_threads) void change_unit_kernel(const FPES_CONSTANT OneMemberJob job) {
    const std::int64_t k = global_index(elementwise_threads);
    if (k >= job.inputs.fan_in) return;
    const double factor = job.factors[job.draws.place_of_factor(job.draws.batch_of(job.block))];
    const float change = to_float(factor * job.direction(static_cast<int>(k)));
    float* const weight = job.weight + k * job.fan_out + job.unit;
    *weight = job.minus ? Ieee::sub(*weight, change) : Ieee::add(*weight, change);
}

}  // namespace

void unit_gradient(Context& context, const UnitJob& job, const float* weights, float* gradient) {
    run_gradient(context, job, weights, gradient);
}
void unit_gradient(Context& context, const UnitJob& job, const std::int32_t* weights, float* gradient) {
    run_gradient(context, job, weights, gradient);
}

void unit_member(Context& context, const UnitJob& job, std::int64_t member, float* theta) {
    check_flush(job.network.flush);
    if (context.arena.measuring()) return;
    const Step& last = job.network.steps().back();
    copy_floats(context, job.network.theta, static_cast<std::int64_t>(last.tensor.bias_offset) + last.tensor.fan_out,
                theta);
    const std::int64_t pair = member / 2;
    const UnitPlace place = job.layout.place(pair);
    const Step& layer = job.network.steps()[place.layer];
    const OneMemberJob one{unit_draws(job, place.layer),
                           unit_inputs(job, place.layer),
                           job.population.span,
                           member % 2 != 0,
                           pair / job.layout.pairs(),
                           place.draw,
                           static_cast<int>(place.unit),
                           static_cast<int>(layer.tensor.fan_out),
                           job.state.solutions,
                           job.state.factors,
                           theta + layer.tensor.weight_offset};
    launch(change_unit_kernel, Grid{parts(layer.tensor.fan_in, elementwise_threads)}, elementwise_threads, 0, context,
           one);
}

FPES_NAMESPACE_END

// The ES gradient of full-rank and low-rank populations: a weighted sum of their noise, drawn again.
//
// With integer weights and integer noise every sum is an exact integer, so pairs may be split among blocks in any way:
// each block adds its share to 64-bit sums, by integer atomics, and a second launch scales them. Otherwise an element's
// pairs are added in order by one thread, in float32 that is never flushed.
//
// Full noise: a thread has eight elements, those of one Philox block, and walks over the pairs. Low rank: the sum over
// (pair, rank) of (d A_r) (x) B_r is a sum of outer products (outer_sum.hpp).
#include <algorithm>
#include <cmath>

#include "backend.hpp"
#include "incremental.hpp"
#include "outer_sum.hpp"
#include "population.hpp"

FPES_NAMESPACE_BEGIN
namespace {

// Weight of the + member minus weight of the - member.
template <class Weight>
FPES_DEVICE auto difference(const Weight* weights, std::int64_t pair) {
    if constexpr (std::is_same_v<Weight, float>) {
        return Ieee::sub(weights[2 * pair], weights[2 * pair + 1]);
    } else {
        return static_cast<std::int64_t>(weights[2 * pair]) - weights[2 * pair + 1];
    }
}

// The pairs, or terms, of this block: grid y splits them evenly.
struct Share {
    std::int64_t begin;
    std::int64_t end;
};
FPES_DEVICE Share share_of(Share all, int shares) {
    const std::int64_t each = parts(all.end - all.begin, shares), begin = all.begin + block_index_y() * each;
    return {begin, begin + each < all.end ? begin + each : all.end};
}

constexpr int per_thread = 8;
// Integers add up exactly in a float below this magnitude.
constexpr float exact_limit = 0x1p24f;

// Exact sums. They are kept in floats, where a multiply-add is one instruction, and moved to integers before they can
// be rounded.
__global__ __launch_bounds__(elementwise_threads) void integer_kernel(NoiseSource noise, std::uint32_t tensor,
                                                                      const std::int32_t* weights, Share pairs,
                                                                      int shares, std::int64_t count,
                                                                      std::int64_t* totals) {
    const std::int64_t first = global_index(elementwise_threads) * per_thread;
    if (first >= count) return;
    const auto largest = static_cast<float>(noise.kind == NoiseKind::binomial ? 8 : 1);
    float sum[per_thread] = {};
    std::int64_t total[per_thread] = {};
    float bound = 0.0f;
    const auto empty = [&] {
        FPES_UNROLL
        for (int i = 0; i < per_thread; ++i) {
            total[i] += static_cast<int>(sum[i]);
            sum[i] = 0.0f;
        }
        bound = 0.0f;
    };
    const Share share = share_of(pairs, shares);
    for (std::int64_t pair = share.begin; pair < share.end; ++pair) {
        const std::int64_t integer = difference(weights, pair);
        const auto weight = static_cast<float>(integer);
        const float most = (weight < 0.0f ? -weight : weight) * largest;
        float z[per_thread];
        draw<per_thread>(noise.kind, noise.counters(tensor, pair), static_cast<std::uint64_t>(first), z);
        if (most > exact_limit) {  // not even one term fits: weights of a million members and more
            FPES_UNROLL
            for (int i = 0; i < per_thread; ++i) total[i] += integer * static_cast<int>(z[i]);
            continue;
        }
        if (bound + most > exact_limit) empty();
        bound += most;
        FPES_UNROLL
        for (int i = 0; i < per_thread; ++i) sum[i] = Ieee::fma(weight, z[i], sum[i]);
    }
    empty();
    FPES_UNROLL
    for (int i = 0; i < per_thread; ++i) {
        if (first + i < count) add_integer(totals + first + i, total[i]);
    }
}

// Sums in order.
template <class Weight>
__global__ __launch_bounds__(elementwise_threads) void float_kernel(NoiseSource noise, std::uint32_t tensor,
                                                                    const Weight* weights, Share pairs,
                                                                    std::int64_t count, double scale, float* out) {
    const std::int64_t first = global_index(elementwise_threads) * per_thread;
    if (first >= count) return;
    float sum[per_thread] = {};
    for (std::int64_t pair = pairs.begin; pair < pairs.end; ++pair) {
        const auto weight = static_cast<float>(difference(weights, pair));
        float z[per_thread];
        draw<per_thread>(noise.kind, noise.counters(tensor, pair), static_cast<std::uint64_t>(first), z);
        FPES_UNROLL
        for (int i = 0; i < per_thread; ++i) sum[i] = Ieee::fma(weight, z[i], sum[i]);
    }
    FPES_UNROLL
    for (int i = 0; i < per_thread; ++i) {
        if (first + i < count) out[first + i] = to_float((0.0 + to_double(sum[i])) * scale);
    }
}

__global__ __launch_bounds__(elementwise_threads) void scale_kernel(const std::int64_t* totals, std::int64_t count,
                                                                    double scale, float* out) {
    const std::int64_t i = global_index(elementwise_threads);
    if (i < count) out[i] = to_float(static_cast<double>(totals[i]) * scale);
}

// Terms (pair, rank) of a layer's low-rank gradient.
template <class Weight>
struct LowRankTerms {
    NoiseSource noise;
    const Weight* weights;
    int rank;
    int layer;
    int fan_in;
    int fan_out;
    Turn turn;  // the pairs, which may be those that perturb this layer
    int units;  // that the right factor reaches, or 0 for all

    FPES_DEVICE void left(std::int64_t t, std::int64_t i, float* to) const {
        draw_factor(t, NoiseRole::factor_a, fan_in, i, to);
        const auto d = static_cast<float>(difference(weights, turn.pair(t / rank)));
        FPES_UNROLL
        for (int c = 0; c < 4; ++c) to[c] = Ieee::mul(to[c], d);
    }
    FPES_DEVICE void right(std::int64_t t, std::int64_t j, float* to) const {
        if (units == 0) return draw_factor(t, NoiseRole::factor_b, fan_out, j, to);
        FPES_UNROLL
        for (int c = 0; c < 4; ++c) {
            const auto unit = static_cast<int>(j) + c;
            to[c] = unit < fan_out ? scattered_factor(noise, layer, turn.pair(t), unit, units, fan_out) : 0.0f;
        }
    }
    // As integers: a difference of weights times a draw is one below 2^31.
    FPES_DEVICE void left(std::int64_t t, std::int64_t i, int* to) const {
        float z[4];
        draw_factor(t, NoiseRole::factor_a, fan_in, i, z);
        const auto d = static_cast<int>(difference(weights, turn.pair(t / rank)));
        FPES_UNROLL
        for (int c = 0; c < 4; ++c) to[c] = static_cast<int>(z[c]) * d;
    }
    FPES_DEVICE void right(std::int64_t t, std::int64_t j, int* to) const {
        float z[4];
        right(t, j, z);
        FPES_UNROLL
        for (int c = 0; c < 4; ++c) to[c] = static_cast<int>(z[c]);
    }

   private:
    FPES_DEVICE void draw_factor(std::int64_t t, NoiseRole role, int n, std::int64_t place, float* z) const {
        const PhiloxCounters counters = noise.counters(noise_tensor(layer, role), turn.pair(t / rank));
        draw<4>(noise.kind, counters, static_cast<std::uint64_t>(t % rank * n + place), z);
    }
};

template <class Sums, class Weight>
__global__ __launch_bounds__(SumTile::threads) void low_rank_kernel(LowRankTerms<Weight> terms, Share all, int shares,
                                                                    double scale, float* out, std::int64_t* totals) {
    using T = SumTile;
    const int wide = static_cast<int>(parts(terms.fan_out, T::columns));
    const int first_row = block_index() / wide * T::rows, first_column = block_index() % wide * T::columns;
    const Share share = share_of(all, shares);
    typename Sums::Sum sums[T::tm][T::tn] = {};
    sum_outer_products<Sums>(terms, share.begin, share.end, first_row, first_column, sums);
    FPES_UNROLL
    for (int i = 0; i < T::tm; ++i) {
        FPES_UNROLL
        for (int j = 0; j < T::tn; ++j) {
            const int row = first_row + T::row(i), column = first_column + T::column(j);
            if (row >= terms.fan_in || column >= terms.fan_out) continue;
            const std::int64_t at = static_cast<std::int64_t>(row) * terms.fan_out + column;
            if constexpr (std::is_same_v<Sums, IntegerSums>) {
                add_integer(totals + at, sums[i][j]);
            } else {
                out[at] = to_float((0.0 + to_double(sums[i][j])) * scale);
            }
        }
    }
}

template <class Weight>
class GradientRun {
   public:
    GradientRun(Context& context, const std::vector<Layer>& layers, const Population& population, const Weight* weights,
                std::int64_t members, const GradientPart& part)
        : context_(context),
          layers_(layers),
          population_(population),
          weights_(weights),
          pairs_of_population_(members / 2),
          pairs_{part.pairs.begin, part.pairs.end},
          gradient_(part.gradient),
          sums_(part.sums),
          exact_(std::is_same_v<Weight, std::int32_t> && population.noise != NoiseKind::gaussian) {
        // The largest tensor's sums; every tensor uses the same memory in turn.
        if (!exact_ || sums_) return;
        for (const Layer& layer : layers) most_sums_ = std::max(most_sums_, layer.fan_in * layer.fan_out);
        for (const Layer& layer : layers) most_sums_ = std::max(most_sums_, layer.fan_out);
        totals_ = context.arena.take<std::int64_t>(most_sums_);
    }

    void run() {
        for (const Layer& layer : layers_) {
            if (population_.one_layer_at_a_time()) {
                low_rank(layer);
                if (sums_) clear(sums_ + layer.bias_offset, layer.fan_out);
                if (gradient_) clear(gradient_ + layer.bias_offset, layer.fan_out);
                continue;
            }
            if (population_.family == Family::full) {
                full(noise_tensor(layer.index, NoiseRole::weight), layer.fan_in * layer.fan_out, layer.weight_offset);
            } else {
                low_rank(layer);
            }
            full(noise_tensor(layer.index, NoiseRole::bias), layer.fan_out, layer.bias_offset);
        }
    }

   private:
    // Enough blocks for every multiprocessor, but no share of fewer terms than make it worth while.
    int shares(std::int64_t blocks, std::int64_t terms) const {
        constexpr std::int64_t least_terms = 64, blocks_each = 8;
        const std::int64_t wanted = parts(blocks_each * context_.device.multiprocessors, blocks);
        return static_cast<int>(
            std::clamp<std::int64_t>(wanted, 1, std::min<std::int64_t>(parts(terms, least_terms), 65535)));
    }

    void full(std::uint32_t tensor, std::int64_t count, std::size_t offset) {
        const double scale = population_.full_gradient_scale(pairs_of_population_);
        const NoiseSource noise = noise_source(population_);
        const std::int64_t blocks = parts(count, std::int64_t{elementwise_threads} * per_thread);
        if constexpr (std::is_same_v<Weight, std::int32_t>) {
            if (exact_) {
                const int split = shares(blocks, pairs_.end - pairs_.begin);
                std::int64_t* const totals = cleared_totals(count, offset);
                launch(integer_kernel, Grid{blocks, split}, elementwise_threads, 0, context_, noise, tensor, weights_,
                       pairs_, split, count, totals);
                return scale_totals(count, scale, offset);
            }
        }
        launch(float_kernel<Weight>, Grid{blocks}, elementwise_threads, 0, context_, noise, tensor, weights_, pairs_,
               count, scale, gradient_ + offset);
    }

    void low_rank(const Layer& layer) {
        const bool one_layer = population_.one_layer_at_a_time();
        const double scale = population_.low_rank_gradient_scale(layer, pairs_of_population_);
        // Terms are counted over the pairs that perturb the layer, from the population's first one on.
        const std::int64_t first = population_.pairs_of(layer, {0, pairs_.begin}) * population_.rank;
        const std::int64_t count = population_.pairs_of(layer, {pairs_.begin, pairs_.end}) * population_.rank;
        const Share all{first, first + count};
        if (count == 0) {  // no pair of the range perturbs it
            if (sums_) return clear(sums_ + layer.weight_offset, layer.fan_in * layer.fan_out);
            return clear(gradient_ + layer.weight_offset, layer.fan_in * layer.fan_out);
        }
        const LowRankTerms<Weight> terms{noise_source(population_),
                                         weights_,
                                         population_.rank,
                                         layer.index,
                                         static_cast<int>(layer.fan_in),
                                         static_cast<int>(layer.fan_out),
                                         one_layer ? turn_of(population_, layer.index) : Turn{1, 0, 1},
                                         one_layer ? population_.units[layer.index] : 0};
        const std::int64_t blocks = parts(layer.fan_in, SumTile::rows) * parts(layer.fan_out, SumTile::columns);
        float* const out = gradient_ + layer.weight_offset;
        if (exact_) {
            const int split = shares(blocks, count);
            std::int64_t* const totals = cleared_totals(layer.fan_in * layer.fan_out, layer.weight_offset);
            launch(low_rank_kernel<IntegerSums, Weight>, Grid{blocks, split}, SumTile::threads, sum_shared_bytes,
                   context_, terms, all, split, scale, out, totals);
            scale_totals(layer.fan_in * layer.fan_out, scale, layer.weight_offset);
        } else {
            launch(low_rank_kernel<FloatSums, Weight>, Grid{blocks}, SumTile::threads, sum_shared_bytes, context_,
                   terms, all, 1, scale, out, totals_);
        }
    }

    template <class T>
    void clear(T* array, std::int64_t count) {
        fill_with_zeros(array, static_cast<std::size_t>(count) * sizeof(T), context_);
    }
    // Where the sums of a tensor go: scratch memory, unless they are the result.
    std::int64_t* cleared_totals(std::int64_t count, std::size_t offset) {
        std::int64_t* const totals = sums_ ? sums_ + offset : totals_;
        clear(totals, count);
        return totals;
    }
    void scale_totals(std::int64_t count, double scale, std::size_t offset) {
        if (sums_) return;
        launch(scale_kernel, Grid{parts(count, elementwise_threads)}, elementwise_threads, 0, context_, totals_, count,
               scale, gradient_ + offset);
    }

    Context& context_;
    const std::vector<Layer>& layers_;
    const Population& population_;
    const Weight* weights_;
    std::int64_t pairs_of_population_;
    Share pairs_;
    float* gradient_;
    std::int64_t* sums_;
    bool exact_;
    std::int64_t most_sums_ = 0;
    std::int64_t* totals_ = nullptr;
};

template <class Weight>
void run_gradient(Context& context, const std::vector<Layer>& layers, const Population& population,
                  const Weight* weights, std::int64_t members, const GradientPart& part) {
    GradientRun<Weight> run(context, layers, population, weights, members, part);
    if (!context.arena.measuring()) run.run();
}

}  // namespace

void gradient(Context& context, const std::vector<Layer>& layers, const Population& population, const float* weights,
              std::int64_t members, const GradientPart& part) {
    run_gradient(context, layers, population, weights, members, part);
}

void gradient(Context& context, const std::vector<Layer>& layers, const Population& population,
              const std::int32_t* weights, std::int64_t members, const GradientPart& part) {
    run_gradient(context, layers, population, weights, members, part);
}

void scale_sums(Context& context, const std::vector<Layer>& layers, const Population& population, std::int64_t pairs,
                const std::int64_t* sums, float* gradient) {
    if (context.arena.measuring()) return;
    for (const TensorScale& tensor : gradient_scales(layers, population, pairs)) {
        launch(scale_kernel, Grid{parts(tensor.count, elementwise_threads)}, elementwise_threads, 0, context,
               sums + tensor.offset, tensor.count, tensor.scale, gradient + tensor.offset);
    }
}

FPES_NAMESPACE_END

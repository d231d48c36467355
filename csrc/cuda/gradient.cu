// The ES gradient of populations whose weights are perturbed: a weighted sum of their noise, drawn again.
//
// With integer weights and integer noise every sum is an exact integer, so pairs may be split among blocks in any way:
// each block adds its share to 64-bit sums, by integer atomics, and a second launch scales them. Otherwise an element's
// pairs are added in order by one thread, in float32 that is never flushed.
//
// Parameters with noise of their own: a thread has eight elements, those of one Philox block, and walks over the pairs.
// A correction of inputs: the sum over (pair, t) of (d A_t) (x) B_t, for its left and right factors, is a sum of outer
// products (terms.hpp), some terms at a time; where it is exact, of digits of d A_t, so small that floats add up
// hundreds of their products without rounding.
#include <algorithm>
#include <cmath>

#include "perturbations/ways.hpp"
#include "terms.hpp"
#include "units.hpp"

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
constexpr auto exact_limit = static_cast<float>(exact_in_float);

// Exact sums. They are kept in floats, where a multiply-add is one instruction, and moved to integers before they can
// be rounded.
__global__ __launch_bounds__(elementwise_threads) void integer_kernel(NoiseSource noise, std::uint32_t tensor,
                                                                      const std::int32_t* weights, Share pairs,
                                                                      int shares, std::int64_t count,
                                                                      std::int64_t* totals) {
    const std::int64_t first = global_index(elementwise_threads) * per_thread;
    if (first >= count) return;
    const auto largest = static_cast<float>(largest_integer(noise.kind));
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

// --- Outer products --------------------------------------------------------------------------------------------------

// d A_t is below 2^31, and a digit of it at most 2^11; a draw is at most 8. So so many products of digits and draws are
// added up exactly by floats.
constexpr int digits = 3, digit_bits = 12;
constexpr int exact_terms = 1024;
static_assert(exact_terms * (1 << (digit_bits - 1)) * 8 <= exact_in_float, "sums that a float holds");

// Terms (pair, t) of a tensor's gradient, and where their factors go: left [digits, terms, fan_in], without
// digits where sums are floats, and right [terms, fan_out].
template <class Weight>
struct FactorsJob {
    NoiseSource noise;
    const Weight* weights;
    Correction correction;
    int tensor;
    int fan_in;
    int fan_out;
    Turn turn;           // the pairs, which may be those that perturb this tensor
    int units;           // that the right factor reaches, or 0 for all
    std::int64_t begin;  // the first term
    std::int64_t terms;
    float* left;
    float* right;
    unsigned* used;  // [digits]: whether a term has such a digit; null where sums are floats
};

template <class Weight>
FPES_DEVICE void draw_factor(const FactorsJob<Weight>& job, std::int64_t t, NoiseRole role, int n, int place,
                             float* z) {
    const Counters counters =
        job.noise.counters(noise_tensor(job.tensor, role), job.turn.pair(t / job.correction.terms));
    draw<4>(job.noise.kind, counters, static_cast<std::uint64_t>(t % job.correction.terms * n + place), z);
}

// Four elements of d A_t, digit by digit from the lowest, each between -2^11 and 2^11.
FPES_DEVICE void store_digits(const float (&z)[4], std::int64_t difference, float* to, std::int64_t digit_floats,
                              unsigned* used) {
    std::int64_t rest[4];
    FPES_UNROLL
    for (int c = 0; c < 4; ++c) rest[c] = static_cast<int>(z[c]) * difference;
    FPES_UNROLL
    for (int digit = 0; digit < digits; ++digit) {
        constexpr std::int64_t base = 1 << digit_bits;
        bool any = false;
        float four[4];
        FPES_UNROLL
        for (int c = 0; c < 4; ++c) {
            const std::int64_t lowest = ((rest[c] + base / 2) & (base - 1)) - base / 2;
            four[c] = static_cast<float>(static_cast<int>(lowest));
            any = any || lowest != 0;
            rest[c] = (rest[c] - lowest) / base;
        }
        store4(to + digit * digit_floats, four);
        if (any) used[digit] = 1;  // whoever else writes it writes the same
    }
}

// A block for each term, a thread for four elements.
template <class Weight>
__global__ __launch_bounds__(elementwise_threads) void factors_kernel(const FPES_CONSTANT FactorsJob<Weight> job) {
    const std::int64_t t = job.begin + block_index();
    const auto d = difference(job.weights, job.turn.pair(t / job.correction.terms));
    const std::int64_t left_stride = factor_stride(job.fan_in), right_stride = factor_stride(job.fan_out);
    for (int i = 4 * thread_index(); i < job.fan_in; i += 4 * elementwise_threads) {
        float* const to = job.left + block_index() * left_stride + i;
        float z[4];
        draw_factor(job, t, job.correction.left, job.fan_in, i, z);
        if constexpr (std::is_same_v<Weight, std::int32_t>) {
            if (job.used) {
                store_digits(z, d, to, job.terms * left_stride, job.used);
                continue;
            }
        }
        FPES_UNROLL
        for (int c = 0; c < 4; ++c) z[c] = Ieee::mul(z[c], static_cast<float>(d));
        store4(to, z);
    }
    for (int j = 4 * thread_index(); j < job.fan_out; j += 4 * elementwise_threads) {
        float z[4];
        if (job.units == 0) {
            draw_factor(job, t, job.correction.right, job.fan_out, j, z);
        } else {
            FPES_UNROLL
            for (int c = 0; c < 4; ++c) {
                z[c] = j + c < job.fan_out ? scattered_factor(job.noise, job.correction.right, job.tensor,
                                                              job.turn.pair(t), j + c, job.units, job.fan_out)
                                           : 0.0f;
            }
        }
        store4(job.right + block_index() * right_stride + j, z);
    }
}

struct ProductJob {
    const float* left;
    const float* right;
    std::int64_t terms;
    int fan_in;
    int fan_out;
};

// A block's tile of the sums.
template <class T>
struct SumsPlace {
    int first_row;
    int first_column;
    int fan_in;
    int fan_out;

    FPES_DEVICE explicit SumsPlace(const ProductJob& job) : fan_in(job.fan_in), fan_out(job.fan_out) {
        const int wide = static_cast<int>(parts(fan_out, T::columns));
        first_row = block_index() / wide * T::rows;
        first_column = block_index() % wide * T::columns;
    }
    // Calls use(i, j, at) for each element of the matrix that the thread has.
    template <class Use>
    FPES_DEVICE void each(Use use) const {
        FPES_UNROLL
        for (int i = 0; i < T::tm; ++i) {
            FPES_UNROLL
            for (int j = 0; j < T::tn; ++j) {
                const int row = first_row + T::row(i), column = first_column + T::column(j);
                if (row < fan_in && column < fan_out) use(i, j, static_cast<std::int64_t>(row) * fan_out + column);
            }
        }
    }
};

using IntegerTile = Tile<2, 2, 4, 8, 8, 8>;  // 64 x 128
using FloatTile = Tile<2, 2, 4, 8, 8, 4>;    // 64 x 64: a block for all terms, so there should be many

// Adds the sums of this block's share of the terms to the totals.
__global__ __launch_bounds__(IntegerTile::threads,
                             2) void integer_product_kernel(const FPES_CONSTANT ProductJob job, std::int64_t terms_each,
                                                            const unsigned* used, std::int64_t* totals) {
    using T = IntegerTile;
    const SumsPlace<T> place(job);
    const std::int64_t left_stride = factor_stride(job.fan_in), right_stride = factor_stride(job.fan_out);
    std::int64_t sums[T::tm][T::tn] = {};
    const std::int64_t begin = block_index_y() * terms_each;
    const std::int64_t end = begin + terms_each < job.terms ? begin + terms_each : job.terms;
    FPES_ROLLED
    for (std::int64_t first = begin; first < end; first += exact_terms) {
        const std::int64_t terms = end - first < exact_terms ? end - first : exact_terms;
        FPES_ROLLED
        for (int digit = 0; digit < digits; ++digit) {
            if (used[digit] == 0) continue;
            Accumulators<T> acc;
            acc.clear();
            TermsOperands<T> operands(job.left + (digit * job.terms + first) * left_stride, left_stride,
                                      job.right + first * right_stride, right_stride, terms, place.first_row,
                                      place.first_column);
            operands.turn();
            multiply_blocks<T, Ieee, terms_depth>(operands, terms, true, acc);
            FPES_UNROLL
            for (int i = 0; i < T::tm; ++i) {
                FPES_UNROLL
                for (int j = 0; j < T::tn; ++j) {
                    sums[i][j] += static_cast<std::int64_t>(static_cast<int>(acc.sum[i][j])) << digit * digit_bits;
                }
            }
        }
    }
    place.each([&](int i, int j, std::int64_t at) { add_integer(totals + at, sums[i][j]); });
}

// Continues the sums of earlier terms, which are where the gradient will be.
__global__ __launch_bounds__(FloatTile::threads) void float_product_kernel(const FPES_CONSTANT ProductJob job,
                                                                           bool started, bool finished, double scale,
                                                                           float* out) {
    using T = FloatTile;
    const SumsPlace<T> place(job);
    Accumulators<T> acc;
    acc.clear();
    if (started) place.each([&](int i, int j, std::int64_t at) { acc.sum[i][j] = out[at]; });
    TermsOperands<T> operands(job.left, factor_stride(job.fan_in), job.right, factor_stride(job.fan_out), job.terms,
                              place.first_row, place.first_column);
    operands.turn();
    multiply_blocks<T, Ieee, terms_depth>(operands, job.terms, true, acc);
    place.each([&](int i, int j, std::int64_t at) {
        out[at] = finished ? to_float((0.0 + to_double(acc.sum[i][j])) * scale) : acc.sum[i][j];
    });
}

template <class Weight>
class GradientRun {
   public:
    GradientRun(Context& context, const std::vector<Tensor>& tensors, const Population& population,
                const Weight* weights, std::int64_t members, const GradientPart& part)
        : context_(context),
          tensors_(tensors),
          population_(population),
          correction_(population.correction()),
          weights_(weights),
          pairs_of_population_(members / 2),
          pairs_{part.pairs.begin, part.pairs.end},
          gradient_(part.gradient),
          sums_(part.sums),
          exact_(std::is_same_v<Weight, std::int32_t> && population.noise.kind != NoiseKind::gaussian) {
        // Of the largest tensor and layer; all of them use the same memory in turn.
        if (correction_.of_inputs) {
            std::int64_t floats = 0;
            for (const Tensor& tensor : tensors)
                floats = std::max(floats, terms_at_a_time(tensor) * floats_of_a_term(tensor));
            factors_ = context.arena.take<float>(floats);
            used_ = context.arena.take<unsigned>(digits);
        }
        if (!exact_ || sums_) return;
        std::int64_t most_sums = 0;
        for (const Tensor& tensor : tensors)
            most_sums = std::max({most_sums, tensor.fan_in * tensor.fan_out, tensor.fan_out});
        totals_ = context.arena.take<std::int64_t>(most_sums);
    }

    void run() {
        for (const Tensor& tensor : tensors_) {
            on_cuda(population_, [&](auto family) { family.weight_gradient(*this, tensor); });
            if (population_.perturbs_biases()) {
                sum_noise(noise_tensor(tensor.index, NoiseRole::bias), tensor.fan_out, tensor.bias_offset,
                          population_.bias_gradient_scale(pairs_of_population_));
                continue;
            }
            if (sums_) clear(sums_ + tensor.bias_offset, tensor.fan_out);
            if (gradient_) clear(gradient_ + tensor.bias_offset, tensor.fan_out);
        }
    }

    // Weights with noise of their own.
    void sum_weight_noise(const Tensor& tensor) {
        sum_noise(noise_tensor(tensor.index, NoiseRole::weight), tensor.fan_in * tensor.fan_out, tensor.weight_offset,
                  population_.gradient_scale(tensor, pairs_of_population_));
    }
    // Weights that a correction of inputs changes.
    void sum_outer_products(const Tensor& tensor) {
        const double scale = population_.gradient_scale(tensor, pairs_of_population_);
        // Terms are counted over the pairs that perturb the tensor, from the population's first one on.
        const Allocation& allocation = population_.allocation;
        const std::int64_t first = allocation.count(tensor.index, {0, pairs_.begin}) * correction_.terms;
        const std::int64_t count = allocation.count(tensor.index, {pairs_.begin, pairs_.end}) * correction_.terms;
        const std::int64_t size = tensor.fan_in * tensor.fan_out, at_a_time = terms_at_a_time(tensor);
        if (!exact_ && count == 0) return clear(gradient_ + tensor.weight_offset, size);  // no pair perturbs it
        std::int64_t* const totals = exact_ ? cleared_totals(size, tensor.weight_offset) : nullptr;
        for (std::int64_t done = 0; done < count; done += at_a_time) {
            const std::int64_t terms = std::min(at_a_time, count - done);
            const ProductJob job = make_factors(tensor, first + done, terms);
            if (exact_) {
                const std::int64_t tiles = tiles_of<IntegerTile>(tensor);
                // A share is a whole number of the loop's turns.
                const std::int64_t each = parts(parts(terms, shares_at_once(tiles, terms)), terms_depth) * terms_depth;
                launch(integer_product_kernel, Grid{tiles, parts(terms, each)}, IntegerTile::threads,
                       TermsOperands<IntegerTile>::shared_bytes, context_, job, each, used_, totals);
            } else {
                launch(float_product_kernel, Grid{tiles_of<FloatTile>(tensor)}, FloatTile::threads,
                       TermsOperands<FloatTile>::shared_bytes, context_, job, done > 0, done + terms == count, scale,
                       gradient_ + tensor.weight_offset);
            }
        }
        if (exact_) scale_totals(size, scale, tensor.weight_offset);
    }

   private:
    // Enough blocks for every multiprocessor, but no share of fewer terms than make it worth while.
    static int within_terms(std::int64_t shares, std::int64_t terms) {
        constexpr std::int64_t least_terms = 64;
        return static_cast<int>(
            std::clamp<std::int64_t>(shares, 1, std::min<std::int64_t>(parts(terms, least_terms), 65535)));
    }
    int shares(std::int64_t blocks, std::int64_t terms) const {
        constexpr std::int64_t blocks_each = 8;
        return within_terms(parts(blocks_each * context_.device.multiprocessors, blocks), terms);
    }
    // Where two blocks fit on a multiprocessor: not one more than run at once, which would take as long as all others.
    int shares_at_once(std::int64_t blocks, std::int64_t terms) const {
        return within_terms(std::int64_t{2} * context_.device.multiprocessors / blocks, terms);
    }

    void sum_noise(std::uint32_t tensor, std::int64_t count, std::size_t offset, double scale) {
        const NoiseSource noise = noise_source(population_.noise);
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

    template <class T>
    static std::int64_t tiles_of(const Tensor& tensor) {
        return parts(tensor.fan_in, T::rows) * parts(tensor.fan_out, T::columns);
    }
    std::int64_t floats_of_a_term(const Tensor& tensor) const {
        return (exact_ ? digits : 1) * factor_stride(tensor.fan_in) + factor_stride(tensor.fan_out);
    }
    std::int64_t terms_at_a_time(const Tensor& tensor) const {
        const std::int64_t most = context_.device.floats_at_a_time / floats_of_a_term(tensor);
        return std::clamp<std::int64_t>(most, 1,
                                        std::max<std::int64_t>(1, (pairs_.end - pairs_.begin) * correction_.terms));
    }

    ProductJob make_factors(const Tensor& tensor, std::int64_t begin, std::int64_t terms) const {
        float* const left = factors_;
        float* const right = left + (exact_ ? digits : 1) * terms * factor_stride(tensor.fan_in);
        if (exact_) fill_with_zeros(used_, digits * sizeof(unsigned), context_);
        const FactorsJob<Weight> job{noise_source(population_.noise),
                                     weights_,
                                     correction_,
                                     tensor.index,
                                     static_cast<int>(tensor.fan_in),
                                     static_cast<int>(tensor.fan_out),
                                     population_.allocation.turn(tensor.index),
                                     population_.allocation.few_units(tensor.index),
                                     begin,
                                     terms,
                                     left,
                                     right,
                                     exact_ ? used_ : nullptr};
        launch(factors_kernel<Weight>, Grid{terms}, elementwise_threads, 0, context_, job);
        return {left, right, terms, job.fan_in, job.fan_out};
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
    const std::vector<Tensor>& tensors_;
    const Population& population_;
    Correction correction_;
    const Weight* weights_;
    std::int64_t pairs_of_population_;
    Share pairs_;
    float* gradient_;
    std::int64_t* sums_;
    bool exact_;
    std::int64_t* totals_ = nullptr;
    float* factors_ = nullptr;
    unsigned* used_ = nullptr;
};

template <class Weight>
void run_gradient(Context& context, const std::vector<Tensor>& tensors, const Population& population,
                  const Weight* weights, std::int64_t members, const GradientPart& part) {
    GradientRun<Weight> run(context, tensors, population, weights, members, part);
    if (!context.arena.measuring()) run.run();
}

}  // namespace

void gradient(Context& context, const std::vector<Tensor>& tensors, const Population& population, const float* weights,
              std::int64_t members, const GradientPart& part) {
    run_gradient(context, tensors, population, weights, members, part);
}

void gradient(Context& context, const std::vector<Tensor>& tensors, const Population& population,
              const std::int32_t* weights, std::int64_t members, const GradientPart& part) {
    run_gradient(context, tensors, population, weights, members, part);
}

void scale_sums(Context& context, const std::vector<Tensor>& tensors, const Population& population, std::int64_t pairs,
                const std::int64_t* sums, float* gradient) {
    if (context.arena.measuring()) return;
    for (const PartScale& part : gradient_scales(tensors, population, pairs)) {
        launch(scale_kernel, Grid{parts(part.count, elementwise_threads)}, elementwise_threads, 0, context,
               sums + part.offset, part.count, part.scale, gradient + part.offset);
    }
}

FPES_NAMESPACE_END

// The gradients of node perturbation: sums of outer products of inputs and weighted noise, an outer product for each
// term, in order: a matrix product whose k's are the terms. One more row, of ones, makes the gradient of the bias.
//
//     every pair perturbs all layers     terms (pair, sample): mean of the pair's inputs (x) weight * noise.
//                                        Some pairs at a time are carried forward once more, their activations kept,
//                                        and their terms continue the sums of those before.
//     a pair perturbs one layer          terms (sample): unperturbed inputs, whose sums evaluate() kept (x) sum over
//                                        pairs of weight * noise, which a kernel of its own adds up, pairs in order.
//                                        Noise that leaves a unit at zero in both members has not reached the network,
//                                        and is left out (cpu/incremental_gradient.cpp).
#include <algorithm>
#include <vector>

#include "modes.hpp"
#include "perturbations/ways.hpp"
#include "terms.hpp"
#include "units.hpp"

FPES_NAMESPACE_BEGIN
namespace {

FPES_DEVICE float difference(const SampleWeights& weights, std::int64_t pair, std::int64_t sample) {
    return Ieee::sub(*weights.plus(pair, sample), *weights.minus(pair, sample));
}

// --- Factors of the terms, in memory ---------------------------------------------------------------------------------
// left [terms, left_stride(fan_in)]: a layer's inputs, and the 1 of the bias. right [terms, right_stride(fan_out)]:
// weighted noise. Rows are whole groups of four floats, filled up with zeros. So each factor is made once, and not
// again by every tile of the gradient.

FPES_INLINE constexpr std::int64_t left_stride(std::int64_t fan_in) { return factor_stride(fan_in + 1); }
FPES_INLINE constexpr std::int64_t right_stride(std::int64_t fan_out) { return factor_stride(fan_out); }

// Means of the inputs of both members of a pair, brought back from the scaled domain; or the inputs themselves.
struct LeftJob {
    Rows rows;  // of the pairs that are kept; of no use where there are no members
    bool members;
    bool by_sample;  // the members' inputs: by sample in the first layer, else by row
    int fan_in;
    const float* inputs;
    float half_unit;
    std::int64_t terms;
    float* left;
};

__global__ __launch_bounds__(elementwise_threads) void left_kernel(LeftJob job) {
    const std::int64_t t = block_index(), stride = left_stride(job.fan_in);
    const float *plus = job.inputs + t * job.fan_in, *minus = plus;
    if (job.members) {
        const std::int64_t number = t / job.rows.batch * 2 * job.rows.batch + t % job.rows.batch;
        const Row row = row_of(job.rows, 0, number);
        plus = job.inputs + (job.by_sample ? row.input : number) * job.fan_in;
        minus = job.by_sample ? plus : plus + job.rows.batch * job.fan_in;
    }
    for (int i = thread_index(); i < stride; i += elementwise_threads) {
        float value = i == job.fan_in ? 1.0f : 0.0f;
        if (i < job.fan_in) value = job.members ? Ieee::mul(Ieee::add(plus[i], minus[i]), job.half_unit) : plus[i];
        job.left[t * stride + i] = value;
    }
}

struct RightJob {
    NoiseSource noise;
    Rows rows;
    SampleWeights weights;
    std::uint32_t tensor;  // of noise
    int fan_out;
    float* right;
};

constexpr int per_thread = 8;

__global__ __launch_bounds__(elementwise_threads) void right_kernel(RightJob job) {
    const std::int64_t t = block_index(), stride = right_stride(job.fan_out);
    const Row row = row_of(job.rows, 0, t / job.rows.batch * 2 * job.rows.batch + t % job.rows.batch);
    const float weight = difference(job.weights, row.pair - job.rows.begin, row.sample);
    const Counters counters = job.noise.counters(job.tensor, row.pair);
    for (int first = thread_index() * per_thread; first < stride; first += elementwise_threads * per_thread) {
        float z[per_thread];
        draw<per_thread>(job.noise.kind, counters,
                         static_cast<std::uint64_t>(row.sample * std::int64_t{job.fan_out} + first), z);
        FPES_UNROLL
        for (int i = 0; i < per_thread; ++i) {
            if (first + i < stride) {
                job.right[t * stride + first + i] = first + i < job.fan_out ? Ieee::mul(z[i], weight) : 0.0f;
            }
        }
    }
}

// --- Their product ---------------------------------------------------------------------------------------------------

// What becomes of the sums of a layer, [fan_in + 1, fan_out].
struct SumsOut {
    float* sums;  // of terms before these, and with them
    bool started;
    bool finished;
    double scale;
    float* gradient;
    const float* bias;
    float bias_factor;
    bool dead_biases;  // whether there may be any (common/estimator.hpp)
};

struct TermsLayer {
    const float* left;
    const float* right;
    int fan_in;
    int fan_out;
    int first_block;
    SumsOut out;
};
// Layers of one launch: each alone has too few tiles to keep a device busy, for terms have an order and can't be split.
struct TermsJob {
    std::int64_t terms;
    int count;
    TermsLayer layer[most_layers];
};
static_assert(sizeof(TermsJob) <= most_argument_bytes, "a job travels with the launch");

using TermsTile = Tile<2, 2, 4, 8, 8, 4>;  // 64 x 64

__global__ __launch_bounds__(TermsTile::threads) void terms_kernel(const FPES_CONSTANT TermsJob job) {
    using T = TermsTile;
    int number = 0;
    while (number + 1 < job.count && block_index() >= job.layer[number + 1].first_block) ++number;
    const TermsLayer& layer = job.layer[number];
    const SumsOut& out = layer.out;
    const int block = block_index() - layer.first_block, wide = static_cast<int>(parts(layer.fan_out, T::columns));
    const int first_row = block / wide * T::rows, first_column = block % wide * T::columns;
    const auto place = [&](int i, int j) {
        return static_cast<std::int64_t>(first_row + T::row(i)) * layer.fan_out + first_column + T::column(j);
    };
    const auto inside = [&](int i, int j) {
        return first_row + T::row(i) <= layer.fan_in && first_column + T::column(j) < layer.fan_out;
    };
    Accumulators<T> acc;
    acc.clear();
    if (out.started) {
        FPES_UNROLL
        for (int i = 0; i < T::tm; ++i) {
            FPES_UNROLL
            for (int j = 0; j < T::tn; ++j) acc.sum[i][j] = inside(i, j) ? out.sums[place(i, j)] : 0.0f;
        }
    }
    TermsOperands<T> operands(layer.left, left_stride(layer.fan_in), layer.right, right_stride(layer.fan_out),
                              job.terms, first_row, first_column);
    operands.turn();
    multiply_blocks<T, Ieee, terms_depth>(operands, job.terms, true, acc);
    FPES_UNROLL
    for (int i = 0; i < T::tm; ++i) {
        FPES_UNROLL
        for (int j = 0; j < T::tn; ++j) {
            if (!inside(i, j)) continue;
            if (!out.finished) {
                out.sums[place(i, j)] = acc.sum[i][j];
                continue;
            }
            const bool of_bias = first_row + T::row(i) == layer.fan_in;
            const bool dead =
                of_bias && out.dead_biases && is_zero(out.bias[first_column + T::column(j)] * out.bias_factor);
            out.gradient[place(i, j)] = dead ? 0.0f : to_float(to_double(acc.sum[i][j]) * out.scale);
        }
    }
}

void launch_terms(const Context& context, std::int64_t terms, const std::vector<TermsLayer>& layers) {
    using T = TermsTile;
    for (std::size_t first = 0; first < layers.size(); first += most_layers) {
        TermsJob job{terms, 0, {}};
        std::int64_t blocks = 0;
        for (std::size_t l = first; l < layers.size() && job.count < most_layers; ++l) {
            TermsLayer& layer = job.layer[job.count++] = layers[l];
            layer.first_block = static_cast<int>(blocks);
            blocks += parts(layer.fan_in + 1, T::rows) * parts(layer.fan_out, T::columns);
        }
        launch(terms_kernel, Grid{blocks}, T::threads, TermsOperands<T>::shared_bytes, context, job);
    }
}

SumsOut sums_out(const SampleGradientJob& job, const Step& layer) {
    const Network& network = job.network;
    SumsOut out{};
    out.scale = job.population.gradient_scale(layer.tensor, job.pairs_of_population, job.weights.samples);
    out.gradient = job.gradient + layer.tensor.weight_offset;
    out.bias = network.theta + layer.tensor.bias_offset;
    out.bias_factor = layer.bias_factor;
    out.dead_biases = may_have_dead_biases(layer, network.flush);
    return out;
}

class NodeGradientRun {
   public:
    NodeGradientRun(Context& context, const SampleGradientJob& job)
        : job_(job),
          network_(job.network),
          population_(job.population),
          pairs_(job.pairs),
          batch_(job.batch),
          first_sums_(context, network_, pairs_, batch_) {
        std::int64_t floats = 0;  // of a pair and sample
        for (const Step& layer : network_.steps()) {
            floats += 2 * layer.tensor.fan_out + left_stride(layer.tensor.fan_in) + right_stride(layer.tensor.fan_out);
        }
        const std::int64_t most = context.device.floats_at_a_time;
        pairs_at_a_time_ = std::clamp<std::int64_t>(most / (batch_.size * floats), 1, pairs_.count());
        const std::int64_t terms = pairs_at_a_time_ * batch_.size;
        for (const Step& layer : network_.steps()) {
            sums_.push_back(context.arena.take<float>((layer.tensor.fan_in + 1) * layer.tensor.fan_out));
            left_.push_back(context.arena.take<float>(terms * left_stride(layer.tensor.fan_in)));
            right_.push_back(context.arena.take<float>(terms * right_stride(layer.tensor.fan_out)));
        }
        for (int l = 0; l + 1 < depth(); ++l) {
            kept_.push_back(context.arena.take<float>(2 * terms * network_.steps()[l].tensor.fan_out));
        }
    }

    void run(Context& context) const {
        const float* sums = depth() > 1 ? first_sums_.compute(context, network_, batch_) : nullptr;
        for (std::int64_t begin = pairs_.begin; begin < pairs_.end; begin += pairs_at_a_time_) {
            const PairRange some{begin, std::min(pairs_.end, begin + pairs_at_a_time_)};
            Rows rows = rows_of(some, batch_);
            rows.begin = pairs_.begin;  // weights are counted from the first pair of the call
            carry_forward(context, sums, rows);
            add_terms(context, rows, some);
        }
    }

   private:
    int depth() const { return static_cast<int>(network_.steps().size()); }

    // Activations of all hidden layers, to kept_.
    void carry_forward(Context& context, const float* sums, const Rows& rows) const {
        for (int l = 0; l + 1 < depth(); ++l) {
            SharedWeightsJob job = shared_weights_job(network_, &population_, 0, rows);
            job.layers = device_layers(network_, &population_, l, l + 1);
            job.corrected_layers = 1;
            job.inputs = l == 0 ? nullptr : kept_[l - 1];
            job.sums = l == 0 ? sums : nullptr;
            job.sums_by_sample = true;
            job.outputs = kept_[l];
            launch_shared_weights(context, network_.flush, layer_at_a_time, job);
        }
    }

    void add_terms(Context& context, const Rows& rows, PairRange some) const {
        const std::int64_t terms = some.count() * batch_.size;
        std::vector<TermsLayer> layers;
        for (const Step& layer : network_.steps()) {
            const int l = layer.position, fan_in = static_cast<int>(layer.tensor.fan_in),
                      fan_out = static_cast<int>(layer.tensor.fan_out);
            launch(left_kernel, Grid{terms}, elementwise_threads, 0, context,
                   LeftJob{rows, true, l == 0, fan_in, l == 0 ? batch_.x : kept_[l - 1], half_to_own_scale(layer),
                           terms, left_[l]});
            const std::uint32_t tensor = noise_tensor(l, population_.correction().right);
            launch(right_kernel, Grid{terms}, elementwise_threads, 0, context,
                   RightJob{noise_source(population_.noise), rows, job_.weights, tensor, fan_out, right_[l]});
            SumsOut out = sums_out(job_, layer);
            out.sums = sums_[l];
            out.started = some.begin > pairs_.begin;
            out.finished = some.end == pairs_.end;
            layers.push_back({left_[l], right_[l], fan_in, fan_out, 0, out});
        }
        launch_terms(context, terms, layers);
    }

    const SampleGradientJob& job_;
    const Network& network_;
    const Population& population_;
    PairRange pairs_;
    const Batches& batch_;
    FirstSums first_sums_;
    std::int64_t pairs_at_a_time_;
    std::vector<float*> sums_;
    std::vector<float*> kept_;  // activations of hidden layers
    std::vector<float*> left_;  // factors of the terms
    std::vector<float*> right_;
};

// --- A pair perturbs one layer ---------------------------------------------------------------------------------------

struct NoiseSumJob {
    NoiseSource noise;
    NoiseRole role;
    SampleWeights weights;
    Turn turn;
    std::int64_t first_pair;  // whose weights come first
    std::int64_t end_pair;
    std::int64_t pairs_each;  // that see the same batch
    std::int64_t batch;
    DeviceLayer layer;
    int units;
    const float* sums;  // of the unperturbed network, [batches * batch, fan_out]
    float* out;         // [batches * batch, right_stride(fan_out)], zeros at first

    // sum + weight z, where the noise has reached the network through this unit.
    template <class Mode>
    FPES_DEVICE float add(float weight, float z, std::int64_t sample, int unit, float sum) const {
        const float before = sums[sample * layer.fan_out + unit], bias = layer.scaled_bias(layer.bias[unit]);
        const bool dead = is_zero(layer.cross(Mode::fma(z, layer.scale, before), bias)) &&
                          is_zero(layer.cross(Mode::fma(z, opposite(layer.scale), before), bias));
        return dead ? sum : Ieee::fma(weight, z, sum);
    }
};

// The pairs that see a sample's batch.
FPES_DEVICE void pairs_of_sample(const NoiseSumJob& job, std::int64_t sample, std::int64_t& begin, std::int64_t& end) {
    begin = sample / job.batch * job.pairs_each;
    end = begin + job.pairs_each < job.end_pair ? begin + job.pairs_each : job.end_pair;
    if (begin < job.first_pair) begin = job.first_pair;
}

// All units: a thread eight of a sample's.
template <class Mode>
__global__ __launch_bounds__(elementwise_threads) void dense_noise_kernel(NoiseSumJob job, std::int64_t samples) {
    const int units = job.layer.fan_out;
    const std::int64_t groups = parts(units, per_thread), number = global_index(elementwise_threads);
    if (number >= samples * groups) return;
    const std::int64_t sample = number / groups, column = number % groups * per_thread;
    float sum[per_thread] = {};
    std::int64_t begin, end;
    pairs_of_sample(job, sample, begin, end);
    for (std::int64_t pair = begin; pair < end; ++pair) {
        if (!job.turn.has(pair)) continue;
        float z[per_thread];
        draw<per_thread>(job.noise.kind, job.noise.counters(noise_tensor(job.layer.position, job.role), pair),
                         static_cast<std::uint64_t>(sample % job.batch * units + column), z);
        const float weight = difference(job.weights, pair - job.first_pair, sample % job.batch);
        FPES_UNROLL
        for (int i = 0; i < per_thread; ++i) {
            const auto unit = static_cast<int>(column) + i;
            if (unit < units) sum[i] = job.add<Mode>(weight, z[i], sample, unit, sum[i]);
        }
    }
    FPES_UNROLL
    for (int i = 0; i < per_thread; ++i) {
        if (column + i < units) job.out[sample * right_stride(units) + column + i] = sum[i];
    }
}

// Few units: a block a sample. The j-th unit of every pair lies in stratum j, and a stratum is one thread's: so a sum
// has its pairs in order, and no thread waits for another.
constexpr int sparse_threads = 64;
template <class Mode>
__global__ __launch_bounds__(sparse_threads) void sparse_noise_kernel(NoiseSumJob job) {
    const std::int64_t sample = block_index(), within = sample % job.batch;
    float* const sums = job.out + sample * right_stride(job.layer.fan_out);
    std::int64_t begin, end;
    pairs_of_sample(job, sample, begin, end);
    for (std::int64_t pair = begin; pair < end; ++pair) {
        if (!job.turn.has(pair)) continue;
        const Counters positions = job.noise.counters(noise_tensor(job.layer.position, NoiseRole::positions), pair);
        const Counters draws = job.noise.counters(noise_tensor(job.layer.position, job.role), pair);
        const float weight = difference(job.weights, pair - job.first_pair, within);
        for (int j = thread_index(); j < job.units; j += sparse_threads) {
            const int unit = perturbed_unit(positions, within, j, job.units, job.layer.fan_out);
            const float z = draw_one(job.noise.kind, draws, static_cast<std::uint64_t>(within) * job.units + j);
            sums[unit] = job.add<Mode>(weight, z, sample, unit, sums[unit]);
        }
    }
}

class IncrementalGradientRun {
   public:
    IncrementalGradientRun(Context& context, const SampleGradientJob& job)
        : job_(job),
          network_(job.network),
          population_(job.population),
          pairs_(job.pairs),
          batch_(job.batch),
          samples_(batch_.count * batch_.size) {
        std::int64_t widest = 0, left = 0;
        for (const Step& layer : network_.steps()) {
            widest = std::max(widest, layer.tensor.fan_out);
            left = std::max(left, left_stride(layer.tensor.fan_in));
        }
        noise_ = context.arena.take<float>(samples_ * right_stride(widest));
        activations_ = context.arena.take<float>(samples_ * widest);
        left_ = context.arena.take<float>(samples_ * left);
    }

    void run(Context& context) const {
        const float *inputs = batch_.x, *sums = job_.sums;
        for (const Step& layer : network_.steps()) {
            sum_noise(context, layer, sums);
            const int fan_in = static_cast<int>(layer.tensor.fan_in), fan_out = static_cast<int>(layer.tensor.fan_out);
            launch(left_kernel, Grid{samples_}, elementwise_threads, 0, context,
                   LeftJob{Rows{}, false, false, fan_in, inputs, 1.0f, samples_, left_});
            SumsOut out = sums_out(job_, layer);
            out.finished = true;
            launch_terms(context, samples_, {{left_, noise_, fan_in, fan_out, 0, out}});
            if (layer.position + 1 == static_cast<int>(network_.steps().size())) break;
            const float factor = to_own_scale(network_.steps()[layer.position + 1]);
            cross_sums(context, device_layer(network_, &population_, layer.position), sums, samples_, factor,
                       activations_);
            inputs = activations_;
            sums += samples_ * layer.tensor.fan_out;
        }
    }

   private:
    void sum_noise(Context& context, const Step& layer, const float* sums) const {
        const NoiseSumJob job{noise_source(population_.noise),
                              population_.correction().right,
                              job_.weights,
                              population_.allocation.turn(layer.position),
                              pairs_.begin,
                              pairs_.end,
                              batch_.pairs_each,
                              batch_.size,
                              device_layer(network_, &population_, layer.position),
                              population_.allocation.units[layer.position],
                              sums,
                              noise_};
        in_product_mode(network_.flush, [&](auto mode) {
            using Mode = decltype(mode);
            const auto bytes = static_cast<std::size_t>(samples_ * right_stride(layer.tensor.fan_out)) * sizeof(float);
            fill_with_zeros(noise_, bytes, context);
            if (job.units > 0) {
                launch(sparse_noise_kernel<Mode>, Grid{samples_}, sparse_threads, 0, context, job);
            } else {
                const std::int64_t threads = samples_ * parts(layer.tensor.fan_out, per_thread);
                launch(dense_noise_kernel<Mode>, Grid{parts(threads, elementwise_threads)}, elementwise_threads, 0,
                       context, job, samples_);
            }
        });
    }

    const SampleGradientJob& job_;
    const Network& network_;
    const Population& population_;
    PairRange pairs_;
    const Batches& batch_;
    std::int64_t samples_;  // of all batches, one after another
    float* noise_;          // the right factors of a layer's terms
    float* activations_;    // inputs of a layer
    float* left_;           // the left factors
};

}  // namespace

void node_gradient(Context& context, const SampleGradientJob& job) {
    const NodeGradientRun run(context, job);
    if (!context.arena.measuring()) run.run(context);
}

void incremental_gradient(Context& context, const SampleGradientJob& job) {
    const IncrementalGradientRun run(context, job);
    if (!context.arena.measuring()) run.run(context);
}

void sample_gradient(Context& context, const Network& network, const Population& population, PairRange pairs,
                     std::int64_t pairs_of_population, const Batches& batch, const SampleWeights& weights,
                     const float* sums, float* gradient) {
    check_flush(network.flush);
    const SampleGradientJob job{network, population, pairs, pairs_of_population, batch, weights, sums, gradient};
    on_cuda(population, [&](auto family) { family.sample_gradient(context, job); });
}

FPES_NAMESPACE_END

// The gradients of node perturbation: sums of outer products (outer_sum.hpp) of inputs and weighted noise, an outer
// product for each term, in order. One more row, of ones, makes the gradient of the bias.
//
//     every pair perturbs all layers     terms (pair, sample): mean of the pair's inputs (x) weight * noise.
//                                        Some pairs at a time are carried forward once more, their activations kept,
//                                        and their terms continue the sums of those before.
//     a pair perturbs one layer          terms (sample): unperturbed inputs, whose sums evaluate() kept (x) sum over
//                                        pairs of weight * noise, which a kernel of its own adds up, pairs in order.
//                                        Noise that leaves a unit at zero in both members has not reached the network,
//                                        and is left out (cpu/incremental_gradient.cpp).
#include <algorithm>

#include "incremental.hpp"
#include "modes.hpp"
#include "outer_sum.hpp"

FPES_NAMESPACE_BEGIN
namespace {

// Weights of members, or of members and samples, and the difference of a pair.
struct MemberWeights {
    const float* weights;
    bool per_sample;
    std::int64_t batch;
    FPES_DEVICE float difference(std::int64_t pair, std::int64_t sample) const {
        if (!per_sample) return Ieee::sub(weights[2 * pair], weights[2 * pair + 1]);
        return Ieee::sub(weights[2 * pair * batch + sample], weights[(2 * pair + 1) * batch + sample]);
    }
};

// Four inputs of a layer from row i on, and the 1 of the bias where i reaches fan_in.
template <class Input>
FPES_DEVICE void four_inputs(int fan_in, std::int64_t i, Input input, float* to) {
    FPES_UNROLL
    for (int c = 0; c < 4; ++c) to[c] = i + c < fan_in ? input(i + c) : 1.0f;
}

struct NodeTerms {
    NoiseSource noise;
    Rows rows;  // of the pairs that are kept
    MemberWeights weights;
    int layer;
    int fan_in;
    int fan_out;
    const float* inputs;  // by sample in the first layer, else by row
    float half_unit;      // brings them back from the scaled domain, and makes a mean of a sum

    FPES_DEVICE void left(std::int64_t t, std::int64_t i, float* to) const {
        const Row row = row_of_term(t);
        const std::int64_t plus = layer == 0 ? row.input : row_number(t);
        const std::int64_t minus = layer == 0 ? row.input : row_number(t) + rows.batch;
        four_inputs(
            fan_in, i,
            [&](std::int64_t k) {
                return Ieee::mul(Ieee::add(inputs[plus * fan_in + k], inputs[minus * fan_in + k]), half_unit);
            },
            to);
    }
    FPES_DEVICE void right(std::int64_t t, std::int64_t j, float* to) const {
        const Row row = row_of_term(t);
        draw<4>(noise.kind, noise.counters(noise_tensor(layer, NoiseRole::node), row.pair),
                static_cast<std::uint64_t>(row.sample * std::int64_t{fan_out} + j), to);
        const float weight = weights.difference(row.pair - rows.begin, row.sample);
        FPES_UNROLL
        for (int c = 0; c < 4; ++c) to[c] = Ieee::mul(to[c], weight);
    }

   private:
    // Of the + member.
    FPES_DEVICE std::int64_t row_number(std::int64_t t) const {
        return t / rows.batch * 2 * rows.batch + t % rows.batch;
    }
    FPES_DEVICE Row row_of_term(std::int64_t t) const { return row_of(rows, 0, row_number(t)); }
};

struct SampleTerms {
    int fan_in;
    int fan_out;
    const float* inputs;  // [samples, fan_in]
    const float* noise;   // [samples, fan_out]

    FPES_DEVICE void left(std::int64_t t, std::int64_t i, float* to) const {
        four_inputs(fan_in, i, [&](std::int64_t k) { return inputs[t * fan_in + k]; }, to);
    }
    FPES_DEVICE void right(std::int64_t t, std::int64_t j, float* to) const {
        FPES_UNROLL
        for (int c = 0; c < 4; ++c) to[c] = j + c < fan_out ? noise[t * fan_out + j + c] : 0.0f;
    }
};

// What becomes of the sums of a layer, [fan_in + 1, fan_out].
struct SumsOut {
    float* sums;  // of terms before these, and with them
    bool started;
    bool finished;
    double scale;
    float* gradient;
    // A bias that the boundary flushes to zero has no influence, and its gradient is zero.
    const float* bias;
    float bias_factor;
    bool dead_biases;  // whether there may be any
};

template <class Terms>
__global__ __launch_bounds__(SumTile::threads) void terms_kernel(Terms terms, std::int64_t count, SumsOut out) {
    using T = SumTile;
    const int wide = static_cast<int>(parts(terms.fan_out, T::columns));
    const int first_row = block_index() / wide * T::rows, first_column = block_index() % wide * T::columns;
    const auto place = [&](int i, int j) {
        return static_cast<std::int64_t>(first_row + T::row(i)) * terms.fan_out + first_column + T::column(j);
    };
    const auto inside = [&](int i, int j) {
        return first_row + T::row(i) <= terms.fan_in && first_column + T::column(j) < terms.fan_out;
    };
    float sums[T::tm][T::tn] = {};
    if (out.started) {
        FPES_UNROLL
        for (int i = 0; i < T::tm; ++i) {
            FPES_UNROLL
            for (int j = 0; j < T::tn; ++j) sums[i][j] = inside(i, j) ? out.sums[place(i, j)] : 0.0f;
        }
    }
    sum_outer_products<FloatSums>(terms, 0, count, first_row, first_column, sums);
    FPES_UNROLL
    for (int i = 0; i < T::tm; ++i) {
        FPES_UNROLL
        for (int j = 0; j < T::tn; ++j) {
            if (!inside(i, j)) continue;
            if (!out.finished) {
                out.sums[place(i, j)] = sums[i][j];
                continue;
            }
            const bool of_bias = first_row + T::row(i) == terms.fan_in;
            const bool dead =
                of_bias && out.dead_biases && is_zero(out.bias[first_column + T::column(j)] * out.bias_factor);
            out.gradient[place(i, j)] = dead ? 0.0f : to_float(to_double(sums[i][j]) * out.scale);
        }
    }
}

template <class Terms>
void launch_terms(const Context& context, const Terms& terms, std::int64_t count, const SumsOut& out) {
    const Grid grid{parts(terms.fan_in + 1, SumTile::rows) * parts(terms.fan_out, SumTile::columns)};
    launch(terms_kernel<Terms>, grid, SumTile::threads, sum_shared_bytes, context, terms, count, out);
}

SumsOut sums_out(const Network& network, const Layer& layer, double scale, float* gradient) {
    SumsOut out{};
    out.scale = scale;
    out.gradient = gradient + layer.weight_offset;
    out.bias = network.theta + layer.bias_offset;
    out.bias_factor = layer.bias_factor;
    out.dead_biases = layer.index > 0 && elementwise_flushes(network.flush);
    return out;
}

class NodeGradientRun {
   public:
    NodeGradientRun(Context& context, const Network& network, const Population& population, PairRange pairs,
                    const Batches& batch)
        : network_(network),
          population_(population),
          pairs_(pairs),
          batch_(batch),
          first_sums_(context, network, pairs, batch) {
        std::int64_t widths = 1;
        for (int l = 0; l + 1 < depth(); ++l) widths += network.layers[l].fan_out;
        const std::int64_t most = context.device.floats_at_a_time;
        pairs_at_a_time_ = std::clamp<std::int64_t>(most / (2 * batch.size * widths), 1, pairs.count());
        for (const Layer& layer : network.layers) {
            sums_.push_back(context.arena.take<float>((layer.fan_in + 1) * layer.fan_out));
        }
        for (int l = 0; l + 1 < depth(); ++l) {
            kept_.push_back(context.arena.take<float>(pairs_at_a_time_ * 2 * batch.size * network.layers[l].fan_out));
        }
    }

    void run(Context& context, const MemberWeights& weights, float* gradient) const {
        const float* sums = depth() > 1 ? first_sums_.compute(context, network_, batch_) : nullptr;
        for (std::int64_t begin = pairs_.begin; begin < pairs_.end; begin += pairs_at_a_time_) {
            const PairRange some{begin, std::min(pairs_.end, begin + pairs_at_a_time_)};
            Rows rows = rows_of(some, batch_);
            rows.begin = pairs_.begin;  // weights are counted from the first pair of the call
            carry_forward(context, sums, rows);
            add_terms(context, weights, rows, some, gradient);
        }
    }

   private:
    int depth() const { return static_cast<int>(network_.layers.size()); }

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

    void add_terms(Context& context, const MemberWeights& weights, const Rows& rows, PairRange some,
                   float* gradient) const {
        const double members = 2.0 * static_cast<double>(pairs_.count());
        const double samples = weights.per_sample ? static_cast<double>(batch_.size) : 1.0;
        const double scale = noise_unit(population_.noise) / (members * samples * population_.sigma);
        for (const Layer& layer : network_.layers) {
            NodeTerms terms{};
            terms.noise = noise_source(population_);
            terms.rows = rows;
            terms.weights = weights;
            terms.layer = layer.index;
            terms.fan_in = static_cast<int>(layer.fan_in);
            terms.fan_out = static_cast<int>(layer.fan_out);
            terms.inputs = layer.index == 0 ? batch_.x : kept_[layer.index - 1];
            terms.half_unit = static_cast<float>(0.5 / static_cast<double>(layer.bias_factor));
            SumsOut out = sums_out(network_, layer, scale, gradient);
            out.sums = sums_[layer.index];
            out.started = some.begin > pairs_.begin;
            out.finished = some.end == pairs_.end;
            launch_terms(context, terms, some.count() * batch_.size, out);
        }
    }

    const Network& network_;
    const Population& population_;
    PairRange pairs_;
    const Batches& batch_;
    FirstSums first_sums_;
    std::int64_t pairs_at_a_time_;
    std::vector<float*> sums_;
    std::vector<float*> kept_;
};

// --- A pair perturbs one layer ---------------------------------------------------------------------------------------

struct NoiseSumJob {
    NoiseSource noise;
    MemberWeights weights;
    Turn turn;
    std::int64_t pairs;       // of the population
    std::int64_t pairs_each;  // that see the same batch
    std::int64_t batch;
    DeviceLayer layer;
    int units;
    const float* sums;  // of the unperturbed network, [batches * batch, fan_out]
    float* out;         // likewise; zeros where units are few

    // sum + weight z, where the noise has reached the network through this unit.
    template <class Mode>
    FPES_DEVICE float add(float weight, float z, std::int64_t sample, int unit, float sum) const {
        const float before = sums[sample * layer.fan_out + unit], bias = layer.scaled_bias(layer.bias[unit]);
        const bool dead = is_zero(layer.cross(Mode::fma(z, layer.node_scale, before), bias)) &&
                          is_zero(layer.cross(Mode::fma(z, opposite(layer.node_scale), before), bias));
        return dead ? sum : Ieee::fma(weight, z, sum);
    }
};

// The pairs that see a sample's batch.
FPES_DEVICE void pairs_of_sample(const NoiseSumJob& job, std::int64_t sample, std::int64_t& begin, std::int64_t& end) {
    begin = sample / job.batch * job.pairs_each;
    end = begin + job.pairs_each < job.pairs ? begin + job.pairs_each : job.pairs;
}

constexpr int per_thread = 8;

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
        draw<per_thread>(job.noise.kind, job.noise.counters(noise_tensor(job.layer.index, NoiseRole::node), pair),
                         static_cast<std::uint64_t>(sample % job.batch * units + column), z);
        const float weight = job.weights.difference(pair, sample % job.batch);
        FPES_UNROLL
        for (int i = 0; i < per_thread; ++i) {
            const auto unit = static_cast<int>(column) + i;
            if (unit < units) sum[i] = job.add<Mode>(weight, z[i], sample, unit, sum[i]);
        }
    }
    FPES_UNROLL
    for (int i = 0; i < per_thread; ++i) {
        if (column + i < units) job.out[sample * units + column + i] = sum[i];
    }
}

// Few units: a block a sample. The j-th unit of every pair lies in stratum j, and a stratum is one thread's: so a sum
// has its pairs in order, and no thread waits for another.
constexpr int sparse_threads = 64;
template <class Mode>
__global__ __launch_bounds__(sparse_threads) void sparse_noise_kernel(NoiseSumJob job) {
    const std::int64_t sample = block_index(), within = sample % job.batch;
    float* const sums = job.out + sample * job.layer.fan_out;
    std::int64_t begin, end;
    pairs_of_sample(job, sample, begin, end);
    for (std::int64_t pair = begin; pair < end; ++pair) {
        if (!job.turn.has(pair)) continue;
        const PhiloxCounters positions = job.noise.counters(noise_tensor(job.layer.index, NoiseRole::positions), pair);
        const PhiloxCounters draws = job.noise.counters(noise_tensor(job.layer.index, NoiseRole::node), pair);
        const float weight = job.weights.difference(pair, within);
        for (int j = thread_index(); j < job.units; j += sparse_threads) {
            const int unit = perturbed_unit(positions, within, j, job.units, job.layer.fan_out);
            const float z = draw_one(job.noise.kind, draws, static_cast<std::uint64_t>(within) * job.units + j);
            sums[unit] = job.add<Mode>(weight, z, sample, unit, sums[unit]);
        }
    }
}

class IncrementalGradientRun {
   public:
    IncrementalGradientRun(Context& context, const Network& network, const Population& population, PairRange pairs,
                           const Batches& batch)
        : network_(network), population_(population), pairs_(pairs), batch_(batch), samples_(batch.count * batch.size) {
        std::int64_t widest = 0;
        for (const Layer& layer : network.layers) widest = std::max(widest, layer.fan_out);
        noise_ = context.arena.take<float>(samples_ * widest);
        activations_ = context.arena.take<float>(samples_ * widest);
    }

    void run(Context& context, const MemberWeights& weights, const float* sums, float* gradient) const {
        const float* inputs = batch_.x;
        for (const Layer& layer : network_.layers) {
            sum_noise(context, weights, layer, sums);
            const SampleTerms terms{static_cast<int>(layer.fan_in), static_cast<int>(layer.fan_out), inputs, noise_};
            SumsOut out = sums_out(network_, layer, scale(layer, weights.per_sample), gradient);
            out.finished = true;
            launch_terms(context, terms, samples_, out);
            if (layer.index + 1 == static_cast<int>(network_.layers.size())) break;
            // Back from the scaled domain, exactly.
            const float factor = 1.0f / network_.layers[layer.index + 1].bias_factor;
            cross_sums(context, device_layers(network_, &population_, layer.index, layer.index + 1).layer[0], sums,
                       samples_, factor, activations_);
            inputs = activations_;
            sums += samples_ * layer.fan_out;
        }
    }

   private:
    void sum_noise(Context& context, const MemberWeights& weights, const Layer& layer, const float* sums) const {
        const NoiseSumJob job{noise_source(population_),
                              weights,
                              turn_of(population_, layer.index),
                              pairs_.end,
                              batch_.pairs_each,
                              batch_.size,
                              device_layers(network_, &population_, layer.index, layer.index + 1).layer[0],
                              population_.units[layer.index],
                              sums,
                              noise_};
        in_product_mode(network_.flush, [&](auto mode) {
            using Mode = decltype(mode);
            if (job.units > 0) {
                fill_with_zeros(noise_, static_cast<std::size_t>(samples_ * layer.fan_out) * sizeof(float), context);
                launch(sparse_noise_kernel<Mode>, Grid{samples_}, sparse_threads, 0, context, job);
            } else {
                const std::int64_t threads = samples_ * parts(layer.fan_out, per_thread);
                launch(dense_noise_kernel<Mode>, Grid{parts(threads, elementwise_threads)}, elementwise_threads, 0,
                       context, job, samples_);
            }
        });
    }

    // A unit is perturbed in k of n draws only, which the factor n / k makes up for.
    double scale(const Layer& layer, bool per_sample) const {
        std::int64_t pairs = 0;
        for (std::int64_t pair = pairs_.begin; pair < pairs_.end; ++pair) {
            pairs += population_.layer_of(pair) == layer.index;
        }
        const double members = 2.0 * static_cast<double>(pairs);
        const double samples = per_sample ? static_cast<double>(batch_.size) : 1.0;
        const double unit = noise_unit(population_.noise) / (members * samples * population_.sigma);
        const int k = population_.units[layer.index];
        return k ? unit * (static_cast<double>(layer.fan_out) / k) : unit;
    }

    const Network& network_;
    const Population& population_;
    PairRange pairs_;
    const Batches& batch_;
    std::int64_t samples_;  // of all batches, one after another
    float* noise_;
    float* activations_;  // inputs of a layer
};

}  // namespace

void node_gradient(Context& context, const Network& network, const Population& population, PairRange pairs,
                   const Batches& batch, const float* weights, bool per_sample, float* gradient) {
    check_flush(network.flush);
    const NodeGradientRun run(context, network, population, pairs, batch);
    if (!context.arena.measuring()) run.run(context, {weights, per_sample, batch.size}, gradient);
}

void incremental_gradient(Context& context, const Network& network, const Population& population, PairRange pairs,
                          const Batches& batch, const float* weights, bool per_sample, const float* sums,
                          float* gradient) {
    check_flush(network.flush);
    const IncrementalGradientRun run(context, network, population, pairs, batch);
    if (!context.arena.measuring()) run.run(context, {weights, per_sample, batch.size}, sums, gradient);
}

FPES_NAMESPACE_END

// One layer at a time: each pair of members perturbs one layer, by a correction of its sums
// (common/perturbations/family.hpp), and what it leaves alone is not computed again.
//
// The unperturbed network is carried forward once for each distinct sample, and its sums are kept. A pair that perturbs
// all units of a layer starts from that layer's sums, as node perturbation does (shared_weights.hpp), and nothing above
// is perturbed. A pair that perturbs k units of a layer changes at most k of its activations, so the next layer's sums
// are those that are there plus at most k rows of its weights:
//
//      h, k units perturbed       w of the next layer         its sums
//     +----------------+         +---------+
//     |  x     x   x   |         | row x   |            +----------------------------+
//     +----------------+         | row x   |     ->     | unperturbed + dh_x w_x ... |    a block for each pair and
//        dh = h' - h,            | row x   |            +----------------------------+    sample, a thread some columns
//        often zero              +---------+
//
// Why this shape. Units, noise and changes are the same for all columns, so the block works them out once. Each sum is
// a chain, so a column is one thread's; threads side by side read rows of weights side by side. That is a load for each
// multiply-add, but of k rows in place of all.
//
// The shared-weights kernel goes on from those sums. Of the last layer, the changed sums are what it starts from; so
// are those of any layer that a correction of inputs perturbs in all units.
//
// A correction of inputs has one term here: q = (h a) * (+-scale) for each sample, and sum' = fma(q, b_j, sum); a, the
// units and b are the pair's own. Any other: sum' = fma(z, +-scale, sum), units and z anew for each sample.
#include <algorithm>

#include "modes.hpp"
#include "population.hpp"
#include "units.hpp"

FPES_NAMESPACE_BEGIN
namespace {

constexpr int threads = 128;
// Units whose changes are worked out at a time.
constexpr int chunk = 1024;

struct Change {
    int unit;
    float value[2];  // of the + and the - member
};

struct ChangesJob {
    Rows rows;
    NoiseSource noise;
    DeviceLayer layer;  // that is perturbed
    int units;          // of it
    Correction correction;
    const float* inputs;       // of the layer, by sample: where the correction is of inputs
    const float* sums;         // of the layer, unperturbed, by sample
    const float* activations;  // likewise
    // The layer above, or null and 0 where there is none.
    const float* next_weight;
    const float* next_sums;
    int next_units;
    float* out;  // sums [rows, units of the layer above, or of the last layer itself]
};

// k's of a left factor that are drawn at a time.
constexpr int factor_chunk = 512;
static_assert(factor_chunk % 8 == 0, "it is drawn eight at a time");

// h a for one sample, k in order. The whole block draws, into `factor`, and one thread multiplies; all get the product.
template <class Mode>
FPES_DEVICE float left_product(const ChangesJob& job, const Row& row, float* factor) {
    const DeviceLayer& layer = job.layer;
    const Counters counters = job.noise.counters(noise_tensor(layer.position, job.correction.left), row.pair);
    const float* h = job.inputs + row.input * layer.fan_in;
    float* const product = factor + factor_chunk;
    if (thread_index() == 0) *product = 0.0f;
    for (int begin = 0; begin < layer.fan_in; begin += factor_chunk) {
        const int count = smaller(factor_chunk, layer.fan_in - begin);
        for (int k = 8 * thread_index(); k < count; k += 8 * threads) {
            draw_to(factor + k, job.noise.kind, counters, static_cast<std::uint64_t>(begin + k));
        }
        __syncthreads();
        if (thread_index() == 0) {
            float sum = *product;
            for (int k = 0; k < count; ++k) sum = Mode::fma(h[begin + k], factor[k], sum);
            *product = sum;
        }
        __syncthreads();
    }
    return *product;
}

// The sum of the j-th perturbed unit of the layer, for both members. product: h a, of a correction of inputs.
template <class Mode>
FPES_DEVICE Change changed_sum(const ChangesJob& job, const Row& row, int j, float product) {
    const DeviceLayer& layer = job.layer;
    const auto of = [&](NoiseRole role) { return job.noise.counters(noise_tensor(layer.position, role), row.pair); };
    Change change;
    const int drawn_for = job.correction.of_inputs ? 0 : row.sample;
    change.unit = perturbed_unit(of(NoiseRole::positions), drawn_for, j, job.units, layer.fan_out);
    const float sum = job.sums[row.input * layer.fan_out + change.unit];
    const Counters right = of(job.correction.right);
    if (job.correction.of_inputs) {
        const float b = draw_one(job.noise.kind, right, static_cast<std::uint64_t>(j));
        change.value[0] = Mode::fma(Mode::mul(product, layer.scale), b, sum);
        change.value[1] = Mode::fma(Mode::mul(product, opposite(layer.scale)), b, sum);
        return change;
    }
    const float z = draw_one(job.noise.kind, right, static_cast<std::uint64_t>(row.sample) * job.units + j);
    change.value[0] = Mode::fma(z, layer.scale, sum);
    change.value[1] = Mode::fma(z, opposite(layer.scale), sum);
    return change;
}

template <class Mode>
__global__ __launch_bounds__(threads) void changes_kernel(const FPES_CONSTANT ChangesJob job) {
    auto* const changes = dynamic_shared<Change>();
    const DeviceLayer& layer = job.layer;
    const std::int64_t place = block_index() / job.rows.batch, sample = block_index() % job.rows.batch;
    const std::int64_t first_row = 2 * place * job.rows.batch + sample;  // of the + member
    const Row row = row_of(job.rows, first_row, first_row);
    const bool last = job.next_weight == nullptr;
    const int columns = last ? layer.fan_out : job.next_units;
    const float* from = (last ? job.sums : job.next_sums) + row.input * columns;
    float* const out[2] = {job.out + first_row * columns, job.out + (first_row + job.rows.batch) * columns};
    for (int j = thread_index(); j < columns; j += threads) out[0][j] = out[1][j] = from[j];
    const int most_changes = smaller(chunk, job.units);
    const float product = job.correction.of_inputs
                              ? left_product<Mode>(job, row, reinterpret_cast<float*>(changes + most_changes))
                              : 0.0f;

    for (int begin = 0; begin < job.units; begin += chunk) {
        const int count = smaller(chunk, job.units - begin);
        __syncthreads();  // the sums are there, and everybody is done with the last changes
        for (int i = thread_index(); i < count; i += threads) {
            Change change = changed_sum<Mode>(job, row, begin + i, product);
            for (int sign = 0; sign < 2; ++sign) {
                if (last) {
                    out[sign][change.unit] = change.value[sign];
                } else {
                    const float h = layer.cross(change.value[sign], layer.scaled_bias(layer.bias[change.unit]));
                    change.value[sign] = Mode::sub(h, job.activations[row.input * layer.fan_out + change.unit]);
                }
            }
            changes[i] = change;
        }
        if (last) continue;
        __syncthreads();
        for (int j = thread_index(); j < columns; j += threads) {
            for (int sign = 0; sign < 2; ++sign) {
                float sum = out[sign][j];
                for (int i = 0; i < count; ++i) {
                    if (is_zero(changes[i].value[sign])) continue;
                    const std::int64_t at = static_cast<std::int64_t>(changes[i].unit) * columns + j;
                    sum = Mode::fma(changes[i].value[sign], job.next_weight[at], sum);
                }
                out[sign][j] = sum;
            }
        }
    }
}

class IncrementalRun {
   public:
    IncrementalRun(Context& context, const Network& network, const Population& population, PairRange pairs,
                   const Batches& batch, float* kept)
        : network_(network),
          population_(population),
          pairs_(pairs),
          batch_(batch),
          first_sample_(batch.batch_of(pairs.begin) * batch.size),
          samples_((batch.batch_of(pairs.end - 1) + 1) * batch.size - first_sample_) {
        for (const Step& layer : network.steps()) {
            // Where the gradient wants them, if it does.
            sums_.push_back(kept ? kept + first_sample_ * layer.tensor.fan_out
                                 : context.arena.take<float>(samples_ * layer.tensor.fan_out));
            if (kept) kept += batch.count * batch.size * layer.tensor.fan_out;
            activations_.push_back(context.arena.take<float>(samples_ * layer.tensor.fan_out));
        }
        // Layers are perturbed one after another, and may use the same memory.
        const Arena before = context.arena;
        Arena largest = before;
        for (int l = 0; l < depth(); ++l) {
            context.arena = before;
            plans_.push_back(plan_layer(context, l));
            if (context.arena.used() > largest.used()) largest = context.arena;
        }
        context.arena = largest;
    }

    void run(Context& context, float* outputs, const LossSink& sink) const {
        forward(context);
        for (const LayerPlan& plan : plans_) run_layer(context, plan, outputs, sink);
    }

   private:
    struct LayerPlan {
        int layer;
        int begin;            // the layer where the shared-weights kernel starts
        Rows rows;            // of all its pairs
        std::int64_t places;  // that are worked on at a time
        float* changed;       // their sums, where few units are perturbed
        SharedWeightsRun run;
    };

    int depth() const { return static_cast<int>(network_.steps().size()); }

    LayerPlan plan_layer(Context& context, int l) const {
        const Turn turn = population_.allocation.turn(l);
        const std::int64_t first_cycle = pairs_.begin / turn.cycle;
        const std::int64_t all_places = (parts(pairs_.end, turn.cycle) - first_cycle) * turn.run;
        Rows rows{2 * all_places * batch_.size,
                  0,
                  batch_.size,
                  2,
                  first_cycle * turn.cycle + turn.offset,
                  turn.run,
                  turn.cycle,
                  pairs_.begin,
                  pairs_.end,
                  batch_.pairs_each};
        const bool sparse = population_.allocation.units[l] > 0;
        const int begin = sparse ? std::min(l + 1, depth() - 1) : l;
        std::int64_t places = all_places;
        float* changed = nullptr;
        if (sparse || population_.correction().of_inputs) {
            const std::int64_t floats = 2 * batch_.size * network_.steps()[begin].tensor.fan_out;
            places = std::clamp<std::int64_t>(context.device.floats_at_a_time / floats, 1, all_places);
            changed = context.arena.take<float>(places * floats);
        }
        Rows part = rows;
        part.count = 2 * places * batch_.size;
        return {l, begin, rows, places, changed, SharedWeightsRun(context, network_, &population_, begin, part)};
    }

    // The unperturbed network, on the samples that the pairs see.
    void forward(Context& context) const {
        const float* in = batch_.x + first_sample_ * network_.steps()[0].tensor.fan_in;
        for (int l = 0; l < depth(); ++l) {
            const Step& layer = network_.steps()[l];
            gemm(context, network_.flush, in, network_.theta + layer.tensor.weight_offset, sums_[l], samples_,
                 layer.tensor.fan_out, layer.tensor.fan_in);
            cross_sums(context, device_layer(network_, &population_, l), sums_[l], samples_, 1.0f, activations_[l]);
            in = activations_[l];
        }
    }

    // An array by sample of the samples that are there, as if it began at sample 0 of batch 0.
    const float* by_sample(const float* array, int l) const {
        return array - first_sample_ * network_.steps()[l].tensor.fan_out;
    }

    void run_layer(Context& context, const LayerPlan& plan, float* outputs, const LossSink& sink) const {
        const std::int64_t rows_of_a_place = 2 * batch_.size, all = plan.rows.count / rows_of_a_place;
        for (std::int64_t first = 0; first < all; first += plan.places) {
            Rows rows = plan.rows;
            rows.first_place = first;
            rows.count = std::min(plan.places, all - first) * rows_of_a_place;
            SharedWeightsJob job = shared_weights_job(network_, &population_, plan.begin, rows);
            if (plan.changed) {
                find_changes(context, plan, rows);
                job.sums = plan.changed;
                job.corrected_layers = 0;
            } else {
                job.sums = by_sample(sums_[plan.begin], plan.begin);
                job.sums_by_sample = true;
                job.corrected_layers = 1;
            }
            job.outputs = outputs;
            job.sink = sink;
            plan.run.run(context, job);
        }
    }

    void find_changes(Context& context, const LayerPlan& plan, const Rows& rows) const {
        ChangesJob job{};
        job.rows = rows;
        job.noise = noise_source(population_.noise);
        job.layer = device_layer(network_, &population_, plan.layer);
        // All units are as many strata of one unit.
        job.units = static_cast<int>(population_.allocation.perturbed_units(network_.steps()[plan.layer].tensor));
        job.correction = population_.correction();
        job.inputs = plan.layer == 0 ? batch_.x : by_sample(activations_[plan.layer - 1], plan.layer - 1);
        job.sums = by_sample(sums_[plan.layer], plan.layer);
        job.activations = by_sample(activations_[plan.layer], plan.layer);
        if (plan.begin > plan.layer) {
            const Step& next = network_.steps()[plan.begin];
            job.next_weight = network_.theta + next.tensor.weight_offset;
            job.next_sums = by_sample(sums_[plan.begin], plan.begin);
            job.next_units = static_cast<int>(next.tensor.fan_out);
        }
        job.out = plan.changed;
        const int bytes = std::min(job.units, chunk) * static_cast<int>(sizeof(Change)) +
                          (job.correction.of_inputs ? (factor_chunk + 1) * static_cast<int>(sizeof(float)) : 0);
        in_product_mode(network_.flush, [&](auto mode) {
            launch(changes_kernel<decltype(mode)>, Grid{rows.count / 2}, threads, bytes, context, job);
        });
    }

    const Network& network_;
    const Population& population_;
    PairRange pairs_;
    const Batches& batch_;
    std::int64_t first_sample_;
    std::int64_t samples_;
    std::vector<float*> sums_;
    std::vector<float*> activations_;
    std::vector<LayerPlan> plans_;
};

}  // namespace

void run_incremental(Context& context, const Job& job) {
    const IncrementalRun run(context, job.network, job.population, job.pairs, job.batch, job.sums);
    if (!context.arena.measuring()) run.run(context, job.outputs, job.sink);
}

std::string incremental_plan(const Device& device, const Job& job) {
    const Network& network = job.network;
    const Allocation& allocation = job.population.allocation;
    std::string words = "the unperturbed network once for each sample";
    for (int l = 0; l < static_cast<int>(network.steps().size()); ++l) {
        const Turn turn = allocation.turn(l);
        const bool sparse = allocation.units[l] > 0;
        const int begin = sparse ? std::min(l + 1, static_cast<int>(network.steps().size()) - 1) : l;
        const std::int64_t rows = 2 * job.pairs.count() / turn.cycle * turn.run * job.batch.size;
        const Choice choice = choose_shared_weights(device, network, begin, rows, job.batch.size, 0);
        words += "\nlayer " + std::to_string(l) + ": " +
                 (sparse ? "changes of " + std::to_string(allocation.units[l]) + " units, then "
                         : std::string("changes of all units, then ")) +
                 shared_weights_in_words(choice);
    }
    return words;
}

FPES_NAMESPACE_END

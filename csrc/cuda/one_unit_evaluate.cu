// Evaluation of members that differ in one unit: only what the unit's change reaches is computed, and all units of all
// draws of a layer in one launch.
//
// With dh the change of the unit's activation on a sample:
//
//   - a unit of the last layer changes one logit; one of the layer before, the last layer's sums by one term each,
//     acc = fma(dh, w, acc). A thread has a member on a sample, and makes each logit whenever it needs it: a
//     multiply-add and the boundary are less than a place to keep it;
//   - a unit further down changes the next layer's sums by one term each, and then all that lies above is computed
//   anew.
//     A block has some units, both signs, on one sample. It finds those whose activation changes, and carries these
//     together through the layers:
//
//          sums of the next layer          its activations,              sums of the layer after
//         +----------------------+         in shared memory             +-----------------------+
//   rows  | acc + dh_row w_row   |   ->   +--------------------+   ->   | a thread: four rows   |   -> ... -> losses
//         +----------------------+        | k by k, four rows  |        | of a column           |
//                                         +--------------------+        +-----------------------+
//
// Where dh is zero, which it mostly is, a member has the loss of the unperturbed network, the centre. Losses go to
// memory, and a last launch adds them up: a thread a member, samples in order.
#include <algorithm>

#include "loss.hpp"
#include "modes.hpp"
#include "one_unit.hpp"

FPES_NAMESPACE_BEGIN
namespace {

// Members that perturb one layer.
struct LayerMembers {
    UnitDraws draws;
    DeviceLayer layer;
    DeviceLayer last;
    std::int64_t block_pairs;
    std::int64_t first_pair;  // of the layer, in a block
    std::int64_t first_block;
    PairRange pairs;
    const float* sums;      // of the layer, unperturbed
    const float* top_sums;  // of the last layer
    const float* changes;
    Targets targets;      // without numbers: no losses are wanted
    const float* centre;  // losses of the unperturbed network: [rows]
    float* losses;        // [members, samples], if they are
    float* outputs;       // [members, samples, classes], or null

    FPES_DEVICE std::int64_t pair(std::int64_t block, int draw, int unit) const {
        return block * block_pairs + first_pair + static_cast<std::int64_t>(draw) * layer.fan_out + unit;
    }
    FPES_DEVICE bool inside(std::int64_t pair) const { return pair >= pairs.begin && pair < pairs.end; }
    FPES_DEVICE std::int64_t row(std::int64_t block, int sample) const {
        return draws.batch_of(block) * draws.samples + sample;
    }
    // In arrays [members, samples].
    FPES_DEVICE std::int64_t place(std::int64_t pair, int sign, int sample) const {
        return (2 * (pair - pairs.begin) + sign) * draws.samples + sample;
    }

    template <class Mode>
    FPES_DEVICE float changed_sum(std::int64_t block, int draw, int unit, int sign, int sample) const {
        const float change = changes[draws.place(block, draw) + sample],
                    sum = sums[row(block, sample) * layer.fan_out + unit];
        return Mode::fma(change, sign ? opposite(layer.bias_factor) : layer.bias_factor, sum);
    }
    // dh
    template <class Mode>
    FPES_DEVICE float changed_activation(float changed_sum, std::int64_t row, int unit) const {
        const float bias = layer.scaled_bias(layer.bias[unit]), sum = sums[row * layer.fan_out + unit];
        return Mode::sub(layer.cross(changed_sum, bias), layer.cross(sum, bias));
    }

    // A logit from its sum.
    FPES_DEVICE float logit(float sum, int c) const { return last.cross(sum, last.scaled_bias(last.bias[c])); }

    // A member on a sample that has these sums of the last layer.
    template <class Sum>
    FPES_DEVICE void finish(std::int64_t place, std::int64_t row, Sum sum) const {
        write(place, sum);
        if (!targets.numbers) return;
        losses[place] = loss_of(targets, row, last.fan_out, [&](int c) { return logit(sum(c), c); });
    }
    // One that nothing has changed for.
    FPES_DEVICE void finish_unchanged(std::int64_t place, std::int64_t row) const {
        write(place, [&](int c) { return top_sums[row * last.fan_out + c]; });
        if (targets.numbers) losses[place] = centre[row];
    }

   private:
    template <class Sum>
    FPES_DEVICE void write(std::int64_t place, Sum sum) const {
        for (int c = 0; outputs && c < last.fan_out; ++c) outputs[place * last.fan_out + c] = logit(sum(c), c);
    }
};

// --- Units of the last two layers ---

template <class Mode, bool of_last>
__global__ __launch_bounds__(elementwise_threads) void near_kernel(const FPES_CONSTANT LayerMembers job,
                                                                   std::int64_t count) {
    const std::int64_t t = global_index(elementwise_threads);
    if (t >= count) return;
    const int sample = static_cast<int>(t % job.draws.samples);
    const std::int64_t member = t / job.draws.samples;
    const int sign = static_cast<int>(member % 2), unit = static_cast<int>(member / 2 % job.layer.fan_out);
    const std::int64_t place_of_draw = member / 2 / job.layer.fan_out;
    const int draw = static_cast<int>(place_of_draw % job.draws.count);
    const std::int64_t block = job.first_block + place_of_draw / job.draws.count, pair = job.pair(block, draw, unit);
    if (!job.inside(pair)) return;
    const std::int64_t place = job.place(pair, sign, sample), row = job.row(block, sample);
    const float* const top = job.top_sums + row * job.last.fan_out;
    const float sum = job.changed_sum<Mode>(block, draw, unit, sign, sample);
    if constexpr (of_last) {
        job.finish(place, row, [&](int c) { return c == unit ? sum : top[c]; });
    } else {
        const float change = job.changed_activation<Mode>(sum, row, unit);
        if (is_zero(change)) return job.finish_unchanged(place, row);
        const float* const weight = job.last.weight + static_cast<std::int64_t>(unit) * job.last.fan_out;
        job.finish(place, row, [&](int c) { return Mode::fma(change, weight[c], top[c]); });
    }
}

// --- Units further down ---

constexpr int far_threads = 128;
// Units of a block, and its members on a sample.
constexpr int far_units = 32, far_members = 2 * far_units;
static_assert(far_members % 4 == 0, "flags of four members are a word");

struct FarJob {
    LayerMembers members;
    DeviceLayers above;      // from the next layer to the last
    const float* next_sums;  // of the next layer, unperturbed
    int rows;                // that go up through the layers together, a multiple of four
    int widths[2];           // of the two buffers of activations, which layers use in turn
    std::int64_t items;      // (block, draw, units, sample), in that order
    std::int64_t at_a_time;  // as many as there are blocks of threads
    float* buffers;          // of each of these; null where they fit shared memory

    // A column of activations: a multiple of 16 bytes, such that columns side by side lie in different banks.
    FPES_INLINE int stride() const { return rows + 4; }
    FPES_INLINE int buffer_floats() const { return (widths[0] + widths[1]) * stride(); }
};
static_assert(sizeof(FarJob) <= most_argument_bytes, "a job travels with the launch");

constexpr int found_bytes = far_members * static_cast<int>(sizeof(float) + sizeof(int) + 1);

template <class Mode>
class FarBlock {
   public:
    FPES_DEVICE explicit FarBlock(const FarJob& job)
        : job_(job),
          members_(job.members),
          changes_(dynamic_shared<float>()),
          found_(reinterpret_cast<int*>(changes_ + far_members)),
          flags_(reinterpret_cast<unsigned char*>(found_ + far_members)),
          buffer_(job.buffers ? job.buffers + block_index() * static_cast<std::int64_t>(job.buffer_floats())
                              : reinterpret_cast<float*>(flags_ + far_members)) {}

    FPES_DEVICE void run(std::int64_t item) {
        const int tiles = static_cast<int>(parts(members_.layer.fan_out, far_units)), samples = members_.draws.samples;
        sample_ = static_cast<int>(item % samples);
        first_unit_ = static_cast<int>(item / samples % tiles) * far_units;
        const std::int64_t place = item / samples / tiles;
        draw_ = static_cast<int>(place % members_.draws.count);
        block_ = members_.first_block + place / members_.draws.count;
        row_ = members_.row(block_, sample_);
        const int count = find();
        for (int first = 0; first < count; first += job_.rows) go_up(first, smaller(job_.rows, count - first));
    }

   private:
    FPES_DEVICE int unit(int member) const { return first_unit_ + member / 2; }
    FPES_DEVICE std::int64_t place(int member) const {
        return members_.place(members_.pair(block_, draw_, unit(member)), member % 2, sample_);
    }

    // Whether a member of the call changes its unit's activation; those that don't are finished.
    FPES_DEVICE bool reaches(int member) {
        if (unit(member) >= members_.layer.fan_out) return false;
        if (!members_.inside(members_.pair(block_, draw_, unit(member)))) return false;
        const float sum = members_.template changed_sum<Mode>(block_, draw_, unit(member), member % 2, sample_);
        const float change = members_.template changed_activation<Mode>(sum, row_, unit(member));
        changes_[member] = change;
        if (!is_zero(change)) return true;
        members_.finish_unchanged(place(member), row_);
        return false;
    }

    // Lists the members that change something, ascending, and counts them.
    FPES_DEVICE int find() {
        __syncthreads();  // everybody is done with the last list
        for (int m = thread_index(); m < far_members; m += far_threads) flags_[m] = reaches(m);
        __syncthreads();
        const auto* const words = reinterpret_cast<const std::uint32_t*>(flags_);
        for (int m = thread_index(); m < far_members; m += far_threads) {
            if (!flags_[m]) continue;
            int before = population_count(words[m / 4] & ((1u << m % 4 * 8) - 1u));
            for (int word = 0; word < m / 4; ++word) before += population_count(words[word]);
            found_[before] = m;
        }
        int count = 0;
        for (int word = 0; word < far_members / 4; ++word) count += population_count(words[word]);
        __syncthreads();
        return count;
    }

    // Rows first ... first + count - 1 of the list, from the change of their units to their losses.
    FPES_DEVICE void go_up(int first, int count) {
        float* in = buffer_;
        float* out = buffer_ + job_.widths[0] * job_.stride();
        const int groups = static_cast<int>(parts(count, 4));
        change_next_layer(first, count, groups, in);
        for (int l = 1; l < job_.above.count; ++l) {
            __syncthreads();
            multiply(job_.above.layer[l], in, groups, l + 1 < job_.above.count, out);
            float* const turned = in;
            in = out;
            out = turned;
        }
        __syncthreads();
        for (int r = thread_index(); r < count; r += far_threads) {
            const int stride = job_.stride();
            members_.finish(place(found_[first + r]), row_, [&](int c) { return in[c * stride + r]; });
        }
        __syncthreads();
    }

    // Activations of the next layer: [k, row].
    FPES_DEVICE void change_next_layer(int first, int count, int groups, float* out) const {
        const DeviceLayer& next = job_.above.layer[0];
        const float* const sums = job_.next_sums + row_ * next.fan_out;
        for (int task = thread_index(); task < groups * next.fan_out; task += far_threads) {
            const int k = task % next.fan_out, group = task / next.fan_out;
            const float sum = sums[k], bias = next.scaled_bias(next.bias[k]);
            float four[4];
            FPES_UNROLL
            for (int i = 0; i < 4; ++i) {
                // Beyond the last row it is computed once more.
                const int member = found_[first + smaller(4 * group + i, count - 1)];
                const float weight = next.weight[static_cast<std::int64_t>(unit(member)) * next.fan_out + k];
                four[i] = next.cross(Mode::fma(changes_[member], weight, sum), bias);
            }
            store4(out + k * job_.stride() + 4 * group, four);
        }
    }

    // Sums of a layer, or its activations.
    FPES_DEVICE void multiply(const DeviceLayer& layer, const float* in, int groups, bool crosses, float* out) const {
        const int n = layer.fan_out, stride = job_.stride();
        for (int task = thread_index(); task < groups * n; task += far_threads) {
            const int column = task % n, group = task / n;
            const float* const weight = layer.weight + column;
            float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            for (int k = 0; k < layer.fan_in; ++k) {
                const float right = weight[static_cast<std::int64_t>(k) * n];
                float left[4];
                load4(in + k * stride + 4 * group, left);
                FPES_UNROLL
                for (int i = 0; i < 4; ++i) sum[i] = Mode::fma(left[i], right, sum[i]);
            }
            if (crosses) {
                const float bias = layer.scaled_bias(layer.bias[column]);
                FPES_UNROLL
                for (int i = 0; i < 4; ++i) sum[i] = layer.cross(sum[i], bias);
            }
            store4(out + column * stride + 4 * group, sum);
        }
    }

    const FarJob& job_;
    const LayerMembers& members_;
    float* changes_;        // of each member's activation
    int* found_;            // the members for which it isn't zero
    unsigned char* flags_;  // of each member, whether it is one of them
    float* buffer_;
    int sample_ = 0;
    int first_unit_ = 0;
    int draw_ = 0;
    std::int64_t block_ = 0;
    std::int64_t row_ = 0;
};

template <class Mode>
__global__ __launch_bounds__(far_threads) void far_kernel(const FPES_CONSTANT FarJob job) {
    FarBlock<Mode> block(job);
    for (std::int64_t item = block_index(); item < job.items; item += job.at_a_time) block.run(item);
}

// --- The centre, and the fitness ---

__global__ __launch_bounds__(elementwise_threads) void centre_kernel(DeviceLayer last, const float* sums,
                                                                     Targets targets, std::int64_t first,
                                                                     std::int64_t count, float* losses) {
    const std::int64_t i = global_index(elementwise_threads);
    if (i >= count) return;
    const float* const from = sums + (first + i) * last.fan_out;
    losses[first + i] = loss_of(targets, first + i, last.fan_out,
                                [&](int c) { return last.cross(from[c], last.scaled_bias(last.bias[c])); });
}

struct FitnessJob {
    const float* losses;   // [members, samples]
    const float* weights;  // [batches, samples], or null
    std::int64_t first_member;
    std::int64_t members;
    std::int64_t members_each;  // that see the same batch
    std::int64_t samples;
    float* fitness;
};

// Minus the mean, of weighted losses.
__global__ __launch_bounds__(elementwise_threads) void fitness_kernel(FitnessJob job) {
    const std::int64_t i = global_index(elementwise_threads);
    if (i >= job.members) return;
    const float* const losses = job.losses + i * job.samples;
    const float* const weights =
        job.weights ? job.weights + (job.first_member + i) / job.members_each * job.samples : nullptr;
    job.fitness[i] = fitness_of(
        job.samples, [=](std::int64_t b) { return (weights ? to_double(weights[b]) : 1.0) * to_double(losses[b]); });
}

// --- On the host side ---

class EvaluateRun {
   public:
    EvaluateRun(Context& context, const UnitJob& job, PairRange pairs, const UnitResults& results)
        : job_(job), pairs_(pairs), results_(results), samples_(job.batch.size), centre_(results.centre) {
        if (depth() > most_layers) {
            throw std::invalid_argument("the network has " + std::to_string(depth()) + " layers, expected at most " +
                                        std::to_string(most_layers) + " for one-unit populations on a GPU");
        }
        pairs_at_a_time_ = pairs.count();
        if (job.batch.targets.numbers) {
            if (!centre_) centre_ = context.arena.take<float>(job.rows());
            if (results.fitness && !results.losses) {
                const std::int64_t most = context.device.floats_at_a_time / (2 * samples_);
                pairs_at_a_time_ = std::clamp<std::int64_t>(most, 1, pairs.count());
                losses_ = context.arena.take<float>(2 * pairs_at_a_time_ * samples_);
            }
        }
        const Arena before = context.arena;
        Arena largest = before;
        for (int l = 0; l + 2 < depth(); ++l) {
            context.arena = before;
            far_.push_back(plan_far(context, l));
            if (context.arena.used() > largest.used()) largest = context.arena;
        }
        context.arena = largest;
    }

    void run(const Context& context) const {
        if (job_.batch.targets.numbers) find_centre(context);
        if (!results_.fitness && !results_.losses && !results_.outputs) return;
        for (std::int64_t begin = pairs_.begin; begin < pairs_.end; begin += pairs_at_a_time_) {
            const PairRange some{begin, std::min(pairs_.end, begin + pairs_at_a_time_)};
            for (int l = 0; l < depth(); ++l) run_layer(context, l, some);
            if (results_.fitness) add_up(context, some);
        }
    }

   private:
    int depth() const { return static_cast<int>(job_.network.steps().size()); }
    DeviceLayer layer(int l) const { return device_layers(job_.network, nullptr, l, l + 1).layer[0]; }
    std::int64_t first_block(PairRange some) const { return some.begin / job_.layout.pairs(); }
    std::int64_t blocks(PairRange some) const { return (some.end - 1) / job_.layout.pairs() + 1 - first_block(some); }
    // Where losses of the pairs from `begin` on go.
    float* losses(std::int64_t begin) const {
        return results_.losses ? results_.losses + 2 * (begin - pairs_.begin) * samples_ : losses_;
    }

    void find_centre(const Context& context) const {
        const BatchRange batches = job_.batch.seen_by(pairs_);
        const std::int64_t first = batches.begin * samples_, count = batches.count() * samples_;
        launch(centre_kernel, Grid{parts(count, elementwise_threads)}, elementwise_threads, 0, context,
               layer(depth() - 1), job_.sums(depth() - 1), job_.batch.targets, first, count, centre_);
    }

    // What doesn't depend on the pairs.
    FarJob plan_far(Context& context, int l) const {
        FarJob far{};
        far.above = device_layers(job_.network, nullptr, l + 1, depth());
        far.next_sums = job_.sums(l + 1);
        for (int i = 0; i < far.above.count; ++i) {
            far.widths[i % 2] = std::max(far.widths[i % 2], far.above.layer[i].fan_out);
        }
        for (far.rows = 32; far.rows > 4 && !fits(context.device, far); far.rows /= 2) continue;
        if (!fits(context.device, far)) {
            far.at_a_time = std::max<std::int64_t>(context.device.floats_at_a_time / far.buffer_floats(), 1);
            far.buffers = context.arena.take<float>(far.at_a_time * far.buffer_floats());
        }
        return far;
    }
    static bool fits(const Device& device, const FarJob& far) {
        return found_bytes + far.buffer_floats() * std::int64_t{sizeof(float)} <= device.shared_per_block;
    }

    void run_layer(const Context& context, int l, PairRange some) const {
        LayerMembers members{};
        members.draws = unit_draws(job_, l);
        members.layer = layer(l);
        members.last = layer(depth() - 1);
        members.block_pairs = job_.layout.pairs();
        members.first_pair = job_.layout.first_pair(l, 0);
        members.first_block = first_block(some);
        members.pairs = some;
        members.sums = job_.sums(l);
        members.top_sums = job_.sums(depth() - 1);
        members.changes = job_.state.changes;
        if (results_.fitness || results_.losses) members.targets = job_.batch.targets;
        members.centre = centre_;
        members.losses = losses(some.begin);
        const std::int64_t classes = job_.network.steps().back().tensor.fan_out;
        if (results_.outputs) {
            members.outputs = results_.outputs + 2 * (some.begin - pairs_.begin) * samples_ * classes;
        }
        in_product_mode(job_.network.flush, [&](auto mode) {
            using Mode = decltype(mode);
            if (l + 2 < depth()) {
                launch_far<Mode>(context, l, members, some);
            } else {
                const std::int64_t count = blocks(some) * members.draws.count * members.layer.fan_out * 2 * samples_;
                const auto kernel = l + 1 == depth() ? near_kernel<Mode, true> : near_kernel<Mode, false>;
                launch(kernel, Grid{parts(count, elementwise_threads)}, elementwise_threads, 0, context, members,
                       count);
            }
        });
    }

    template <class Mode>
    void launch_far(const Context& context, int l, const LayerMembers& members, PairRange some) const {
        FarJob far = far_[l];
        far.members = members;
        far.items = blocks(some) * members.draws.count * parts(members.layer.fan_out, far_units) * samples_;
        far.at_a_time = far.buffers ? std::min(far.at_a_time, far.items) : far.items;
        const int bytes = found_bytes + (far.buffers ? 0 : far.buffer_floats() * static_cast<int>(sizeof(float)));
        launch(far_kernel<Mode>, Grid{far.at_a_time}, far_threads, bytes, context, far);
    }

    void add_up(const Context& context, PairRange some) const {
        const FitnessJob job{losses(some.begin),
                             results_.weights,
                             2 * some.begin,
                             2 * some.count(),
                             2 * job_.batch.pairs_each,
                             samples_,
                             results_.fitness + 2 * (some.begin - pairs_.begin)};
        launch(fitness_kernel, Grid{parts(job.members, elementwise_threads)}, elementwise_threads, 0, context, job);
    }

    const UnitJob& job_;
    PairRange pairs_;
    const UnitResults& results_;
    std::int64_t samples_;
    float* centre_;
    std::int64_t pairs_at_a_time_;
    float* losses_ = nullptr;
    std::vector<FarJob> far_;  // of each layer that has two above it
};

}  // namespace

void unit_evaluate(Context& context, const UnitJob& job, PairRange pairs, const UnitResults& results) {
    check_flush(job.network.flush);
    const EvaluateRun run(context, job, pairs, results);
    if (!context.arena.measuring()) run.run(context);
}

FPES_NAMESPACE_END

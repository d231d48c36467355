// Evaluation of members that differ in one unit: only values that the unit's change reaches are computed.
//
// A unit that the boundary flushes under both signs changes nothing, and its members have the fitness of the
// unperturbed network. Otherwise, with dh the change of the unit's activation on a sample,
//
//   - a unit of the last layer changes one logit;
//   - a unit of the layer before changes the last layer's sums by one term each, acc = fma(dh, w, acc);
//   - a unit further down changes the next layer's sums by one term each. Then all layers above are computed again. The
//     rows of a tile are members on one sample, so mostly the same units are zero in all of them, and the product skips
//     these units:
//
//          sums of the next layer          its activations               sums of the layer after
//         +----------------------+        +--------------------+        +-----------------------+
//   rows  | acc + dh_row w_row   |   ->   | . x . . x x . x .  |   ->   | the chain over the x  |
//         +----------------------+        +--------------------+        +-----------------------+
//
// In all three cases, samples on which a member changes nothing are skipped. All others, of any members, come side by
// side in the lanes of vectors, which share the last boundary and the loss.
//
// Layout of pairs: a row for each unit, with the samples of the + member and then of the - member. A member's part is a
// half of a vector if the batch fits, and otherwise whole vectors.
#include <algorithm>
#include <vector>

#include "../common/losses/losses.hpp"
#include "parallel.hpp"
#include "unit.hpp"

namespace fpes {
namespace {

// Number of units of a layer that a thread takes at a time. It is small, so that the weights that lead on from them
// stay in the second-level cache. It is smaller for a large batch, because there are lists for each unit and sample. A
// multiple of 8.
std::int64_t units_at_a_time(std::int64_t samples) {
    constexpr std::int64_t fewest = 8, most = 128, most_lists = 1 << 17;
    return std::clamp(most_lists / samples / fewest * fewest, fewest, most);
}
// Vectors of samples whose losses are computed together; rows that go up through the layers together.
constexpr int vectors_at_a_time = 16;
constexpr int rows_at_a_time = 48;

// Some units of a layer, on the batch of a block.
struct Item {
    std::int64_t block;
    int layer;
    std::int64_t unit;
};

// Floats of a member in the layout of pairs.
int member_size(int samples, int lanes) {
    return 2 * samples <= lanes ? lanes / 2 : (samples + lanes - 1) / lanes * lanes;
}

bool takes_values(Loss loss) {
    return with_loss(loss, [](auto of) { return decltype(of)::Target::each_output; });
}

// Members that go up through the layers on one sample, and the places of their losses.
class SampleRows {
   public:
    explicit SampleRows(std::int64_t most) : rows_(most), places_(most) {}
    void clear() { count_ = 0; }
    void add(const UnitRow& row, int place) {
        rows_[count_] = row;
        places_[count_++] = place;
    }
    int count() const { return count_; }
    const UnitRow* rows(int first) { return rows_.data() + first; }
    int place(int row) { return places_[row]; }

   private:
    Buffer<UnitRow> rows_;
    Buffer<int> places_;
    int count_ = 0;
};

class UnitWorker {
   public:
    UnitWorker(const UnitJob& job, PairRange pairs, const UnitResults& results, const float* centre)
        : job_(job),
          pairs_(pairs),
          results_(results),
          centre_(centre),
          engine_(job.engine),
          network_(job.network),
          last_(network_.depth() - 1),
          lanes_(engine_.kernels().lanes),
          samples_(static_cast<int>(job.batch.size)),
          member_(member_size(samples_, lanes_)),
          width_(2 * member_),
          classes_(static_cast<int>(network_.classes())),
          tile_rows_(engine_.kernels().tile_rows),
          units_(units_at_a_time(job.batch.size)),
          sums_(units_ * width_),
          activations_(units_ * width_),
          change_(width_),
          changes_(units_ * width_ + unit_samples),
          reached_(units_ * width_ / unit_samples + 1),
          centre_losses_(units_ * width_),
          losses_(units_ * width_ + unit_samples),
          output_sums_(static_cast<std::int64_t>(classes_) * width_),
          weights_(unit_stride(job.batch.size)),
          target_rows_(takes_values(job.batch.targets.loss) ? classes_ : 1),
          targets_(static_cast<std::int64_t>(target_rows_) * width_),
          // Two vectors more than are filled. Rows a power of two apart would share few sets of the first-level cache.
          lane_stride_((vectors_at_a_time + 3) * lanes_),
          lane_sums_(static_cast<std::int64_t>(classes_) * lane_stride_),
          lane_targets_(static_cast<std::int64_t>(target_rows_) * lane_stride_),
          lane_places_(lane_stride_),
          lane_losses_(lane_stride_),
          lanes_in_use_{lane_sums_.data(), lane_targets_.data(),       lane_places_.data(),
                        lane_stride_,      vectors_at_a_time * lanes_, 0},
          next_stride_(unit_stride(network_.widest_output()) + unit_samples),
          next_(tile_rows_ * next_stride_),
          terms_(next_stride_ + lanes_),
          every_(next_stride_),
          stack_{engine_.matrix(rows_at_a_time, network_.widest_output()),
                 engine_.matrix(rows_at_a_time, network_.widest_output())},
          scaled_bias_(engine_.matrix(1, network_.widest_output())) {
        for (int b = 0; b < samples_; ++b) rows_.emplace_back(2 * units_);
        for (int l = 0; l < network_.depth(); ++l) biases_.push_back(unit_biases(job, l));
        for (std::int64_t k = 0; k < next_stride_; ++k) every_[k] = static_cast<std::int32_t>(k);
        // Lanes that aren't filled are computed too.
        std::fill_n(lane_sums_.data(), static_cast<std::int64_t>(classes_) * lane_stride_, 0.0f);
        std::fill_n(lane_targets_.data(), static_cast<std::int64_t>(target_rows_) * lane_stride_, 0.0f);
        std::fill_n(change_.data(), width_, 0.0f);
    }

    void run(const Item& item) {
        const Step& layer = network_.step(item.layer);
        start(item.block);
        const std::int64_t end = std::min(item.unit + units_, layer.tensor.fan_out);
        to_pairs(job_.sums(item.layer, row_) + item.unit, layer.tensor.fan_out, end - item.unit, sums_.data());
        std::copy_n(sums_.data(), (end - item.unit) * width_, activations_.data());
        cross(layer, item.unit, end - item.unit, activations_.data());
        for (int draw = 0; draw < job_.layout.draws(item.layer); ++draw) {
            const std::int64_t first = item.block * job_.layout.pairs() + job_.layout.first_pair(item.layer, draw);
            const std::int64_t from = std::max(item.unit, pairs_.begin - first), to = std::min(end, pairs_.end - first);
            if (from < to) run_draw(item, draw, from, to, first + from);
        }
    }

    // Losses of the unperturbed network on the batch of a block.
    void run_centre(std::int64_t block, float* losses) {
        start(block);
        lost_ = losses + row_;
        for (int b = 0; b < samples_; ++b) add_unperturbed(b, b);
        finish_lanes();
    }

   private:
    // Data that all items of a block share.
    void start(std::int64_t block) {
        const std::int64_t batch = job_.batch_of_block(block);
        if (batch * samples_ == row_) return;
        row_ = batch * samples_;
        for (int b = 0; b < samples_; ++b) weights_[b] = results_.weights ? results_.weights[row_ + b] : 1.0f;
        to_pairs(job_.sums(last_, row_), classes_, classes_, output_sums_.data());
        start_targets();
        for (int m = 0; centre_ && m < 2 * units_; ++m) {
            std::copy_n(centre_ + row_, samples_, centre_losses_.data() + m * member_);
        }
    }

    // out[n, width] = rows[samples, n], whose samples are `ld` apart, in the layout of pairs; zeros beyond the samples.
    void to_pairs(const float* rows, std::int64_t ld, std::int64_t n, float* out) const {
        for (std::int64_t i = 0; i < n; ++i, out += width_) {
            std::fill_n(out, width_, 0.0f);
            for (int b = 0; b < samples_; ++b) out[b] = out[member_ + b] = rows[b * ld + i];
        }
    }

    // The batch's targets: see UnitBatch.
    void start_targets() {
        const Targets& given = job_.batch.targets;
        std::fill_n(targets_.data(), static_cast<std::int64_t>(target_rows_) * width_, 0.0f);
        if (given.numbers) with_loss(given.loss, [&](auto loss) { start_targets(typename decltype(loss)::Target()); });
    }
    void start_targets(Label) {
        const auto* labels = static_cast<const std::int32_t*>(job_.batch.targets.numbers) + row_;
        const std::vector<float> numbers(labels, labels + samples_);
        to_pairs(numbers.data(), 1, 1, targets_.data());
    }
    void start_targets(Values) {
        const auto* values = static_cast<const float*>(job_.batch.targets.numbers) + row_ * classes_;
        to_pairs(values, classes_, classes_, targets_.data());
    }

    void cross(const Step& layer, std::int64_t unit, std::int64_t units, float* v) {
        engine_.elementwise(&ModeKernels::unit_boundary, v, biases_[layer.position].data() + unit, layer.enter,
                            layer.leave, static_cast<int>(units), width_);
    }

    // Units unit ... end - 1 under one draw; first_pair is that of `unit`.
    void run_draw(const Item& item, int draw, std::int64_t unit, std::int64_t end, std::int64_t first_pair) {
        const Step& layer = network_.step(item.layer);
        const std::int64_t skip = (unit - item.unit) * width_;
        const auto units = static_cast<int>(end - unit);
        const float* change = job_.state.changes + job_.draw_index(item.block, item.layer, draw) * samples_;
        for (int b = 0; b < samples_; ++b) {
            change_[b] = change[b];
            change_[member_ + b] = -change[b];
        }
        engine_.in_product(&ModeKernels::unit_perturb, sums_.data() + skip, change_.data(), layer.bias_factor, units,
                           width_, changes_.data());
        first_pair_ = first_pair;
        layer_ = item.layer;
        unit_ = unit;
        lost_ = losses_.data();
        if (results_.outputs) fill_outputs(units);
        std::copy_n(centre_losses_.data(), units * width_, losses_.data());
        if (layer_ == last_) {
            change_logits(units);
        } else {
            cross(layer, unit, units, changes_.data());
            engine_.in_product(&ModeKernels::unit_subtract, changes_.data(), activations_.data() + skip,
                               static_cast<std::int64_t>(units) * width_);
            if (layer_ + 1 < last_) {
                change_next_sums(units);
            } else {
                change_output_sums(units);
            }
        }
        finish_lanes();
        finish(units);
    }

    // Members of a draw count from 0: + and - of a unit, then of the next unit. A sample of a member has its place in
    // `changes_` and `losses_`.
    int member_of(int place) const { return place / member_; }
    // The weights that lead on from a member's unit.
    const float* weights_of(int member) {
        const Step& above = network_.step(layer_ + 1);
        return job_.theta + above.tensor.weight_offset + (unit_ + member / 2) * above.tensor.fan_out;
    }

    // --- the three cases ---

    void change_logits(int units) {
        for (int m = 0; m < 2 * units; ++m) {
            for (int b = 0; b < samples_; ++b) {
                const int place = m * member_ + b;
                float* logits = add_unperturbed(b, place);
                logits[(unit_ + m / 2) * lane_stride_] = changes_[place];
            }
        }
    }

    void change_output_sums(int units) {
        const UnitBatch batch = {output_sums_.data(), targets_.data(), target_rows_, width_};
        const int end = units * (width_ / lanes_);
        for (int vector = 0; vector < end;) {
            engine_.in_product(&ModeKernels::unit_output_sums, changes_.data(), &vector, end, weights_of(0), classes_,
                               &batch, &lanes_in_use_);
            if (vector < end) finish_lanes();
        }
    }

    void change_next_sums(int units) {
        const int size = units * width_;
        std::fill_n(changes_.data() + size, unit_samples, 0.0f);
        engine_.kernels().unit_reached(changes_.data(), (size + unit_samples - 1) / unit_samples * unit_samples,
                                       reached_.data());
        for (SampleRows& of : rows_) of.clear();
        // A member starts anew in a word, or at a fraction of one.
        const int step = std::min(member_, lanes_);
        for (int m = 0, place = 0; m < 2 * units; ++m) {
            const float* weights = weights_of(m);
            for (int first = 0; first < member_; first += step, place += step) {
                unsigned bits = reached_[place / unit_samples] >> place % unit_samples & ((1u << step) - 1);
                for (; bits != 0; bits &= bits - 1) {
                    const int lane = __builtin_ctz(bits);
                    rows_[first + lane].add({changes_[place + lane], weights}, place + lane);
                }
            }
        }
        for (int sample = 0; sample < samples_; ++sample) {
            const int count = rows_[sample].count();
            for (int first = 0; first < count; first += rows_at_a_time) {
                go_up(sample, first, std::min(rows_at_a_time, count - first));
            }
        }
    }

    // Rows first ... first + count - 1, from the changes of their units to the sums of the last layer.
    void go_up(int sample, int first, int count) {
        int l = layer_ + 2;
        Panels out = stack_[l % 2].view();
        const int tiles = (count + tile_rows_ - 1) / tile_rows_;
        for (int tile = 0, row = 0; tile < tiles; ++tile) {
            const int height = (count - row + tiles - tile - 1) / (tiles - tile);
            multiply_tile(sample, first + row, height, engine_.at_row(out, row));
            row += height;
        }
        while (l < last_) {
            const Step &layer = network_.step(l), &above = network_.step(++l);
            cross_boundary(engine_, layer, out, count, network_.bias(layer.tensor), scaled_bias_.view(), out);
            const Panels in = out;
            out = stack_[l % 2].view();
            engine_.in_product(&ModeKernels::product, in, network_.weight(above.tensor), Panels{}, out, count,
                               static_cast<int>(above.tensor.fan_out), static_cast<int>(above.tensor.fan_in));
        }
        take_rows(sample, first, count, out);
    }

    void multiply_tile(int sample, int first, int height, Panels out) {
        const Step &next = network_.step(layer_ + 1), &above = network_.step(layer_ + 2);
        const int n = static_cast<int>(next.tensor.fan_out);
        int found = 0;
        engine_.in_product(&ModeKernels::unit_activations, rows_[sample].rows(first), height,
                           job_.sums(next.position, row_ + sample), biases_[next.position].data(),
                           elementwise_flushes(engine_.flush()), n, next_.data(), next_stride_, terms_.data(), &found);
        engine_.in_product(&ModeKernels::unit_product, next_.data(), next_stride_, height, terms_.data(), found,
                           every_.data(), n, network_.weight(above.tensor), static_cast<int>(above.tensor.fan_out),
                           out);
    }

    // Sums of the last layer of some rows, on one sample.
    void take_rows(int sample, int first, int count, Panels sums) {
        const int width = engine_.width();
        for (int row = 0; row < count;) {
            if (lanes_in_use_.count == lanes_in_use_.capacity) finish_lanes();
            const int part = std::min(count - row, lanes_in_use_.capacity - lanes_in_use_.count);
            float* to = lane_sums_.data() + lanes_in_use_.count;
            for (int c = 0; c < classes_; ++c, to += lane_stride_) {
                const float* from = engine_.at_column(sums, c / width * width).data + row * width + c % width;
                for (int i = 0; i < part; ++i) to[i] = from[i * width];
            }
            for (const int end = row + part; row < end; ++row) add_lane(sample, rows_[sample].place(first + row));
        }
    }

    // --- logits and losses ---

    // Adds a lane with the targets of a sample, and returns the place of its sums, which are `lane_stride_` apart.
    float* add_lane(int sample, int place) {
        if (lanes_in_use_.count == lanes_in_use_.capacity) finish_lanes();
        const int lane = lanes_in_use_.count++;
        for (int row = 0; row < target_rows_; ++row) {
            lane_targets_[row * lane_stride_ + lane] = targets_[row * width_ + sample];
        }
        lane_places_[lane] = place;
        return lane_sums_.data() + lane;
    }
    // The same, with the sums of the unperturbed network.
    float* add_unperturbed(int sample, int place) {
        float* sums = add_lane(sample, place);
        for (int c = 0; c < classes_; ++c) sums[c * lane_stride_] = output_sums_[c * width_ + sample];
        return sums;
    }

    // The losses, and if wanted the logits, of the lanes that have been added.
    void finish_lanes() {
        const int count = lanes_in_use_.count;
        if (count == 0) return;
        const Step& layer = network_.step(last_);
        const Targets& targets = job_.batch.targets;
        engine_.elementwise(&ModeKernels::unit_losses, &lanes_in_use_, classes_, biases_[last_].data(), layer.enter,
                            layer.leave, targets.loss, targets.share, lane_losses_.data());
        const std::int32_t* places = lane_places_.data();
        const float* losses = lane_losses_.data();
        for (int lane = 0; lane < count; ++lane) lost_[places[lane]] = losses[lane];
        if (results_.outputs) write_outputs(count);
        lanes_in_use_.count = 0;
    }

    void write_outputs(int count) {
        for (int lane = 0; lane < count; ++lane) {
            float* out = output_of(member_of(lane_places_[lane]), lane_places_[lane] % member_);
            for (int c = 0; c < classes_; ++c) out[c] = lane_sums_[c * lane_stride_ + lane];
        }
    }

    float* output_of(int member, int sample) {
        const std::int64_t row = 2 * (first_pair_ - pairs_.begin) + member;
        return results_.outputs + (row * samples_ + sample) * classes_;
    }
    // The unperturbed network's logits for all members.
    void fill_outputs(int units) {
        std::vector<float> logits(output_sums_.data(), output_sums_.data() + classes_ * width_);
        const Step& layer = network_.step(last_);
        engine_.elementwise(&ModeKernels::unit_boundary, logits.data(), biases_[last_].data(), layer.enter, layer.leave,
                            classes_, width_);
        for (int m = 0; m < 2 * units; ++m) {
            for (int b = 0; b < samples_; ++b) {
                for (int c = 0; c < classes_; ++c) output_of(m, b)[c] = logits[c * width_ + b];
            }
        }
    }

    // --- fitness ---

    void finish(int units) {
        const std::int64_t row = 2 * (first_pair_ - pairs_.begin);
        if (results_.losses) {
            for (int m = 0; m < 2 * units; ++m) {
                std::copy_n(losses_.data() + m * member_, samples_, results_.losses + (row + m) * samples_);
            }
        }
        if (!results_.fitness) return;
        engine_.kernels().unit_fitness(losses_.data(), member_, 2 * units, weights_.data(), samples_,
                                       results_.fitness + row);
    }

    const UnitJob& job_;
    PairRange pairs_;
    const UnitResults& results_;
    const float* centre_;  // [rows]
    const Engine& engine_;
    PackedNetwork& network_;
    int last_;
    int lanes_;
    int samples_;
    int member_;  // floats of a member, and
    int width_;   // of a pair
    int classes_;
    int tile_rows_;
    std::int64_t units_;                      // at a time
    std::vector<std::vector<float>> biases_;  // as the boundary adds them
    // Of the batch.
    std::int64_t row_ = -1;
    // Of the draw: its layer, first unit and that unit's pair.
    int layer_ = 0;
    std::int64_t unit_ = 0;
    std::int64_t first_pair_ = 0;
    Buffer<float> sums_;             // [units, width], unperturbed
    Buffer<float> activations_;      // likewise
    Buffer<float> change_;           // [width], of pre-activations
    Buffer<float> changes_;          // [units, width]: sums, then activations, then their changes
    Buffer<std::uint16_t> reached_;  // a bit for each place: whether its activation has changed
    Buffer<float> centre_losses_;    // [units, width]: of the unperturbed network
    Buffer<float> losses_;           // [units, width]
    Buffer<float> output_sums_;      // of the last layer, unperturbed: [classes, width]
    Buffer<float> weights_;          // of the batch's samples
    int target_rows_;
    Buffer<float> targets_;  // [target_rows, width]
    // Samples whose losses are being computed: see UnitLanes.
    int lane_stride_;
    Buffer<float> lane_sums_;
    Buffer<float> lane_targets_;
    Buffer<std::int32_t> lane_places_;
    Buffer<float> lane_losses_;
    UnitLanes lanes_in_use_;
    float* lost_ = nullptr;  // receives them
    // Rows that go up through the layers.
    std::vector<SampleRows> rows_;
    std::int64_t next_stride_;
    Buffer<float> next_;  // [tile, stride]: sums of the next layer, then its activations
    Buffer<std::int32_t> terms_;
    Buffer<std::int32_t> every_;
    PanelMatrix stack_[2];
    PanelMatrix scaled_bias_;
};

}  // namespace

void unit_evaluate(const UnitJob& job, PairRange pairs, const UnitResults& results) {
    const std::int64_t first = pairs.begin / job.layout.pairs(), end = (pairs.end - 1) / job.layout.pairs() + 1;
    const std::int64_t each = job.batch.pairs_each / job.layout.pairs();  // blocks that share a batch
    std::vector<float> centre(job.rows());
    const BatchRange batches = job.batch.seen_by(pairs);
    parallel(job.threads, batches.count(), [&](WorkQueue& queue) {
        const UnitResults none{};
        UnitWorker worker(job, pairs, none, nullptr);
        for (std::int64_t item; queue.take(item);) worker.run_centre((batches.begin + item) * each, centre.data());
    });
    if (results.centre) {
        std::copy_n(centre.data() + batches.begin * job.batch.size, batches.count() * job.batch.size,
                    results.centre + batches.begin * job.batch.size);
    }
    if (!results.fitness && !results.losses && !results.outputs) return;
    std::vector<Item> items;
    const std::int64_t step = units_at_a_time(job.batch.size);
    for (std::int64_t block = first; block < end; ++block) {
        for (int layer = 0; layer < job.layout.depth(); ++layer) {
            for (std::int64_t unit = 0; unit < job.network.step(layer).tensor.fan_out; unit += step) {
                items.push_back({block, layer, unit});
            }
        }
    }
    parallel(job.threads, static_cast<std::int64_t>(items.size()), [&](WorkQueue& queue) {
        UnitWorker worker(job, pairs, results, centre.data());
        for (std::int64_t item; queue.take(item);) worker.run(items[item]);
    });
}

}  // namespace fpes

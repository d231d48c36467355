// Evaluation of members that differ in one unit: only values that the unit's change reaches are computed.
//
// A unit that the boundary flushes under both signs changes nothing, and its members have the fitness of the
// unperturbed network. Otherwise, with dh the change of the unit's activation on a sample,
//
//   - a unit of the last layer changes one logit;
//   - a unit of the layer before changes the last layer's sums by one term each, acc = fma(dh, w, acc). A vector is 16
//     (8, 4) samples of one member;
//   - a unit further down changes the next layer's sums by one term each. Then all layers above are computed again. The
//     rows of a tile are members on one sample, so mostly the same units are zero in all of them, and the product skips
//     these units:
//
//          sums of the next layer          its activations               sums of the layer after
//         +----------------------+        +--------------------+        +-----------------------+
//   rows  | acc + dh_row w_row   |   ->   | . x . . x x . x .  |   ->   | the chain over the x  |
//         +----------------------+        +--------------------+        +-----------------------+
//
// In all three cases, samples on which a member changes nothing are skipped.
#include <algorithm>
#include <cstring>
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
// Vectors of samples whose logits are kept at a time; rows that go up through the layers together.
constexpr int entries_at_a_time = 24;
constexpr int rows_at_a_time = 48;

// Some units of a layer, on the batch of a block.
struct Item {
    std::int64_t block;
    int layer;
    std::int64_t unit;
};

bool is_zero(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return (bits << 1) == 0;
}

// Members that go up through the layers on one sample.
class SampleRows {
   public:
    explicit SampleRows(std::int64_t most) : rows_(most), members_(most) {}
    void clear() { count_ = 0; }
    void add(const UnitRow& row, int member) {
        rows_[count_] = row;
        members_[count_++] = member;
    }
    int count() const { return count_; }
    const UnitRow* rows(int first) { return rows_.data() + first; }
    int member(int row) { return members_[row]; }

   private:
    Buffer<UnitRow> rows_;
    Buffer<int> members_;
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
          stride_(static_cast<int>(unit_stride(job.batch.size))),
          classes_(static_cast<int>(network_.classes())),
          tile_rows_(engine_.kernels().tile_rows),
          units_(units_at_a_time(job.batch.size)),
          pairs_fit_(2 * samples_ <= lanes_ && !results.outputs),
          pair_changes_(entries_at_a_time * lanes_),
          pair_losses_(entries_at_a_time * lanes_),
          sums_(units_ * stride_),
          activations_(units_ * stride_),
          change_(stride_),
          plus_(units_ * stride_),
          minus_(units_ * stride_),
          reached_{Buffer<std::uint16_t>(units_ * stride_ / 16), Buffer<std::uint16_t>(units_ * stride_ / 16)},
          losses_(2 * units_ * stride_),
          output_sums_(static_cast<std::int64_t>(classes_) * stride_),
          weights_(stride_),
          targets_(static_cast<std::int64_t>(classes_) * stride_),
          one_target_(static_cast<std::int64_t>(classes_) * lanes_),
          logits_(static_cast<std::int64_t>(entries_at_a_time) * classes_ * lanes_),
          unused_(lanes_),
          // Rows a power of two apart would share few sets of the first-level cache.
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
    }

    void run(const Item& item) {
        const Step& layer = network_.step(item.layer);
        start(item.block);
        const std::int64_t end = std::min(item.unit + units_, layer.tensor.fan_out);
        unit_transpose(job_.sums(item.layer, row_) + item.unit, layer.tensor.fan_out, samples_, end - item.unit,
                       sums_.data());
        std::copy_n(sums_.data(), (end - item.unit) * stride_, activations_.data());
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
        std::vector<float> own(stride_);
        for (int b = 0; b < stride_; b += lanes_) {
            add_output(b, own.data() + b, -1);
            finish_outputs_if_full();
        }
        finish_outputs();
        std::copy_n(own.data(), samples_, losses + row_);
    }

   private:
    // Data that all items of a block share.
    void start(std::int64_t block) {
        const std::int64_t batch = job_.batch_of_block(block);
        if (batch * samples_ == row_) return;
        row_ = batch * samples_;
        for (int b = 0; b < samples_; ++b) weights_[b] = results_.weights ? results_.weights[row_ + b] : 1.0f;
        unit_transpose(job_.sums(last_, row_), classes_, samples_, classes_, output_sums_.data());
        start_targets();
        for (int c = 0; pairs_fit_ && c < classes_; ++c) {
            std::copy_n(output_sums_.data() + c * stride_, lanes_ / 2, output_sums_.data() + c * stride_ + lanes_ / 2);
            std::copy_n(targets_.data() + c * stride_, lanes_ / 2, targets_.data() + c * stride_ + lanes_ / 2);
        }
    }

    // The batch's targets, [classes, stride]: see UnitTargets.
    void start_targets() {
        std::fill_n(targets_.data(), static_cast<std::int64_t>(classes_) * stride_, 0.0f);
        const Targets& given = job_.batch.targets;
        if (given.numbers) with_loss(given.loss, [&](auto loss) { start_targets(typename decltype(loss)::Target()); });
    }
    void start_targets(Label) {
        const auto* labels = static_cast<const std::int32_t*>(job_.batch.targets.numbers) + row_;
        const float all_bits = as_f32(~0u);
        for (int b = 0; b < samples_; ++b) targets_[labels[b] * stride_ + b] = all_bits;
    }
    void start_targets(Values) {
        const auto* values = static_cast<const float*>(job_.batch.targets.numbers) + row_ * classes_;
        unit_transpose(values, classes_, samples_, classes_, targets_.data());
    }
    UnitTargets targets(const float* numbers, int samples) const {
        return {job_.batch.targets.loss, job_.batch.targets.share, numbers, samples};
    }

    void cross(const Step& layer, std::int64_t unit, std::int64_t units, float* v) {
        engine_.elementwise(&ModeKernels::unit_boundary, v, biases_[layer.position].data() + unit, layer.enter,
                            layer.leave, static_cast<int>(units), stride_);
    }

    // Units unit ... end - 1 under one draw; first_pair is that of `unit`.
    void run_draw(const Item& item, int draw, std::int64_t unit, std::int64_t end, std::int64_t first_pair) {
        const Step& layer = network_.step(item.layer);
        const std::int64_t skip = (unit - item.unit) * stride_;
        const auto units = static_cast<int>(end - unit);
        const float* change = job_.state.changes + job_.draw_index(item.block, item.layer, draw) * samples_;
        std::fill(std::copy_n(change, samples_, change_.data()), change_.data() + stride_, 0.0f);
        engine_.in_product(&ModeKernels::unit_perturb, sums_.data() + skip, change_.data(), layer.bias_factor, units,
                           stride_, plus_.data(), minus_.data());
        first_pair_ = first_pair;
        layer_ = item.layer;
        unit_ = unit;
        if (results_.outputs) fill_outputs(units);
        for (int m = 0; m < 2 * units; ++m) std::copy_n(centre_ + row_, samples_, losses_of(m));
        if (layer_ == last_) {
            change_logits(units);
        } else {
            for (float* v : {plus_.data(), minus_.data()}) {
                cross(layer, unit, units, v);
                engine_.in_product(&ModeKernels::unit_subtract, v, activations_.data() + skip,
                                   static_cast<std::int64_t>(units) * stride_);
            }
            engine_.kernels().unit_reached(plus_.data(), static_cast<std::int64_t>(units) * stride_,
                                           reached_[0].data());
            engine_.kernels().unit_reached(minus_.data(), static_cast<std::int64_t>(units) * stride_,
                                           reached_[1].data());
            if (layer_ + 1 < last_) {
                change_next_sums(units);
            } else if (pairs_fit_) {
                change_output_sums_of_pairs(units);
            } else {
                change_output_sums(units);
            }
        }
        finish_outputs();
        finish(units);
    }

    // Members of a draw count from 0: + and - of a unit, then of the next unit.
    float* losses_of(int member) { return losses_.data() + static_cast<std::int64_t>(member) * stride_; }
    const std::uint16_t* reached_of(int member) {
        return reached_[member % 2].data() + static_cast<std::int64_t>(member / 2) * (stride_ / 16);
    }
    const float* change_of(int member) {
        return (member % 2 ? minus_ : plus_).data() + static_cast<std::int64_t>(member / 2) * stride_;
    }
    // The weights that lead on from a member's unit.
    const float* weights_of(int member) {
        const Step& above = network_.step(layer_ + 1);
        return job_.theta + above.tensor.weight_offset + (unit_ + member / 2) * above.tensor.fan_out;
    }

    // --- the three cases ---

    void change_logits(int units) {
        for (int m = 0; m < 2 * units; ++m) {
            for (int b = 0; b < stride_; b += lanes_) {
                float* logits = add_output(b, losses_of(m) + b, m);
                std::copy_n(change_of(m) + b, lanes_, logits + (unit_ + m / 2) * lanes_);
                finish_outputs_if_full();
            }
        }
    }

    void change_output_sums(int units) {
        for (int m = 0; m < 2 * units; ++m) {
            const float *change = change_of(m), *weights = weights_of(m);
            for (int b = 0; b < stride_; b += lanes_) {
                if ((reached_of(m)[b / 16] >> b % 16 & ((1u << lanes_) - 1)) == 0) continue;
                entries_.push_back({change + b, weights, b, losses_of(m) + b});
                members_.push_back(m);
                if (static_cast<int>(entries_.size()) == entries_at_a_time) finish_output_sums();
            }
        }
        finish_output_sums();
    }

    // The same where both signs fit one vector: a member takes a half of it.
    void change_output_sums_of_pairs(int units) {
        for (int u = 0; u < units; ++u) {
            if (*reached_of(2 * u) == 0 && *reached_of(2 * u + 1) == 0) continue;
            const auto count = static_cast<int>(entries_.size());
            float* change = pair_changes_.data() + count * lanes_;
            for (int sign = 0; sign < 2; ++sign) {
                std::copy_n(change_of(2 * u + sign), lanes_ / 2, change + sign * lanes_ / 2);
            }
            entries_.push_back({change, weights_of(2 * u), 0, pair_losses_.data() + count * lanes_});
            members_.push_back(2 * u);
            if (count + 1 == entries_at_a_time) finish_pairs();
        }
        finish_pairs();
    }

    void finish_pairs() {
        const std::vector<int> pairs = members_;
        finish_output_sums();
        for (std::size_t e = 0; e < pairs.size(); ++e) {
            for (int sign = 0; sign < 2; ++sign) {
                std::copy_n(pair_losses_.data() + e * lanes_ + sign * lanes_ / 2, samples_, losses_of(pairs[e] + sign));
            }
        }
    }

    void finish_output_sums() {
        engine_.in_product(&ModeKernels::unit_output_sums, entries_.data(), static_cast<int>(entries_.size()),
                           output_sums_.data(), stride_, classes_, logits_.data());
        finish_outputs();
    }

    void change_next_sums(int units) {
        for (SampleRows& of : rows_) of.clear();
        for (int m = 0; m < 2 * units; ++m) {
            const float *change = change_of(m), *weights = weights_of(m);
            for (int first = 0; first < stride_; first += 16) {
                for (unsigned bits = reached_of(m)[first / 16]; bits != 0; bits &= bits - 1) {
                    const int sample = first + __builtin_ctz(bits);
                    rows_[sample].add({change[sample], weights}, m);
                }
            }
        }
        for (int sample = 0; sample < samples_; ++sample) {
            const int count = rows_[sample].count();
            for (int c = 0; c < classes_; ++c) {
                std::fill_n(one_target_.data() + c * lanes_, lanes_, targets_[c * stride_ + sample]);
            }
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

    // Sums of the last layer of some rows, on one sample, as vectors of logits: a lane is a row.
    void take_rows(int sample, int first, int count, Panels sums) {
        const int width = engine_.width();
        for (int row = 0; row < count; row += lanes_) {
            const int part = std::min(lanes_, count - row);
            float* logits = logits_.data();
            for (int c = 0; c < classes_; ++c, logits += lanes_) {
                const float* from = engine_.at_column(sums, c / width * width).data + row * width + c % width;
                for (int i = 0; i < part; ++i) logits[i] = from[i * width];
                std::fill(logits + part, logits + lanes_, 0.0f);
            }
            lose_rows(sample, first + row, part);
        }
    }

    void lose_rows(int sample, int first, int part) {
        const UnitEntry entry = {nullptr, nullptr, 0, unused_.data()};
        const Step& layer = network_.step(last_);
        engine_.elementwise(&ModeKernels::unit_losses, &entry, 1, logits_.data(), classes_, biases_[last_].data(),
                            layer.enter, layer.leave, targets(one_target_.data(), lanes_));
        for (int i = 0; i < part; ++i) {
            const int member = rows_[sample].member(first + i);
            losses_of(member)[sample] = unused_[i];
            if (results_.outputs) write_output(member, sample, logits_.data() + i);
        }
    }

    // --- logits and losses ---

    // Adds a vector of samples, from `sample` on, with the sums of the unperturbed network, and returns those.
    float* add_output(int sample, float* loss, int member) {
        float* logits = logits_.data() + static_cast<std::int64_t>(entries_.size()) * classes_ * lanes_;
        for (int c = 0; c < classes_; ++c) {
            std::copy_n(output_sums_.data() + c * stride_ + sample, lanes_, logits + c * lanes_);
        }
        entries_.push_back({nullptr, nullptr, sample, loss});
        members_.push_back(member);
        return logits;
    }

    void finish_outputs_if_full() {
        if (static_cast<int>(entries_.size()) == entries_at_a_time) finish_outputs();
    }

    // The losses, and if wanted the logits, of the vectors that have been added.
    void finish_outputs() {
        if (entries_.empty()) return;
        const Step& layer = network_.step(last_);
        engine_.elementwise(&ModeKernels::unit_losses, entries_.data(), static_cast<int>(entries_.size()),
                            logits_.data(), classes_, biases_[last_].data(), layer.enter, layer.leave,
                            targets(targets_.data(), stride_));
        for (std::size_t e = 0; results_.outputs && e < entries_.size(); ++e) {
            for (int i = 0; members_[e] >= 0 && i < std::min(lanes_, samples_ - entries_[e].sample); ++i) {
                // A change of zero is no change, not even of the sign of a zero.
                if (entries_[e].change && is_zero(entries_[e].change[i])) continue;
                write_output(members_[e], entries_[e].sample + i, logits_.data() + e * classes_ * lanes_ + i);
            }
        }
        entries_.clear();
        members_.clear();
    }

    float* output_of(int member, int sample) {
        const std::int64_t row = 2 * (first_pair_ - pairs_.begin) + member;
        return results_.outputs + (row * samples_ + sample) * classes_;
    }
    void write_output(int member, int sample, const float* logits) {
        float* out = output_of(member, sample);
        for (int c = 0; c < classes_; ++c) out[c] = logits[c * lanes_];
    }

    // The unperturbed network's logits for all members.
    void fill_outputs(int units) {
        std::vector<float> logits(output_sums_.data(), output_sums_.data() + classes_ * stride_);
        const Step& layer = network_.step(last_);
        engine_.elementwise(&ModeKernels::unit_boundary, logits.data(), biases_[last_].data(), layer.enter, layer.leave,
                            classes_, stride_);
        for (int m = 0; m < 2 * units; ++m) {
            for (int b = 0; b < samples_; ++b) {
                for (int c = 0; c < classes_; ++c) output_of(m, b)[c] = logits[c * stride_ + b];
            }
        }
    }

    // --- fitness ---

    void finish(int units) {
        const std::int64_t row = 2 * (first_pair_ - pairs_.begin);
        if (results_.losses) {
            for (int m = 0; m < 2 * units; ++m) {
                std::copy_n(losses_of(m), samples_, results_.losses + (row + m) * samples_);
            }
        }
        if (!results_.fitness) return;
        engine_.kernels().unit_fitness(losses_.data(), stride_, 2 * units, weights_.data(), samples_,
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
    int stride_;
    int classes_;
    int tile_rows_;
    std::int64_t units_;  // at a time
    bool pairs_fit_;      // whether both members of a pair go into one vector
    Buffer<float> pair_changes_;
    Buffer<float> pair_losses_;
    std::vector<std::vector<float>> biases_;  // as the boundary adds them
    // Of the batch.
    std::int64_t row_ = -1;
    // Of the draw: its layer, first unit and that unit's pair.
    int layer_ = 0;
    std::int64_t unit_ = 0;
    std::int64_t first_pair_ = 0;
    Buffer<float> sums_;         // [units, stride], unperturbed
    Buffer<float> activations_;  // likewise
    Buffer<float> change_;       // [stride], of pre-activations
    Buffer<float> plus_;         // [units, stride]: sums, then activations, then their changes
    Buffer<float> minus_;
    Buffer<std::uint16_t> reached_[2];  // of plus and minus: a bit for each sample whose activation has changed
    Buffer<float> losses_;              // [members, stride]
    Buffer<float> output_sums_;         // of the last layer, unperturbed: [classes, stride]
    Buffer<float> weights_;             // of the batch's samples
    Buffer<float> targets_;             // see UnitTargets
    Buffer<float> one_target_;          // those of a vector whose lanes are members on one sample
    // Vectors of samples whose logits are being computed.
    std::vector<UnitEntry> entries_;
    std::vector<int> members_;
    Buffer<float> logits_;
    Buffer<float> unused_;
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
        UnitWorker worker(job, pairs, results, nullptr);
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

// One layer at a time, by node perturbation or by a rank-one change of the weights: each pair of members perturbs one
// layer, and values that it doesn't change are not computed again.
//
// A thread takes a tile of samples and carries it through the unperturbed network once, keeping every layer's
// accumulators and activations. A pair that perturbs all units of layer l starts there. A pair that perturbs only k of
// its units changes at most k activations, so the next layer's accumulators are the unperturbed ones plus at most k
// rows of its weights:
//
//      h, k units perturbed       w of the next layer         its accumulators
//     +----------------+         +---------+
//     |  x     x   x   |         |         |            +----------------------------+
//     +----------------+         | row x   |     ->     | unperturbed + dh_x w_x ... |    acc = fma(dh_j, w_j, acc),
//         dh = h' - h,           | row x   |            +----------------------------+    j ascending
//         often zero             | row x   |
//                                +---------+
//
// A change of exactly zero is skipped. Most changes are zero, because a flushed unit usually stays flushed. This order,
// first the chain of the product and then the changes, defines the result, in the mode of the product.
//
// A product takes rows of several pairs together. The next layer's columns are computed a few panels at a time, from
// the changes to the sums of the layer after it. So the weights that the changes select at random stay in the
// second-level cache.
#include <algorithm>

#include "layer_noise.hpp"
#include "parallel.hpp"

namespace fpes {
namespace {

// Samples of a tile. A sum of losses over a batch is cut there too.
constexpr std::int64_t tile_samples = loss_block;
// Rows (member, sample) that are worked on at a time: few where they are whole rows of activations, more where only
// their changes and some columns exist.
constexpr std::int64_t dense_rows = 256;
constexpr std::int64_t sparse_rows = 512;
constexpr int panels_at_a_time = 4;

// Pairs that see the same batch and perturb the same layer, and are evaluated together.
struct Group {
    int layer;
    std::vector<std::int64_t> pairs;
};

std::vector<Group> make_groups(const Job& job, PairRange pairs, std::int64_t tile) {
    std::vector<Group> groups;
    const Allocation& allocation = job.population.allocation;
    for (int l = 0; l < job.network.depth(); ++l) {
        const std::int64_t most =
            std::max<std::int64_t>(1, (allocation.units[l] ? sparse_rows : dense_rows) / (2 * tile));
        Group group{l, {}};
        for (const std::int64_t pair : allocation.pairs_of(l, pairs)) {
            group.pairs.push_back(pair);
            if (static_cast<std::int64_t>(group.pairs.size()) == most) {
                groups.push_back(group);
                group.pairs.clear();
            }
        }
        if (!group.pairs.empty()) groups.push_back(group);
    }
    return groups;
}

// What a thread takes: a tile of samples, and some of the groups that see it.
struct Item {
    std::int64_t batch;
    std::int64_t sample;
    const std::vector<Group>* groups;
    std::int64_t begin;
    std::int64_t end;
};

class IncrementalWorker {
   public:
    IncrementalWorker(const Job& job, Sink& sink, std::int64_t tile)
        : job_(job),
          sink_(sink),
          engine_(job.engine),
          network_(job.network),
          most_rows_(std::max(2 * tile, std::max(sparse_rows, dense_rows))),
          input_(engine_.matrix(tile, network_.features())),
          columns_(engine_.matrix(most_rows_, columns_at_a_time())),
          stack_{engine_.matrix(most_rows_, network_.widest_output()),
                 engine_.matrix(most_rows_, network_.widest_output())},
          noise_(job, tile, most_rows_ / 2),
          unperturbed_(LayerNoise::most_units(job.population) * tile + engine_.width()),
          changes_(most_rows_ * LayerNoise::most_units(job.population)),
          begin_(most_rows_ + 1) {
        for (int l = 0; l < network_.depth(); ++l) {
            const std::int64_t n = network_.step(l).tensor.fan_out;
            sums_.push_back(engine_.matrix(tile, n));
            activations_.push_back(engine_.matrix(tile, n));
            scaled_bias_.push_back(engine_.matrix(1, n));
        }
    }

    // The unperturbed network on samples sample ... sample + rows - 1 of a batch.
    void start(std::int64_t batch, std::int64_t sample, int rows) {
        sample_ = sample;
        row_ = batch * job_.batch.size + sample;
        rows_ = rows;
        const std::int64_t features = network_.features();
        engine_.kernels().pack(job_.batch.x + row_ * features, features, rows, static_cast<int>(features),
                               input_.view());
        Panels in = input_.view();
        for (int l = 0; l < network_.depth(); ++l) {
            const Step& layer = network_.step(l);
            engine_.in_product(&ModeKernels::product, in, network_.weight(layer.tensor), Panels{}, sums_[l].view(),
                               rows, static_cast<int>(layer.tensor.fan_out), static_cast<int>(layer.tensor.fan_in));
            cross_boundary(engine_, layer, sums_[l].view(), rows, network_.bias(layer.tensor), scaled_bias_[l].view(),
                           activations_[l].view());
            in = activations_[l].view();
        }
    }

    // Writes the accumulators that start() left, for the gradient.
    void keep_sums() {
        float* out = job_.sums;
        for (int l = 0; l < network_.depth(); ++l) {
            const int n = static_cast<int>(network_.step(l).tensor.fan_out);
            engine_.kernels().unpack(sums_[l].view(), rows_, n, out + row_ * n, n);
            out += job_.batch.count * job_.batch.size * n;
        }
    }

    void run(const Group& group) {
        const Step& layer = network_.step(group.layer);
        noise_.prepare(layer, group.pairs, inputs_of(layer), rows_);
        const int rows = static_cast<int>(2 * group.pairs.size()) * rows_;
        Panels logits;
        if (job_.population.allocation.units[group.layer] == 0) {
            logits = through(group.layer + 1, perturb_all(group), rows);
        } else if (group.layer + 1 == network_.depth()) {
            logits = perturb_some_outputs(group, rows);
        } else {
            find_changes(group);
            logits = through_changes(group.layer + 1, rows);
        }
        for (std::size_t place = 0; place < group.pairs.size(); ++place) {
            for (int sign = 0; sign < 2; ++sign) {
                sink_.take(2 * group.pairs[place] + sign, sample_, rows_, member_rows(logits, place, sign));
            }
        }
    }

   private:
    std::int64_t columns_at_a_time() const { return panels_at_a_time * engine_.width(); }
    Panels flat(float* data) const { return fpes::flat(data, engine_.width()); }
    // The rows of one member in a stack of pairs.
    Panels member_rows(Panels stack, std::size_t place, int sign) const {
        return engine_.at_row(stack, (2 * static_cast<std::int64_t>(place) + sign) * rows_);
    }

    void cross(const Step& layer, Panels v, std::int64_t j, int rows, int n, Panels out) {
        engine_.elementwise(&ModeKernels::boundary, v, rows, n,
                            engine_.at_column(scaled_bias_[layer.position].view(), j), layer.enter, layer.leave, out);
    }

    Panels inputs_of(const Step& layer) {
        return layer.reads_input() ? input_.view() : activations_[layer.reads].view();
    }

    // Activations of a layer of which all units are perturbed.
    Panels perturb_all(const Group& group) {
        const Step& layer = network_.step(group.layer);
        const Panels stack = stack_[group.layer % 2].view();
        for (std::size_t place = 0; place < group.pairs.size(); ++place) {
            noise_.perturb_all(layer, group.pairs[place], place, sample_, rows_, sums_[group.layer].view(),
                               scaled_bias_[group.layer].view(), member_rows(stack, place, 0),
                               member_rows(stack, place, 1));
        }
        return stack;
    }

    // From layer l, whose inputs are `in`, to the logits.
    Panels through(int l, Panels in, int rows) {
        for (; l < network_.depth(); ++l) {
            const Step& layer = network_.step(l);
            const int n = static_cast<int>(layer.tensor.fan_out);
            const Panels out = stack_[l % 2].view();
            engine_.in_product(&ModeKernels::product, in, network_.weight(layer.tensor), Panels{}, out, rows, n,
                               static_cast<int>(layer.tensor.fan_in));
            cross(layer, out, 0, rows, n, out);
            in = out;
        }
        return in;
    }

    // The activations of the perturbed units of a layer, of one pair.
    void perturb_some(int l, std::int64_t pair, std::size_t place) {
        noise_.perturb_some(network_.step(l), pair, place, sample_, rows_, sums_[l].view(), scaled_bias_[l].view());
    }

    // What the pairs' noise changes in the activations of a layer, as lists, a row (member, sample) each.
    void find_changes(const Group& group) {
        const int k = job_.population.allocation.units[group.layer], count = rows_ * k;
        std::int32_t found = 0, row = 0;
        begin_[0] = 0;
        for (std::size_t place = 0; place < group.pairs.size(); ++place) {
            perturb_some(group.layer, group.pairs[place], place);
            const std::int32_t* units = noise_.units();
            engine_.kernels().gather_units(activations_[group.layer].view(), false, units, rows_, k,
                                           unperturbed_.data());
            for (float* v : {noise_.changed(0), noise_.changed(1)}) {
                engine_.in_product(&ModeKernels::subtract, flat(v), flat(unperturbed_.data()), 1, count, flat(v));
                for (int i = 0; i < count; i += k) {
                    for (int j = i; j < i + k; ++j) {
                        changes_[found] = {units[j], v[j]};
                        found += v[j] != 0.0f;
                    }
                    begin_[++row] = found;
                }
            }
        }
    }

    // From the changes of layer l's inputs to the logits.
    Panels through_changes(int l, int rows) {
        const Step& layer = network_.step(l);
        const bool last = l + 1 == network_.depth();
        const Panels result = stack_[(last ? l : l + 1) % 2].view();
        const std::int64_t step = columns_at_a_time();
        for (std::int64_t j = 0; j < layer.tensor.fan_out; j += step) {
            const int n = static_cast<int>(std::min(step, layer.tensor.fan_out - j));
            const Panels columns = last ? engine_.at_column(result, j) : columns_.view();
            engine_.in_product(&ModeKernels::add_changes, RowChanges{changes_.data(), begin_.data()},
                               engine_.at_column(sums_[l].view(), j), rows_,
                               engine_.at_column(network_.weight(layer.tensor), j), columns, rows, n);
            cross(layer, columns, j, rows, n, columns);
            if (last) continue;
            const Tensor& above = network_.step(l + 1).tensor;
            engine_.in_product(&ModeKernels::product, columns, engine_.at_row(network_.weight(above), j),
                               j ? result : Panels{}, result, rows, static_cast<int>(above.fan_out), n);
        }
        if (last) return result;
        const Step& next = network_.step(l + 1);
        cross(next, result, 0, rows, static_cast<int>(next.tensor.fan_out), result);
        return through(l + 2, result, rows);
    }

    // Logits of which some are perturbed.
    Panels perturb_some_outputs(const Group& group, int rows) {
        const int width = engine_.width(), k = job_.population.allocation.units[group.layer];
        const int classes = static_cast<int>(network_.classes());
        const Panels logits = stack_[0].view(), unperturbed = activations_[group.layer].view();
        for (int row = 0; row < rows; ++row) {
            for (int j = 0; j < classes; ++j) at(logits, row, j, width) = at(unperturbed, row % rows_, j, width);
        }
        for (std::size_t place = 0; place < group.pairs.size(); ++place) {
            perturb_some(group.layer, group.pairs[place], place);
            for (int sign = 0; sign < 2; ++sign) {
                const Panels member = member_rows(logits, place, sign);
                for (int i = 0; i < rows_ * k; ++i) {
                    at(member, i / k, noise_.units()[i], width) = noise_.changed(sign)[i];
                }
            }
        }
        return logits;
    }
    static float& at(Panels panels, int i, int j, int width) {
        return panels.data[static_cast<std::size_t>(j / width) * panels.stride + i * width + j % width];
    }

    const Job& job_;
    Sink& sink_;
    const Engine& engine_;
    PackedNetwork& network_;
    std::int64_t most_rows_;
    std::int64_t sample_ = 0;  // the first of the tile, in its batch
    std::int64_t row_ = 0;     // likewise, in x
    int rows_ = 0;
    PanelMatrix input_;
    std::vector<PanelMatrix> sums_;         // of the unperturbed network
    std::vector<PanelMatrix> activations_;  // likewise
    std::vector<PanelMatrix> scaled_bias_;
    PanelMatrix columns_;
    PanelMatrix stack_[2];
    LayerNoise noise_;
    Buffer<float> unperturbed_;  // activations of the units that a pair perturbs
    Buffer<Change> changes_;
    Buffer<std::int32_t> begin_;
};

}  // namespace

void run_incremental(const Job& job, Sink& sink) {
    const std::int64_t tile = std::min(tile_samples, job.batch.size);
    const std::int64_t tiles = (job.batch.size + tile - 1) / tile;
    // Without pairs there are still the sums of the unperturbed network, of all batches.
    const bool sums_only = job.pairs.count() == 0;
    const std::int64_t first = sums_only ? 0 : job.batch.batch_of(job.pairs.begin);
    const std::int64_t batches = sums_only ? job.batch.count : job.batch.batch_of(job.pairs.end - 1) + 1 - first;
    std::vector<std::vector<Group>> groups;
    std::vector<Item> items;
    groups.reserve(batches);
    for (std::int64_t batch = first; batch < first + batches; ++batch) {
        const PairRange pairs = {std::max(job.pairs.begin, batch * job.batch.pairs_each),
                                 std::min(job.pairs.end, (batch + 1) * job.batch.pairs_each)};
        groups.push_back(make_groups(job, pairs, tile));
        // An item passes through the unperturbed network first, so only few items are shared by several threads.
        const auto count = static_cast<std::int64_t>(groups.back().size());
        const std::int64_t parts =
            std::clamp<std::int64_t>(4 * job.threads / (tiles * batches), 1, std::max<std::int64_t>(1, count));
        for (std::int64_t sample = 0; sample < job.batch.size; sample += tile) {
            for (std::int64_t part = 0; part < parts; ++part) {
                items.push_back({batch, sample, &groups.back(), count * part / parts, count * (part + 1) / parts});
            }
        }
    }
    parallel(job.threads, static_cast<std::int64_t>(items.size()), [&](WorkQueue& queue) {
        IncrementalWorker worker(job, sink, tile);
        for (std::int64_t number; queue.take(number);) {
            const Item& item = items[number];
            worker.start(item.batch, item.sample, static_cast<int>(std::min(tile, job.batch.size - item.sample)));
            if (job.sums && item.begin == 0) worker.keep_sums();
            for (std::int64_t g = item.begin; g < item.end; ++g) worker.run((*item.groups)[g]);
        }
    });
}

}  // namespace fpes

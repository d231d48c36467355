// The gradient of node perturbation: for each layer, the sum over pairs and samples of
// weight * (mean of the pair's inputs to the layer) (x) noise.
//
// The sum is a matrix product whose inner dimension runs over (pair, sample), in this order. Some pairs are carried
// through the network once more. Their inputs and weighted noise are kept until they are added to the products. Then
// the next pairs follow:
//
//                  (pair, sample)                          fan_out
//            +----------------------+              +---------------------+
//    fan_in  | mean of h+ and h-, T |   x   (pair, | weight * z          |   added to the gradient [fan_in, fan_out]
//            +----------------------+      sample) +---------------------+
//
// If most of the left operand is zero (pixels, and units that the boundary flushes), the product uses only the rest
// (kernels/nonzeros.hpp).
#include <algorithm>
#include <cmath>
#include <vector>

#include "gradient.hpp"
#include "nonzero_lists.hpp"
#include "parallel.hpp"
#include "shared_weights.hpp"

namespace fpes {
namespace {

// (pair, sample) terms kept at a time, whole tiles of samples; and rows of a gradient that one thread adds to at a
// time: so few that lists count in 32 bits.
constexpr std::int64_t kept_terms = 1024;
constexpr std::int64_t block_rows = 128;

// What one layer contributes, for all kept terms.
struct LayerTerms {
    PanelMatrix inputs;  // [terms, fan_in], in units of the network's own scale
    PanelMatrix noise;   // [terms, fan_out], weight * z
};

// Terms that are kept together: all samples of some pairs, or, where even those of one are too many, some of one pair.
struct Kept {
    PairRange pairs;
    std::int64_t sample;
    std::int64_t samples;
    std::int64_t terms() const { return pairs.count() * samples; }
    std::int64_t term(std::int64_t pair, std::int64_t s) const { return (pair - pairs.begin) * samples + s - sample; }
};

class NodeGradient {
   public:
    NodeGradient(const Job& job, const SampleWeights& weights)
        : job_(job),
          engine_(job.engine),
          network_(job.network),
          weights_(weights),
          skipping_(weights_are_harmless()),
          most_terms_(std::min(kept_terms, job.pairs.count() * job.batch.size)) {
        for (int l = 0; l < network_.depth(); ++l) {
            const Step& layer = network_.step(l);
            terms_.push_back(
                {engine_.matrix(most_terms_, layer.tensor.fan_in), engine_.matrix(most_terms_, layer.tensor.fan_out)});
            sums_.push_back(engine_.matrix(layer.tensor.fan_in, layer.tensor.fan_out));
            bias_sums_.push_back(engine_.matrix(1, layer.tensor.fan_out));
        }
    }

    void run(std::int64_t pairs_of_population, float* gradient) {
        const std::int64_t batch = job_.batch.size, samples = std::min(kept_terms, batch);
        const std::int64_t pairs = kept_terms / samples;
        for (std::int64_t pair = job_.pairs.begin; pair < job_.pairs.end; pair += pairs) {
            const PairRange range = {pair, std::min(pair + pairs, job_.pairs.end)};
            for (std::int64_t sample = 0; sample < batch; sample += samples) {
                add({range, sample, std::min(samples, batch - sample)});
            }
        }
        finish(pairs_of_population, gradient);
    }

   private:
    bool weights_are_harmless() const {
        const std::int64_t count = 2 * job_.pairs.count() * weights_.samples;
        return std::all_of(weights_.values, weights_.values + count, [](float w) { return std::fabs(w) < harmless; });
    }

    void add(const Kept& kept) {
        for_each_stack(job_, kept.pairs, kept.sample, kept.samples, [&](SharedWeights& walk, const Stack& stack) {
            for (int l = 0; l < network_.depth(); ++l) {
                for (std::int64_t place = 0; place < stack.pairs; ++place) keep(l, kept, walk, stack, place);
                // The weight accounts for everything above the last layer's noise.
                if (l + 1 < network_.depth()) walk.advance(l, stack);
            }
        });
        add_products(kept.terms());
        started_ = true;
    }

    // What the gradient needs of one pair, before the stack goes through layer l.
    void keep(int l, const Kept& kept, SharedWeights& walk, const Stack& stack, std::int64_t place) {
        const Step& layer = network_.step(l);
        const std::int64_t pair = stack.first_pair + place, term = kept.term(pair, stack.sample);
        const int rows = stack.rows, n = static_cast<int>(layer.tensor.fan_out);
        const Panels inputs = walk.inputs(layer);
        const Panels plus = layer.reads_input() ? inputs : walk.member_rows(inputs, place, 0);
        const Panels minus = layer.reads_input() ? inputs : walk.member_rows(inputs, place, 1);
        engine_.outside(&ModeKernels::add_and_scale, plus, minus, rows, static_cast<int>(layer.tensor.fan_in),
                        half_to_own_scale(layer), terms_[l].inputs.from_row(term));
        const Panels noise = terms_[l].noise.from_row(term);
        engine_.kernels().noise_panels(job_.population.noise.stream(l, job_.population.correction().right, pair),
                                       static_cast<std::uint64_t>(stack.sample) * n, rows, n, noise, walk.scratch());
        float difference[shared_tile];
        for (int i = 0; i < rows; ++i)
            difference[i] = fpes::difference(weights_, pair - job_.pairs.begin, stack.sample + i);
        engine_.outside(&ModeKernels::scale_rows, noise, rows, n, static_cast<const float*>(difference), noise);
    }

    // A thread's memory for a block of a product.
    struct BlockMemory {
        BlockMemory(const Engine& engine, std::int64_t terms)
            : inputs(engine.matrix(block_rows, terms)), lists(engine, block_rows, terms) {}
        PanelMatrix inputs;  // of a block of units, transposed
        NonzeroLists lists;
    };

    void add_products(std::int64_t terms) {
        const std::vector<RowBlock> blocks = row_blocks(network_, block_rows);
        parallel(job_.threads, static_cast<std::int64_t>(blocks.size()), [&](WorkQueue& queue) {
            BlockMemory memory(engine_, most_terms_);
            for (std::int64_t item; queue.take(item);) {
                const Step& layer = network_.step(blocks[item].layer);
                add_block(layer, blocks[item].row, static_cast<int>(terms), memory);
                if (blocks[item].row == 0) add_bias(layer, static_cast<int>(terms));
            }
        });
    }

    void add_block(const Step& layer, std::int64_t row, int terms, BlockMemory& memory) {
        const int rows = static_cast<int>(std::min(block_rows, layer.tensor.fan_in - row));
        const int n = static_cast<int>(layer.tensor.fan_out);
        const Panels inputs = engine_.at_column(terms_[layer.position].inputs.view(), row);
        const Panels noise = terms_[layer.position].noise.view(), sum = sums_[layer.position].from_row(row);
        const Panels init = started_ ? sum : Panels{};
        if (skipping_ && list_nonzeros(inputs, rows, terms, memory)) {
            engine_.outside(&ModeKernels::product_nonzeros, memory.lists.view(), 0, memory.inputs.view(), noise, init,
                            sum, rows, n, terms);
        } else {
            engine_.outside(&ModeKernels::product_transposed, inputs, noise, init, sum, rows, n, terms);
        }
    }

    // Whether the product with only the nonzeros is faster; if so, lists them. The first terms usually decide.
    bool list_nonzeros(Panels inputs, int rows, int terms, BlockMemory& memory) {
        auto listed = [&](int count) {
            engine_.kernels().transpose(inputs, rows, count, memory.inputs.view());
            return memory.lists.fill(memory.inputs.view(), rows, count);
        };
        const int first = engine_.kernels().nonzero_run;
        return terms <= first ? listed(terms) : listed(first) && listed(terms);
    }

    void add_bias(const Step& layer, int terms) {
        const Panels sum = bias_sums_[layer.position].view();
        sum_rows(engine_, terms_[layer.position].noise.view(), terms, static_cast<int>(layer.tensor.fan_out),
                 started_ ? sum : Panels{}, sum);
    }

    void finish(std::int64_t pairs, float* gradient) {
        for (int l = 0; l < network_.depth(); ++l) {
            const Step& layer = network_.step(l);
            const double scale = job_.population.gradient_scale(layer.tensor, pairs, weights_.samples);
            write_rows(engine_, sums_[l].view(), layer.tensor.fan_in, layer.tensor.fan_out, scale,
                       gradient + layer.tensor.weight_offset);
            write_bias(engine_, network_, layer, bias_sums_[l].view(), scale, gradient);
        }
    }

    const Job& job_;
    const Engine& engine_;
    PackedNetwork& network_;
    SampleWeights weights_;
    bool skipping_;  // whether weighted noise is finite, so that terms may be left out
    std::int64_t most_terms_;
    bool started_ = false;
    std::vector<LayerTerms> terms_;
    std::vector<PanelMatrix> sums_;
    std::vector<PanelMatrix> bias_sums_;
};

}  // namespace

std::vector<RowBlock> row_blocks(const PackedNetwork& network, std::int64_t rows) {
    std::vector<RowBlock> blocks;
    for (int l = 0; l < network.depth(); ++l) {
        for (std::int64_t row = 0; row < network.step(l).tensor.fan_in; row += rows) blocks.push_back({l, row});
    }
    return blocks;
}

void sum_rows(const Engine& engine, Panels rows, int count, int n, Panels init, Panels sum) {
    PanelMatrix ones = engine.matrix(1, count);
    for (std::int64_t j = 0; j < count; j += engine.width()) {
        std::fill_n(engine.at_column(ones.view(), j).data, engine.width(), 1.0f);
    }
    engine.outside(&ModeKernels::product, ones.view(), rows, init, sum, 1, n, count);
}

void write_rows(const Engine& engine, Panels sum, std::int64_t rows, std::int64_t n, double scale, float* out) {
    engine.kernels().unpack(sum, static_cast<int>(rows), static_cast<int>(n), out, static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < rows * n; ++i) out[i] = static_cast<float>(out[i] * scale);
}

void write_bias(const Engine& engine, PackedNetwork& network, const Step& layer, Panels sum, double scale,
                float* gradient) {
    const int n = static_cast<int>(layer.tensor.fan_out);
    float* out = gradient + layer.tensor.bias_offset;
    write_rows(engine, sum, 1, n, scale, out);
    if (!may_have_dead_biases(layer, engine.flush())) return;
    PanelMatrix scaled = engine.matrix(1, n);
    engine.elementwise(&ModeKernels::scale, network.bias(layer.tensor), 1, n, layer.bias_factor, scaled.view());
    std::vector<float> bias(n);
    engine.kernels().unpack(scaled.view(), 1, n, bias.data(), n);
    for (int j = 0; j < n; ++j) {
        if (bias[j] == 0.0f) out[j] = 0.0f;
    }
}

void node_gradient(const Job& job, const SampleWeights& weights, std::int64_t pairs, float* gradient) {
    const FpMode ieee(false);
    NodeGradient(job, weights).run(pairs, gradient);
}

}  // namespace fpes

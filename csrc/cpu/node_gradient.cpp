// The gradient of node perturbation: for each layer, the sum over pairs and samples of
// weight * (mean of the pair's inputs to the layer) (x) noise.
//
// The sum is a matrix product whose inner dimension runs over (pair, sample), in that order. So a batch of pairs is
// carried forward once more, its inputs and its weighted noise are kept for as long as it takes to add them to the
// products, and then the next batch of pairs comes:
//
//                  (pair, sample)                          fan_out
//            +----------------------+              +---------------------+
//    fan_in  | mean of h+ and h-, T |   x   (pair, | weight * z          |   added to the gradient [fan_in, fan_out]
//            +----------------------+      sample) +---------------------+
#include <algorithm>
#include <vector>

#include "gradient.hpp"
#include "parallel.hpp"

namespace fpes {
namespace {

// (pair, sample) terms kept at a time, and rows of a gradient that one thread adds to at a time.
constexpr std::int64_t kept_terms = 2048;
constexpr std::int64_t block_rows = 96;

// What one layer contributes, for all kept terms.
struct LayerTerms {
    PanelMatrix inputs;  // [terms, fan_in], in units of the network's own scale
    PanelMatrix noise;   // [terms, fan_out], weight * z
};

// A tile of samples of one pair.
struct Tile {
    std::int64_t pair;
    std::int64_t sample;
    int rows;
    std::int64_t term;  // of its first sample, among those kept
};

class NodeGradient {
   public:
    NodeGradient(const Job& job, const float* weights, bool per_sample)
        : job_(job), engine_(job.engine), network_(job.network), weights_(weights), per_sample_(per_sample) {
        for (int l = 0; l < network_.depth(); ++l) {
            const Layer& layer = network_.layer(l);
            terms_.push_back({engine_.matrix(kept_terms, layer.fan_in), engine_.matrix(kept_terms, layer.fan_out)});
            sums_.push_back(engine_.matrix(layer.fan_in, layer.fan_out));
            bias_sums_.push_back(engine_.matrix(1, layer.fan_out));
        }
    }

    void run(float* gradient) {
        std::vector<Tile> tiles;
        std::int64_t terms = 0;
        for (std::int64_t pair = job_.pairs.begin; pair < job_.pairs.end; ++pair) {
            for (std::int64_t sample = 0; sample < job_.batch.size; sample += shared_tile) {
                const int rows = static_cast<int>(std::min(shared_tile, job_.batch.size - sample));
                if (terms + rows > kept_terms) {
                    add_terms(tiles, terms);
                    tiles.clear();
                    terms = 0;
                }
                tiles.push_back({pair, sample, rows, terms});
                terms += rows;
            }
        }
        add_terms(tiles, terms);
        finish(gradient);
    }

   private:
    void add_terms(const std::vector<Tile>& tiles, std::int64_t terms) {
        parallel(job_.threads, static_cast<std::int64_t>(tiles.size()), [&](WorkQueue& queue) {
            const std::int64_t rows = std::min(shared_tile, job_.batch.size);
            PanelMatrix input = engine_.matrix(rows, network_.features());
            PanelMatrix hidden[2][2] = {
                {engine_.matrix(rows, network_.widest_output()), engine_.matrix(rows, network_.widest_output())},
                {engine_.matrix(rows, network_.widest_output()), engine_.matrix(rows, network_.widest_output())}};
            PanelMatrix scaled_bias = engine_.matrix(1, network_.widest_output());
            Buffer<float> scratch(noise_scratch_size(network_.widest_output() * rows));
            for (std::int64_t item; queue.take(item);) {
                keep(tiles[item], input, hidden, scaled_bias, scratch.data());
            }
        });
        add_products(terms);
        started_ = true;
    }

    // Carries one tile forward and keeps what the gradient needs of it.
    void keep(const Tile& tile, PanelMatrix& input, PanelMatrix hidden[2][2], PanelMatrix& scaled_bias,
              float* scratch) {
        const std::int64_t features = network_.features();
        engine_.kernels().pack(job_.batch.x + job_.batch.row(tile.pair, tile.sample) * features, features, tile.rows,
                               static_cast<int>(features), input.view());
        Panels in[2] = {input.view(), input.view()};
        for (int l = 0; l < network_.depth(); ++l) {
            const Layer& layer = network_.layer(l);
            const int k = static_cast<int>(layer.fan_in), n = static_cast<int>(layer.fan_out);
            // Activations lie in the scaled domain from layer 2 on; the factor brings them back: exact, both ways.
            const float half_unit = static_cast<float>(0.5 / static_cast<double>(layer.bias_factor));
            engine_.outside(&ModeKernels::add_and_scale, in[0], in[1], tile.rows, k, half_unit,
                            terms_[l].inputs.from_row(tile.term));
            keep_noise(tile, layer, scratch);
            if (l + 1 == network_.depth()) break;  // what lies above the last layer's noise is the weight's concern
            const Panels out[2] = {hidden[0][l % 2].view(), hidden[1][l % 2].view()};
            // Both members have the same inputs to the first layer.
            const int different = l == 0 ? 1 : 2;
            for (int sign = 0; sign < different; ++sign) {
                engine_.in_product(&ModeKernels::product, in[sign], network_.weight(l), Panels{}, out[sign], tile.rows,
                                   n, k);
            }
            engine_.in_product(&ModeKernels::perturb, job_.population.stream(l, NoiseRole::node, tile.pair),
                               static_cast<std::uint64_t>(tile.sample) * n, n, job_.population.node_scale(layer),
                               tile.rows, n, out[0], out[different - 1], out[0], out[1], scratch);
            for (int sign = 0; sign < 2; ++sign) {
                cross_boundary(engine_, layer, out[sign], tile.rows, network_.bias(l), scaled_bias.view(), out[sign]);
                in[sign] = out[sign];
            }
        }
    }

    void keep_noise(const Tile& tile, const Layer& layer, float* scratch) {
        const int n = static_cast<int>(layer.fan_out);
        const Panels noise = terms_[layer.index].noise.from_row(tile.term);
        engine_.kernels().noise_panels(job_.population.stream(layer.index, NoiseRole::node, tile.pair),
                                       static_cast<std::uint64_t>(tile.sample) * n, tile.rows, n, noise, scratch);
        float difference[shared_tile];
        for (int i = 0; i < tile.rows; ++i) difference[i] = weight_difference(tile.pair, tile.sample + i);
        engine_.outside(&ModeKernels::scale_rows, noise, tile.rows, n, static_cast<const float*>(difference), noise);
    }

    float weight_difference(std::int64_t pair, std::int64_t sample) const {
        const std::int64_t member = 2 * (pair - job_.pairs.begin);
        if (!per_sample_) return weights_[member] - weights_[member + 1];
        return weights_[member * job_.batch.size + sample] - weights_[(member + 1) * job_.batch.size + sample];
    }

    void add_products(std::int64_t terms) {
        struct Block {
            int layer;
            std::int64_t row;
        };
        std::vector<Block> blocks;
        for (int l = 0; l < network_.depth(); ++l) {
            for (std::int64_t row = 0; row < network_.layer(l).fan_in; row += block_rows) blocks.push_back({l, row});
        }
        parallel(job_.threads, static_cast<std::int64_t>(blocks.size()), [&](WorkQueue& queue) {
            PanelMatrix ones = engine_.matrix(1, kept_terms);
            std::fill(ones.view().data, ones.view().data + ones.view().stride * (kept_terms / engine_.width()), 1.0f);
            for (std::int64_t item; queue.take(item);) {
                const Layer& layer = network_.layer(blocks[item].layer);
                add_block(layer, blocks[item].row, static_cast<int>(terms));
                if (blocks[item].row == 0) {
                    Panels bias = bias_sums_[layer.index].view();
                    engine_.outside(&ModeKernels::product, ones.view(), terms_[layer.index].noise.view(),
                                    started_ ? bias : Panels{}, bias, 1, static_cast<int>(layer.fan_out),
                                    static_cast<int>(terms));
                }
            }
        });
    }

    void add_block(const Layer& layer, std::int64_t row, int terms) {
        const int rows = static_cast<int>(std::min(block_rows, layer.fan_in - row));
        const Panels inputs = engine_.at_column(terms_[layer.index].inputs.view(), row);
        const Panels sum = sums_[layer.index].from_row(row);
        engine_.outside(&ModeKernels::product_transposed, inputs, terms_[layer.index].noise.view(),
                        started_ ? sum : Panels{}, sum, rows, static_cast<int>(layer.fan_out), terms);
    }

    void finish(float* gradient) {
        const double members = 2.0 * static_cast<double>(job_.pairs.count());
        const double samples = per_sample_ ? static_cast<double>(job_.batch.size) : 1.0;
        const double scale = noise_unit(job_.population.noise) / (members * samples * job_.population.sigma);
        for (int l = 0; l < network_.depth(); ++l) {
            const Layer& layer = network_.layer(l);
            write_rows(engine_, sums_[l].view(), layer.fan_in, layer.fan_out, scale, gradient + layer.weight_offset);
            write_bias(engine_, network_, layer, bias_sums_[l].view(), scale, gradient);
        }
    }

    const Job& job_;
    const Engine& engine_;
    PackedNetwork& network_;
    const float* weights_;
    bool per_sample_;
    bool started_ = false;
    std::vector<LayerTerms> terms_;
    std::vector<PanelMatrix> sums_;
    std::vector<PanelMatrix> bias_sums_;
};

}  // namespace

void write_rows(const Engine& engine, Panels sum, std::int64_t rows, std::int64_t n, double scale, float* out) {
    engine.kernels().unpack(sum, static_cast<int>(rows), static_cast<int>(n), out, static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < rows * n; ++i) out[i] = static_cast<float>(out[i] * scale);
}

void write_bias(const Engine& engine, PackedNetwork& network, const Layer& layer, Panels sum, double scale,
                float* gradient) {
    const int n = static_cast<int>(layer.fan_out);
    float* out = gradient + layer.bias_offset;
    write_rows(engine, sum, 1, n, scale, out);
    if (layer.index == 0 || !elementwise_flushes(engine.flush())) return;
    PanelMatrix scaled = engine.matrix(1, n);
    engine.elementwise(&ModeKernels::scale, network.bias(layer.index), 1, n, layer.bias_factor, scaled.view());
    std::vector<float> bias(n);
    engine.kernels().unpack(scaled.view(), 1, n, bias.data(), n);
    for (int j = 0; j < n; ++j) {
        if (bias[j] == 0.0f) out[j] = 0.0f;
    }
}

void node_gradient(const Job& job, const float* weights, bool per_sample, float* gradient) {
    const FpMode ieee(false);
    NodeGradient(job, weights, per_sample).run(gradient);
}

}  // namespace fpes

// Full-rank perturbation: every member has its own weights.
//
// These weights are never all in memory. A thread takes a pair of members and a tile of samples, and goes through the
// weights of a layer in blocks: it draws the noise of a block once, computes this block of both members' weights,
// multiplies both members' activations by them, and discards them.
//
//         n                z (drawn)      w + s z, w - s z        accumulators of both members
//     +---+---+---+       +-------+      +-------+ +-------+     +--------+ +--------+
//   k |   | x |   |   ->  | block |  ->  | block | | block |  -> | += h+ .| | += h- .|     k ascending: the blocks
//     +---+---+---+       +-------+      +-------+ +-------+     +--------+ +--------+     continue the same chains
//     |   |   |   |
//
// A block is few columns wide and many rows deep, so that a product runs over a long k before it writes its
// accumulators back, and so that the weights come from memory in a few long streams, which the processor prefetches.
// Drawing a weight costs about as much as 3 multiply-adds of a vector, and serves `full_tile` samples of two members.
//
// If most activations are zero (pixels, and units that the boundary flushes), a product uses only the others
// (kernels/nonzeros.hpp): at least twice the speed, with the same bits.
#include <algorithm>

#include "nonzero_lists.hpp"
#include "parallel.hpp"
#include "population.hpp"

namespace fpes {
namespace {

// Weights of one member in a block: with both members' blocks, half of a second-level cache of 1 MB.
constexpr std::int64_t block_weights = 1 << 16;
// Columns of a block, at least, where the layer has more.
constexpr std::int64_t block_columns = 128;

class FullRankWorker {
   public:
    FullRankWorker(const Job& job, Sink& sink, std::int64_t tile)
        : job_(job),
          sink_(sink),
          engine_(job.engine),
          network_(job.network),
          input_(engine_.matrix(tile, network_.features())),
          hidden_{{hidden(tile), hidden(tile)}, {hidden(tile), hidden(tile)}},
          skipping_(job.population.bias_scale() < harmless && tile * network_.widest() < most_listed),
          lists_{NonzeroLists(engine_, tile, network_.widest()), NonzeroLists(engine_, tile, network_.widest_output())},
          weights_{block(), block()},
          biases_{bias(), bias()},
          scaled_bias_(bias()),
          scratch_(noise_scratch_size(network_.widest_output())) {}

    void run(std::int64_t pair, std::int64_t sample, int rows) {
        const std::int64_t features = network_.features();
        engine_.kernels().pack(job_.batch.x + job_.batch.row(pair, sample) * features, features, rows,
                               static_cast<int>(features), input_.view());
        Panels in[2] = {input_.view(), input_.view()};
        for (int l = 0; l < network_.depth(); ++l) {
            const Step& step = network_.step(l);
            const Panels out[2] = {hidden_[0][l % 2].view(), hidden_[1][l % 2].view()};
            list_nonzeros(static_cast<int>(step.tensor.fan_in), rows, in);
            multiply(step.tensor, pair, rows, in, out);
            cross(step, pair, rows, out);
            in[0] = out[0];
            in[1] = out[1];
        }
        for (int sign = 0; sign < 2; ++sign) sink_.take(2 * pair + sign, sample, rows, in[sign]);
    }

   private:
    PanelMatrix hidden(std::int64_t tile) const { return engine_.matrix(tile, network_.widest_output()); }
    PanelMatrix bias() const { return engine_.matrix(1, network_.widest_output()); }
    // Room for the largest block: rows are plentiful where a layer is narrow, and few where it is wide.
    Buffer<float> block() const {
        std::int64_t largest = 0;
        for (const Tensor& tensor : network_.tensors()) {
            largest = std::max(largest, block_rows(tensor) * padded(columns_of_block(tensor)));
        }
        return Buffer<float>(static_cast<std::size_t>(largest));
    }
    std::int64_t padded(std::int64_t n) const { return (n + engine_.width() - 1) / engine_.width() * engine_.width(); }
    // Noise is drawn in groups, a row of a block at a time: so whole groups, or whole rows of the layer.
    std::int64_t columns_of_block(const Tensor& tensor) const {
        const int group = engine_.kernels().lanes * elements_per_block(job_.population.noise.kind);
        const std::int64_t columns = std::max<std::int64_t>(block_columns, group);
        return tensor.fan_out % columns == 0 ? columns : tensor.fan_out;
    }
    // Rows of weights in a block: a multiple of the panel's width and of a run of nonzeros, for the activations are cut
    // there too.
    std::int64_t block_rows(const Tensor& tensor) const {
        const std::int64_t run = engine_.kernels().nonzero_run;
        const std::int64_t most = block_weights / padded(columns_of_block(tensor)) / run * run;
        return std::clamp(most, run, (tensor.fan_in + run - 1) / run * run);
    }

    // Decides for each member how its activations are multiplied: by all terms, or by those that aren't zero.
    void list_nonzeros(int k, int rows, const Panels in[2]) {
        for (int sign = 0; sign < 2; ++sign) {
            if (sign && in[1].data == in[0].data) {
                terms_[1] = terms_[0];
                return;
            }
            terms_[sign] = nullptr;
            if (!skipping_) continue;
            if (lists_[sign].fill(in[sign], rows, k)) terms_[sign] = &lists_[sign];
        }
    }

    void multiply(const Tensor& tensor, std::int64_t pair, int rows, const Panels in[2], const Panels out[2]) {
        const std::int64_t depth = block_rows(tensor), columns = columns_of_block(tensor);
        for (std::int64_t j = 0; j < tensor.fan_out; j += columns) {
            for (std::int64_t k = 0; k < tensor.fan_in; k += depth) {
                const Block block = {k, j, static_cast<int>(std::min(depth, tensor.fan_in - k)),
                                     static_cast<int>(columns)};
                multiply_block(tensor, block, pair, rows, in, out);
            }
        }
    }

    // Rows k ... of a tensor's weights, columns j ...
    struct Block {
        std::int64_t k;
        std::int64_t j;
        int depth;
        int columns;
    };

    void multiply_block(const Tensor& tensor, const Block& block, std::int64_t pair, int rows, const Panels in[2],
                        const Panels out[2]) {
        const std::size_t stride = static_cast<std::size_t>(block_rows(tensor) * engine_.width());
        const Panels drawn[2] = {{weights_[0].data(), stride}, {weights_[1].data(), stride}};
        const Panels weight = engine_.at_row(engine_.at_column(network_.weight(tensor), block.j), block.k);
        engine_.in_product(&ModeKernels::perturb, job_.population.noise.stream(tensor.index, NoiseRole::weight, pair),
                           static_cast<std::uint64_t>(block.k * tensor.fan_out + block.j), tensor.fan_out,
                           job_.population.bias_scale(), block.depth, block.columns, weight, weight, drawn[0], drawn[1],
                           scratch_.data());
        for (int sign = 0; sign < 2; ++sign) {
            const Panels result = engine_.at_column(out[sign], block.j);
            const Panels left = engine_.at_column(in[sign], block.k), init = block.k ? result : Panels{};
            if (terms_[sign]) {
                const int run = static_cast<int>(block.k / engine_.kernels().nonzero_run);
                engine_.in_product(&ModeKernels::product_nonzeros, terms_[sign]->view(), run, left, drawn[sign], init,
                                   result, rows, block.columns, block.depth);
            } else {
                engine_.in_product(&ModeKernels::product, left, drawn[sign], init, result, rows, block.columns,
                                   block.depth);
            }
        }
    }

    void cross(const Step& step, std::int64_t pair, int rows, const Panels out[2]) {
        const int n = static_cast<int>(step.tensor.fan_out);
        const Panels bias = network_.bias(step.tensor);
        engine_.in_product(&ModeKernels::perturb,
                           job_.population.noise.stream(step.tensor.index, NoiseRole::bias, pair), std::uint64_t{0}, n,
                           job_.population.bias_scale(), 1, n, bias, bias, biases_[0].view(), biases_[1].view(),
                           scratch_.data());
        for (int sign = 0; sign < 2; ++sign) {
            cross_boundary(engine_, step, out[sign], rows, biases_[sign].view(), scaled_bias_.view(), out[sign]);
        }
    }

    const Job& job_;
    Sink& sink_;
    const Engine& engine_;
    PackedNetwork& network_;
    PanelMatrix input_;
    PanelMatrix hidden_[2][2];  // [sign][layer % 2]
    bool skipping_;             // whether weights stay finite whatever the noise, so that terms may be left out
    NonzeroLists lists_[2];
    NonzeroLists* terms_[2];  // of each sign: how its activations are multiplied, null meaning by all terms
    Buffer<float> weights_[2];
    PanelMatrix biases_[2];
    PanelMatrix scaled_bias_;
    Buffer<float> scratch_;
};

}  // namespace

void run_full_rank(const Job& job, Sink& sink) {
    const std::int64_t tile = std::min(full_tile, job.batch.size);
    const std::int64_t tiles = (job.batch.size + tile - 1) / tile;
    parallel(job.threads, job.pairs.count() * tiles, [&](WorkQueue& queue) {
        FullRankWorker worker(job, sink, tile);
        for (std::int64_t item; queue.take(item);) {
            const std::int64_t sample = item % tiles * tile;
            worker.run(job.pairs.begin + item / tiles, sample,
                       static_cast<int>(std::min(tile, job.batch.size - sample)));
        }
    });
}

}  // namespace fpes

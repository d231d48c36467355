// The gradient of node perturbation if each pair perturbs one layer.
//
// The inputs of a perturbed layer are the unperturbed network's, whose accumulators evaluate() has kept. So a layer's
// gradient is one product, whatever the number of pairs:
//
//                  sample                            fan_out
//            +-----------------+            +--------------------------+
//    fan_in  | inputs, T       |   x sample | sum over pairs of        |
//            +-----------------+            | weight * noise           |
//                                           +--------------------------+
//
// The sum includes only noise that has reached the network: that of the units that a pair perturbs, except units that
// the boundary flushes in both members. Such a unit is zero under +z, under -z and unperturbed, so the loss doesn't
// depend on its z. Its term has expectation zero, and skipping it removes only variance. Most units of a freshly
// initialised network are of this kind.
#include <algorithm>
#include <vector>

#include "gradient.hpp"
#include "layer_noise.hpp"
#include "parallel.hpp"

namespace fpes {
namespace {

// Samples whose noise one thread sums at a time, and rows of a gradient that it computes at a time.
constexpr std::int64_t tile_samples = 64;
constexpr std::int64_t block_rows = 64;

// A thread's memory for one tile of one layer.
struct TileMemory {
    TileMemory(const Job& job, std::int64_t rows, std::int64_t width)
        : noise(job, rows, 1),
          sums(job.engine.matrix(rows, width)),
          scaled_bias(job.engine.matrix(1, width)),
          plus(job.engine.matrix(rows, width)),
          minus(job.engine.matrix(rows, width)),
          scratch(noise_scratch_size(4 * rows * width)) {}
    LayerNoise noise;
    PanelMatrix sums;
    PanelMatrix scaled_bias;
    PanelMatrix plus;
    PanelMatrix minus;
    Buffer<float> scratch;
};

class IncrementalGradient {
   public:
    IncrementalGradient(const Job& job, const SampleWeights& weights, std::int64_t pairs)
        : job_(job),
          engine_(job.engine),
          network_(job.network),
          weights_(weights),
          samples_(job.batch.count * job.batch.size),
          pairs_of_population_(pairs) {
        const float* sums = job.sums;
        for (int l = 0; l < network_.depth(); ++l) {
            noise_.push_back(engine_.matrix(samples_, network_.step(l).tensor.fan_out));
            activations_.push_back(engine_.matrix(samples_, network_.step(l).tensor.fan_out));
            sums_.push_back(sums);
            sums += samples_ * network_.step(l).tensor.fan_out;
            pairs_.push_back(job.population.allocation.pairs_of(l, job.pairs));
        }
    }

    void run(float* gradient) {
        sum_noise();
        multiply(gradient);
    }

   private:
    void sum_noise() {
        const std::int64_t tile = std::min(tile_samples, job_.batch.size);
        const std::int64_t tiles = (job_.batch.size + tile - 1) / tile;
        const int depth = network_.depth();
        parallel(job_.threads, job_.batch.count * tiles * depth, [&](WorkQueue& queue) {
            TileMemory memory(job_, tile, network_.widest_output());
            for (std::int64_t item; queue.take(item);) {
                const std::int64_t sample = item / depth % tiles * tile;
                const int rows = static_cast<int>(std::min(tile, job_.batch.size - sample));
                sum_noise_of(static_cast<int>(item % depth), item / depth / tiles, sample, rows, memory);
            }
        });
    }

    // noise_[l] and activations_[l] of some samples of a batch: the pairs that see it in order, each added by a fused
    // multiply-add.
    void sum_noise_of(int l, std::int64_t batch, std::int64_t sample, int rows, TileMemory& memory) {
        const Step& layer = network_.step(l);
        const int n = static_cast<int>(layer.tensor.fan_out);
        const std::int64_t row = batch * job_.batch.size + sample;
        const Panels noise = noise_[l].from_row(row), sums = memory.sums.view();
        engine_.kernels().pack(sums_[l] + row * n, n, rows, n, sums);
        keep_activations(layer, sums, rows, memory.scaled_bias.view(), activations_[l].from_row(row));
        for (std::int64_t j = 0; j < n; j += engine_.width()) {
            float* panel = engine_.at_column(noise, j).data;
            std::fill(panel, panel + static_cast<std::size_t>(rows) * engine_.width(), 0.0f);
        }
        for (const std::int64_t pair : pairs_[l]) {
            if (job_.batch.batch_of(pair) != batch) continue;
            float difference[tile_samples];
            for (int i = 0; i < rows; ++i)
                difference[i] = fpes::difference(weights_, pair - job_.pairs.begin, sample + i);
            add_noise(layer, pair, sample, rows, difference, noise, memory);
        }
    }

    // In units of the network's own scale: the inputs of the next layer.
    void keep_activations(const Step& layer, Panels sums, int rows, Panels scaled_bias, Panels out) {
        cross_boundary(engine_, layer, sums, rows, network_.bias(layer.tensor), scaled_bias, out);
        if (layer.position + 1 == network_.depth()) return;
        const float factor = to_own_scale(network_.step(layer.position + 1));
        engine_.outside(&ModeKernels::scale, out, rows, static_cast<int>(layer.tensor.fan_out), factor, out);
    }

    void add_noise(const Step& layer, std::int64_t pair, std::int64_t sample, int rows, const float* difference,
                   Panels noise, TileMemory& memory) {
        const NoiseStream stream =
            job_.population.noise.stream(layer.position, job_.population.correction().right, pair);
        const auto first = static_cast<std::uint64_t>(sample);
        const Panels sums = memory.sums.view(), bias = memory.scaled_bias.view();
        if (const int k = job_.population.allocation.units[layer.position]) {
            memory.noise.perturb_some(layer, pair, 0, sample, rows, sums, bias);
            engine_.outside(&ModeKernels::accumulate_units, stream, first, difference, memory.noise.units(), rows, k,
                            static_cast<const float*>(memory.noise.changed(0)),
                            static_cast<const float*>(memory.noise.changed(1)), noise, memory.scratch.data());
        } else {
            const Panels plus = memory.plus.view(), minus = memory.minus.view();
            memory.noise.perturb_all(layer, pair, 0, sample, rows, sums, bias, plus, minus);
            engine_.outside(&ModeKernels::accumulate_rows, stream, first, difference, rows,
                            static_cast<int>(layer.tensor.fan_out), plus, minus, noise, memory.scratch.data());
        }
    }

    void multiply(float* gradient) {
        const std::vector<RowBlock> blocks = row_blocks(network_, block_rows);
        parallel(job_.threads, static_cast<std::int64_t>(blocks.size()), [&](WorkQueue& queue) {
            PanelMatrix input = engine_.matrix(samples_, block_rows);
            PanelMatrix sum = engine_.matrix(block_rows, network_.widest_output());
            for (std::int64_t item; queue.take(item);) {
                const Step& layer = network_.step(blocks[item].layer);
                multiply_block(layer, blocks[item].row, input, sum, gradient);
                if (blocks[item].row == 0) sum_bias(layer, sum, gradient);
            }
        });
    }

    void multiply_block(const Step& layer, std::int64_t row, PanelMatrix& input, PanelMatrix& sum, float* gradient) {
        const int rows = static_cast<int>(std::min(block_rows, layer.tensor.fan_in - row));
        const int samples = static_cast<int>(samples_);
        Panels left = input.view();
        if (layer.reads_input()) {
            engine_.kernels().pack(job_.batch.x + row, layer.tensor.fan_in, samples, rows, left);
        } else {
            left = engine_.at_column(activations_[layer.reads].view(), row);
        }
        engine_.outside(&ModeKernels::product_transposed, left, noise_[layer.position].view(), Panels{}, sum.view(),
                        rows, static_cast<int>(layer.tensor.fan_out), samples);
        write_rows(engine_, sum.view(), rows, layer.tensor.fan_out, scale(layer),
                   gradient + layer.tensor.weight_offset + row * layer.tensor.fan_out);
    }

    void sum_bias(const Step& layer, PanelMatrix& sum, float* gradient) {
        sum_rows(engine_, noise_[layer.position].view(), static_cast<int>(samples_),
                 static_cast<int>(layer.tensor.fan_out), Panels{}, sum.view());
        write_bias(engine_, network_, layer, sum.view(), scale(layer), gradient);
    }

    double scale(const Step& layer) const {
        return job_.population.gradient_scale(layer.tensor, pairs_of_population_, weights_.samples);
    }

    const Job& job_;
    const Engine& engine_;
    PackedNetwork& network_;
    SampleWeights weights_;
    std::int64_t samples_;                          // of all batches, one after another
    std::vector<std::vector<std::int64_t>> pairs_;  // of each layer
    std::int64_t pairs_of_population_;
    std::vector<const float*> sums_;        // of each layer, [samples, fan_out]
    std::vector<PanelMatrix> activations_;  // likewise
    std::vector<PanelMatrix> noise_;        // likewise
};

}  // namespace

void incremental_gradient(const Job& job, const SampleWeights& weights, std::int64_t pairs, float* gradient) {
    const FpMode ieee(false);
    IncrementalGradient(job, weights, pairs).run(gradient);
}

}  // namespace fpes

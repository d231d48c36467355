// The gradient of node perturbation where each pair perturbs one layer.
//
// The inputs of a perturbed layer are the unperturbed network's, which evaluate() has kept. So a layer's gradient is
// one product, whatever the number of pairs:
//
//                  sample                            fan_out
//            +-----------------+            +--------------------------+
//    fan_in  | inputs, T       |   x sample | sum over pairs of        |
//            +-----------------+            | weight * noise           |   (zero where a pair leaves a unit alone)
//                                           +--------------------------+
#include <algorithm>
#include <vector>

#include "gradient.hpp"
#include "parallel.hpp"

namespace fpes {
namespace {

// Samples whose noise one thread sums at a time, and rows of a gradient that it computes at a time.
constexpr std::int64_t tile_samples = 64;
constexpr std::int64_t block_rows = 64;

class IncrementalGradient {
   public:
    IncrementalGradient(const Job& job, const float* weights, bool per_sample, const float* activations)
        : job_(job),
          engine_(job.engine),
          network_(job.network),
          weights_(weights),
          per_sample_(per_sample),
          samples_(job.batch.count * job.batch.size),
          pairs_(network_.depth()) {
        for (std::int64_t pair = job.pairs.begin; pair < job.pairs.end; ++pair) {
            pairs_[job.population.layer_of(pair)].push_back(pair);
        }
        inputs_.push_back(job.batch.x);
        for (int l = 0; l < network_.depth(); ++l) {
            noise_.push_back(engine_.matrix(samples_, network_.layer(l).fan_out));
            inputs_.push_back(activations);
            activations += samples_ * network_.layer(l).fan_out;
        }
    }

    void run(float* gradient) {
        sum_noise();
        multiply(gradient);
    }

   private:
    void sum_noise() {
        const std::int64_t tiles = (job_.batch.size + tile_samples - 1) / tile_samples;
        const int depth = network_.depth();
        parallel(job_.threads, job_.batch.count * tiles * depth, [&](WorkQueue& queue) {
            Buffer<std::int32_t> units(tile_samples * network_.widest_output());
            Buffer<float> scratch(noise_scratch_size(4 * tile_samples * network_.widest_output()));
            for (std::int64_t item; queue.take(item);) {
                const std::int64_t sample = item / depth % tiles * tile_samples;
                const int rows = static_cast<int>(std::min(tile_samples, job_.batch.size - sample));
                sum_noise_of(static_cast<int>(item % depth), item / depth / tiles, sample, rows, units.data(),
                             scratch.data());
            }
        });
    }

    // noise_[l] of some samples of a batch: the pairs that see it in order, each added by a fused multiply-add.
    void sum_noise_of(int l, std::int64_t batch, std::int64_t sample, int rows, std::int32_t* units, float* scratch) {
        const int n = static_cast<int>(network_.layer(l).fan_out), k = job_.population.units[l];
        const Panels sums = noise_[l].from_row(batch * job_.batch.size + sample);
        const auto first = static_cast<std::uint64_t>(sample);
        for (std::int64_t j = 0; j < n; j += engine_.width()) {
            float* panel = engine_.at_column(sums, j).data;
            std::fill(panel, panel + static_cast<std::size_t>(rows) * engine_.width(), 0.0f);
        }
        for (const std::int64_t pair : pairs_[l]) {
            if (job_.batch.batch_of(pair) != batch) continue;
            float difference[tile_samples];
            for (int i = 0; i < rows; ++i) difference[i] = weight_difference(pair, sample + i);
            const NoiseStream stream = job_.population.stream(l, NoiseRole::node, pair);
            if (k == 0) {
                engine_.outside(&ModeKernels::accumulate_rows, stream, first, static_cast<const float*>(difference),
                                rows, n, sums, scratch);
                continue;
            }
            engine_.kernels().unit_positions(job_.population.stream(l, NoiseRole::positions, pair), first, rows, n, k,
                                             units, scratch);
            engine_.outside(&ModeKernels::accumulate_units, stream, first, static_cast<const float*>(difference),
                            static_cast<const std::int32_t*>(units), rows, k, sums, scratch);
        }
    }

    float weight_difference(std::int64_t pair, std::int64_t sample) const {
        const std::int64_t member = 2 * (pair - job_.pairs.begin);
        if (!per_sample_) return weights_[member] - weights_[member + 1];
        return weights_[member * job_.batch.size + sample] - weights_[(member + 1) * job_.batch.size + sample];
    }

    void multiply(float* gradient) {
        struct Block {
            int layer;
            std::int64_t row;
        };
        std::vector<Block> blocks;
        for (int l = 0; l < network_.depth(); ++l) {
            for (std::int64_t row = 0; row < network_.layer(l).fan_in; row += block_rows) blocks.push_back({l, row});
        }
        parallel(job_.threads, static_cast<std::int64_t>(blocks.size()), [&](WorkQueue& queue) {
            PanelMatrix inputs = engine_.matrix(samples_, block_rows);
            PanelMatrix sum = engine_.matrix(block_rows, network_.widest_output());
            for (std::int64_t item; queue.take(item);) {
                const Layer& layer = network_.layer(blocks[item].layer);
                multiply_block(layer, blocks[item].row, inputs, sum, gradient);
                if (blocks[item].row == 0) sum_bias(layer, sum, gradient);
            }
        });
    }

    void multiply_block(const Layer& layer, std::int64_t row, PanelMatrix& inputs, PanelMatrix& sum, float* gradient) {
        const int rows = static_cast<int>(std::min(block_rows, layer.fan_in - row));
        const int samples = static_cast<int>(samples_);
        engine_.kernels().pack(inputs_[layer.index] + row, layer.fan_in, samples, rows, inputs.view());
        engine_.outside(&ModeKernels::product_transposed, inputs.view(), noise_[layer.index].view(), Panels{},
                        sum.view(), rows, static_cast<int>(layer.fan_out), samples);
        write_rows(engine_, sum.view(), rows, layer.fan_out, scale(layer),
                   gradient + layer.weight_offset + row * layer.fan_out);
    }

    void sum_bias(const Layer& layer, PanelMatrix& sum, float* gradient) {
        const std::vector<float> ones(samples_, 1.0f);
        PanelMatrix left = engine_.matrix(1, samples_);
        engine_.kernels().pack(ones.data(), ones.size(), 1, static_cast<int>(ones.size()), left.view());
        engine_.outside(&ModeKernels::product, left.view(), noise_[layer.index].view(), Panels{}, sum.view(), 1,
                        static_cast<int>(layer.fan_out), static_cast<int>(ones.size()));
        write_bias(engine_, network_, layer, sum.view(), scale(layer), gradient);
    }

    // A unit is perturbed in k of n draws only, which the factor n / k makes up for.
    double scale(const Layer& layer) const {
        const double members = 2.0 * static_cast<double>(pairs_[layer.index].size());
        const double samples = per_sample_ ? static_cast<double>(job_.batch.size) : 1.0;
        const double unit = noise_unit(job_.population.noise) / (members * samples * job_.population.sigma);
        const int k = job_.population.units[layer.index];
        return k ? unit * (static_cast<double>(layer.fan_out) / k) : unit;
    }

    const Job& job_;
    const Engine& engine_;
    PackedNetwork& network_;
    const float* weights_;
    bool per_sample_;
    std::int64_t samples_;                          // of all batches, one after another
    std::vector<std::vector<std::int64_t>> pairs_;  // of each layer
    std::vector<const float*> inputs_;              // of each layer, [samples, fan_in]
    std::vector<PanelMatrix> noise_;                // of each layer, [samples, fan_out]
};

}  // namespace

void incremental_gradient(const Job& job, const float* weights, bool per_sample, const float* activations,
                          float* gradient) {
    const FpMode ieee(false);
    IncrementalGradient(job, weights, per_sample, activations).run(gradient);
}

}  // namespace fpes

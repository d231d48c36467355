#include "gradient.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "parallel.hpp"

namespace fpes {
namespace {

// Integers add up exactly in a float below this magnitude; before they can exceed it they are moved to a double.
constexpr double exact_limit = 1 << 24;

// Elements of a tensor that one thread sums at a time: they stay in the first-level cache over all pairs.
constexpr std::int64_t strip = 4096;

// Rows of a weight matrix that one thread sums at a time, and the most (pair, rank) terms in one product.
constexpr std::int64_t block_rows = 192;
constexpr std::int64_t block_terms = 256;

bool exact(const Population& population, const PairWeights& weights) {
    return weights.integers && population.noise != NoiseKind::gaussian;
}

// The end of the run of terms, from `begin` on, that fit one exact float sum. A pair has `per_pair` terms in a row,
// each at most `largest` times the pair's weight.
std::int64_t exact_run(const PairWeights& weights, std::int64_t begin, int per_pair, double largest,
                       std::int64_t most) {
    const auto terms = static_cast<std::int64_t>(weights.difference.size()) * per_pair;
    double bound = 0.0;
    std::int64_t end = begin;
    while (end < terms && end - begin < most) {
        bound += std::fabs(weights.difference[end / per_pair]) * largest;
        if (bound > exact_limit && end > begin) break;
        ++end;
    }
    return end;
}

// A tensor of full noise, and where its gradient goes.
struct FullTensor {
    int layer;
    NoiseRole role;
    std::size_t offset;
    std::int64_t size;
};

class GradientSum {
   public:
    GradientSum(const Engine& engine, int threads, const std::vector<Layer>& layers, const Population& population,
                const PairWeights& weights, float* gradient)
        : engine_(engine),
          threads_(threads),
          layers_(layers),
          population_(population),
          weights_(weights),
          gradient_(gradient),
          pairs_(static_cast<std::int64_t>(weights.difference.size())) {}

    void run() {
        for (const Layer& layer : layers_) {
            if (population_.one_layer_at_a_time()) {
                low_rank(layer, pairs_of(layer));
                std::fill_n(gradient_ + layer.bias_offset, layer.fan_out, 0.0f);
                continue;
            }
            if (population_.family == Family::full) {
                full({layer.index, NoiseRole::weight, layer.weight_offset, layer.fan_in * layer.fan_out});
            } else {
                low_rank(layer, every_pair());
            }
            full({layer.index, NoiseRole::bias, layer.bias_offset, layer.fan_out});
        }
    }

   private:
    // The pairs that perturb a layer.
    std::vector<std::int64_t> pairs_of(const Layer& layer) const {
        std::vector<std::int64_t> pairs;
        for (std::int64_t pair = 0; pair < pairs_; ++pair) {
            if (population_.layer_of(pair) == layer.index) pairs.push_back(pair);
        }
        return pairs;
    }
    std::vector<std::int64_t> every_pair() const {
        std::vector<std::int64_t> pairs(pairs_);
        std::iota(pairs.begin(), pairs.end(), 0);
        return pairs;
    }

    double unit() const { return noise_unit(population_.noise); }
    double members() const { return 2.0 * static_cast<double>(pairs_); }
    // Adds sums that are integers to their totals and starts them again at zero.
    static void empty(float* sum, std::int64_t count, double* total) {
        for (std::int64_t i = 0; i < count; ++i) total[i] += sum[i];
        std::fill(sum, sum + count, 0.0f);
    }

    void full(const FullTensor& tensor) {
        const bool integers = exact(population_, weights_);
        const double scale = unit() / (members() * population_.sigma);
        const double largest = largest_integer(population_.noise);
        parallel(threads_, (tensor.size + strip - 1) / strip, [&](WorkQueue& queue) {
            Buffer<float> sum(strip + engine_.width()), scratch(noise_scratch_size(strip));
            Buffer<double> total(strip);
            for (std::int64_t item; queue.take(item);) {
                const std::int64_t first = item * strip;
                const std::int64_t count = std::min(strip, tensor.size - first);
                std::fill(sum.data(), sum.data() + count, 0.0f);
                std::fill(total.data(), total.data() + count, 0.0);
                for (std::int64_t pair = 0; pair < pairs_;) {
                    const std::int64_t end = integers ? exact_run(weights_, pair, 1, largest, pairs_) : pairs_;
                    for (; pair < end; ++pair) {
                        engine_.outside(&ModeKernels::accumulate_noise,
                                        population_.stream(tensor.layer, tensor.role, pair),
                                        static_cast<std::uint64_t>(first), weights_.difference[pair],
                                        static_cast<int>(count), sum.data(), scratch.data());
                    }
                    empty(sum.data(), count, total.data());
                }
                float* out = gradient_ + tensor.offset + first;
                for (std::int64_t i = 0; i < count; ++i) out[i] = static_cast<float>(total[i] * scale);
            }
        });
    }

    // sum over pairs and rank of (d A_r)^T B_r: the product of two matrices of noise, [fan_in, terms] [terms, fan_out].
    void low_rank(const Layer& layer, const std::vector<std::int64_t>& pairs) {
        const PairWeights weights = weights_of(pairs);
        const bool integers = exact(population_, weights);
        const double members = 2.0 * static_cast<double>(pairs.size());
        double scale =
            unit() * unit() / (std::sqrt(static_cast<double>(population_.rank)) * members * population_.sigma);
        // A unit is perturbed in k of n pairs only, which the factor n / k makes up for.
        if (population_.one_layer_at_a_time()) {
            scale *= static_cast<double>(layer.fan_out) / static_cast<double>(population_.units_of(layer));
        }
        const double largest = std::pow(largest_integer(population_.noise), 2);
        const std::int64_t terms = static_cast<std::int64_t>(pairs.size()) * population_.rank;
        parallel(threads_, (layer.fan_in + block_rows - 1) / block_rows, [&](WorkQueue& queue) {
            const std::int64_t n = layer.fan_out;
            PanelMatrix left = engine_.matrix(block_terms, block_rows);
            PanelMatrix right = engine_.matrix(block_terms, n), sum = engine_.matrix(block_rows, n);
            Buffer<float> rows_of_sum(block_rows * n);
            Buffer<double> total(block_rows * n);
            Buffer<float> scratch(noise_scratch_size(std::max(block_rows, n)));
            for (std::int64_t item; queue.take(item);) {
                const std::int64_t first = item * block_rows;
                const std::int64_t rows = std::min(block_rows, layer.fan_in - first);
                std::fill(total.data(), total.data() + rows * n, 0.0);
                bool started = false;
                for (std::int64_t term = 0; term < terms;) {
                    const std::int64_t end = integers ? exact_run(weights, term, population_.rank, largest, block_terms)
                                                      : std::min(terms, term + block_terms);
                    const auto depth = static_cast<int>(end - term);
                    draw_terms(layer, pairs, term, end, first, rows, left, right, scratch.data());
                    engine_.outside(&ModeKernels::product_transposed, left.view(), right.view(),
                                    started ? sum.view() : Panels{}, sum.view(), static_cast<int>(rows),
                                    static_cast<int>(n), depth);
                    term = end;
                    started = !integers;
                    if (integers || term == terms) {
                        engine_.kernels().unpack(sum.view(), static_cast<int>(rows), static_cast<int>(n),
                                                 rows_of_sum.data(), n);
                        empty(rows_of_sum.data(), rows * n, total.data());
                    }
                }
                float* out = gradient_ + layer.weight_offset + first * n;
                for (std::int64_t i = 0; i < rows * n; ++i) out[i] = static_cast<float>(total[i] * scale);
            }
        });
    }

    // Row t of left: d A_r of the t-th (pair, rank) from `begin` on, columns first ... first + rows - 1. Row t of
    // right: B_r.
    void draw_terms(const Layer& layer, const std::vector<std::int64_t>& pairs, std::int64_t begin, std::int64_t end,
                    std::int64_t first, std::int64_t rows, PanelMatrix& left, PanelMatrix& right,
                    float* scratch) const {
        const Kernels& kernels = engine_.kernels();
        const std::int64_t n = layer.fan_out;
        for (std::int64_t term = begin; term < end; ++term) {
            const std::int64_t pair = pairs[term / population_.rank], r = term % population_.rank;
            const Panels row = left.from_row(term - begin);
            kernels.noise_panels(population_.stream(layer.index, NoiseRole::factor_a, pair),
                                 static_cast<std::uint64_t>(r * layer.fan_in + first), 1, static_cast<int>(rows), row,
                                 scratch);
            engine_.outside(&ModeKernels::scale, row, 1, static_cast<int>(rows), weights_.difference[pair], row);
            if (population_.one_layer_at_a_time() && population_.units[layer.index]) {
                scatter_factor(engine_, population_, layer, pair, right.from_row(term - begin), scratch);
            } else {
                kernels.noise_panels(population_.stream(layer.index, NoiseRole::factor_b, pair),
                                     static_cast<std::uint64_t>(r * n), 1, static_cast<int>(n),
                                     right.from_row(term - begin), scratch);
            }
        }
    }

    PairWeights weights_of(const std::vector<std::int64_t>& pairs) const {
        PairWeights weights{std::vector<float>(pairs.size()), weights_.integers};
        for (std::size_t i = 0; i < pairs.size(); ++i) weights.difference[i] = weights_.difference[pairs[i]];
        return weights;
    }

    const Engine& engine_;
    int threads_;
    const std::vector<Layer>& layers_;
    const Population& population_;
    const PairWeights& weights_;
    float* gradient_;
    std::int64_t pairs_;
};

}  // namespace

PairWeights pair_weights(const float* weights, std::int64_t members) {
    PairWeights pairs{std::vector<float>(members / 2), /*integers=*/false};
    const FpMode ieee(false);
    for (std::int64_t p = 0; p < members / 2; ++p) pairs.difference[p] = weights[2 * p] - weights[2 * p + 1];
    return pairs;
}

PairWeights pair_weights(const std::int32_t* weights, std::int64_t members) {
    PairWeights pairs{std::vector<float>(members / 2), /*integers=*/true};
    for (std::int64_t p = 0; p < members / 2; ++p) {
        pairs.difference[p] = static_cast<float>(static_cast<std::int64_t>(weights[2 * p]) - weights[2 * p + 1]);
    }
    return pairs;
}

void gradient(const Engine& engine, int threads, const std::vector<Layer>& layers, const Population& population,
              const PairWeights& weights, float* gradient) {
    GradientSum(engine, threads, layers, population, weights, gradient).run();
}

}  // namespace fpes

#include "gradient.hpp"

#include <algorithm>
#include <cmath>

#include "parallel.hpp"

namespace fpes {
namespace {

// Elements of a tensor that one thread sums at a time: they stay in the first-level cache over all pairs.
constexpr std::int64_t strip = 4096;

class FullGradient {
   public:
    FullGradient(const Engine& engine, const Population& population, const PairWeights& weights, float* gradient)
        : engine_(engine),
          population_(population),
          weights_(weights),
          gradient_(gradient),
          pairs_(static_cast<std::int64_t>(weights.difference.size())) {}

    // A tensor of noise, `size` elements, and where its gradient goes.
    void add(int layer, NoiseRole role, std::size_t offset, std::int64_t size) {
        for (std::int64_t first = 0; first < size; first += strip) {
            strips_.push_back({layer, role, first, std::min(strip, size - first), gradient_ + offset + first});
        }
    }

    void run(int threads) {
        parallel(threads, static_cast<std::int64_t>(strips_.size()), [&](WorkQueue& queue) {
            Buffer<float> sum(strip + engine_.width()), scratch(noise_scratch_size(strip));
            Buffer<double> total(strip);
            for (std::int64_t item; queue.take(item);)
                sum_strip(strips_[item], sum.data(), total.data(), scratch.data());
        });
    }

   private:
    struct Strip {
        int layer;
        NoiseRole role;
        std::int64_t first;
        std::int64_t count;
        float* out;
    };

    void sum_strip(const Strip& part, float* sum, double* total, float* scratch) {
        const bool integers = exact(population_, weights_);
        const double largest = largest_integer(population_.noise);
        std::fill_n(sum, part.count, 0.0f);
        std::fill_n(total, part.count, 0.0);
        for (std::int64_t pair = 0; pair < pairs_;) {
            const std::int64_t end = integers ? exact_run(weights_, pair, 1, largest, exact_in_float) : pairs_;
            for (; pair < end; ++pair) {
                engine_.outside(&ModeKernels::accumulate_noise, population_.stream(part.layer, part.role, pair),
                                static_cast<std::uint64_t>(part.first), weights_.difference[pair],
                                static_cast<int>(part.count), sum, scratch);
            }
            for (std::int64_t i = 0; i < part.count; ++i) total[i] += sum[i];
            std::fill_n(sum, part.count, 0.0f);
        }
        const double scale = noise_unit(population_.noise) / (2.0 * static_cast<double>(pairs_) * population_.sigma);
        for (std::int64_t i = 0; i < part.count; ++i) part.out[i] = static_cast<float>(total[i] * scale);
    }

    const Engine& engine_;
    const Population& population_;
    const PairWeights& weights_;
    float* gradient_;
    std::int64_t pairs_;
    std::vector<Strip> strips_;
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

bool exact(const Population& population, const PairWeights& weights) {
    return weights.integers && population.noise != NoiseKind::gaussian;
}

std::int64_t exact_run(const PairWeights& weights, std::int64_t begin, int per_pair, double largest, double limit) {
    const auto terms = static_cast<std::int64_t>(weights.difference.size()) * per_pair;
    double bound = 0.0;
    std::int64_t end = begin;
    for (; end < terms; ++end) {
        bound += std::fabs(weights.difference[end / per_pair]) * largest;
        if (bound > limit && end > begin) break;
    }
    return end;
}

void gradient(const Engine& engine, int threads, const std::vector<Layer>& layers, const Population& population,
              const PairWeights& weights, float* gradient) {
    FullGradient full(engine, population, weights, gradient);
    for (const Layer& layer : layers) {
        if (population.one_layer_at_a_time()) {
            std::fill_n(gradient + layer.bias_offset, layer.fan_out, 0.0f);
        } else {
            full.add(layer.index, NoiseRole::bias, layer.bias_offset, layer.fan_out);
        }
        if (population.family == Family::full) {
            full.add(layer.index, NoiseRole::weight, layer.weight_offset, layer.fan_in * layer.fan_out);
        }
    }
    full.run(threads);
    if (population.family != Family::full) low_rank_gradient(engine, threads, layers, population, weights, gradient);
}

}  // namespace fpes

// What one pair's noise makes of one layer, on a tile of samples: evaluation needs it to go on from there, and the
// gradient to know which units the noise has reached.
#pragma once

#include <algorithm>

#include "population.hpp"

namespace fpes {

class LayerNoise {
   public:
    // For tiles of up to `tile` samples.
    LayerNoise(const Job& job, std::int64_t tile)
        : job_(job),
          engine_(job.engine),
          perturbed_(most_units(job.population) * tile),
          units_(perturbed_),
          gathered_sums_(padded(perturbed_)),
          gathered_bias_(padded(perturbed_)),
          changed_{Buffer<float>(padded(perturbed_)), Buffer<float>(padded(perturbed_))},
          scratch_(noise_scratch_size(std::max(4 * perturbed_, tile * job.network.widest_output()))) {}

    // A layer of which all units are perturbed: activations of the + member and the - member. sums: the unperturbed
    // accumulators of `rows` samples, the first of which is `sample`.
    void perturb_all(const Layer& layer, std::int64_t pair, std::int64_t sample, int rows, Panels sums,
                     Panels scaled_bias, Panels plus, Panels minus) {
        const int n = static_cast<int>(layer.fan_out);
        engine_.in_product(&ModeKernels::perturb, stream(layer, NoiseRole::node, pair),
                           static_cast<std::uint64_t>(sample) * n, n, job_.population.node_scale(layer), rows, n, sums,
                           sums, plus, minus, scratch_.data());
        for (const Panels v : {plus, minus}) {
            engine_.elementwise(&ModeKernels::boundary, v, rows, n, scaled_bias, layer.enter, layer.leave, v);
        }
    }

    // A layer of which k units are perturbed: their activations, for changed(), and which they are, for units().
    void perturb_some(const Layer& layer, std::int64_t pair, std::int64_t sample, int rows, Panels sums,
                      Panels scaled_bias) {
        const Kernels& kernels = engine_.kernels();
        const int k = job_.population.units[layer.index], count = rows * k;
        kernels.unit_positions(stream(layer, NoiseRole::positions, pair), static_cast<std::uint64_t>(sample), rows,
                               static_cast<int>(layer.fan_out), k, units_.data(), scratch_.data());
        kernels.gather_units(sums, false, units_.data(), rows, k, gathered_sums_.data());
        kernels.gather_units(scaled_bias, true, units_.data(), rows, k, gathered_bias_.data());
        engine_.in_product(&ModeKernels::perturb, stream(layer, NoiseRole::node, pair),
                           static_cast<std::uint64_t>(sample) * k, count, job_.population.node_scale(layer), 1, count,
                           flat(gathered_sums_), flat(gathered_sums_), flat(changed_[0]), flat(changed_[1]),
                           scratch_.data());
        for (auto& v : changed_) {
            engine_.elementwise(&ModeKernels::boundary, flat(v), 1, count, flat(gathered_bias_), layer.enter,
                                layer.leave, flat(v));
        }
    }

    // The result of perturb_some(): units [rows, k], and their activations in the + member (0) or the - member (1),
    // row-major.
    const std::int32_t* units() { return units_.data(); }
    float* changed(int sign) { return changed_[sign].data(); }

    // The most units that any layer has perturbed at a time, at least 1.
    static std::int64_t most_units(const Population& population) {
        return std::max(1, *std::max_element(population.units.begin(), population.units.end()));
    }

   private:
    std::int64_t padded(std::int64_t count) const { return count + engine_.width(); }
    Panels flat(Buffer<float>& buffer) const { return fpes::flat(buffer.data(), engine_.width()); }
    NoiseStream stream(const Layer& layer, NoiseRole role, std::int64_t pair) const {
        return job_.population.stream(layer.index, role, pair);
    }

    const Job& job_;
    const Engine& engine_;
    std::int64_t perturbed_;  // units of one pair, over a tile
    Buffer<std::int32_t> units_;
    Buffer<float> gathered_sums_;
    Buffer<float> gathered_bias_;
    Buffer<float> changed_[2];
    Buffer<float> scratch_;
};

}  // namespace fpes

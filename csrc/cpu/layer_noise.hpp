// The effect of one pair's noise on one layer, on a tile of samples. Evaluation continues from it, and the gradient
// uses it to know the units that the noise has reached.
//
// A correction of inputs has one term here: q = (h a) * (+-scale) for each sample, acc = fma(q, b_j, acc). Each pair
// has its own a, units and b. Any other correction: acc = fma(z, +-scale, acc), with new units and z for each sample.
#pragma once

#include <algorithm>

#include "population.hpp"

namespace fpes {

class LayerNoise {
   public:
    // For tiles of up to `tile` samples and up to `most_pairs` pairs at a time.
    LayerNoise(const Job& job, std::int64_t tile, std::int64_t most_pairs)
        : job_(job),
          engine_(job.engine),
          correction_(job.population.correction()),
          perturbed_(most_units(job.population) * tile),
          units_(perturbed_),
          gathered_sums_(padded(perturbed_)),
          gathered_bias_(padded(perturbed_)),
          changed_{Buffer<float>(padded(perturbed_)), Buffer<float>(padded(perturbed_))},
          scratch_(noise_scratch_size(std::max(4 * perturbed_, tile * job.network.widest()))),
          factor_rows_(engine_.matrix(correction_.of_inputs ? most_pairs : 1, job.network.widest())),
          factors_(engine_.matrix(job.network.widest(), correction_.of_inputs ? most_pairs : 1)),
          products_(engine_.matrix(tile, most_pairs)),
          coefficients_(engine_.matrix(tile, 1)),
          some_sums_(engine_.matrix(tile, most_units(job.population))),
          some_bias_(engine_.matrix(1, most_units(job.population))),
          some_(engine_.matrix(tile, most_units(job.population))) {}

    // Before the pairs of a group are asked for by their places in it. inputs: of the layer, `rows` samples.
    void prepare(const Step& layer, const std::vector<std::int64_t>& pairs, Panels inputs, int rows) {
        if (!correction_.of_inputs) return;
        const int count = static_cast<int>(pairs.size()), k = static_cast<int>(layer.tensor.fan_in);
        for (int place = 0; place < count; ++place) {
            engine_.kernels().noise_panels(stream(layer, correction_.left, pairs[place]), 0, 1, k,
                                           factor_rows_.from_row(place), scratch_.data());
        }
        engine_.kernels().transpose(factor_rows_.view(), k, count, factors_.view());
        engine_.in_product(&ModeKernels::product, inputs, factors_.view(), Panels{}, products_.view(), rows, count, k);
    }

    // A layer of which all units are perturbed: activations of the + member and the - member. sums: the unperturbed
    // accumulators of `rows` samples, the first of which is `sample`.
    void perturb_all(const Step& layer, std::int64_t pair, std::size_t place, std::int64_t sample, int rows,
                     Panels sums, Panels scaled_bias, Panels plus, Panels minus) {
        const int n = static_cast<int>(layer.tensor.fan_out);
        if (correction_.of_inputs) {
            draw_right_factor(layer, pair, n);
            add_rank_one(layer, place, false, rows, n, sums, plus);
            add_rank_one(layer, place, true, rows, n, sums, minus);
        } else {
            engine_.in_product(&ModeKernels::perturb, stream(layer, correction_.right, pair),
                               static_cast<std::uint64_t>(sample) * n, n, job_.population.scale(layer), rows, n, sums,
                               sums, plus, minus, scratch_.data());
        }
        cross(layer, plus, rows, n, scaled_bias);
        cross(layer, minus, rows, n, scaled_bias);
    }

    // A layer of which k units are perturbed: their activations, for changed(), and which they are, for units().
    void perturb_some(const Step& layer, std::int64_t pair, std::size_t place, std::int64_t sample, int rows,
                      Panels sums, Panels scaled_bias) {
        const int k = job_.population.allocation.units[layer.position];
        if (correction_.of_inputs) {
            rank_one_of_some(layer, pair, place, rows, k, sums, scaled_bias);
        } else {
            node_of_some(layer, pair, sample, rows, k, sums, scaled_bias);
        }
    }

    // The result of perturb_some(): units [rows, k], and their activations in the + member (0) or the - member (1),
    // row-major.
    const std::int32_t* units() { return units_.data(); }
    float* changed(int sign) { return changed_[sign].data(); }

    // The most units that any layer has perturbed at a time, at least 1.
    static std::int64_t most_units(const Population& population) {
        const std::vector<int>& units = population.allocation.units;
        return std::max(1, *std::max_element(units.begin(), units.end()));
    }

   private:
    std::int64_t padded(std::int64_t count) const { return count + engine_.width(); }
    Panels flat(Buffer<float>& buffer) const { return fpes::flat(buffer.data(), engine_.width()); }
    NoiseStream stream(const Step& layer, NoiseRole role, std::int64_t pair) const {
        return job_.population.noise.stream(layer.position, role, pair);
    }
    void cross(const Step& layer, Panels v, int rows, int n, Panels scaled_bias) {
        engine_.elementwise(&ModeKernels::boundary, v, rows, n, scaled_bias, layer.enter, layer.leave, v);
    }

    void node_of_some(const Step& layer, std::int64_t pair, std::int64_t sample, int rows, int k, Panels sums,
                      Panels scaled_bias) {
        const Kernels& kernels = engine_.kernels();
        const int count = rows * k;
        kernels.unit_positions(stream(layer, NoiseRole::positions, pair), static_cast<std::uint64_t>(sample), rows,
                               static_cast<int>(layer.tensor.fan_out), k, units_.data(), scratch_.data());
        kernels.gather_units(sums, false, units_.data(), rows, k, gathered_sums_.data());
        kernels.gather_units(scaled_bias, true, units_.data(), rows, k, gathered_bias_.data());
        engine_.in_product(&ModeKernels::perturb, stream(layer, correction_.right, pair),
                           static_cast<std::uint64_t>(sample) * k, count, job_.population.scale(layer), 1, count,
                           flat(gathered_sums_), flat(gathered_sums_), flat(changed_[0]), flat(changed_[1]),
                           scratch_.data());
        for (auto& v : changed_) cross(layer, flat(v), 1, count, flat(gathered_bias_));
    }

    // The chosen units of all samples, as a layer of k units.
    void rank_one_of_some(const Step& layer, std::int64_t pair, std::size_t place, int rows, int k, Panels sums,
                          Panels scaled_bias) {
        const Kernels& kernels = engine_.kernels();
        kernels.unit_positions(stream(layer, NoiseRole::positions, pair), 0, 1, static_cast<int>(layer.tensor.fan_out),
                               k, units_.data(), scratch_.data());
        for (int i = k; i < rows * k; ++i) units_[i] = units_[i - k];
        kernels.gather_units(sums, false, units_.data(), rows, k, gathered_sums_.data());
        kernels.gather_units(scaled_bias, true, units_.data(), 1, k, gathered_bias_.data());
        kernels.pack(gathered_sums_.data(), k, rows, k, some_sums_.view());
        kernels.pack(gathered_bias_.data(), k, 1, k, some_bias_.view());
        draw_right_factor(layer, pair, k);
        for (int sign = 0; sign < 2; ++sign) {
            add_rank_one(layer, place, sign, rows, k, some_sums_.view(), some_.view());
            cross(layer, some_.view(), rows, k, some_bias_.view());
            kernels.unpack(some_.view(), rows, k, changed_[sign].data(), k);
        }
    }

    void draw_right_factor(const Step& layer, std::int64_t pair, int n) {
        engine_.kernels().noise_panels(stream(layer, correction_.right, pair), 0, 1, n, factor_rows_.view(),
                                       scratch_.data());
    }

    // out = sums + q b^T, where b is what draw_right_factor() has drawn.
    void add_rank_one(const Step& layer, std::size_t place, bool minus, int rows, int n, Panels sums, Panels out) {
        const float scale = job_.population.scale(layer);
        const auto column = static_cast<std::int64_t>(place);
        Panels products = engine_.at_column(products_.view(), column);
        products.data += column % engine_.width();
        engine_.in_product(&ModeKernels::scale, products, rows, 1, minus ? -scale : scale, coefficients_.view());
        engine_.in_product(&ModeKernels::product, coefficients_.view(), factor_rows_.view(), sums, out, rows, n, 1);
    }

    const Job& job_;
    const Engine& engine_;
    Correction correction_;
    std::int64_t perturbed_;  // units of one pair, over a tile
    Buffer<std::int32_t> units_;
    Buffer<float> gathered_sums_;
    Buffer<float> gathered_bias_;
    Buffer<float> changed_[2];
    Buffer<float> scratch_;
    PanelMatrix factor_rows_;   // factors as they are drawn, a row each
    PanelMatrix factors_;       // the a of a group's pairs, a column each
    PanelMatrix products_;      // h a, likewise
    PanelMatrix coefficients_;  // q of one member
    PanelMatrix some_sums_;     // accumulators of the chosen units, [samples, k]
    PanelMatrix some_bias_;
    PanelMatrix some_;
};

}  // namespace fpes

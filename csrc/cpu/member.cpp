// One member of a population, written out.
#include <algorithm>

#include "population.hpp"

namespace fpes {
namespace {

// Rows of a weight matrix written at a time.
constexpr std::int64_t block_rows = 256;

class MemberWriter {
   public:
    MemberWriter(const Engine& engine, PackedNetwork& network, const Population& population, std::int64_t member,
                 float* theta)
        : engine_(engine),
          network_(network),
          population_(population),
          pair_(member / 2),
          minus_(member % 2 != 0),
          theta_(theta),
          written_{block(), block()},
          scratch_(noise_scratch_size(network.widest() * std::max(1, population.rank))) {}

    void run() {
        const float scale = population_.weight_scale();
        for (int l = 0; l < network_.depth(); ++l) {
            const Layer& layer = network_.layer(l);
            const std::int64_t n = layer.fan_out;
            if (population_.one_layer_at_a_time() && population_.layer_of(pair_) != l) {
                copy(layer);
                continue;
            }
            for (std::int64_t row = 0; row < layer.fan_in; row += block_rows) {
                const std::int64_t rows = std::min(block_rows, layer.fan_in - row);
                Panels weight = network_.weight(l);
                weight.data += row * engine_.width();
                if (population_.family == Family::full) {
                    full(l, NoiseRole::weight, row * n, scale, weight, rows, layer.weight_offset + row * n);
                } else {
                    low_rank(layer, weight, row, rows);
                }
            }
            if (population_.one_layer_at_a_time()) {
                copy_bias(layer);
            } else {
                full(l, NoiseRole::bias, 0, scale, network_.bias(l), 1, layer.bias_offset);
            }
        }
    }

   private:
    // A layer that the member leaves alone.
    void copy(const Layer& layer) {
        const int n = static_cast<int>(layer.fan_out);
        engine_.kernels().unpack(network_.weight(layer.index), static_cast<int>(layer.fan_in), n,
                                 theta_ + layer.weight_offset, n);
        copy_bias(layer);
    }
    void copy_bias(const Layer& layer) {
        const int n = static_cast<int>(layer.fan_out);
        engine_.kernels().unpack(network_.bias(layer.index), 1, n, theta_ + layer.bias_offset, n);
    }

    PanelMatrix block() const { return engine_.matrix(block_rows, network_.widest_output()); }
    NoiseStream stream(int layer, NoiseRole role) const { return population_.stream(layer, role, pair_); }

    void full(int l, NoiseRole role, std::int64_t first, float scale, Panels from, std::int64_t rows,
              std::size_t offset) {
        const int n = static_cast<int>(network_.layer(l).fan_out);
        engine_.in_product(&ModeKernels::perturb, stream(l, role), static_cast<std::uint64_t>(first), n, scale,
                           static_cast<int>(rows), n, from, from, written_[0].view(), written_[1].view(),
                           scratch_.data());
        engine_.kernels().unpack(written_[minus_].view(), static_cast<int>(rows), n, theta_ + offset, n);
    }

    // w + (+-scale A^T) B, rank by rank: the perturbation that a population applies without ever writing it down.
    void low_rank(const Layer& layer, Panels weight, std::int64_t row, std::int64_t rows) {
        const int rank = population_.rank, n = static_cast<int>(layer.fan_out), m = static_cast<int>(rows);
        const Kernels& kernels = engine_.kernels();
        PanelMatrix a_rows = engine_.matrix(rank, rows), a = engine_.matrix(rows, rank), b = engine_.matrix(rank, n);
        for (int r = 0; r < rank; ++r) {
            kernels.noise_panels(stream(layer.index, NoiseRole::factor_a),
                                 static_cast<std::uint64_t>(r * layer.fan_in + row), 1, m, a_rows.from_row(r),
                                 scratch_.data());
        }
        kernels.transpose(a_rows.view(), m, rank, a.view());
        const float scale = population_.rank_scale();
        engine_.in_product(&ModeKernels::scale, a.view(), m, rank, minus_ ? -scale : scale, a.view());
        if (population_.one_layer_at_a_time() && population_.units[layer.index]) {
            scatter_factor(engine_, population_, layer, pair_, b.view(), scratch_.data());
        } else {
            kernels.noise_panels(stream(layer.index, NoiseRole::factor_b), 0, rank, n, b.view(), scratch_.data());
        }
        engine_.in_product(&ModeKernels::product, a.view(), b.view(), weight, written_[0].view(), m, n, rank);
        kernels.unpack(written_[0].view(), m, n, theta_ + layer.weight_offset + row * n, n);
    }

    const Engine& engine_;
    PackedNetwork& network_;
    const Population& population_;
    std::int64_t pair_;
    bool minus_;
    float* theta_;
    PanelMatrix written_[2];
    Buffer<float> scratch_;
};

}  // namespace

void member(const Engine& engine, PackedNetwork& network, const Population& population, std::int64_t member,
            float* theta) {
    MemberWriter(engine, network, population, member, theta).run();
}

}  // namespace fpes

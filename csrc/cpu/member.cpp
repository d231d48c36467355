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
        for (const Tensor& tensor : network_.tensors()) {
            const std::int64_t n = tensor.fan_out;
            if (population_.one_layer_at_a_time() && population_.layer_of(pair_) != tensor.index) {
                copy(tensor);
                continue;
            }
            for (std::int64_t row = 0; row < tensor.fan_in; row += block_rows) {
                const std::int64_t rows = std::min(block_rows, tensor.fan_in - row);
                Panels weight = network_.weight(tensor);
                weight.data += row * engine_.width();
                if (population_.family == Family::full) {
                    full(tensor, NoiseRole::weight, row * n, scale, weight, rows, tensor.weight_offset + row * n);
                } else {
                    low_rank(tensor, weight, row, rows);
                }
            }
            if (population_.one_layer_at_a_time()) {
                copy_bias(tensor);
            } else {
                full(tensor, NoiseRole::bias, 0, scale, network_.bias(tensor), 1, tensor.bias_offset);
            }
        }
    }

   private:
    // A tensor that the member leaves alone.
    void copy(const Tensor& tensor) {
        const int n = static_cast<int>(tensor.fan_out);
        engine_.kernels().unpack(network_.weight(tensor), static_cast<int>(tensor.fan_in), n,
                                 theta_ + tensor.weight_offset, n);
        copy_bias(tensor);
    }
    void copy_bias(const Tensor& tensor) {
        const int n = static_cast<int>(tensor.fan_out);
        engine_.kernels().unpack(network_.bias(tensor), 1, n, theta_ + tensor.bias_offset, n);
    }

    PanelMatrix block() const { return engine_.matrix(block_rows, network_.widest_output()); }
    NoiseStream stream(const Tensor& tensor, NoiseRole role) const {
        return population_.stream(tensor.index, role, pair_);
    }

    void full(const Tensor& tensor, NoiseRole role, std::int64_t first, float scale, Panels from, std::int64_t rows,
              std::size_t offset) {
        const int n = static_cast<int>(tensor.fan_out);
        engine_.in_product(&ModeKernels::perturb, stream(tensor, role), static_cast<std::uint64_t>(first), n, scale,
                           static_cast<int>(rows), n, from, from, written_[0].view(), written_[1].view(),
                           scratch_.data());
        engine_.kernels().unpack(written_[minus_].view(), static_cast<int>(rows), n, theta_ + offset, n);
    }

    // w + (+-scale A^T) B, rank by rank: the perturbation that a population applies without ever writing it down.
    void low_rank(const Tensor& tensor, Panels weight, std::int64_t row, std::int64_t rows) {
        const int rank = population_.rank, n = static_cast<int>(tensor.fan_out), m = static_cast<int>(rows);
        const Kernels& kernels = engine_.kernels();
        PanelMatrix a_rows = engine_.matrix(rank, rows), a = engine_.matrix(rows, rank), b = engine_.matrix(rank, n);
        for (int r = 0; r < rank; ++r) {
            kernels.noise_panels(stream(tensor, NoiseRole::factor_a),
                                 static_cast<std::uint64_t>(r * tensor.fan_in + row), 1, m, a_rows.from_row(r),
                                 scratch_.data());
        }
        kernels.transpose(a_rows.view(), m, rank, a.view());
        const float scale = population_.rank_scale();
        engine_.in_product(&ModeKernels::scale, a.view(), m, rank, minus_ ? -scale : scale, a.view());
        if (population_.one_layer_at_a_time() && population_.units[tensor.index]) {
            scatter_factor(engine_, population_, tensor, pair_, b.view(), scratch_.data());
        } else {
            kernels.noise_panels(stream(tensor, NoiseRole::factor_b), 0, rank, n, b.view(), scratch_.data());
        }
        engine_.in_product(&ModeKernels::product, a.view(), b.view(), weight, written_[0].view(), m, n, rank);
        kernels.unpack(written_[0].view(), m, n, theta_ + tensor.weight_offset + row * n, n);
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

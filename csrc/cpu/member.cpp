#include "member.hpp"

#include <algorithm>

#include "perturbations/ways.hpp"

namespace fpes {
namespace {

// Rows of a weight matrix written at a time.
constexpr std::int64_t block_rows = 256;

}  // namespace

MemberWriter::MemberWriter(const Engine& engine, PackedNetwork& network, const Population& population,
                           std::int64_t member, float* theta)
    : engine_(engine),
      network_(network),
      population_(population),
      correction_(population.correction()),
      pair_(member / 2),
      minus_(member % 2 != 0),
      theta_(theta),
      written_{engine.matrix(block_rows, network.widest_output()), engine.matrix(block_rows, network.widest_output())},
      scratch_(noise_scratch_size(network.widest() * std::max(1, correction_.terms))) {}

void MemberWriter::copy(const Tensor& tensor) {
    const int n = static_cast<int>(tensor.fan_out);
    engine_.kernels().unpack(network_.weight(tensor), static_cast<int>(tensor.fan_in), n, theta_ + tensor.weight_offset,
                             n);
    copy_bias(tensor);
}

void MemberWriter::copy_bias(const Tensor& tensor) {
    const int n = static_cast<int>(tensor.fan_out);
    engine_.kernels().unpack(network_.bias(tensor), 1, n, theta_ + tensor.bias_offset, n);
}

void MemberWriter::perturb_weights(const Tensor& tensor) {
    for_each_block(tensor, [&](Panels weight, std::int64_t row, std::int64_t rows) {
        const std::int64_t first = row * tensor.fan_out;
        perturb(tensor, NoiseRole::weight, first, weight, rows, tensor.weight_offset + first);
    });
}

void MemberWriter::perturb_bias(const Tensor& tensor) {
    perturb(tensor, NoiseRole::bias, 0, network_.bias(tensor), 1, tensor.bias_offset);
}

void MemberWriter::add_outer_products(const Tensor& tensor) {
    for_each_block(tensor, [&](Panels weight, std::int64_t row, std::int64_t rows) {
        add_outer_products(tensor, weight, row, rows);
    });
}

// Calls body(weights, row, rows) for rows row, row + 1, ... of a tensor's weights.
template <class Body>
void MemberWriter::for_each_block(const Tensor& tensor, Body body) {
    for (std::int64_t row = 0; row < tensor.fan_in; row += block_rows) {
        body(engine_.at_row(network_.weight(tensor), row), row, std::min(block_rows, tensor.fan_in - row));
    }
}

void MemberWriter::perturb(const Tensor& tensor, NoiseRole role, std::int64_t first, Panels from, std::int64_t rows,
                           std::size_t offset) {
    const int n = static_cast<int>(tensor.fan_out);
    engine_.in_product(&ModeKernels::perturb, population_.noise.stream(tensor.index, role, pair_),
                       static_cast<std::uint64_t>(first), n, population_.bias_scale(), static_cast<int>(rows), n, from,
                       from, written_[0].view(), written_[1].view(), scratch_.data());
    engine_.kernels().unpack(written_[minus_].view(), static_cast<int>(rows), n, theta_ + offset, n);
}

void MemberWriter::add_outer_products(const Tensor& tensor, Panels weight, std::int64_t row, std::int64_t rows) {
    const int terms = correction_.terms, n = static_cast<int>(tensor.fan_out), m = static_cast<int>(rows);
    const Kernels& kernels = engine_.kernels();
    PanelMatrix a_rows = engine_.matrix(terms, rows), a = engine_.matrix(rows, terms), b = engine_.matrix(terms, n);
    const NoiseStream left = population_.noise.stream(tensor.index, correction_.left, pair_);
    for (int t = 0; t < terms; ++t) {
        kernels.noise_panels(left, static_cast<std::uint64_t>(t * tensor.fan_in + row), 1, m, a_rows.from_row(t),
                             scratch_.data());
    }
    kernels.transpose(a_rows.view(), m, terms, a.view());
    const float scale = population_.scale(tensor);
    engine_.in_product(&ModeKernels::scale, a.view(), m, terms, minus_ ? -scale : scale, a.view());
    draw_right_factor(engine_, population_, tensor, pair_, 0, terms, b.view(), scratch_.data());
    engine_.in_product(&ModeKernels::product, a.view(), b.view(), weight, written_[0].view(), m, n, terms);
    kernels.unpack(written_[0].view(), m, n, theta_ + tensor.weight_offset + row * n, n);
}

void member(const Engine& engine, PackedNetwork& network, const Population& population, std::int64_t member,
            float* theta) {
    MemberWriter writer(engine, network, population, member, theta);
    for (const Tensor& tensor : network.tensors()) {
        if (!population.allocation.turn(tensor.index).has(member / 2)) {  // the member leaves it alone
            writer.copy(tensor);
            continue;
        }
        on_cpu(population, [&](auto family) { family.write_weights(writer, tensor); });
        if (population.perturbs_biases()) {
            writer.perturb_bias(tensor);
        } else {
            writer.copy_bias(tensor);
        }
    }
}

}  // namespace fpes

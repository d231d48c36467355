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

void MemberWriter::copy(const Layer& layer) {
    const int n = static_cast<int>(layer.fan_out);
    engine_.kernels().unpack(network_.weight(layer.index), static_cast<int>(layer.fan_in), n,
                             theta_ + layer.weight_offset, n);
    copy_bias(layer);
}

void MemberWriter::copy_bias(const Layer& layer) {
    const int n = static_cast<int>(layer.fan_out);
    engine_.kernels().unpack(network_.bias(layer.index), 1, n, theta_ + layer.bias_offset, n);
}

void MemberWriter::perturb_weights(const Layer& layer) {
    for_each_block(layer, [&](Panels weight, std::int64_t row, std::int64_t rows) {
        const std::int64_t first = row * layer.fan_out;
        perturb(layer, NoiseRole::weight, first, weight, rows, layer.weight_offset + first);
    });
}

void MemberWriter::perturb_bias(const Layer& layer) {
    perturb(layer, NoiseRole::bias, 0, network_.bias(layer.index), 1, layer.bias_offset);
}

void MemberWriter::add_outer_products(const Layer& layer) {
    for_each_block(layer, [&](Panels weight, std::int64_t row, std::int64_t rows) {
        add_outer_products(layer, weight, row, rows);
    });
}

// Calls body(weights, row, rows) for rows row, row + 1, ... of a layer's weights.
template <class Body>
void MemberWriter::for_each_block(const Layer& layer, Body body) {
    for (std::int64_t row = 0; row < layer.fan_in; row += block_rows) {
        body(engine_.at_row(network_.weight(layer.index), row), row, std::min(block_rows, layer.fan_in - row));
    }
}

void MemberWriter::perturb(const Layer& layer, NoiseRole role, std::int64_t first, Panels from, std::int64_t rows,
                           std::size_t offset) {
    const int n = static_cast<int>(layer.fan_out);
    engine_.in_product(&ModeKernels::perturb, population_.noise.stream(layer.index, role, pair_),
                       static_cast<std::uint64_t>(first), n, population_.noise.scale(), static_cast<int>(rows), n, from,
                       from, written_[0].view(), written_[1].view(), scratch_.data());
    engine_.kernels().unpack(written_[minus_].view(), static_cast<int>(rows), n, theta_ + offset, n);
}

void MemberWriter::add_outer_products(const Layer& layer, Panels weight, std::int64_t row, std::int64_t rows) {
    const int terms = correction_.terms, n = static_cast<int>(layer.fan_out), m = static_cast<int>(rows);
    const Kernels& kernels = engine_.kernels();
    PanelMatrix a_rows = engine_.matrix(terms, rows), a = engine_.matrix(rows, terms), b = engine_.matrix(terms, n);
    const NoiseStream left = population_.noise.stream(layer.index, correction_.left, pair_);
    for (int t = 0; t < terms; ++t) {
        kernels.noise_panels(left, static_cast<std::uint64_t>(t * layer.fan_in + row), 1, m, a_rows.from_row(t),
                             scratch_.data());
    }
    kernels.transpose(a_rows.view(), m, terms, a.view());
    const float scale = population_.scale(layer);
    engine_.in_product(&ModeKernels::scale, a.view(), m, terms, minus_ ? -scale : scale, a.view());
    draw_right_factor(engine_, population_, layer, pair_, 0, terms, b.view(), scratch_.data());
    engine_.in_product(&ModeKernels::product, a.view(), b.view(), weight, written_[0].view(), m, n, terms);
    kernels.unpack(written_[0].view(), m, n, theta_ + layer.weight_offset + row * n, n);
}

void member(const Engine& engine, PackedNetwork& network, const Population& population, std::int64_t member,
            float* theta) {
    MemberWriter writer(engine, network, population, member, theta);
    for (int l = 0; l < network.depth(); ++l) {
        const Layer& layer = network.layer(l);
        if (!population.allocation.turn(l).has(member / 2)) {  // the member leaves it alone
            writer.copy(layer);
            continue;
        }
        on_cpu(population, [&](auto family) { family.write_weights(writer, layer); });
        if (population.perturbs_biases()) {
            writer.perturb_bias(layer);
        } else {
            writer.copy_bias(layer);
        }
    }
}

}  // namespace fpes

// The gradient of a population of one-unit members, and its members.
//
// A layer's estimate is one product, whatever the number of pairs:
//
//                  row                              fan_out
//            +-----------------+            +-------------------------------+
//    fan_in  | left, T         |   x   row  | coefficient * difference of   |
//            +-----------------+            | the pair's weights            |
//                                           +-------------------------------+
//
// For directions in the span, a row is a sample. Its left part is the layer's input, and its right part is the sum,
// over the draws that used the sample, of L^-T r times the unit's difference. For white directions, a row is a draw,
// and its left part is the direction.
#include <algorithm>
#include <vector>

#include "gradient.hpp"
#include "nonzero_lists.hpp"
#include "parallel.hpp"
#include "unit.hpp"

namespace fpes {
namespace {

// Rows of a gradient that one thread computes at a time.
constexpr std::int64_t block_rows = 64;

template <class Weight>
class UnitGradient {
   public:
    UnitGradient(const UnitJob& job, const Weight* weights)
        : job_(job), engine_(job.engine), network_(job.network), weights_(weights) {
        for (int l = 0; l < network_.depth(); ++l)
            right_.push_back(engine_.matrix(terms(l), network_.step(l).tensor.fan_out));
    }

    void run(float* gradient) {
        const int depth = network_.depth();
        parallel(job_.threads, job_.batch.count * depth, [&](WorkQueue& queue) {
            for (std::int64_t item; queue.take(item);) fill_right(static_cast<int>(item % depth), item / depth);
        });
        const std::vector<RowBlock> blocks = row_blocks(network_, block_rows);
        std::int64_t most = 0;
        for (int l = 0; l < depth; ++l) most = std::max(most, terms(l));
        parallel(job_.threads, static_cast<std::int64_t>(blocks.size()), [&](WorkQueue& queue) {
            Memory memory(job_, most);
            for (std::int64_t item; queue.take(item);) multiply(blocks[item], memory, gradient);
        });
    }

   private:
    struct Memory {
        Memory(const UnitJob& job, std::int64_t terms)
            : left(job.engine.matrix(terms, block_rows)),
              transposed(job.engine.matrix(block_rows, terms)),
              sum(job.engine.matrix(block_rows, job.network.widest_output())),
              scaled_bias(job.engine.matrix(1, job.network.widest_output())),
              lists(job.engine, block_rows, terms),
              direction(job.network.widest() + job.engine.width()),
              scratch(noise_scratch_size(job.network.widest())) {}
        PanelMatrix left;
        PanelMatrix transposed;
        PanelMatrix sum;
        PanelMatrix scaled_bias;
        NonzeroLists lists;
        Buffer<float> direction;
        Buffer<float> scratch;
    };

    // Rows of the product of a layer.
    std::int64_t terms(int layer) const {
        return job_.population.span ? job_.rows() : job_.blocks() * job_.layout.draws(layer);
    }

    // The factor of a draw's difference: 1 / (2 factor * all draws of the layer).
    double share(int layer, std::int64_t batch) const {
        const double factor = job_.state.factors[batch * job_.layout.depth() + layer];
        const auto draws = static_cast<double>(job_.blocks() * job_.layout.draws(layer));
        return factor == 0.0 ? 0.0 : 1.0 / (2.0 * factor * draws);
    }

    // differences[n] of the pairs of a draw, weight of the + member minus weight of the - member.
    void take_differences(std::int64_t block, int layer, int draw, std::vector<double>& differences) const {
        const std::int64_t pair = block * job_.layout.pairs() + job_.layout.first_pair(layer, draw);
        for (std::size_t j = 0; j < differences.size(); ++j) {
            const Weight* pair_weights = weights_ + 2 * (pair + static_cast<std::int64_t>(j));
            differences[j] = static_cast<double>(pair_weights[0]) - static_cast<double>(pair_weights[1]);
        }
    }

    void fill_right(int layer, std::int64_t batch) {
        const std::int64_t n = network_.step(layer).tensor.fan_out, size = job_.batch.size;
        const std::int64_t each = job_.batch.pairs_each / job_.layout.pairs();
        const double share = this->share(layer, batch);
        std::vector<double> differences(n), sums(job_.population.span ? size * n : n);
        for (std::int64_t block = batch * each; block < (batch + 1) * each; ++block) {
            for (int draw = 0; draw < job_.layout.draws(layer); ++draw) {
                take_differences(block, layer, draw, differences);
                if (job_.population.span) {
                    const double* solution = job_.state.solutions + job_.draw_index(block, layer, draw) * size;
                    for (std::int64_t b = 0; b < size; ++b) {
                        const double coefficient = solution[b] * share;
                        double* sum = sums.data() + b * n;
                        for (std::int64_t j = 0; j < n; ++j) sum[j] += coefficient * differences[j];
                    }
                } else {
                    for (std::int64_t j = 0; j < n; ++j) sums[j] = share * differences[j];
                    round_right(layer, block * job_.layout.draws(layer) + draw, sums.data());
                }
            }
        }
        for (std::int64_t b = 0; job_.population.span && b < size; ++b) {
            round_right(layer, batch * size + b, sums.data() + b * n);
        }
    }

    void round_right(int layer, std::int64_t row, const double* sums) {
        const auto n = static_cast<int>(network_.step(layer).tensor.fan_out);
        std::vector<float> rounded(sums, sums + n);
        engine_.kernels().pack(rounded.data(), n, 1, n, right_[layer].from_row(row));
    }

    void multiply(const RowBlock& block, Memory& memory, float* gradient) {
        const Step& layer = network_.step(block.layer);
        const auto rows = static_cast<int>(std::min(block_rows, layer.tensor.fan_in - block.row));
        const auto n = static_cast<int>(layer.tensor.fan_out), count = static_cast<int>(terms(block.layer));
        fill_left(block, rows, memory);
        engine_.kernels().transpose(memory.left.view(), rows, count, memory.transposed.view());
        if (memory.lists.fill(memory.transposed.view(), rows, count)) {
            engine_.outside(&ModeKernels::product_nonzeros, memory.lists.view(), 0, memory.transposed.view(),
                            right_[block.layer].view(), Panels{}, memory.sum.view(), rows, n, count);
        } else {
            engine_.outside(&ModeKernels::product_transposed, memory.left.view(), right_[block.layer].view(), Panels{},
                            memory.sum.view(), rows, n, count);
        }
        engine_.kernels().unpack(memory.sum.view(), rows, n, gradient + layer.tensor.weight_offset + block.row * n, n);
        if (block.row == 0) std::fill_n(gradient + layer.tensor.bias_offset, n, 0.0f);
    }

    // Columns of the left operand: [terms, rows].
    void fill_left(const RowBlock& block, int rows, Memory& memory) {
        const Step& layer = network_.step(block.layer);
        const std::int64_t fan_in = layer.tensor.fan_in;
        const auto count = static_cast<int>(terms(block.layer));
        const Panels left = memory.left.view();
        if (!job_.population.span) {
            for (int row = 0; row < count; ++row) {
                engine_.kernels().noise(job_.stream(block.layer, row), block.row, rows, memory.direction.data(),
                                        memory.scratch.data());
                engine_.kernels().pack(memory.direction.data(), rows, 1, rows, memory.left.from_row(row));
            }
        } else if (block.layer == 0) {
            engine_.kernels().pack(job_.batch.x + block.row, fan_in, count, rows, left);
        } else {
            const Step& below = network_.step(block.layer - 1);
            engine_.kernels().pack(job_.sums(below.position, 0) + block.row, fan_in, count, rows, left);
            engine_.elementwise(&ModeKernels::scale, network_.bias(below.tensor), 1, static_cast<int>(fan_in),
                                below.bias_factor, memory.scaled_bias.view());
            engine_.elementwise(&ModeKernels::boundary, left, count, rows,
                                engine_.at_column(memory.scaled_bias.view(), block.row), below.enter, below.leave,
                                left);
            engine_.outside(&ModeKernels::scale, left, count, rows, 1.0f / layer.bias_factor, left);
        }
    }

    const UnitJob& job_;
    const Engine& engine_;
    PackedNetwork& network_;
    const Weight* weights_;
    std::vector<PanelMatrix> right_;  // of each layer
};

}  // namespace

template <class Weight>
void unit_gradient(const UnitJob& job, const Weight* weights, float* gradient) {
    UnitGradient<Weight>(job, weights).run(gradient);
}
template void unit_gradient(const UnitJob&, const float*, float*);
template void unit_gradient(const UnitJob&, const std::int64_t*, float*);

void unit_member(const UnitJob& job, std::int64_t member, float* theta) {
    const Step& last = job.network.step(job.network.depth() - 1);
    std::copy_n(job.theta, last.tensor.bias_offset + last.tensor.fan_out, theta);
    const std::int64_t pair = member / 2, block = pair / job.layout.pairs(), batch = job.batch_of_block(block);
    const UnitPlace place = job.layout.place(pair);
    const Step& layer = job.network.step(place.layer);
    const double factor = job.state.factors[batch * job.layout.depth() + place.layer];
    std::vector<double> direction(layer.tensor.fan_in);
    if (job.population.span) {
        Buffer<float> inputs(layer.tensor.fan_in * unit_stride(job.batch.size));
        unit_inputs(job, place.layer, batch, inputs.data());
        const double* solution = job.state.solutions + job.draw_index(block, place.layer, place.draw) * job.batch.size;
        for (std::int64_t k = 0; k < layer.tensor.fan_in; ++k) {
            const float* input = inputs.data() + k * unit_stride(job.batch.size);
            for (std::int64_t b = 0; b < job.batch.size; ++b) direction[k] += input[b] * solution[b];
        }
    } else {
        std::vector<float> signs(layer.tensor.fan_in), scratch(noise_scratch_size(layer.tensor.fan_in));
        job.engine.kernels().noise(job.stream(place.layer, block * job.layout.draws(place.layer) + place.draw), 0,
                                   static_cast<int>(layer.tensor.fan_in), signs.data(), scratch.data());
        std::copy(signs.begin(), signs.end(), direction.begin());
    }
    float* weight = theta + layer.tensor.weight_offset + place.unit;
    for (std::int64_t k = 0; k < layer.tensor.fan_in; ++k, weight += layer.tensor.fan_out) {
        const auto change = static_cast<float>(factor * direction[k]);
        *weight = member % 2 ? *weight - change : *weight + change;
    }
}

}  // namespace fpes

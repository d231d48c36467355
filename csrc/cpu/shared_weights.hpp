// All members share the weights, and differ by a correction of the accumulators (common/perturbations/family.hpp).
//
// A thread takes a tile of samples and some pairs. The first layer's product is the same for all members, so it is
// computed once. Later layers' activations differ, so those of several pairs are stacked, and one product with the
// shared weights serves them all. It leaves out what is zero in all members (kernels/skipping.hpp):
//
//      rows of h, l >= 2          w (shared)         accumulators, then the pair's own correction
//     +---------------------+    +----------+       +----------------------+
//     | pair p,   +, samples|    |          |       | += q+ B   or  += s z |
//     | pair p,   -, samples|  . |          |  ->   | += q- B   or  -= s z |
//     | pair p+1, +, samples|    |          |       | ...                  |
//     +---------------------+    +----------+       +----------------------+
//
// A correction of inputs: q = (h A) * (+-scale), and the chain of the product continues over the terms: acc = fma(q_t,
// B_tj, acc). The A of several pairs are side by side in one matrix, and h A is computed for all of them, although each
// pair needs only its own: a vector is as wide as sixteen columns.
// Any other correction: acc = fma(z, +-scale, acc), one draw for each member and sample.
#pragma once

#include <algorithm>
#include <array>
#include <functional>

#include "population.hpp"

namespace fpes {

// Pairs first_pair ... first_pair + pairs - 1 on samples sample ... sample + rows - 1 of the batch that they see.
struct Stack {
    std::int64_t first_pair;
    std::int64_t pairs;
    std::int64_t sample;
    int rows;
};

// Columns of all the A of several pairs, at most.
constexpr std::int64_t joint_columns = 64;

class SharedWeights {
   public:
    // For tiles of up to `tile` samples, and stacks of up to `most_pairs` pairs.
    SharedWeights(const Job& job, std::int64_t tile, std::int64_t most_pairs)
        : job_(job),
          engine_(job.engine),
          network_(job.network),
          correction_(job.population.correction()),
          joint_(correction_.terms * most_pairs <= joint_columns ? most_pairs : 1),
          input_(engine_.matrix(tile, network_.features())),
          first_product_(engine_.matrix(tile, network_.step(0).tensor.fan_out)),
          hidden_{engine_.matrix(2 * tile * most_pairs, network_.widest_output()),
                  engine_.matrix(2 * tile * most_pairs, network_.widest_output())},
          biases_{bias(), bias()},
          scaled_bias_(bias()),
          factor_rows_(engine_.matrix(column_of(joint_), network_.widest())),
          factor_(engine_.matrix(network_.widest(), column_of(joint_))),
          products_(engine_.matrix(2 * tile * joint_, column_of(joint_))),
          coefficients_(engine_.matrix(tile, correction_.terms)),
          nonzeros_(skipping_scratch_size(network_.widest())),
          scratch_(noise_scratch_size(network_.widest() * correction_.terms)) {}

    // Goes on to samples sample ... sample + rows - 1 of the batch that this pair sees.
    void start(std::int64_t pair, std::int64_t sample, int rows) {
        const std::int64_t features = network_.features();
        const Step& first = network_.step(0);
        sample_ = sample;
        rows_ = rows;
        engine_.kernels().pack(job_.batch.x + job_.batch.row(pair, sample) * features, features, rows,
                               static_cast<int>(features), input_.view());
        engine_.in_product(&ModeKernels::product, input_.view(), network_.weight(first.tensor), Panels{},
                           first_product_.view(), rows, static_cast<int>(first.tensor.fan_out),
                           static_cast<int>(first.tensor.fan_in));
    }

    // One step of a stack, from its inputs to its outputs. Call steps in order, and all of them for one stack
    // before the next stack.
    void advance(int l, const Stack& stack) {
        const Step& step = network_.step(l);
        const Panels in = inputs(step), out = outputs(l);
        if (!step.reads_input()) {
            engine_.in_product(&ModeKernels::product_skipping, in, network_.weight(step.tensor), out, rows_,
                               static_cast<int>(2 * stack.pairs), static_cast<int>(step.tensor.fan_out),
                               static_cast<int>(step.tensor.fan_in), nonzeros_.data());
        }
        if (correction_.of_inputs) {
            correct_by_inputs(step, stack.first_pair, stack.pairs, in, out);
            return;
        }
        for (std::int64_t place = 0; place < stack.pairs; ++place) {
            correct_by_sample(step, stack.first_pair + place, member_rows(out, place, 0));
        }
    }

    // The inputs of a step: the samples, or stacks of members' rows.
    Panels inputs(const Step& step) { return step.reads_input() ? input_.view() : outputs(step.reads); }
    Panels outputs(int l) { return hidden_[l % 2].view(); }
    // Scratch, enough for the noise of a tile of any layer.
    float* scratch() { return scratch_.data(); }
    // The rows of one member in a stack.
    Panels member_rows(Panels stack, std::int64_t place, int sign) const {
        return engine_.at_row(stack, (2 * place + sign) * rows_);
    }

   private:
    PanelMatrix bias() const { return engine_.matrix(1, network_.widest_output()); }

    // Corrects the sums of pairs first_pair ... in a stack. in: the layer's inputs; those of the first layer, and its
    // sums, all members share.
    void correct_by_inputs(const Step& step, std::int64_t first_pair, std::int64_t pairs, Panels in, Panels out) {
        for (std::int64_t place = 0; place < pairs; place += joint_) {
            const std::int64_t together = std::min(joint_, pairs - place);
            const Panels inputs = step.reads_input() ? in : member_rows(in, place, 0);
            multiply_by_factors(step, first_pair + place, together, inputs);
            for (std::int64_t i = 0; i < together; ++i) {
                correct(step, first_pair + place + i, i, member_rows(out, place + i, 0));
            }
        }
    }

    // products_ = inputs A, for the A of `pairs` pairs.
    void multiply_by_factors(const Step& step, std::int64_t first_pair, std::int64_t pairs, Panels inputs) {
        const int k = static_cast<int>(step.tensor.fan_in);
        const int columns = static_cast<int>(column_of(pairs - 1)) + correction_.terms;
        for (std::int64_t i = 0; i < pairs; ++i) {
            draw_factor(step.tensor, correction_.left, first_pair + i, k, factor_rows_.from_row(column_of(i)));
        }
        engine_.kernels().transpose(factor_rows_.view(), k, columns, factor_.view());
        if (step.reads_input() || joint_ == 1) {
            const int rows = static_cast<int>(step.reads_input() ? rows_ : 2 * pairs * rows_);
            engine_.in_product(&ModeKernels::product, inputs, factor_.view(), Panels{}, products_.view(), rows, columns,
                               k);
        } else {
            engine_.in_product(&ModeKernels::product_skipping, inputs, factor_.view(), products_.view(), rows_,
                               static_cast<int>(2 * pairs), columns, k, nonzeros_.data());
        }
    }

    // Both members of a pair, whose A is the i-th of those in products_: sums, biases, boundary.
    void correct(const Step& step, std::int64_t pair, std::int64_t i, Panels out) {
        const int rank = correction_.terms, n = static_cast<int>(step.tensor.fan_out);
        const float scale = job_.population.scale(step);
        draw_factor(step.tensor, correction_.right, pair, n, factor_rows_.view());
        const std::array<Panels, 2> biases = biases_of(step, pair);
        for (int sign = 0; sign < 2; ++sign) {
            const Panels result = engine_.at_row(out, sign * rows_);
            Panels products = step.reads_input() ? products_.view() : products_.from_row((2 * i + sign) * rows_);
            products = engine_.at_column(products, column_of(i));
            products.data += column_of(i) % engine_.width();
            engine_.in_product(&ModeKernels::scale, products, rows_, rank, sign ? -scale : scale, coefficients_.view());
            engine_.in_product(&ModeKernels::product, coefficients_.view(), factor_rows_.view(),
                               step.reads_input() ? first_product_.view() : result, result, rows_, n, rank);
            cross_boundary(engine_, step, result, rows_, biases[sign], scaled_bias_.view(), result);
        }
    }

    // Those of both members of a pair.
    std::array<Panels, 2> biases_of(const Step& step, std::int64_t pair) {
        const Panels bias = network_.bias(step.tensor);
        if (!job_.population.perturbs_biases()) return {bias, bias};
        const NoiseStream stream = job_.population.noise.stream(step.tensor.index, NoiseRole::bias, pair);
        const int n = static_cast<int>(step.tensor.fan_out);
        engine_.in_product(&ModeKernels::perturb, stream, std::uint64_t{0}, n, job_.population.bias_scale(), 1, n, bias,
                           bias, biases_[0].view(), biases_[1].view(), scratch_.data());
        return {biases_[0].view(), biases_[1].view()};
    }

    // Where the A of the i-th of several pairs stands: at the start of a panel, or with others in one panel.
    std::int64_t column_of(std::int64_t i) const {
        const std::int64_t rank = correction_.terms, width = engine_.width();
        const std::int64_t in_panel = std::max<std::int64_t>(1, width / rank);
        return i / in_panel * ((rank + width - 1) / width * width) + i % in_panel * rank;
    }

    // A factor of the perturbation, [terms, n].
    void draw_factor(const Tensor& tensor, NoiseRole role, std::int64_t pair, int n, Panels out) {
        engine_.kernels().noise_panels(job_.population.noise.stream(tensor.index, role, pair), 0, correction_.terms, n,
                                       out, scratch_.data());
    }

    void correct_by_sample(const Step& step, std::int64_t pair, Panels out) {
        const int n = static_cast<int>(step.tensor.fan_out);
        const Panels results[2] = {out, engine_.at_row(out, rows_)};
        const Panels first = first_product_.view();
        engine_.in_product(&ModeKernels::perturb, job_.population.noise.stream(step.position, correction_.right, pair),
                           static_cast<std::uint64_t>(sample_) * n, n, job_.population.scale(step), rows_, n,
                           step.reads_input() ? first : results[0], step.reads_input() ? first : results[1], results[0],
                           results[1], scratch_.data());
        const std::array<Panels, 2> biases = biases_of(step, pair);
        for (int sign = 0; sign < 2; ++sign) {
            cross_boundary(engine_, step, results[sign], rows_, biases[sign], scaled_bias_.view(), results[sign]);
        }
    }

    const Job& job_;
    const Engine& engine_;
    PackedNetwork& network_;
    Correction correction_;
    std::int64_t joint_;  // pairs whose A stand side by side
    std::int64_t sample_ = 0;
    int rows_ = 0;
    PanelMatrix input_;
    PanelMatrix first_product_;
    PanelMatrix hidden_[2];
    PanelMatrix biases_[2];
    PanelMatrix scaled_bias_;
    PanelMatrix factor_rows_;   // factors as they are drawn, [ranks, n]
    PanelMatrix factor_;        // the A of several pairs, transposed, [n, ranks]
    PanelMatrix products_;      // h A, [members * samples, ranks]
    PanelMatrix coefficients_;  // q of one member, [samples, rank]
    Buffer<std::int32_t> nonzeros_;
    Buffer<float> scratch_;
};

// Visits all stacks of these pairs and samples on the job's threads, each with a SharedWeights that has started there.
void for_each_stack(const Job& job, PairRange pairs, std::int64_t first_sample, std::int64_t samples,
                    const std::function<void(SharedWeights&, const Stack&)>& visit);

}  // namespace fpes

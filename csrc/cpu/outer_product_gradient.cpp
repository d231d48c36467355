// The gradient of weights that a correction of inputs changes: for each tensor, the sum over pairs p and terms t of
// d_p a_pt (x) b_pt, for the factors a (left) and b (right).
//
// This is a matrix product whose inner dimension runs over the terms (p, t), in this order. Its operands are noise,
// drawn again, some hundred terms of every tensor at a time:
//
//                     terms                            fan_out
//            +----------------------+            +------------------+
//    fan_in  | d a, T               |   x  terms | b                |   added to the sums [fan_in, fan_out]
//            +----------------------+            +------------------+
//
// If weights and noise are integers, as for centred ranks, the sum is an exact integer. Then terms have 16 bits, two in
// each lane, and sums have 32 bits. With more than 2,048 members, d a can be too large; then d is divided into digits,
// d = 4096 high + low, and the sum is computed from the sums of both. Float weights are added in order.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "gradient.hpp"
#include "parallel.hpp"

namespace fpes {
namespace {

// Rows of the operands that are drawn at a time, so many that sums are rarely read and written again, and so few that
// those of a tensor stay in the last-level cache. And terms of them that one thread draws at a time, an even number.
constexpr std::int64_t drawn_rows = 512;
constexpr std::int64_t item_terms = 32;

// Rows of a gradient that one thread computes at a time.
constexpr std::int64_t block_rows = 64;

// The largest weight times noise that fits 16 bits; and the base of digits for larger weights.
constexpr std::int64_t largest_int16 = 0x7fff;
constexpr std::int64_t digit_base = 4096;

// Terms begin ... end - 1 of a tensor, drawn and multiplied together.
struct Portion {
    std::size_t digit;
    std::int64_t begin;
    std::int64_t end;
    bool first;  // of a run, whose sums start at zero
    bool last;   // of a run, after which they are taken away
};

class TensorGradient {
   public:
    TensorGradient(const GradientJob& job, std::vector<std::int64_t> pairs, const Tensor& tensor)
        : engine_(job.engine),
          population_(job.population),
          correction_(population_.correction()),
          tensor_(tensor),
          gradient_(job.gradient ? job.gradient + tensor.weight_offset : nullptr),
          integers_(job.sums ? job.sums + tensor.weight_offset : nullptr),
          scale_(population_.gradient_scale(tensor, job.pairs_of_population())),
          pairs_(std::move(pairs)),
          sums_(exact(population_, job.weights) ? SumType::int32 : SumType::float32),
          digits_(weights_of(population_, job.weights, pairs_)),
          steps_(plan()),
          left_(engine_.matrix(std::min(drawn_rows, rows_of(terms())), tensor.fan_in)),
          right_(engine_.matrix(std::min(drawn_rows, rows_of(terms())), tensor.fan_out)) {
        const auto runs = std::count_if(steps_.begin(), steps_.end(), [](const Portion& step) { return step.last; });
        if (steps_.size() > 1) kept_ = std::make_unique<PanelMatrix>(engine_.matrix(tensor.fan_in, tensor.fan_out));
        if (runs < 2 && !integers_) return;
        const auto count = static_cast<std::size_t>(tensor.fan_in * tensor.fan_out);
        if (sum_fits_int64(digits_, population_.largest_term())) {
            totals_.resize(count);
        } else {
            wide_totals_.resize(count);
        }
    }

    std::size_t steps() const { return steps_.size(); }
    std::int64_t items_to_draw(std::size_t step) const {
        return (steps_[step].end - steps_[step].begin + item_terms - 1) / item_terms;
    }
    std::int64_t blocks() const { return (tensor_.fan_in + block_rows - 1) / block_rows; }

    // One item of a step's operands. rows: [item_terms, widest].
    void draw(std::size_t step, std::int64_t item, PanelMatrix& rows, float* scratch) {
        const std::int64_t first = item * item_terms, begin = steps_[step].begin + first;
        const std::int64_t end = std::min(begin + item_terms, steps_[step].end);
        const std::vector<float>& difference = digits_[steps_[step].digit].difference;
        draw_rows(begin, end, first, left_, tensor_.fan_in, rows,
                  [&](std::int64_t term, Panels row) { draw_left(term, difference, row, scratch); });
        draw_rows(begin, end, first, right_, tensor_.fan_out, rows,
                  [&](std::int64_t term, Panels row) { draw_right(term, row, scratch); });
    }

    // One block of a step's product. sum: [block_rows, widest].
    void multiply(std::size_t number, std::int64_t block, PanelMatrix& sum) {
        const Portion& step = steps_[number];
        const std::int64_t row = block * block_rows;
        const int m = static_cast<int>(std::min(block_rows, tensor_.fan_in - row)),
                  n = static_cast<int>(tensor_.fan_out);
        const Panels out = kept_ ? kept_->from_row(row) : sum.view(), init = step.first ? Panels{} : out;
        const Panels left = engine_.at_column(left_.view(), row);
        const int depth = static_cast<int>(rows_of(step.end - step.begin));
        if (sums_ == SumType::int32) {
            engine_.kernels().integer_product_transposed(left, right_.view(), init, out, m, n, depth);
        } else {
            engine_.outside(&ModeKernels::product_transposed, left, right_.view(), init, out, m, n, depth);
        }
        if (!step.last) return;
        if (!totals_.empty()) {
            add_to_totals(out, number, m, n, totals_.data() + row * n, row * n);
        } else if (!wide_totals_.empty()) {
            add_to_totals(out, number, m, n, wide_totals_.data() + row * n, row * n);
        } else {
            engine_.kernels().finish_sums(out, sums_, m, n, scale_, gradient_ + row * n);
        }
    }

   private:
    template <class T>
    static std::vector<T> chosen(const std::vector<T>& all, const std::vector<std::int64_t>& pairs) {
        std::vector<T> some(pairs.size());
        for (std::size_t i = 0; i < pairs.size(); ++i) some[i] = all[pairs[i]];
        return some;
    }
    static std::vector<Digit> weights_of(const Population& population, const PairWeights& weights,
                                         const std::vector<std::int64_t>& pairs) {
        if (!exact(population, weights)) return {{chosen(weights.difference, pairs), 1}};
        return digits_of(chosen(weights.integers, pairs), largest_int16 / largest_integer(population.noise.kind),
                         digit_base);
    }

    // totals[i, j] += unit * sums[i, j], row-major; and after the last step they go to `place`, or times the scale.
    template <class Total>
    void add_to_totals(Panels sums, std::size_t step, int m, int n, Total* totals, std::int64_t place) const {
        const int width = engine_.width();
        const auto unit = static_cast<Total>(digits_[steps_[step].digit].unit);
        for (int j = 0; j < n; j += width) {
            const float* panel = engine_.at_column(sums, j).data;
            for (int i = 0; i < m; ++i) {
                for (int column = 0; column < std::min(width, n - j); ++column) {
                    std::int32_t sum;
                    std::memcpy(&sum, panel + i * width + column, sizeof sum);
                    totals[std::int64_t{i} * n + j + column] += unit * sum;
                }
            }
        }
        if (step + 1 < steps_.size()) return;
        for (std::int64_t i = 0; i < std::int64_t{m} * n; ++i) {
            if (integers_) {
                integers_[place + i] = static_cast<std::int64_t>(totals[i]);
            } else {
                gradient_[place + i] = static_cast<float>(static_cast<double>(totals[i]) * scale_);
            }
        }
    }

    std::int64_t terms() const { return static_cast<std::int64_t>(pairs_.size()) * correction_.terms; }
    // Terms to a row of the operands, and rows that so many terms need.
    std::int64_t terms_in_row() const { return sums_ == SumType::int32 ? 2 : 1; }
    std::int64_t rows_of(std::int64_t terms) const { return (terms + terms_in_row() - 1) / terms_in_row(); }

    std::vector<Portion> plan() const {
        std::vector<Portion> steps;
        for (std::size_t digit = 0; digit < digits_.size(); ++digit) add_steps(digit, steps);
        return steps;
    }
    void add_steps(std::size_t digit, std::vector<Portion>& steps) const {
        const double largest = std::pow(largest_integer(population_.noise.kind), 2);
        const std::int64_t most = drawn_rows * terms_in_row();
        for (std::int64_t begin = 0, end = 0; begin < terms(); begin = end) {
            end = terms();
            if (sums_ == SumType::int32) {
                end = exact_run(digits_[digit].difference, begin, correction_.terms, largest, exact_in_int32);
            }
            for (std::int64_t from = begin; from < end; from += most) {
                const std::int64_t to = std::min(from + most, end);
                steps.push_back({digit, from, to, from == begin, to == end});
            }
        }
    }

    // Terms begin ... end - 1 into an operand, from its row `first` on: by way of `rows` where two of them share lanes.
    template <class Draw>
    void draw_rows(std::int64_t begin, std::int64_t end, std::int64_t first, PanelMatrix& operand, std::int64_t n,
                   PanelMatrix& rows, Draw draw_row) {
        const bool integers = sums_ == SumType::int32;
        const Panels to = integers ? rows.view() : operand.from_row(first);
        for (std::int64_t term = begin; term < end; ++term) draw_row(term, engine_.at_row(to, term - begin));
        if (!integers) return;
        engine_.kernels().to_integer_terms(to, static_cast<int>(end - begin), static_cast<int>(n),
                                           operand.from_row(first / terms_in_row()));
    }

    void draw_left(std::int64_t term, const std::vector<float>& difference, Panels row, float* scratch) const {
        const std::int64_t place = term / correction_.terms, t = term % correction_.terms;
        const int n = static_cast<int>(tensor_.fan_in);
        engine_.kernels().noise_panels(population_.noise.stream(tensor_.index, correction_.left, pairs_[place]),
                                       static_cast<std::uint64_t>(t * n), 1, n, row, scratch);
        engine_.outside(&ModeKernels::scale, row, 1, n, difference[place], row);
    }

    void draw_right(std::int64_t term, Panels row, float* scratch) const {
        draw_right_factor(engine_, population_, tensor_, pairs_[term / correction_.terms],
                          static_cast<int>(term % correction_.terms), 1, row, scratch);
    }

    const Engine& engine_;
    const Population& population_;
    Correction correction_;
    const Tensor& tensor_;
    float* gradient_;
    std::int64_t* integers_;  // where sums go instead, unless it is null
    double scale_;
    std::vector<std::int64_t> pairs_;  // that perturb the tensor
    SumType sums_;
    std::vector<Digit> digits_;  // of their weights
    std::vector<Portion> steps_;
    PanelMatrix left_;                   // the operands of a step: [terms, fan_in]
    PanelMatrix right_;                  // and [terms, fan_out]
    std::unique_ptr<PanelMatrix> kept_;  // sums from one step to the next, where there are several
    std::vector<std::int64_t> totals_;   // of runs, where there are several: then sums are integers
    std::vector<Integer> wide_totals_;   // instead, where they may pass 64 bits
};

// Items of all tensors in one list, so that all threads are busy until the last.
struct Item {
    std::size_t tensor;
    std::int64_t number;
};
template <class Count>
std::vector<Item> items_of(std::vector<TensorGradient>& tensors, std::size_t step, Count count) {
    std::vector<Item> items;
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        if (step >= tensors[t].steps()) continue;
        for (std::int64_t i = 0; i < count(tensors[t]); ++i) items.push_back({t, i});
    }
    return items;
}

}  // namespace

void sum_outer_products(const GradientJob& job) {
    const Engine& engine = job.engine;
    std::int64_t widest = 0;
    std::vector<TensorGradient> parts;
    parts.reserve(job.tensors.size());
    std::size_t steps = 0;
    for (const Tensor& tensor : job.tensors) {
        widest = std::max({widest, tensor.fan_in, tensor.fan_out});
        std::vector<std::int64_t> pairs = job.population.allocation.pairs_of(tensor.index, job.pairs);
        if (pairs.empty()) {  // none of the range perturbs it
            job.clear(tensor.weight_offset, tensor.fan_in * tensor.fan_out);
            continue;
        }
        parts.emplace_back(job, std::move(pairs), tensor);
        steps = std::max(steps, parts.back().steps());
    }
    for (std::size_t step = 0; step < steps; ++step) {
        const std::vector<Item> draws =
            items_of(parts, step, [&](const TensorGradient& part) { return part.items_to_draw(step); });
        parallel(job.threads, static_cast<std::int64_t>(draws.size()), [&](WorkQueue& queue) {
            PanelMatrix rows = engine.matrix(item_terms, widest);
            Buffer<float> scratch(noise_scratch_size(widest));
            for (std::int64_t i; queue.take(i);) {
                parts[draws[i].tensor].draw(step, draws[i].number, rows, scratch.data());
            }
        });
        const std::vector<Item> blocks =
            items_of(parts, step, [](const TensorGradient& part) { return part.blocks(); });
        parallel(job.threads, static_cast<std::int64_t>(blocks.size()), [&](WorkQueue& queue) {
            PanelMatrix sum = engine.matrix(block_rows, widest);
            for (std::int64_t i; queue.take(i);) parts[blocks[i].tensor].multiply(step, blocks[i].number, sum);
        });
    }
}

}  // namespace fpes

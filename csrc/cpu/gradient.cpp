#include "gradient.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "parallel.hpp"
#include "perturbations/ways.hpp"

namespace fpes {
namespace {

// Elements of a tensor that one thread sums at a time: they stay in the first-level cache over all pairs.
constexpr std::int64_t strip = 4096;

// A digit times the largest integer of noise is one that a float holds exactly.
constexpr std::int64_t largest_digit = 1 << 21, digit_base = 1 << 20;

class NoiseSums {
   public:
    explicit NoiseSums(const GradientJob& job) : job_(job), engine_(job.engine), noise_(job.population.noise) {
        if (exact(job.population, job.weights)) digits_ = digits_of(job.weights.integers, largest_digit, digit_base);
    }

    // A tensor of noise, `size` elements, where its gradient goes, and what the sum is multiplied by.
    void add(int tensor, NoiseRole role, std::size_t offset, std::int64_t size, double scale) {
        for (std::int64_t first = 0; first < size; first += strip) {
            strips_.push_back({tensor, role, first, std::min(strip, size - first), offset + first, scale});
        }
    }

    void run() {
        if (sum_fits_int64(digits_, largest_integer(noise_.kind))) {
            sum_strips<std::int64_t>();
        } else {
            sum_strips<Integer>();
        }
    }

   private:
    struct Strip {
        int tensor;
        NoiseRole role;
        std::int64_t first;
        std::int64_t count;
        std::size_t place;
        double scale;
    };

    template <class Total>
    void sum_strips() {
        parallel(job_.threads, static_cast<std::int64_t>(strips_.size()), [&](WorkQueue& queue) {
            Buffer<float> sum(strip + engine_.width()), scratch(noise_scratch_size(strip));
            Buffer<Total> total(strip);
            for (std::int64_t item; queue.take(item);)
                sum_strip(strips_[item], sum.data(), total.data(), scratch.data());
        });
    }

    template <class Total>
    void sum_strip(const Strip& part, float* sum, Total* total, float* scratch) {
        const double largest = largest_integer(noise_.kind);
        const auto [begin, end] = job_.pairs;
        const bool one_run =
            digits_.size() == 1 && exact_run(digits_[0].difference, begin, 1, largest, exact_in_float) >= end;
        if (digits_.empty() || one_run) {
            add_pairs(part, job_.weights.difference, begin, end, sum, scratch);
            for (std::int64_t i = 0; i < part.count; ++i) write(part, i, 0.0 + sum[i]);
            return;
        }
        std::fill_n(total, part.count, Total{0});
        for (const Digit& digit : digits_) {
            const auto unit = static_cast<Total>(digit.unit);
            for (std::int64_t pair = begin, run = begin; pair < end; pair = run) {
                run = std::min(end, exact_run(digit.difference, pair, 1, largest, exact_in_float));
                add_pairs(part, digit.difference, pair, run, sum, scratch);
                for (std::int64_t i = 0; i < part.count; ++i) total[i] += unit * static_cast<std::int32_t>(sum[i]);
            }
        }
        for (std::int64_t i = 0; i < part.count; ++i) write(part, i, total[i]);
    }

    // sum = the noise of these pairs times their weights, added in order.
    void add_pairs(const Strip& part, const std::vector<float>& difference, std::int64_t begin, std::int64_t end,
                   float* sum, float* scratch) {
        std::fill_n(sum, part.count, 0.0f);
        for (std::int64_t pair = begin; pair < end; ++pair) {
            engine_.outside(&ModeKernels::accumulate_noise, noise_.stream(part.tensor, part.role, pair),
                            static_cast<std::uint64_t>(part.first), difference[pair], static_cast<int>(part.count), sum,
                            scratch);
        }
    }

    template <class Total>
    void write(const Strip& part, std::int64_t i, Total total) {
        if (job_.sums) {
            job_.sums[part.place + i] = static_cast<std::int64_t>(total);
        } else {
            job_.gradient[part.place + i] = static_cast<float>(static_cast<double>(total) * part.scale);
        }
    }

    const GradientJob& job_;
    const Engine& engine_;
    const Noise& noise_;
    std::vector<Digit> digits_;  // of the weights, where the sum is exact
    std::vector<Strip> strips_;
};

// Sums over any of the pairs fit 64 bits, and so do sums of them.
void check_sums(const Population& population, const PairWeights& weights) {
    if (sum_fits_int64(digits_of(weights.integers, largest_digit, digit_base), population.largest_term())) return;
    throw std::invalid_argument("weights add up to more than 64 bits hold: use smaller ones");
}

}  // namespace

PairWeights pair_weights(const float* weights, std::int64_t members) {
    PairWeights pairs{std::vector<float>(members / 2), {}};
    const FpMode ieee(false);
    for (std::int64_t p = 0; p < members / 2; ++p) pairs.difference[p] = weights[2 * p] - weights[2 * p + 1];
    return pairs;
}

PairWeights pair_weights(const std::int64_t* weights, std::int64_t members) {
    PairWeights pairs{std::vector<float>(members / 2), std::vector<std::int64_t>(members / 2)};
    for (std::int64_t p = 0; p < members / 2; ++p) {
        pairs.integers[p] = weights[2 * p] - weights[2 * p + 1];
        pairs.difference[p] = static_cast<float>(pairs.integers[p]);
    }
    return pairs;
}

bool exact(const Population& population, const PairWeights& weights) {
    return !weights.integers.empty() && population.noise.kind != NoiseKind::gaussian;
}

std::vector<Digit> digits_of(const std::vector<std::int64_t>& integers, std::int64_t largest, std::int64_t base) {
    std::vector<Digit> digits;
    std::vector<std::int64_t> rest = integers;
    for (Integer unit = 1;; unit *= base) {
        const bool last = std::all_of(rest.begin(), rest.end(),
                                      [=](std::int64_t integer) { return -largest <= integer && integer <= largest; });
        Digit digit{std::vector<float>(rest.size()), unit};
        for (std::size_t i = 0; i < rest.size(); ++i) {
            std::int64_t low = rest[i];
            if (!last) {
                // From -base / 2 to below base / 2.
                low = ((rest[i] + base / 2) % base + base) % base - base / 2;
                rest[i] = (rest[i] - low) / base;
            }
            digit.difference[i] = static_cast<float>(low);
        }
        digits.push_back(std::move(digit));
        if (last) return digits;
    }
}

bool sum_fits_int64(const std::vector<Digit>& digits, double largest) {
    double bound = 0.0;
    for (const Digit& digit : digits) {
        double sum = 0.0;
        for (const float difference : digit.difference) sum += std::fabs(difference);
        bound += sum * static_cast<double>(digit.unit) * largest;
    }
    return bound < 0x1p62;
}

std::int64_t exact_run(const std::vector<float>& difference, std::int64_t begin, int per_pair, double largest,
                       double limit) {
    const auto terms = static_cast<std::int64_t>(difference.size()) * per_pair;
    double bound = 0.0;
    std::int64_t end = begin;
    for (; end < terms; ++end) {
        bound += std::fabs(difference[end / per_pair]) * largest;
        if (bound > limit && end > begin) break;
    }
    return end;
}

void GradientJob::clear(std::size_t offset, std::int64_t count) const {
    if (sums) std::fill_n(sums + offset, count, std::int64_t{0});
    if (gradient) std::fill_n(gradient + offset, count, 0.0f);
}

void sum_noise(const GradientJob& job, NoiseRole role) {
    NoiseSums sums(job);
    const std::int64_t pairs = job.pairs_of_population();
    for (const Tensor& tensor : job.tensors) {
        if (role == NoiseRole::weight) {
            sums.add(tensor.index, role, tensor.weight_offset, tensor.fan_in * tensor.fan_out,
                     job.population.gradient_scale(tensor, pairs));
        } else {
            sums.add(tensor.index, role, tensor.bias_offset, tensor.fan_out, job.population.bias_gradient_scale(pairs));
        }
    }
    sums.run();
}

void gradient(const GradientJob& job) {
    if (job.sums) check_sums(job.population, job.weights);
    on_cpu(job.population, [&](auto family) { family.weight_gradient(job); });
    if (job.population.perturbs_biases()) {
        sum_noise(job, NoiseRole::bias);
    } else {
        for (const Tensor& tensor : job.tensors) job.clear(tensor.bias_offset, tensor.fan_out);
    }
}

void sample_gradient(const Job& job, const SampleWeights& weights, std::int64_t pairs, float* gradient) {
    on_cpu(job.population, [&](auto family) { family.sample_gradient(job, weights, pairs, gradient); });
}

void scale_sums(const std::vector<Tensor>& tensors, const Population& population, std::int64_t pairs,
                const std::int64_t* sums, float* gradient) {
    for (const PartScale& part : gradient_scales(tensors, population, pairs)) {
        for (std::int64_t i = 0; i < part.count; ++i) {
            const auto sum = static_cast<double>(sums[part.offset + i]);
            gradient[part.offset + i] = static_cast<float>(sum * part.scale);
        }
    }
}

}  // namespace fpes

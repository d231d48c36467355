#include "population.hpp"

#include <algorithm>
#include <vector>

#include "parallel.hpp"

namespace fpes {
namespace {

class LossSink final : public Sink {
   public:
    LossSink(const Job& job, float* losses)
        : job_(job),
          losses_(losses),
          blocks_((job.batch.size + loss_block - 1) / loss_block),
          sums_(2 * job.pairs.count() * blocks_) {}

    void take(std::int64_t member, std::int64_t first, int rows, Panels logits) override {
        float tile[full_tile + 16];  // a vector beyond the last row is written
        job_.engine.elementwise(&ModeKernels::losses, job_.batch.targets, job_.batch.row(member / 2, first), logits,
                                rows, static_cast<int>(job_.network.classes()), tile);
        const std::int64_t row = member - 2 * job_.pairs.begin;
        for (std::int64_t i = 0; i < rows; i += loss_block) {
            double sum = 0.0;
            for (std::int64_t s = i; s < std::min<std::int64_t>(rows, i + loss_block); ++s) sum += tile[s];
            sums_[row * blocks_ + (first + i) / loss_block] = sum;
        }
        if (losses_) std::copy(tile, tile + rows, losses_ + row * job_.batch.size + first);
    }

    void finish(float* fitness) {
        for (std::int64_t i = 0; i < 2 * job_.pairs.count(); ++i) {
            double total = 0.0;
            for (std::int64_t block = 0; block < blocks_; ++block) total += sums_[i * blocks_ + block];
            fitness[i] = static_cast<float>(-(total / static_cast<double>(job_.batch.size)));
        }
    }

   private:
    const Job& job_;
    float* losses_;
    std::int64_t blocks_;
    std::vector<double> sums_;
};

class OutputSink final : public Sink {
   public:
    OutputSink(const Job& job, float* outputs) : job_(job), outputs_(outputs) {}

    void take(std::int64_t member, std::int64_t first, int rows, Panels logits) override {
        const std::int64_t classes = job_.network.classes();
        const std::int64_t row = (member - 2 * job_.pairs.begin) * job_.batch.size + first;
        job_.engine.kernels().unpack(logits, rows, static_cast<int>(classes), outputs_ + row * classes, classes);
    }

   private:
    const Job& job_;
    float* outputs_;
};

}  // namespace

void scatter_factor(const Engine& engine, const Population& population, const Tensor& tensor, std::int64_t pair,
                    Panels row, float* scratch) {
    const int k = population.units[tensor.index], width = engine.width();
    std::vector<std::int32_t> units(k);
    std::vector<float> b(k + width);
    engine.kernels().unit_positions(population.stream(tensor.index, NoiseRole::positions, pair), 0, 1,
                                    static_cast<int>(tensor.fan_out), k, units.data(), scratch);
    engine.kernels().noise(population.stream(tensor.index, NoiseRole::factor_b, pair), 0, k, b.data(), scratch);
    for (std::int64_t j = 0; j < tensor.fan_out; j += width) {
        std::fill_n(engine.at_column(row, j).data, width, 0.0f);
    }
    for (int i = 0; i < k; ++i) engine.at_column(row, units[i]).data[units[i] % width] = b[i];
}

std::size_t noise_scratch_size(std::int64_t n) {
    constexpr std::size_t group = 128 * 16;  // the largest block times the most lanes: what one step draws
    constexpr std::size_t panel = 32;        // read beyond the last element
    return static_cast<std::size_t>(std::max<std::int64_t>(n, noise_strip)) + 2 * group + panel;
}

void run(const Job& job, Sink& sink) {
    switch (job.population.family) {
        case Family::full: return run_full_rank(job, sink);
        case Family::low_rank:
        case Family::node: return run_shared_weights(job, sink);
        case Family::one_layer:
        case Family::one_layer_rank_one: return run_incremental(job, sink);
    }
}

void evaluate(const Job& job, float* fitness, float* losses) {
    LossSink sink(job, losses);
    run(job, sink);
    sink.finish(fitness);
}

void outputs(const Job& job, float* outputs) {
    OutputSink sink(job, outputs);
    run(job, sink);
}

}  // namespace fpes

#include "population.hpp"

#include <algorithm>
#include <vector>

#include "parallel.hpp"
#include "perturbations/ways.hpp"

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
            sums_[row * blocks_ + (first + i) / loss_block] =
                sum_of_block(i / loss_block, rows, [&](std::int64_t s) { return static_cast<double>(tile[s]); });
        }
        if (losses_) std::copy(tile, tile + rows, losses_ + row * job_.batch.size + first);
    }

    void finish(float* fitness) {
        for (std::int64_t i = 0; i < 2 * job_.pairs.count(); ++i) {
            const double* const sums = sums_.data() + i * blocks_;
            fitness[i] =
                static_cast<float>(-mean_of_blocks(job_.batch.size, [&](std::int64_t block) { return sums[block]; }));
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

void run(const Job& job, Sink& sink) {
    on_cpu(job.population, [&](auto family) { family.run(job, sink); });
}

}  // namespace

void draw_right_factor(const Engine& engine, const Population& population, const Tensor& tensor, std::int64_t pair,
                       int first, int rows, Panels out, float* scratch) {
    const NoiseStream stream = population.noise.stream(tensor.index, population.correction().right, pair);
    const int k = population.allocation.few_units(tensor.index), width = engine.width();
    const int n = static_cast<int>(tensor.fan_out);
    if (k == 0) {
        engine.kernels().noise_panels(stream, static_cast<std::uint64_t>(first) * n, rows, n, out, scratch);
        return;
    }
    std::vector<std::int32_t> units(k);
    std::vector<float> b(k + width);
    engine.kernels().unit_positions(population.noise.stream(tensor.index, NoiseRole::positions, pair), 0, 1, n, k,
                                    units.data(), scratch);
    engine.kernels().noise(stream, 0, k, b.data(), scratch);
    for (std::int64_t j = 0; j < tensor.fan_out; j += width) std::fill_n(engine.at_column(out, j).data, width, 0.0f);
    for (int i = 0; i < k; ++i) engine.at_column(out, units[i]).data[units[i] % width] = b[i];
}

void run_corrected(const Job& job, Sink& sink) {
    if (job.population.allocation.one_layer()) {
        run_incremental(job, sink);
    } else {
        run_shared_weights(job, sink);
    }
}

std::size_t noise_scratch_size(std::int64_t n) {
    constexpr std::size_t group = 128 * 16;  // the largest block times the most lanes: what one step draws
    constexpr std::size_t panel = 32;        // read beyond the last element
    return static_cast<std::size_t>(std::max<std::int64_t>(n, noise_strip)) + 2 * group + panel;
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

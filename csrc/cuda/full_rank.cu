// Full rank on the host side: the kernel of full_rank.hpp, fused or a layer at a time.
#include <algorithm>

#include "population.hpp"

FPES_NAMESPACE_BEGIN
namespace {

class FullRankRun {
   public:
    FullRankRun(Context& context, const Network& network, PairRange pairs, const Batches& batch)
        : network_(network),
          choice_(choose_full_rank(context.device, network, pairs.count(), batch.size)),
          buffers_(context, network, 0, choice_.fused ? 0 : pairs.count(), 2 * batch.size) {}

    void run(Context& context, const Population& population, PairRange pairs, const Batches& batch, float* outputs,
             const LossSink& sink) const {
        FullRankJob job{};
        job.noise = noise_source(population.noise);
        job.scale = population.bias_scale();
        job.small_scale = small_scale(population.noise.kind, job.scale);
        job.first_pair = pairs.begin;
        job.batch = batch.size;
        job.pairs_each = batch.pairs_each;
        job.inputs = batch.x;
        if (choice_.fused) {
            job.layers = device_layers(network_, &population, 0, static_cast<int>(network_.steps().size()));
            job.outputs = outputs;
            job.sink = sink;
            launch_one(context, population, pairs.count(), job);
        } else {
            run_layers(context, population, pairs, batch, job, outputs, sink);
        }
    }

   private:
    void run_layers(Context& context, const Population& population, PairRange pairs, const Batches& batch,
                    FullRankJob job, float* outputs, const LossSink& sink) const {
        const int depth = static_cast<int>(network_.steps().size());
        for (std::int64_t begin = pairs.begin; begin < pairs.end; begin += buffers_.places_at_a_time()) {
            const PairRange some{begin, std::min(pairs.end, begin + buffers_.places_at_a_time())};
            job.first_pair = some.begin;
            job.inputs = batch.x;
            job.inputs_of_members = false;
            for (int l = 0; l < depth; ++l) {
                job.layers = device_layers(network_, &population, l, l + 1);
                job.outputs = buffers_.buffer(l);
                launch_one(context, population, some.count(), job);
                job.inputs = job.outputs;
                job.inputs_of_members = true;
            }
            Rows rows = rows_of(some, batch);
            rows.begin = pairs.begin;  // outputs are counted from the first pair of the call
            finish_rows(context, rows, job.outputs, static_cast<int>(network_.steps().back().tensor.fan_out), outputs,
                        sink);
        }
    }

    void launch_one(Context& context, const Population& population, std::int64_t pairs, const FullRankJob& job) const {
        const NoiseKind kind = population.noise.kind;
        const auto launch_kind = kind == NoiseKind::binomial     ? launch_full_rank<NoiseKind::binomial>
                                 : kind == NoiseKind::rademacher ? launch_full_rank<NoiseKind::rademacher>
                                                                 : launch_full_rank<NoiseKind::gaussian>;
        launch_kind(context, network_.flush, choice_, pairs, job);
    }

    const Network& network_;
    Choice choice_;
    LayerBuffers buffers_;
};

}  // namespace

void run_full_rank(Context& context, const Job& job) {
    const FullRankRun run(context, job.network, job.pairs, job.batch);
    if (!context.arena.measuring()) run.run(context, job.population, job.pairs, job.batch, job.outputs, job.sink);
}

std::string full_rank_plan(const Device& device, const Job& job) {
    return in_words(choose_full_rank(device, job.network, job.pairs.count(), job.batch.size), /*full_rank=*/true);
}

FPES_NAMESPACE_END

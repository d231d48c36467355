// Full rank on the host side: the kernel of full_rank.hpp, fused or a layer at a time.
#include <algorithm>
#include <type_traits>

#include "packing.hpp"
#include "population.hpp"

FPES_NAMESPACE_BEGIN
namespace {

class FullRankRun {
   public:
    FullRankRun(Context& context, const Network& network, PairRange pairs, const Batches& batch)
        : network_(network),
          choice_(choose_full_rank(context.device, network, pairs.count(), batch.size)),
          inputs_(context, network, pairs, batch, samples_of_a_tile()),
          buffers_(context, network, 0, choice_.fused ? 0 : pairs.count(),
                   2 * samples_of_a_tile() * parts(batch.size, samples_of_a_tile())) {}

    void run(Context& context, const Population& population, PairRange pairs, const Batches& batch, float* outputs,
             const LossSink& sink) const {
        FullRankJob job{};
        job.noise = noise_source(population.noise);
        job.scale = population.bias_scale();
        job.small_scale = small_scale(population.noise.kind, job.scale);
        job.first_pair = pairs.begin;
        job.batch = batch.size;
        job.pairs_each = batch.pairs_each;
        job.inputs = inputs_.pack(context, network_, batch);
        if (choice_.fused) {
            job.layers = device_layers(network_, &population, 0, static_cast<int>(network_.steps().size()));
            job.outputs = outputs;
            job.sink = sink;
            launch_kind(context, population, pairs.count(), job);
        } else {
            run_layers(context, population, pairs, batch, job, outputs, sink);
        }
    }

   private:
    int samples_of_a_tile() const {
        int samples = 0;
        with_choice<OwnWeightsLayerTile>(choice_,
                                         [&](auto shape, auto) { samples = FullRankTile<decltype(shape)>::samples; });
        return samples;
    }

    // Some pairs at a time, and of them a layer at a time.
    void run_layers(Context& context, const Population& population, PairRange pairs, const Batches& batch,
                    FullRankJob job, float* outputs, const LossSink& sink) const {
        const int last = static_cast<int>(network_.steps().size()) - 1;
        const int classes = static_cast<int>(network_.steps().back().tensor.fan_out);
        const bool narrow = last > 0 && classes <= narrow_columns;
        for (std::int64_t begin = pairs.begin; begin < pairs.end; begin += buffers_.places_at_a_time()) {
            const PairRange some{begin, std::min(pairs.end, begin + buffers_.places_at_a_time())};
            job.first_pair = some.begin;
            job.panels = nullptr;
            for (int l = 0; l < (narrow ? last : last + 1); ++l) {
                job.layers = device_layers(network_, &population, l, l + 1);
                job.next_panels = l < last ? buffers_.buffer(l) : nullptr;
                job.outputs = l < last ? nullptr : buffers_.buffer(l);
                launch_kind(context, population, some.count(), job);
                job.panels = job.next_panels;
            }
            const std::int64_t members = 2 * (some.begin - pairs.begin);  // before these
            if (narrow) {
                job.layers = device_layers(network_, &population, last, last + 1);
                job.outputs = outputs ? outputs + members * batch.size * classes : nullptr;
                job.sink = sink.from(some.begin - pairs.begin);
                launch_last_kind(context, population, some.count(), job);
                job.sink = LossSink{};
            } else {
                Rows rows = rows_of(some, batch);
                rows.begin = pairs.begin;  // outputs are counted from the first pair of the call
                finish_rows(context, rows, job.outputs, classes, outputs, sink);
            }
        }
    }

    void launch_kind(const Context& context, const Population& population, std::int64_t pairs,
                     const FullRankJob& job) const {
        with_kind(population.noise.kind, [&](auto kind) {
            launch_full_rank<decltype(kind)::value>(context, network_.flush, choice_, pairs, job);
        });
    }
    void launch_last_kind(const Context& context, const Population& population, std::int64_t pairs,
                          const FullRankJob& job) const {
        with_kind(population.noise.kind, [&](auto kind) {
            launch_full_rank_last<decltype(kind)::value>(context, network_.flush, pairs, job);
        });
    }
    // Calls body(kind), a constant.
    template <class Body>
    static void with_kind(NoiseKind kind, Body body) {
        switch (kind) {
            case NoiseKind::binomial: return body(std::integral_constant<NoiseKind, NoiseKind::binomial>());
            case NoiseKind::rademacher: return body(std::integral_constant<NoiseKind, NoiseKind::rademacher>());
            case NoiseKind::gaussian: return body(std::integral_constant<NoiseKind, NoiseKind::gaussian>());
        }
    }

    const Network& network_;
    Choice choice_;
    InputPacking inputs_;
    LayerBuffers buffers_;
};

}  // namespace

void run_full_rank(Context& context, const Job& job) {
    const FullRankRun run(context, job.network, job.pairs, job.batch);
    if (!context.arena.measuring()) run.run(context, job.population, job.pairs, job.batch, job.outputs, job.sink);
}

std::string full_rank_plan(const Device& device, const Job& job) {
    return full_rank_in_words(choose_full_rank(device, job.network, job.pairs.count(), job.batch.size));
}

FPES_NAMESPACE_END

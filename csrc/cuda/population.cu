// Populations on the host side: memory, jobs, launches.
#include "population.hpp"

#include <algorithm>

#include "extents.hpp"
#include "modes.hpp"
#include "perturbations/ways.hpp"

FPES_NAMESPACE_BEGIN
namespace {

__global__ __launch_bounds__(elementwise_threads) void finish_rows_kernel(Rows rows, const float* logits, int classes,
                                                                          float* outputs, LossSink sink) {
    const std::int64_t r = global_index(elementwise_threads);
    if (r >= rows.count) return;
    const Row row = row_of(rows, r, r);
    if (!row.inside) return;
    const float* from = logits + r * classes;
    if (outputs) {
        for (int j = 0; j < classes; ++j) outputs[row.output * classes + j] = from[j];
    }
    if (!sink.wanted()) return;
    sink.losses[row.output] = loss_of(sink.targets, row.input, classes, [=](int j) { return from[j]; });
    sink.finish(row.pair - rows.begin, 1);
}

// Members whose first layer's sums are shared too.
void run_shared_weights(Context& context, const Job& job) {
    const Network& network = job.network;
    const Rows rows = rows_of(job.pairs, job.batch);
    const FirstSums sums(context, network, job.pairs, job.batch);
    const SharedWeightsRun run(context, network, &job.population, 0, rows);
    if (context.arena.measuring()) return;
    SharedWeightsJob launch = shared_weights_job(network, &job.population, 0, rows);
    launch.inputs = job.batch.x;
    launch.inputs_by_sample = true;
    launch.sums = sums.compute(context, network, job.batch);
    launch.sums_by_sample = true;
    launch.outputs = job.outputs;
    launch.sink = job.sink;
    run.run(context, launch);
}

void run_population(Context& context, const Job& job) {
    on_cuda(job.population, [&](auto family) { family.run(context, job); });
}

// Inner products of a row of inputs that a correction takes; population may be null.
int products_of(const Population* population) { return population ? population->correction().products() : 0; }

}  // namespace

void run_corrected(Context& context, const Job& job) {
    if (job.population.allocation.one_layer()) {
        run_incremental(context, job);
    } else {
        run_shared_weights(context, job);
    }
}

std::string corrected_plan(const Device& device, const Job& job) {
    if (job.population.allocation.one_layer()) return incremental_plan(device, job);
    const std::int64_t samples = job.batch.size, rows = 2 * job.pairs.count() * samples;
    const Choice choice = choose_shared_weights(device, job.network, 0, rows, samples, products_of(&job.population));
    return "the first layer's product once for each sample; then " + shared_weights_in_words(choice);
}

SharedWeightsJob shared_weights_job(const Network& network, const Population* population, int begin, const Rows& rows) {
    SharedWeightsJob job{};
    const int depth = static_cast<int>(network.steps().size());
    if (depth - begin <= most_layers) job.layers = device_layers(network, population, begin, depth);
    job.rows = rows;
    job.correction = no_correction;
    if (!population) return job;
    job.noise = noise_source(population->noise);
    job.correction = population->correction();
    job.corrected_layers = depth - begin;
    job.biases = population->perturbs_biases();
    job.bias_scale = population->bias_scale();
    return job;
}

LayerBuffers::LayerBuffers(Context& context, const Network& network, int begin, std::int64_t places,
                           std::int64_t rows_of_a_place)
    : places_(places), buffers_{nullptr, nullptr} {
    if (places == 0) return;
    std::int64_t widest = 0;
    for (std::size_t l = begin; l < network.steps().size(); ++l)
        widest = std::max(widest, network.steps()[l].tensor.fan_out);
    places_ = std::clamp<std::int64_t>(context.device.floats_at_a_time / (rows_of_a_place * widest), 1, places);
    for (float*& buffer : buffers_) buffer = context.arena.take<float>(places_ * rows_of_a_place * widest);
}

SharedWeightsRun::SharedWeightsRun(Context& context, const Network& network, const Population* population, int begin,
                                   const Rows& rows)
    : network_(network),
      population_(population),
      begin_(begin),
      choice_(choose_shared_weights(context.device, network, begin, rows.count, rows.batch, products_of(population))),
      buffers_(context, network, begin, choice_.fused ? 0 : rows.count / (rows.signs * rows.batch),
               rows.signs * rows.batch) {}

void SharedWeightsRun::run(Context& context, SharedWeightsJob job) const {
    if (choice_.fused) {
        launch_shared_weights(context, network_.flush, choice_, job);
    } else {
        run_layers(context, job);
    }
}

// Some places at a time, and of them a layer at a time.
void SharedWeightsRun::run_layers(Context& context, const SharedWeightsJob& job) const {
    const int depth = static_cast<int>(network_.steps().size());
    const std::int64_t rows_of_a_place = job.rows.signs * job.rows.batch, places = job.rows.count / rows_of_a_place;
    for (std::int64_t first = 0; first < places; first += buffers_.places_at_a_time()) {
        const std::int64_t count = std::min(places - first, buffers_.places_at_a_time());
        SharedWeightsJob part = job;
        part.rows.first_place = job.rows.first_place + first;
        part.rows.count = count * rows_of_a_place;
        if (!job.inputs_by_sample && job.inputs) {
            part.inputs = job.inputs + first * rows_of_a_place * network_.steps()[begin_].tensor.fan_in;
        }
        if (!job.sums_by_sample && job.sums) {
            part.sums = job.sums + first * rows_of_a_place * network_.steps()[begin_].tensor.fan_out;
        }
        for (int l = begin_; l < depth; ++l) {
            part.layers = device_layers(network_, population_, l, l + 1);
            part.corrected_layers = job.corrected_layers - (l - begin_);
            part.outputs = buffers_.buffer(l);
            part.sink = LossSink{};
            launch_shared_weights(context, network_.flush, layer_at_a_time, part);
            part.inputs = part.outputs;
            part.inputs_by_sample = false;
            part.sums = nullptr;
        }
        finish_rows(context, part.rows, part.outputs, static_cast<int>(network_.steps().back().tensor.fan_out),
                    job.outputs, job.sink);
    }
}

void finish_rows(const Context& context, const Rows& rows, const float* logits, int classes, float* outputs,
                 const LossSink& sink) {
    launch(finish_rows_kernel, Grid{parts(rows.count, elementwise_threads)}, elementwise_threads, 0, context, rows,
           logits, classes, outputs, sink);
}

void forward(Context& context, const Network& network, const float* x, std::int64_t batch, float* outputs) {
    check_flush(network.flush);
    const Rows rows{batch, 0, batch, 1, 0, 1, 1, 0, 1, 1};
    const SharedWeightsRun run(context, network, nullptr, 0, rows);
    if (context.arena.measuring()) return;
    SharedWeightsJob job = shared_weights_job(network, nullptr, 0, rows);
    job.inputs = x;
    job.outputs = outputs;
    run.run(context, job);
}

void evaluate(Context& context, const Network& network, const Population& population, PairRange pairs,
              const Batches& batch, float* sums, float* fitness, float* losses) {
    check_flush(network.flush);
    const LossSink sink{batch.targets, losses ? losses : context.arena.take<float>(2 * pairs.count() * batch.size),
                        fitness, context.arena.take<unsigned>(pairs.count()), batch.size};
    if (!context.arena.measuring()) {
        fill_with_zeros(sink.counts, static_cast<std::size_t>(pairs.count()) * sizeof(unsigned), context);
    }
    run_population(context, {network, population, pairs, batch, sums, nullptr, sink});
}

void outputs(Context& context, const Network& network, const Population& population, PairRange pairs,
             const Batches& batch, float* sums, float* outputs) {
    check_flush(network.flush);
    run_population(context, {network, population, pairs, batch, sums, outputs, LossSink{}});
}

std::string plan(const Device& device, const Network& network, const Population& population, PairRange pairs,
                 const Batches& batch) {
    std::string words;
    const Job job{network, population, pairs, batch, nullptr, nullptr, LossSink{}};
    on_cuda(population, [&](auto family) { words = family.plan(device, job); });
    return words;
}

std::vector<std::pair<std::string, int>> tile_extents() {
    Extents extents = gemm_extents();
    const char* const names[] = {"wide", "middle", "narrow", "low", "lowest"};
    for (const TileName tile : all_tiles) {
        with_tile(tile, [&](auto shape) {
            using T = decltype(shape);
            const std::string name = names[static_cast<int>(tile)];
            extents.push_back({name + "_rows", T::rows});
            extents.push_back({name + "_columns", T::columns});
        });
    }
    extents.push_back({"population_depth", FullRankTile<LowestTile>::depth});
    extents.push_back({"narrow_layer", narrow_columns});
    return extents;
}

FPES_NAMESPACE_END

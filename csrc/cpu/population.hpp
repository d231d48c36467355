// Populations of perturbed networks: what they are, and what evaluating one takes and gives.
#pragma once

#include <vector>

#include "network.hpp"

namespace fpes {

// The values are part of the interface with Python (fpes/perturbations.py).
enum class Family : int {
    full = 0,                // w' = fma(z, +-sigma unit, w): every weight has its own noise (OpenAI-ES)
    low_rank = 1,            // w' = w +- sigma A B^T / sqrt(rank), never formed (EGGROLL)
    node = 2,                // noise on the pre-activations, one draw for each member and sample
    one_layer = 3,           // the same, but each pair perturbs one layer only, and perhaps few of its units
    one_layer_rank_one = 4,  // likewise w' = w +- sigma a b^T, where b is zero but for these units
};

struct Population {
    Family family;
    int rank;  // of low_rank
    NoiseKind noise;
    PhiloxKey key;
    std::uint32_t generation;
    double sigma;
    // Where each pair perturbs one layer: for each layer how many units carry noise (0: all of them), and how many
    // pairs in a row, of the sum of all layers, perturb it.
    std::vector<int> units;
    std::vector<int> draws;

    bool one_layer_at_a_time() const { return family == Family::one_layer || family == Family::one_layer_rank_one; }
    int layer_of(std::int64_t pair) const;
    // Perturbed units of a layer.
    std::int64_t units_of(const Layer& layer) const { return units[layer.index] ? units[layer.index] : layer.fan_out; }
    NoiseStream stream(int layer, NoiseRole role, std::int64_t pair) const {
        return {key, noise_tensor(layer, role), static_cast<std::uint32_t>(pair), generation, noise};
    }
    // What a draw is multiplied by, for weights and biases, for the coefficients q of low rank, and for the
    // pre-activations of a layer: computed in double, rounded once.
    float weight_scale() const;
    float rank_scale() const;
    float node_scale(const Layer& layer) const;
};

// Pairs begin ... end - 1: members 2 begin ... 2 end - 1. Results are written for these members only, from index 0 on,
// and don't depend on the rest of the population: it may be split anywhere.
struct PairRange {
    std::int64_t begin;
    std::int64_t end;
    std::int64_t count() const { return end - begin; }
};

// What the members see: one batch for all, or one batch for each group of pairs. x[batches, size, features], row-major;
// labels[batches, size] where the loss needs them.
struct Batches {
    const float* x;
    const std::int32_t* labels;
    std::int64_t size;
    std::int64_t count;       // of batches, for the whole population
    std::int64_t pairs_each;  // pairs 0 ... pairs_each - 1 see batch 0, the next so many batch 1, and so on

    std::int64_t batch_of(std::int64_t pair) const { return pair / pairs_each; }
    // The row of x, and the place of the label, of a sample of the pair's batch.
    std::int64_t row(std::int64_t pair, std::int64_t sample) const { return batch_of(pair) * size + sample; }
};

// One evaluation: everything that is the same for all its threads.
struct Job {
    const Engine& engine;
    int threads;
    PackedNetwork& network;
    const Population& population;
    PairRange pairs;
    Batches batch;
    // Of one_layer, unless it is null: the unperturbed network's accumulators, for the gradient. For each layer in
    // order [batches * size, fan_out], row-major.
    float* sums = nullptr;
};

// What becomes of the logits [rows, classes] of one member on samples first ... first + rows - 1. Called by many
// threads, for each (member, sample) once. `first` is a multiple of loss_block.
class Sink {
   public:
    virtual ~Sink() = default;
    virtual void take(std::int64_t member, std::int64_t first, int rows, Panels logits) = 0;
};

// Sums over a batch have one order, whatever the tiles: samples in blocks of this many, then the blocks.
constexpr std::int64_t loss_block = 64;
// Tiles of samples, multiples of loss_block.
constexpr std::int64_t full_tile = 128;   // each drawn weight serves this many samples
constexpr std::int64_t shared_tile = 64;  // weights are not drawn: small enough for the cache is all that counts

// Run a job: each family in its own file.
void run_full_rank(const Job& job, Sink& sink);
void run_shared_weights(const Job& job, Sink& sink);
void run_incremental(const Job& job, Sink& sink);
void run(const Job& job, Sink& sink);

// fitness[2 pairs]: minus the mean cross-entropy over the batch. losses[2 pairs, batch] too, unless it is null.
void evaluate(const Job& job, float* fitness, float* losses);

// outputs[2 pairs, batch, classes].
void outputs(const Job& job, float* outputs);

// theta[parameters] of one member of a full-rank or low-rank population. Full rank: the bits that run() uses. Low rank:
// the product a b^T added to the weights in float32, which run() never does.
void member(const Engine& engine, PackedNetwork& network, const Population& population, std::int64_t member,
            float* theta);

// The factor b of a pair that perturbs k units of a layer, [1, fan_out]: zero in the others.
void scatter_factor(const Engine& engine, const Population& population, const Layer& layer, std::int64_t pair,
                    Panels row, float* scratch);

// out[count] = noise elements first, first + 1, ... of a stream.
void draw_noise(const Kernels& kernels, int threads, const NoiseStream& stream, std::uint64_t first, std::int64_t count,
                float* out);

}  // namespace fpes

// The evaluation of a population: its arguments and results.
#pragma once

#include "../common/population.hpp"
#include "network.hpp"

namespace fpes {

// One evaluation: the data that all its threads share.
struct Job {
    const Engine& engine;
    int threads;
    PackedNetwork& network;
    const Population& population;
    PairRange pairs;
    Batches batch;
    // If each pair perturbs one layer, may receive the unperturbed network's accumulators, for the gradient; or null.
    // For each layer in order [batches * size, fan_out], row-major.
    float* sums = nullptr;
};

// Receives the logits [rows, classes] of one member on samples first ... first + rows - 1. Many threads call it, once
// for each (member, sample). `first` is a multiple of loss_block.
class Sink {
   public:
    virtual ~Sink() = default;
    virtual void take(std::int64_t member, std::int64_t first, int rows, Panels logits) = 0;
};

// Tiles of samples, multiples of loss_block.
constexpr std::int64_t full_tile = 128;   // each drawn weight serves this many samples
constexpr std::int64_t shared_tile = 64;  // weights are not drawn, so the tile only has to fit the cache

// Run a job. Members have their own weights (full_rank.cpp), or share weights and differ by a correction of the sums,
// in all layers (shared_weights.cpp) or in one (incremental.cpp).
void run_full_rank(const Job& job, Sink& sink);
void run_shared_weights(const Job& job, Sink& sink);
void run_incremental(const Job& job, Sink& sink);
void run_corrected(const Job& job, Sink& sink);

// fitness[2 pairs]: minus the mean loss over the batch. losses[2 pairs, batch] too, unless it is null.
void evaluate(const Job& job, float* fitness, float* losses);

// outputs[2 pairs, batch, classes].
void outputs(const Job& job, float* outputs);

// theta[parameters] of one member of a population whose weights are perturbed. Full rank: the bits that evaluation
// uses. Low rank: the product a b^T added to the weights in float32, which evaluation never does.
void member(const Engine& engine, PackedNetwork& network, const Population& population, std::int64_t member,
            float* theta);

// Rows first, first + 1, ... of a pair's right factor (Correction), [rows, fan_out]. Where the pair perturbs few units
// of the tensor, there is one row, and it is zero in the others.
void draw_right_factor(const Engine& engine, const Population& population, const Tensor& tensor, std::int64_t pair,
                       int first, int rows, Panels out, float* scratch);

// out[count] = noise elements first, first + 1, ... of a stream.
void draw_noise(const Kernels& kernels, int threads, const NoiseStream& stream, std::uint64_t first, std::int64_t count,
                float* out);

}  // namespace fpes

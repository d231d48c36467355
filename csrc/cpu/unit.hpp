// Members that differ in one unit, on the CPU: preparations for a batch, evaluation, gradient, members.
#pragma once

#include "../common/population.hpp"
#include "../common/unit.hpp"
#include "network.hpp"

namespace fpes {

// One call: the data that all its threads share.
struct UnitJob {
    const Engine& engine;
    int threads;
    PackedNetwork& network;
    const float* theta;
    const UnitPopulation& population;
    UnitLayout layout;
    Batches batch;       // whole blocks see the same batch
    std::int64_t pairs;  // of the whole population
    UnitState state;

    std::int64_t blocks() const { return pairs / layout.pairs(); }
    std::int64_t batch_of_block(std::int64_t block) const { return batch.batch_of(block * layout.pairs()); }
    std::int64_t rows() const { return batch.count * batch.size; }
    // Rows `row`, row + 1, ... of the sums of a layer, [., fan_out].
    const float* sums(int layer, std::int64_t row) const;
    std::int64_t draw_index(std::int64_t block, int layer, int draw) const {
        return block * layout.draws() + layout.first_draw(layer) + draw;
    }
    NoiseStream stream(int layer, std::int64_t index) const {
        return {population.key, noise_tensor(layer, NoiseRole::direction), static_cast<std::uint32_t>(index),
                population.generation, NoiseKind::rademacher};
    }
};

// Fills what job.state has of some batches.
void unit_prepare(const UnitJob& job, BatchRange batches);

// Of pairs whose batches are prepared.
void unit_evaluate(const UnitJob& job, PairRange pairs, const UnitResults& results);

// gradient[parameters] = for each layer the mean over its draws of (sum over units of difference of weights / (2
// factor) * direction), and over blocks; weights[members]. Zero for biases. All batches are prepared.
template <class Weight>
void unit_gradient(const UnitJob& job, const Weight* weights, float* gradient);

// theta[parameters] of one member, whose batch is prepared.
void unit_member(const UnitJob& job, std::int64_t member, float* theta);

// A batch's inputs of a layer, in units of the network's own scale and transposed: [fan_in, stride], stride the size of
// the batch rounded up to a multiple of `unit_samples`, zeros beyond it.
constexpr std::int64_t unit_samples = 16;
inline std::int64_t unit_stride(std::int64_t samples) {
    return (samples + unit_samples - 1) / unit_samples * unit_samples;
}

// out[n, stride] = rows[samples, n] transposed, and zeros beyond.
void unit_transpose(const float* rows, std::int64_t ld, std::int64_t samples, std::int64_t n, float* out);

// Biases of a layer times its factor, as the boundary adds them: [fan_out].
std::vector<float> unit_biases(const UnitJob& job, int layer);

void unit_inputs(const UnitJob& job, int layer, std::int64_t batch, float* out);

}  // namespace fpes

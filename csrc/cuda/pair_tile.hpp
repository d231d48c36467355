// What blocks of full rank have in common: the job, and a tile of samples of one antithetic pair. Half of its rows are
// the samples as the + member sees them, half as the - member does.
#pragma once

#include "draws.hpp"
#include "layers.hpp"
#include "loss.hpp"
#include "narrow.hpp"
#include "packed_inputs.hpp"

FPES_NAMESPACE_BEGIN

struct FullRankJob {
    DeviceLayers layers;
    NoiseSource noise;
    float scale;              // of a draw: sigma times the noise's unit
    float small_scale;        // of a draw in small units (draws.hpp), or 0
    std::int64_t first_pair;  // of the launch
    std::int64_t batch;       // samples of a batch
    std::int64_t pairs_each;  // that see the same batch
    PackedInputs inputs;      // of the network
    const float* panels;      // a layer at a time: inputs of another layer, [pairs, tiles][fan_in][rows of a tile]
    float* next_panels;       // and where its activations go, unless they go to `outputs`
    float* outputs;           // [pairs, 2, batch, fan_out], or null
    LossSink sink;
};
static_assert(sizeof(FullRankJob) <= most_argument_bytes, "a job travels with the launch");

// One block each, `tiles` for a pair.
template <int samples_of_a_tile>
struct PairTile {
    std::int64_t place;  // of the pair, in the launch
    std::int64_t first_sample;
    std::int64_t pair;
    int samples;  // that are there

    FPES_DEVICE explicit PairTile(const FullRankJob& job) {
        const int tiles = static_cast<int>(parts(job.batch, samples_of_a_tile));
        place = block_index() / tiles;
        first_sample = static_cast<std::int64_t>(block_index() % tiles) * samples_of_a_tile;
        pair = job.first_pair + place;
        const std::int64_t left = job.batch - first_sample;
        samples = left < samples_of_a_tile ? static_cast<int>(left) : samples_of_a_tile;
    }

    static FPES_DEVICE int sign_of(int row) { return row / samples_of_a_tile; }
    FPES_DEVICE bool inside(int row) const { return row % samples_of_a_tile < samples; }
    // The index of a row's member and sample in arrays [pairs, 2, batch], and of its sample in all batches.
    FPES_DEVICE std::int64_t place_of(const FullRankJob& job, int row) const {
        return (2 * place + sign_of(row)) * job.batch + first_sample + row % samples_of_a_tile;
    }
    FPES_DEVICE std::int64_t input_of(const FullRankJob& job, int row) const {
        return pair / job.pairs_each * job.batch + first_sample + row % samples_of_a_tile;
    }
    // Among those of all batches that are packed.
    FPES_DEVICE std::int64_t tile_of_inputs(const FullRankJob& job) const {
        const std::int64_t tiles = parts(job.batch, samples_of_a_tile);
        return (pair / job.pairs_each - job.inputs.first_batch) * tiles + first_sample / samples_of_a_tile;
    }

    // The logits, in shared memory by columns, to where they are wanted.
    template <int threads>
    FPES_DEVICE void finish(const FullRankJob& job, const float* logits, int stride, int classes) const {
        constexpr int rows = 2 * samples_of_a_tile;
        if (job.outputs) {
            for (int i = thread_index(); i < rows * classes; i += threads) {
                const int row = i / classes, column = i % classes;
                if (inside(row)) job.outputs[place_of(job, row) * classes + column] = logits[column * stride + row];
            }
        }
        if (!job.sink.wanted()) return;
        for (int row = thread_index(); row < rows; row += threads) {
            if (!inside(row)) continue;
            job.sink.losses[place_of(job, row)] =
                loss_of(job.sink.targets, input_of(job, row), classes, [=](int j) { return logits[j * stride + row]; });
        }
        __syncthreads();
        if (thread_index() == 0) job.sink.finish(place, 2u * static_cast<unsigned>(samples));
    }
};

// Biases of both members, after their own factor.
template <int threads, class Mode, NoiseKind kind>
FPES_DEVICE void perturb_biases(const FullRankJob& job, const DeviceLayer& layer, std::int64_t pair, int first_column,
                                int columns, float* plus, float* minus) {
    const Counters counters = job.noise.counters(noise_tensor(layer.tensor, NoiseRole::bias), pair);
    for (int first = 8 * thread_index(); first < columns; first += 8 * threads) {
        float z[8];
        draw<kind, 8>(counters, static_cast<std::uint64_t>(first_column + first), z);
        FPES_UNROLL
        for (int i = 0; i < 8; ++i) {
            if (first + i >= columns) continue;
            const float b = layer.bias[first_column + first + i];
            plus[first + i] = layer.scaled_bias(Mode::fma(z[i], job.scale, b));
            minus[first + i] = layer.scaled_bias(Mode::fma(z[i], opposite(job.scale), b));
        }
    }
}

// Rows first_k ... of the weights of both members, of a layer with few outputs: [k][narrow_padded(fan_out)]. first_k is
// a multiple of eight.
template <int threads, class Mode, NoiseKind kind>
FPES_DEVICE void perturb_narrow(const FullRankJob& job, const DeviceLayer& layer, std::int64_t pair, int first_k,
                                int k_count, float* plus, float* minus) {
    const int n = layer.fan_out, stride = narrow_padded(n), before = first_k * n, weights = k_count * n;
    const Counters counters = job.noise.counters(noise_tensor(layer.tensor, NoiseRole::weight), pair);
    for (int first = 8 * thread_index(); first < weights; first += 8 * threads) {
        float z[8];
        draw<kind, 8>(counters, static_cast<std::uint64_t>(before + first), z);
        int k = first / n, column = first % n;
        FPES_UNROLL
        for (int i = 0; i < 8; ++i) {
            if (first + i >= weights) continue;
            const int to = k * stride + column;
            const float w = layer.weight[before + first + i];
            plus[to] = Mode::fma(z[i], job.scale, w);
            minus[to] = Mode::fma(z[i], opposite(job.scale), w);
            if (++column < n) continue;
            column = 0;
            ++k;
        }
    }
}

FPES_NAMESPACE_END

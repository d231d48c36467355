// The CUDA backend: what csrc/bindings/cuda.cpp calls.
//
// Every pointer is to memory of the context's device, but those in the network and the population, which describe the
// job and are read before a function returns. All work is put on the context's stream and nothing waits for it. A
// function first takes its scratch memory from the context's arena; with a measuring arena it returns after that. What
// can be wrong with a call shows as an exception before any launch, or as a CudaError.
//
// The sources are compiled twice, with -ftz=true and -ftz=false (FPES_TARGET: cuda_ftz, cuda_ieee). The ftz build
// computes the flush modes boundary and always, the other one never; a mode that isn't the build's is refused.
#pragma once

#include <string>
#include <vector>

#include "../common/estimator.hpp"
#include "../common/flush.hpp"
#include "../common/population.hpp"
#include "../common/unit.hpp"
#include "context.hpp"

FPES_NAMESPACE_BEGIN

// The network of a call: its parameters are on the device.
struct Network {
    Flush flush;
    Program program;
    const float* theta;

    const std::vector<Step>& steps() const { return program.steps; }
};

// The devices there are; 0 where there is no driver, whatever the reason.
int device_count();
Device device_properties(int device);

// Makes a device the calling thread's current one for the length of a scope.
class CurrentDevice {
   public:
    explicit CurrentDevice(int device);
    ~CurrentDevice();
    CurrentDevice(const CurrentDevice&) = delete;
    CurrentDevice& operator=(const CurrentDevice&) = delete;

   private:
    int before_;
};

// c[m, n] = a[m, k] b[k, n], all row-major.
void gemm(Context& context, Flush flush, const float* a, const float* b, float* c, std::int64_t m, std::int64_t n,
          std::int64_t k);
// out[rows, n] = v[rows, n] + bias[n].
void bias_add(Context& context, Flush flush, const float* v, const float* bias, float* out, std::int64_t rows,
              std::int64_t n);
// out[count] = v[count] * factor.
void multiply(Context& context, Flush flush, const float* v, float factor, float* out, std::int64_t count);

// losses[rows] of outputs[rows, count].
void losses(Context& context, Flush flush, const float* outputs, std::int64_t rows, std::int64_t count,
            const Targets& targets, float* losses);

// out[count] = noise elements first, first + 1, ... of a stream.
void draw_noise(Context& context, const NoiseStream& stream, std::uint64_t first, std::int64_t count, float* out);

// outputs[batch, classes] of the unperturbed network for x[batch, features], both row-major.
void forward(Context& context, const Network& network, const float* x, std::int64_t batch, float* outputs);

// fitness[2 pairs]: minus the mean loss over the batch. losses[2 pairs, batch] too, unless it is null.
// sums: where a pair perturbs one layer, unless it is null, the unperturbed network's accumulators, for the gradient:
// for each layer in order [batches * size, fan_out], row-major.
void evaluate(Context& context, const Network& network, const Population& population, PairRange pairs,
              const Batches& batch, float* sums, float* fitness, float* losses);
// outputs[2 pairs, batch, classes]. sums: as above.
void outputs(Context& context, const Network& network, const Population& population, PairRange pairs,
             const Batches& batch, float* sums, float* outputs);
// How evaluate() and outputs() would do it, in words: the tile, the launches, what is kept where.
std::string plan(const Device& device, const Network& network, const Population& population, PairRange pairs,
                 const Batches& batch);

// theta[parameters] of one member of a population whose weights are perturbed.
void member(Context& context, const Network& network, const Population& population, std::int64_t member, float* theta);

// What the pairs of a range add to gradient[parameters] = 1 / (n sigma) * sum over members of weight * perturbation,
// where weights are perturbed; weights[members] of the whole population.
struct GradientPart {
    PairRange pairs;
    float* gradient;     // [parameters], scaled
    std::int64_t* sums;  // [parameters], unless it is null: instead, exact sums as they are, which add up over ranges
};
void gradient(Context& context, const std::vector<Tensor>& tensors, const Population& population, const float* weights,
              std::int64_t members, const GradientPart& part);
void gradient(Context& context, const std::vector<Tensor>& tensors, const Population& population,
              const std::int32_t* weights, std::int64_t members, const GradientPart& part);
// gradient[parameters] from the exact sums over all pairs.
void scale_sums(Context& context, const std::vector<Tensor>& tensors, const Population& population, std::int64_t pairs,
                const std::int64_t* sums, float* gradient);
// The same where noise is of samples: what a range adds to the gradient of a population of so many pairs, with the
// weights of the range. sums: what evaluate() kept of the same batch, where it kept any.
void sample_gradient(Context& context, const Network& network, const Population& population, PairRange pairs,
                     std::int64_t pairs_of_population, const Batches& batch, const SampleWeights& weights,
                     const float* sums, float* gradient);

// A population whose members differ in one unit, and what its batches make of it: the state is on the device.
// unit_prepare() fills what it has of some batches. unit_evaluate() and unit_member() read what their members see, and
// unit_gradient() reads all.
struct UnitJob {
    Network network;
    UnitPopulation population;
    UnitLayout layout;
    std::int64_t pairs;  // of the whole population
    Batches batch;       // whole blocks see the same batch
    UnitState state;

    std::int64_t blocks() const { return pairs / layout.pairs(); }
    std::int64_t blocks_each() const { return batch.pairs_each / layout.pairs(); }  // that see the same batch
    std::int64_t rows() const { return batch.count * batch.size; }
    // Of the unperturbed network: [rows, fan_out].
    float* sums(int layer) const;
};
void unit_prepare(Context& context, const UnitJob& job, BatchRange batches);
void unit_evaluate(Context& context, const UnitJob& job, PairRange pairs, const UnitResults& results);
// gradient[parameters], from weights[members].
void unit_gradient(Context& context, const UnitJob& job, const float* weights, float* gradient);
void unit_gradient(Context& context, const UnitJob& job, const std::int32_t* weights, float* gradient);
// theta[parameters] of one member.
void unit_member(Context& context, const UnitJob& job, std::int64_t member, float* theta);

// For the benchmarks: `steps` multiply-adds in each of some independent chains of each thread of a device full of
// threads. Returns their number. out: one float.
std::int64_t multiply_add_chains(Context& context, std::int64_t steps, float* out);

// For the tests: out[count] = exp(x) or log(x) of common/elementary.hpp.
void elementary(Context& context, bool logarithm, const float* x, std::int64_t count, float* out);

// The extents of the tiles, for tests that put sizes around their edges: (name, extent).
std::vector<std::pair<std::string, int>> tile_extents();

FPES_NAMESPACE_END

// Jobs of members that share weights, put together on the host: what population.cu and the gradients have in common.
#pragma once

#include "choice.hpp"
#include "launch.hpp"

FPES_NAMESPACE_BEGIN

// What is evaluated, and what becomes of it.
struct Job {
    const Network& network;
    const Population& population;
    PairRange pairs;
    const Batches& batch;
    float* sums;     // see backend.hpp: of the unperturbed network, or null
    float* outputs;  // [2 pairs, batch, classes], or null
    LossSink sink;
};

// Run a job, of members with weights of their own (full_rank.cu), or of members that share them and differ by a
// correction of the sums: in all layers (population.cu) or in one (incremental.cu). Each has its plan in words.
void run_full_rank(Context& context, const Job& job);
void run_corrected(Context& context, const Job& job);
void run_incremental(Context& context, const Job& job);
std::string full_rank_plan(const Device& device, const Job& job);
std::string corrected_plan(const Device& device, const Job& job);
std::string incremental_plan(const Device& device, const Job& job);

// Rows of pairs begin ... end - 1, all of which see a batch.
inline Rows rows_of(PairRange pairs, const Batches& batch) {
    return {
        2 * pairs.count() * batch.size, 0, batch.size, 2, pairs.begin, 1, 1, pairs.begin, pairs.end, batch.pairs_each};
}

// Sums of the first step, which all members that see the same samples share: [batches * batch, fan_out] of the batches
// that the pairs see. The pointer is to where those of batch 0 would be.
class FirstSums {
   public:
    FirstSums(Context& context, const Network& network, PairRange pairs, const Batches& batch)
        : first_(batch.batch_of(pairs.begin) * batch.size),
          rows_((batch.batch_of(pairs.end - 1) + 1) * batch.size - first_),
          sums_(context.arena.take<float>(rows_ * network.steps()[0].tensor.fan_out)) {}
    const float* compute(Context& context, const Network& network, const Batches& batch) const {
        const Tensor& tensor = network.steps()[0].tensor;
        gemm(context, network.flush, batch.x + first_ * tensor.fan_in, network.theta + tensor.weight_offset, sums_,
             rows_, tensor.fan_out, tensor.fan_in);
        return sums_ - first_ * tensor.fan_out;
    }

   private:
    std::int64_t first_;
    std::int64_t rows_;
    float* sums_;
};

// A job from step `begin` to the last, which still lacks what that step starts from.
SharedWeightsJob shared_weights_job(const Network& network, const Population* population, int begin, const Rows& rows);

// Two buffers for activations of a launch for each layer, of as many places (pairs) at a time as a limit allows.
class LayerBuffers {
   public:
    LayerBuffers(Context& context, const Network& network, int begin, std::int64_t places,
                 std::int64_t rows_of_a_place);
    std::int64_t places_at_a_time() const { return places_; }
    float* buffer(int i) const { return buffers_[i % 2]; }

   private:
    std::int64_t places_;
    float* buffers_[2];
};

// Runs such a job, fused or a layer at a time as the choice says. Taking memory is done when it is made.
class SharedWeightsRun {
   public:
    SharedWeightsRun(Context& context, const Network& network, const Population* population, int begin,
                     const Rows& rows);
    // The job's outputs and sink get what they ask for, whichever way it is run.
    void run(Context& context, SharedWeightsJob job) const;

   private:
    void run_layers(Context& context, const SharedWeightsJob& job) const;

    const Network& network_;
    const Population* population_;
    int begin_;
    Choice choice_;
    LayerBuffers buffers_;
};

// Logits [rows, classes] of a launch, to the outputs and the sink.
void finish_rows(const Context& context, const Rows& rows, const float* logits, int classes, float* outputs,
                 const LossSink& sink);

FPES_NAMESPACE_END

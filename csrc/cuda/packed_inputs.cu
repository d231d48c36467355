// Packs the network's inputs (packed_inputs.hpp): a block for each tile of samples, and some that look at the weights.
#include "intrinsics.hpp"
#include "packing.hpp"

FPES_NAMESPACE_BEGIN
namespace {

constexpr int pack_threads = 1024;  // for MNIST's 784 columns, one each

struct PackJob {
    const float* x;  // of the first batch
    std::int64_t batch;
    int fan_in;
    int samples;              // of a tile
    std::int64_t of_a_batch;  // tiles
    float* columns;
    int* order;
    int* counts;
    const float* weights;
    std::int64_t weight_count;
    unsigned* wild;
};

// A bit of every thread of a block.
class Votes {
   public:
    // All threads call it, with their bits.
    FPES_DEVICE explicit Votes(bool mine) {
        constexpr int stride = 33;  // so that a thread each for 32 bits meets 32 banks
        int* const bits = dynamic_shared<int>();
        words_ = reinterpret_cast<unsigned*>(bits + pack_threads / 32 * stride);
        __syncthreads();  // nobody reads the last vote any more
        bits[thread_index() / 32 * stride + thread_index() % 32] = mine;
        __syncthreads();
        if (thread_index() < pack_threads / 32) {
            unsigned word = 0;
            for (int i = 0; i < 32; ++i) word |= static_cast<unsigned>(bits[thread_index() * stride + i]) << i;
            words_[thread_index()] = word;
        }
        __syncthreads();
    }
    static constexpr int shared_bytes = static_cast<int>(sizeof(int)) * pack_threads / 32 * (33 + 1);

    // Bits of the first `threads` threads.
    FPES_DEVICE int count(int threads) const {
        int sum = 0;
        for (int i = 0; i < threads / 32; ++i) sum += population_count(words_[i]);
        const unsigned rest = threads % 32;
        return rest ? sum + population_count(words_[threads / 32] & ((1u << rest) - 1u)) : sum;
    }

   private:
    unsigned* words_;
};

FPES_DEVICE void pack_tile(const PackJob& job, std::int64_t tile) {
    const std::int64_t first_sample = tile % job.of_a_batch * job.samples, left = job.batch - first_sample;
    const int samples = left < job.samples ? static_cast<int>(left) : job.samples;
    const float* const x = job.x + (tile / job.of_a_batch * job.batch + first_sample) * job.fan_in;
    float* const columns = job.columns + tile * job.fan_in * job.samples;
    int* const order = job.order + tile * job.fan_in;
    int needed = 0;  // so far
    for (int first = 0; first < job.fan_in; first += pack_threads) {
        const int k = first + thread_index();
        const bool there = k < job.fan_in;
        std::uint32_t bits = 0;
        for (int i = 0; there && i < samples; i += 8) {
            FPES_UNROLL
            for (int j = i; j < i + 8; ++j)
                bits |= j < samples ? as_u32(x[static_cast<std::int64_t>(j) * job.fan_in + k]) : 0u;
        }
        const bool mine = (bits << 1) != 0;  // either zero is no bits but the sign
        const Votes votes(mine);
        const int before = needed + votes.count(thread_index());
        needed += votes.count(pack_threads);
        if (!there) continue;
        const int place = mine ? before : job.fan_in - 1 - (k - before);
        order[place] = k;
        for (int i = 0; i < job.samples; i += 4) {
            float four[4];
            FPES_UNROLL
            for (int j = 0; j < 4; ++j)
                four[j] = i + j < samples ? x[static_cast<std::int64_t>(i + j) * job.fan_in + k] : 0.0f;
            store4(columns + static_cast<std::int64_t>(place) * job.samples + i, four);
        }
    }
    if (thread_index() == 0) job.counts[tile] = needed;
}

FPES_DEVICE void look_for_wild_weights(const PackJob& job, int slot) {
    constexpr std::uint32_t infinity = 0x7f800000u;
    bool mine = false;
    for (std::int64_t i = slot * pack_threads + thread_index(); i < job.weight_count; i += wild_flags * pack_threads)
        mine |= (as_u32(job.weights[i]) & infinity) == infinity;
    const Votes votes(mine);
    if (thread_index() == 0) job.wild[slot] = votes.count(pack_threads) > 0;
}

__global__ __launch_bounds__(pack_threads, 1) void pack_inputs_kernel(const PackJob job) {
    if (block_index() < wild_flags) {
        look_for_wild_weights(job, block_index());
    } else {
        pack_tile(job, block_index() - wild_flags);
    }
}

}  // namespace

InputPacking::InputPacking(Context& context, const Network& network, PairRange pairs, const Batches& batch, int samples)
    : batches_(batch.seen_by(pairs)),
      samples_(samples),
      tiles_(batches_.count() * parts(batch.size, samples)),
      columns_(context.arena.take<float>(tiles_ * samples * network.steps()[0].tensor.fan_in)),
      order_(context.arena.take<int>(tiles_ * network.steps()[0].tensor.fan_in)),
      counts_(context.arena.take<int>(tiles_)),
      wild_(context.arena.take<unsigned>(wild_flags)) {}

PackedInputs InputPacking::pack(const Context& context, const Network& network, const Batches& batch) const {
    const Tensor& tensor = network.steps()[0].tensor;
    const PackJob job{batch.x + batches_.begin * batch.size * tensor.fan_in,
                      batch.size,
                      static_cast<int>(tensor.fan_in),
                      samples_,
                      parts(batch.size, samples_),
                      columns_,
                      order_,
                      counts_,
                      network.theta + tensor.weight_offset,
                      tensor.fan_in * tensor.fan_out,
                      wild_};
    launch(pack_inputs_kernel, Grid{wild_flags + tiles_}, pack_threads, Votes::shared_bytes, context, job);
    return {batch.x, batches_.begin, columns_, order_, counts_, wild_};
}

FPES_NAMESPACE_END

#include "shared_weights.hpp"

#include <algorithm>
#include <vector>

#include "parallel.hpp"

namespace fpes {
namespace {

// Rows of activations that a product takes at a time, at least those of the pairs that fill a tile of the product.
constexpr std::int64_t stack_rows = 128;
constexpr std::int64_t stack_pairs = 6;

// Pairs cut into ranges of at most `most`, all of which see the same batch.
std::vector<PairRange> ranges_of(const Batches& batch, PairRange pairs, std::int64_t most) {
    std::vector<PairRange> ranges;
    for (std::int64_t begin = pairs.begin; begin < pairs.end; begin = ranges.back().end) {
        const std::int64_t batch_end = (batch.batch_of(begin) + 1) * batch.pairs_each;
        ranges.push_back({begin, std::min({begin + most, batch_end, pairs.end})});
    }
    return ranges;
}

// How many pairs a thread takes at a time. Many, because the first product is computed once for each item; but a thread
// has two items, or four if these are large. Items are equal, so that the last ones end together: with seven of one
// size and a rest, two threads were 1.7 times as fast as one.
std::int64_t pairs_of_an_item(std::int64_t pairs, int threads) {
    constexpr std::int64_t few = 16, most = 256;
    const std::int64_t items = threads * std::clamp<std::int64_t>(pairs / (few * threads), 2, 4);
    return std::min((pairs + items - 1) / items, most);
}

}  // namespace

void for_each_stack(const Job& job, PairRange pairs, std::int64_t first_sample, std::int64_t samples,
                    const std::function<void(SharedWeights&, const Stack&)>& visit) {
    const std::int64_t tile = std::min(shared_tile, samples), tiles = (samples + tile - 1) / tile;
    const std::int64_t stack = std::max<std::int64_t>(1, stack_rows / (2 * tile * stack_pairs)) * stack_pairs;
    const std::int64_t most = pairs_of_an_item(pairs.count() * tiles, job.threads);
    const std::vector<PairRange> ranges = ranges_of(job.batch, pairs, most);
    const auto count = static_cast<std::int64_t>(ranges.size());
    parallel(job.threads, tiles * count, [&](WorkQueue& queue) {
        SharedWeights walk(job, tile, stack);
        for (std::int64_t item; queue.take(item);) {
            const std::int64_t begin = item / count * tile;
            const int rows = static_cast<int>(std::min(tile, samples - begin));
            const PairRange range = ranges[item % count];
            walk.start(range.begin, first_sample + begin, rows);
            const std::int64_t stacks = (range.count() + stack - 1) / stack;
            for (std::int64_t i = 0; i < stacks; ++i) {
                const std::int64_t pair = range.begin + range.count() * i / stacks;
                const std::int64_t end = range.begin + range.count() * (i + 1) / stacks;
                visit(walk, {pair, end - pair, first_sample + begin, rows});
            }
        }
    });
}

void run_shared_weights(const Job& job, Sink& sink) {
    const int depth = job.network.depth();
    for_each_stack(job, job.pairs, 0, job.batch.size, [&](SharedWeights& walk, const Stack& stack) {
        for (int l = 0; l < depth; ++l) walk.advance(l, stack);
        for (std::int64_t place = 0; place < stack.pairs; ++place) {
            for (int sign = 0; sign < 2; ++sign) {
                sink.take(2 * (stack.first_pair + place) + sign, stack.sample, stack.rows,
                          walk.member_rows(walk.outputs(depth - 1), place, sign));
            }
        }
    });
}

}  // namespace fpes

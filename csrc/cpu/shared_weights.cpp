// Low-rank and node perturbation: all members share the weights, and differ by a correction of the accumulators.
//
// A thread takes a tile of samples and some pairs. The first layer's product is the same for all members, so it is
// computed once. Later layers' activations differ, so those of several pairs are stacked, and one product with the
// shared weights serves them all:
//
//      rows of h, l >= 2          w (shared)         accumulators, then the pair's own correction
//     +---------------------+    +----------+       +----------------------+
//     | pair p,   +, samples|    |          |       | += q+ B   or  += s z |
//     | pair p,   -, samples|  . |          |  ->   | += q- B   or  -= s z |
//     | pair p+1, +, samples|    |          |       | ...                  |
//     +---------------------+    +----------+       +----------------------+
//
// Low rank: q = (h A) * (+-scale), and the chain of the product goes on over the rank: acc = fma(q_r, B_rj, acc).
// Node: acc = fma(z, +-scale, acc), one draw for each member and sample.
#include <algorithm>

#include "parallel.hpp"
#include "population.hpp"

namespace fpes {
namespace {

// Rows of activations that a product takes at a time, at least one pair's.
constexpr std::int64_t group_rows = 128;

class SharedWeightsWorker {
   public:
    SharedWeightsWorker(const Job& job, Sink& sink, std::int64_t tile, std::int64_t group)
        : job_(job),
          sink_(sink),
          engine_(job.engine),
          network_(job.network),
          group_(group),
          input_(engine_.matrix(tile, network_.features())),
          first_product_(engine_.matrix(tile, network_.layer(0).fan_out)),
          hidden_{engine_.matrix(2 * tile * group, network_.widest_output()),
                  engine_.matrix(2 * tile * group, network_.widest_output())},
          biases_{bias(), bias()},
          scaled_bias_(bias()),
          factor_rows_(engine_.matrix(job.population.rank, network_.widest())),
          factor_(engine_.matrix(network_.widest(), job.population.rank)),
          coefficients_(engine_.matrix(2 * tile, job.population.rank)),
          scratch_(noise_scratch_size(network_.widest() * job.population.rank)) {}

    // Members of pairs begin ... end - 1, which see the same batch, on samples sample ... sample + rows - 1.
    void run(std::int64_t begin, std::int64_t end, std::int64_t sample, int rows) {
        const std::int64_t features = network_.features();
        const Layer& first = network_.layer(0);
        sample_ = sample;
        rows_ = rows;
        engine_.kernels().pack(job_.batch.x + job_.batch.row(begin, sample) * features, features, rows,
                               static_cast<int>(features), input_.view());
        engine_.in_product(&ModeKernels::product, input_.view(), network_.weight(0), Panels{}, first_product_.view(),
                           rows, static_cast<int>(first.fan_out), static_cast<int>(first.fan_in));
        for (std::int64_t pair = begin; pair < end; pair += group_) run_group(pair, std::min(group_, end - pair));
    }

   private:
    PanelMatrix bias() const { return engine_.matrix(1, network_.widest_output()); }
    // The rows of one member in a stack of pairs.
    Panels member_rows(Panels stack, std::int64_t place, int sign) const {
        stack.data += (2 * place + sign) * rows_ * engine_.width();
        return stack;
    }

    void run_group(std::int64_t first_pair, std::int64_t pairs) {
        for (int l = 0; l < network_.depth(); ++l) {
            const Layer& layer = network_.layer(l);
            const Panels in = hidden_[(l + 1) % 2].view(), out = hidden_[l % 2].view();
            if (l > 0) {
                engine_.in_product(&ModeKernels::product, in, network_.weight(l), Panels{}, out,
                                   static_cast<int>(2 * pairs * rows_), static_cast<int>(layer.fan_out),
                                   static_cast<int>(layer.fan_in));
            }
            for (std::int64_t place = 0; place < pairs; ++place) {
                const Panels inputs[2] = {l ? member_rows(in, place, 0) : input_.view(),
                                          l ? member_rows(in, place, 1) : input_.view()};
                const Panels sums[2] = {l ? member_rows(out, place, 0) : first_product_.view(),
                                        l ? member_rows(out, place, 1) : first_product_.view()};
                const Panels results[2] = {member_rows(out, place, 0), member_rows(out, place, 1)};
                if (job_.population.family == Family::low_rank) {
                    low_rank(layer, first_pair + place, inputs, sums, results);
                } else {
                    node(layer, first_pair + place, sums, results);
                }
            }
        }
        const Panels logits = hidden_[(network_.depth() - 1) % 2].view();
        for (std::int64_t place = 0; place < pairs; ++place) {
            for (int sign = 0; sign < 2; ++sign) {
                sink_.take(2 * (first_pair + place) + sign, sample_, rows_, member_rows(logits, place, sign));
            }
        }
    }

    void low_rank(const Layer& layer, std::int64_t pair, const Panels inputs[2], const Panels sums[2],
                  const Panels results[2]) {
        const int rank = job_.population.rank, k = static_cast<int>(layer.fan_in), n = static_cast<int>(layer.fan_out);
        const Kernels& kernels = engine_.kernels();
        draw_factor(layer.index, NoiseRole::factor_a, pair, k);
        kernels.transpose(factor_rows_.view(), k, rank, factor_.view());
        const Panels coefficients[2] = {coefficients_.view(), coefficients_.from_row(rows_)};
        for (int sign = 0; sign < 2; ++sign) {
            const float scale = sign ? -job_.population.rank_scale() : job_.population.rank_scale();
            engine_.in_product(&ModeKernels::product, inputs[sign], factor_.view(), Panels{}, coefficients[sign], rows_,
                               rank, k);
            engine_.in_product(&ModeKernels::scale, coefficients[sign], rows_, rank, scale, coefficients[sign]);
        }
        draw_factor(layer.index, NoiseRole::factor_b, pair, n);
        const Panels bias = network_.bias(layer.index);
        engine_.in_product(&ModeKernels::perturb, job_.population.stream(layer.index, NoiseRole::bias, pair),
                           std::uint64_t{0}, n, job_.population.weight_scale(), 1, n, bias, bias, biases_[0].view(),
                           biases_[1].view(), scratch_.data());
        for (int sign = 0; sign < 2; ++sign) {
            engine_.in_product(&ModeKernels::product, coefficients[sign], factor_rows_.view(), sums[sign],
                               results[sign], rows_, n, rank);
            cross_boundary(engine_, layer, results[sign], rows_, biases_[sign].view(), scaled_bias_.view(),
                           results[sign]);
        }
    }

    // A factor of the perturbation, [rank, n], into factor_rows_.
    void draw_factor(int l, NoiseRole role, std::int64_t pair, int n) {
        const Kernels& kernels = engine_.kernels();
        const int rank = job_.population.rank;
        kernels.noise_panels(job_.population.stream(l, role, pair), 0, rank, n, factor_rows_.view(), scratch_.data());
    }

    void node(const Layer& layer, std::int64_t pair, const Panels sums[2], const Panels results[2]) {
        const int n = static_cast<int>(layer.fan_out);
        engine_.in_product(&ModeKernels::perturb, job_.population.stream(layer.index, NoiseRole::node, pair),
                           static_cast<std::uint64_t>(sample_) * n, n, job_.population.node_scale(layer), rows_, n,
                           sums[0], sums[1], results[0], results[1], scratch_.data());
        for (int sign = 0; sign < 2; ++sign) {
            cross_boundary(engine_, layer, results[sign], rows_, network_.bias(layer.index), scaled_bias_.view(),
                           results[sign]);
        }
    }

    const Job& job_;
    Sink& sink_;
    const Engine& engine_;
    PackedNetwork& network_;
    std::int64_t group_;
    std::int64_t sample_ = 0;
    int rows_ = 0;
    PanelMatrix input_;
    PanelMatrix first_product_;
    PanelMatrix hidden_[2];
    PanelMatrix biases_[2];
    PanelMatrix scaled_bias_;
    PanelMatrix factor_rows_;   // a factor as it is drawn, [rank, n]
    PanelMatrix factor_;        // transposed, [n, rank]
    PanelMatrix coefficients_;  // q, both signs: [2 samples, rank]
    Buffer<float> scratch_;
};

// The pairs cut into ranges of at most `most`, all of which see the same batch.
std::vector<PairRange> chunks_of(const Job& job, std::int64_t most) {
    std::vector<PairRange> chunks;
    for (std::int64_t begin = job.pairs.begin; begin < job.pairs.end; begin = chunks.back().end) {
        const std::int64_t batch_end = (job.batch.batch_of(begin) + 1) * job.batch.pairs_each;
        chunks.push_back({begin, std::min({begin + most, batch_end, job.pairs.end})});
    }
    return chunks;
}

}  // namespace

void run_shared_weights(const Job& job, Sink& sink) {
    const std::int64_t tile = std::min(shared_tile, job.batch.size);
    const std::int64_t tiles = (job.batch.size + tile - 1) / tile;
    const std::int64_t group = std::max<std::int64_t>(1, group_rows / (2 * tile));
    // Many pairs to an item, for the first product is computed once an item; but several items to a thread.
    const std::int64_t share = job.pairs.count() * tiles / (4 * job.threads) + 1;
    const std::int64_t most = (std::min<std::int64_t>(share, 256) + group - 1) / group * group;
    const std::vector<PairRange> chunks = chunks_of(job, most);
    const auto count = static_cast<std::int64_t>(chunks.size());
    parallel(job.threads, tiles * count, [&](WorkQueue& queue) {
        SharedWeightsWorker worker(job, sink, tile, group);
        for (std::int64_t item; queue.take(item);) {
            const std::int64_t sample = item / count * tile;
            const PairRange pairs = chunks[item % count];
            worker.run(pairs.begin, pairs.end, sample, static_cast<int>(std::min(tile, job.batch.size - sample)));
        }
    });
}

}  // namespace fpes

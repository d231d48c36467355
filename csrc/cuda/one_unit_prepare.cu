// What the batches make of a population of one-unit members, once for all of them: the unperturbed network's sums, and
// for each layer the draws' directions and what they change in the pre-activations.
//
// In the span, of each batch and layer:
//
//      H H^T = K                     a block of threads for each tile of 16 x 16 of K, a thread an element, k in order
//      K + ridge I = L L^T           a block for each batch. Column after column: an element's terms are subtracted in
//                                    the same order as row by row, and all of them that a column makes at once
//      L^T s = r,  q = K s           a block for each draw. The order of an element's terms is the contract's, and it
//                                    leaves the solution to one thread: B^2 / 2 terms, while others solve other draws
//
// White directions need no matrix: a thread for each sample adds up q = H a, whose signs the block draws.
#include <algorithm>

#include "modes.hpp"
#include "one_unit.hpp"

FPES_NAMESPACE_BEGIN
namespace {

// --- The Gram matrix ---

constexpr int gram_tile = 16, gram_depth = 32, gram_threads = gram_tile * gram_tile;
// A row of inputs in shared memory: an odd number of doubles, so that rows lie in different banks.
constexpr int gram_stride = gram_depth + 1;
constexpr int gram_shared_bytes = 2 * gram_tile * gram_stride * static_cast<int>(sizeof(double));

struct GramJob {
    UnitInputs inputs;
    int samples;
    std::int64_t first_batch;
    double* gram;  // [batches, samples, samples], of which the lower triangles are written
};

__global__ __launch_bounds__(gram_threads) void gram_matrix_kernel(const FPES_CONSTANT GramJob job) {
    auto* const left = dynamic_shared<double>();
    auto* const right = left + gram_tile * gram_stride;
    const int tiles = static_cast<int>(parts(job.samples, gram_tile));
    const int batch = block_index() / (tiles * tiles);
    const int first_row = block_index() / tiles % tiles * gram_tile, first_column = block_index() % tiles * gram_tile;
    if (first_column > first_row) return;
    const std::int64_t inputs_of_batch = (job.first_batch + batch) * job.samples;
    const int i = thread_index() / gram_tile, j = thread_index() % gram_tile;
    double sum = 0.0;
    for (int first = 0; first < job.inputs.fan_in; first += gram_depth) {
        const int depth = smaller(gram_depth, job.inputs.fan_in - first);
        __syncthreads();  // everybody is done with the inputs
        for (int task = thread_index(); task < 2 * gram_tile * gram_depth; task += gram_threads) {
            const int k = task % gram_depth, place = task / gram_depth % gram_tile;
            const bool is_left = task < gram_tile * gram_depth;
            const int sample = (is_left ? first_row : first_column) + place;
            const bool inside = sample < job.samples && k < depth;
            (is_left ? left : right)[place * gram_stride + k] =
                inside ? to_double(job.inputs.at(inputs_of_batch + sample, first + k)) : 0.0;
        }
        __syncthreads();
        for (int k = 0; k < depth; ++k) sum += left[i * gram_stride + k] * right[j * gram_stride + k];
    }
    const int row = first_row + i, column = first_column + j;
    if (row >= job.samples || column > row) return;
    job.gram[(static_cast<std::int64_t>(batch) * job.samples + row) * job.samples + column] = sum;
}

// --- Its factor ---

constexpr int factor_threads = 256;

struct FactorJob {
    UnitDraws draws;
    std::int64_t first_batch;
    const double* gram;
    double* lower;    // likewise: L
    double* factors;  // [batches, layers]
};

__global__ __launch_bounds__(factor_threads) void factorise_kernel(const FPES_CONSTANT FactorJob job) {
    auto* const shared = dynamic_shared<UnitScale>();
    const int n = job.draws.samples;
    const std::int64_t batch = block_index(), size = static_cast<std::int64_t>(n) * n;
    const double* const gram = job.gram + batch * size;
    double* const lower = job.lower + batch * size;
    if (thread_index() == 0) {
        *shared = unit_scale(gram, n + 1, n, job.draws.sigma);
        job.factors[job.draws.place_of_factor(job.first_batch + batch)] = shared->factor;
    }
    __syncthreads();
    const UnitScale scale = *shared;
    if (scale.factor == 0.0) return;
    for (int place = thread_index(); place < n * n; place += factor_threads) {
        const int i = place / n, j = place % n;
        if (j <= i) lower[place] = i == j ? gram[place] + scale.ridge : gram[place];
    }
    for (int k = 0; k < n; ++k) {
        __syncthreads();
        double* const pivot = lower + static_cast<std::int64_t>(k) * n + k;
        const double root = ::sqrt(*pivot);
        const int rest = n - k - 1;
        for (int i = thread_index(); i < rest; i += factor_threads) {
            double* const element = pivot + static_cast<std::int64_t>(i + 1) * n;
            *element = *element / root;
        }
        __syncthreads();
        if (thread_index() == 0) *pivot = root;
        const double* const column = pivot + n;
        for (int place = thread_index(); place < rest * rest; place += factor_threads) {
            const int i = place / rest, j = place % rest;
            if (j > i) continue;
            double* const element = pivot + static_cast<std::int64_t>(i + 1) * n + j + 1;
            *element = *element - column[static_cast<std::int64_t>(i) * n] * column[static_cast<std::int64_t>(j) * n];
        }
    }
}

// --- Draws ---

constexpr int draw_threads = 128;

struct SpanJob {
    UnitDraws draws;
    std::int64_t first_block;
    const double* gram;   // of the first block's batch
    const double* lower;  // likewise
    const double* factors;
    double* solutions;
    float* changes;
};

// solution = L^-T r, by one thread.
FPES_DEVICE void solve(const double* lower, int n, const float* signs, double* solution) {
    for (int i = n - 1; i >= 0; --i) {
        double rest = to_double(signs[i]);
        for (int k = i + 1; k < n; ++k) rest -= lower[static_cast<std::int64_t>(k) * n + i] * solution[k];
        solution[i] = rest / lower[static_cast<std::int64_t>(i) * n + i];
    }
}

__global__ __launch_bounds__(draw_threads) void span_kernel(const FPES_CONSTANT SpanJob job) {
    const UnitDraws& draws = job.draws;
    const int n = draws.samples, draw = block_index() % draws.count;
    const std::int64_t block = job.first_block + block_index() / draws.count, batch = draws.batch_of(block);
    const std::int64_t matrix = (batch - draws.batch_of(job.first_block)) * n * n;
    auto* const solution = dynamic_shared<double>();
    auto* const signs = reinterpret_cast<float*>(solution + n);
    double* const kept = job.solutions + draws.place(block, draw);
    float* const changes = job.changes + draws.place(block, draw);
    const double factor = job.factors[draws.place_of_factor(batch)];
    if (factor == 0.0) {
        for (int b = thread_index(); b < n; b += draw_threads) {
            kept[b] = 0.0;
            changes[b] = 0.0f;
        }
        return;
    }
    const auto counters = draws.noise.counters(draws.tensor(), block);
    for (int b = thread_index(); b < n; b += draw_threads) {
        const float first = draw_one(draws.noise.kind, counters, static_cast<std::uint64_t>(b));
        // A row of a Hadamard matrix.
        signs[b] = population_count(static_cast<std::uint32_t>(b & draw)) % 2 ? opposite(first) : first;
    }
    __syncthreads();
    if (thread_index() == 0) solve(job.lower + matrix, n, signs, solution);
    __syncthreads();
    const double* const gram = job.gram + matrix;
    for (int b = thread_index(); b < n; b += draw_threads) {
        double sum = 0.0;
        for (int k = 0; k < n; ++k) {
            const int row = k <= b ? b : k, column = k <= b ? k : b;
            sum += gram[static_cast<std::int64_t>(row) * n + column] * solution[k];
        }
        kept[b] = solution[b];
        changes[b] = to_float(factor * sum);
    }
}

struct WhiteJob {
    UnitDraws draws;
    UnitInputs inputs;
    std::int64_t first_batch;
    double* squares;  // [rows], from the first batch on: of the length of each input
    double* factors;
    float* changes;
};

// How large a batch's inputs are.
__global__ __launch_bounds__(draw_threads) void measure_kernel(const FPES_CONSTANT WhiteJob job) {
    const int n = job.draws.samples;
    const std::int64_t batch = job.first_batch + block_index(), row = batch * n;
    double* const squares = job.squares + static_cast<std::int64_t>(block_index()) * n;
    for (int b = thread_index(); b < n; b += draw_threads) {
        double sum = 0.0;
        for (int k = 0; k < job.inputs.fan_in; ++k) {
            const double value = to_double(job.inputs.at(row + b, k));
            sum += value * value;
        }
        squares[b] = sum;
    }
    __syncthreads();
    if (thread_index() != 0) return;
    job.factors[job.draws.place_of_factor(batch)] = unit_scale(squares, 1, n, job.draws.sigma).factor;
}

// k's of a white direction that are drawn at a time.
constexpr int white_chunk = 512;
static_assert(white_chunk % 8 == 0, "it is drawn eight at a time");

__global__ __launch_bounds__(draw_threads) void white_kernel(const FPES_CONSTANT WhiteJob job) {
    auto* const direction = dynamic_shared<float>();
    const UnitDraws& draws = job.draws;
    const int n = draws.samples, draw = block_index() % draws.count, fan_in = job.inputs.fan_in;
    const std::int64_t block = job.first_batch * draws.sharing + block_index() / draws.count;
    const std::int64_t batch = draws.batch_of(block);
    const double factor = job.factors[draws.place_of_factor(batch)];
    const auto counters = draws.noise.counters(draws.tensor(), block * draws.count + draw);
    for (int first = 0; first < n; first += draw_threads) {
        const int b = first + thread_index();
        double sum = 0.0;
        for (int begin = 0; begin < fan_in; begin += white_chunk) {
            const int count = smaller(white_chunk, fan_in - begin);
            __syncthreads();  // everybody is done with the last chunk
            for (int k = 8 * thread_index(); k < count; k += 8 * draw_threads) {
                draw_to(direction + k, draws.noise.kind, counters, static_cast<std::uint64_t>(begin + k));
            }
            __syncthreads();
            for (int k = 0; b < n && k < count; ++k) {
                sum += to_double(job.inputs.at(batch * n + b, begin + k)) * to_double(direction[k]);
            }
        }
        if (b < n) job.changes[draws.place(block, draw) + b] = factor == 0.0 ? 0.0f : to_float(factor * sum);
    }
}

// --- On the host side ---

class PrepareRun {
   public:
    PrepareRun(Context& context, const UnitJob& job, BatchRange batches)
        : job_(job),
          batches_(batches),
          samples_(static_cast<int>(job.batch.size)),
          first_row_(batches.begin * job.batch.size),
          rows_(batches.count() * job.batch.size) {
        std::int64_t widest = 0;
        for (const Step& layer : job.network.steps()) widest = std::max(widest, layer.tensor.fan_out);
        activations_ = context.arena.take<float>(rows_ * widest);
        if (job.population.span) {
            const std::int64_t size = job.batch.size * job.batch.size, floats = 2 * sizeof(double) / sizeof(float);
            at_a_time_ =
                std::clamp<std::int64_t>(context.device.floats_at_a_time / (floats * size), 1, batches.count());
            gram_ = context.arena.take<double>(at_a_time_ * size);
            lower_ = context.arena.take<double>(at_a_time_ * size);
        } else {
            squares_ = context.arena.take<double>(rows_);
        }
    }

    void run(Context& context) const {
        forward(context);
        for (const Step& layer : job_.network.steps()) {
            if (!job_.population.span) {
                draw_white(context, layer.position);
                continue;
            }
            for (std::int64_t batch = batches_.begin; batch < batches_.end; batch += at_a_time_) {
                draw_in_span(context, layer.position, batch, std::min(at_a_time_, batches_.end - batch));
            }
        }
    }

   private:
    void forward(Context& context) const {
        const float* in = job_.batch.x + first_row_ * job_.network.steps().front().tensor.fan_in;
        for (const Step& layer : job_.network.steps()) {
            float* const sums = job_.sums(layer.position) + first_row_ * layer.tensor.fan_out;
            gemm(context, job_.network.flush, in, job_.network.theta + layer.tensor.weight_offset, sums, rows_,
                 layer.tensor.fan_out, layer.tensor.fan_in);
            const DeviceLayers layers = device_layers(job_.network, nullptr, layer.position, layer.position + 1);
            cross_sums(context, layers.layer[0], sums, rows_, 1.0f, activations_);
            in = activations_;
        }
    }

    void draw_in_span(const Context& context, int layer, std::int64_t first_batch, std::int64_t batches) const {
        const UnitDraws draws = unit_draws(job_, layer);
        const std::int64_t tiles = parts(samples_, gram_tile);
        launch(gram_matrix_kernel, Grid{batches * tiles * tiles}, gram_threads, gram_shared_bytes, context,
               GramJob{unit_inputs(job_, layer), samples_, first_batch, gram_});
        launch(factorise_kernel, Grid{batches}, factor_threads, static_cast<int>(sizeof(UnitScale)), context,
               FactorJob{draws, first_batch, gram_, lower_, job_.state.factors});
        // Whole runs of 16 bytes, for compilers load two numbers at a time.
        const int bytes = (samples_ * static_cast<int>(sizeof(double) + sizeof(float)) + 15) / 16 * 16;
        launch(span_kernel, Grid{batches * draws.sharing * draws.count}, draw_threads, bytes, context,
               SpanJob{draws, first_batch * draws.sharing, gram_, lower_, job_.state.factors, job_.state.solutions,
                       job_.state.changes});
    }

    void draw_white(const Context& context, int layer) const {
        const UnitDraws draws = unit_draws(job_, layer);
        const UnitState& state = job_.state;
        const WhiteJob job{draws, unit_inputs(job_, layer), batches_.begin, squares_, state.factors, state.changes};
        launch(measure_kernel, Grid{batches_.count()}, draw_threads, 0, context, job);
        launch(white_kernel, Grid{batches_.count() * draws.sharing * draws.count}, draw_threads,
               white_chunk * static_cast<int>(sizeof(float)), context, job);
    }

    const UnitJob& job_;
    BatchRange batches_;
    int samples_;
    std::int64_t first_row_;      // of the batches
    std::int64_t rows_;           // of all batches
    float* activations_;          // of a layer
    std::int64_t at_a_time_ = 1;  // batches whose matrices are there
    double* gram_ = nullptr;      // [at a time, samples, samples]
    double* lower_ = nullptr;     // likewise
    double* squares_ = nullptr;   // of white directions
};

}  // namespace

float* UnitJob::sums(int layer) const {
    float* at = state.sums;
    for (int l = 0; l < layer; ++l) at += rows() * network.steps()[l].tensor.fan_out;
    return at;
}

UnitInputs unit_inputs(const UnitJob& job, int layer) {
    const Step& own = job.network.steps()[layer];
    UnitInputs inputs{};
    inputs.fan_in = static_cast<int>(own.tensor.fan_in);
    inputs.crosses = layer > 0;
    inputs.from = layer == 0 ? job.batch.x : job.sums(layer - 1);
    if (layer > 0) inputs.below = device_layers(job.network, nullptr, layer - 1, layer).layer[0];
    inputs.factor = 1.0f / own.bias_factor;
    return inputs;
}

UnitDraws unit_draws(const UnitJob& job, int layer) {
    return {{round_keys(job.population.key), job.population.generation, NoiseKind::rademacher},
            layer,
            job.layout.depth(),
            job.layout.draws(layer),
            job.layout.first_draw(layer),
            job.layout.draws(),
            static_cast<int>(job.batch.size),
            job.population.sigma,
            job.blocks_each()};
}

void unit_prepare(Context& context, const UnitJob& job, BatchRange batches) {
    check_flush(job.network.flush);
    const PrepareRun run(context, job, batches);
    if (!context.arena.measuring()) run.run(context);
}

FPES_NAMESPACE_END

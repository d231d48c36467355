// Preparations of one-unit members for a batch, computed once for all members: the sums of the unperturbed network, and
// for each layer the directions of its draws and the changes of the pre-activations.
#include <algorithm>
#include <vector>

#include "nonzero_lists.hpp"
#include "parallel.hpp"
#include "unit.hpp"

namespace fpes {
namespace {

// Samples that a thread carries through the network at a time.
constexpr std::int64_t tile_samples = 64;

// The unperturbed network on a tile of rows.
class Pass {
   public:
    Pass(const UnitJob& job, std::int64_t tile)
        : job_(job),
          engine_(job.engine),
          network_(job.network),
          input_(engine_.matrix(tile, network_.features())),
          sums_(engine_.matrix(tile, network_.widest_output())),
          activations_(engine_.matrix(tile, network_.widest_output())),
          scaled_bias_(engine_.matrix(1, network_.widest_output())),
          lists_(engine_, tile, network_.widest()) {}

    void run(std::int64_t row, int rows) {
        const std::int64_t features = network_.features();
        engine_.kernels().pack(job_.batch.x + row * features, features, rows, static_cast<int>(features),
                               input_.view());
        Panels in = input_.view();
        float* out = job_.state.sums;
        for (int l = 0; l < network_.depth(); ++l) {
            const Step& layer = network_.step(l);
            const int n = static_cast<int>(layer.tensor.fan_out);
            multiply(in, layer.tensor, rows);
            engine_.kernels().unpack(sums_.view(), rows, n, out + row * n, n);
            out += job_.rows() * n;
            if (l + 1 == network_.depth()) break;
            cross_boundary(engine_, layer, sums_.view(), rows, network_.bias(layer.tensor), scaled_bias_.view(),
                           activations_.view());
            in = activations_.view();
        }
    }

   private:
    void multiply(Panels in, const Tensor& tensor, int rows) {
        const int n = static_cast<int>(tensor.fan_out), k = static_cast<int>(tensor.fan_in);
        if (lists_.fill(in, rows, k)) {
            engine_.in_product(&ModeKernels::product_nonzeros, lists_.view(), 0, in, network_.weight(tensor), Panels{},
                               sums_.view(), rows, n, k);
        } else {
            engine_.in_product(&ModeKernels::product, in, network_.weight(tensor), Panels{}, sums_.view(), rows, n, k);
        }
    }

    const UnitJob& job_;
    const Engine& engine_;
    PackedNetwork& network_;
    PanelMatrix input_;
    PanelMatrix sums_;
    PanelMatrix activations_;
    PanelMatrix scaled_bias_;
    NonzeroLists lists_;
};

// The directions of one layer on one batch after another.
class Directions {
   public:
    explicit Directions(const UnitJob& job)
        : job_(job),
          samples_(static_cast<int>(job.batch.size)),
          stride_(unit_stride(job.batch.size)),
          inputs_(job.network.widest() * stride_),
          wide_(job.network.widest() * stride_),
          gram_(job.population.span ? job.batch.size * job.batch.size : 0),
          factor_(job.population.span ? job.batch.size * job.batch.size : 0),
          squares_(stride_),
          products_(stride_),
          first_(std::max(job.network.widest(), job.batch.size)),
          signs_(job.batch.size),
          scratch_(noise_scratch_size(std::max(job.network.widest(), job.batch.size))) {}

    void run(int layer, std::int64_t batch) {
        fan_in_ = job_.network.step(layer).tensor.fan_in;
        unit_inputs(job_, layer, batch, inputs_.data());
        std::copy_n(inputs_.data(), fan_in_ * stride_, wide_.data());
        const UnitScale scale = job_.population.span ? factorise() : measure();
        job_.state.factors[batch * job_.layout.depth() + layer] = scale.factor;
        for (std::int64_t block = 0; block < job_.blocks(); ++block) {
            if (job_.batch_of_block(block) != batch) continue;
            for (int draw = 0; draw < job_.layout.draws(layer); ++draw) {
                job_.population.span ? draw_in_span(block, layer, draw, scale) : draw_white(block, layer, draw, scale);
            }
        }
    }

   private:
    UnitScale factorise() {
        job_.engine.kernels().unit_gram(wide_.data(), fan_in_, samples_, stride_, gram_.data());
        const UnitScale scale = unit_scale(gram_.data(), samples_ + 1, samples_, job_.population.sigma);
        if (scale.factor != 0.0) {
            std::copy_n(gram_.data(), job_.batch.size * job_.batch.size, factor_.data());
            unit_factorise(factor_.data(), samples_, scale.ridge);
        }
        return scale;
    }

    UnitScale measure() {
        std::fill_n(squares_.data(), stride_, 0.0);
        for (std::int64_t k = 0; k < fan_in_; ++k) {
            for (std::int64_t b = 0; b < stride_; ++b) {
                const double value = wide_[k * stride_ + b];
                squares_[b] += value * value;
            }
        }
        return unit_scale(squares_.data(), 1, samples_, job_.population.sigma);
    }

    void draw_signs(int layer, std::int64_t index, std::int64_t count) {
        job_.engine.kernels().noise(job_.stream(layer, index), 0, static_cast<int>(count), first_.data(),
                                    scratch_.data());
    }

    void draw_in_span(std::int64_t block, int layer, int draw, const UnitScale& scale) {
        double* solution = job_.state.solutions + job_.draw_index(block, layer, draw) * job_.batch.size;
        if (scale.factor == 0.0) {
            std::fill_n(solution, samples_, 0.0);
            std::fill_n(products_.data(), samples_, 0.0);
        } else {
            draw_signs(layer, block, samples_);
            unit_signs(first_.data(), samples_, draw, signs_.data());
            unit_solve(factor_.data(), samples_, signs_.data(), solution);
            unit_multiply(gram_.data(), samples_, solution, products_.data());
        }
        write_changes(block, layer, draw, scale.factor);
    }

    void draw_white(std::int64_t block, int layer, int draw, const UnitScale& scale) {
        draw_signs(layer, block * job_.layout.draws(layer) + draw, fan_in_);
        job_.engine.kernels().unit_project(wide_.data(), fan_in_, stride_, first_.data(), products_.data());
        if (scale.factor == 0.0) std::fill_n(products_.data(), samples_, 0.0);
        write_changes(block, layer, draw, scale.factor);
    }

    void write_changes(std::int64_t block, int layer, int draw, double factor) {
        float* changes = job_.state.changes + job_.draw_index(block, layer, draw) * job_.batch.size;
        for (int b = 0; b < samples_; ++b) changes[b] = static_cast<float>(factor * products_[b]);
    }

    const UnitJob& job_;
    int samples_;
    std::int64_t stride_;
    std::int64_t fan_in_ = 0;
    Buffer<float> inputs_;  // [fan_in, stride]
    Buffer<double> wide_;   // likewise
    Buffer<double> gram_;
    Buffer<double> factor_;
    Buffer<double> squares_;
    Buffer<double> products_;
    Buffer<float> first_;
    Buffer<float> signs_;
    Buffer<float> scratch_;
};

}  // namespace

const float* UnitJob::sums(int layer, std::int64_t row) const {
    const float* at = state.sums;
    for (int l = 0; l < layer; ++l) at += rows() * network.step(l).tensor.fan_out;
    return at + row * network.step(layer).tensor.fan_out;
}

void unit_transpose(const float* rows, std::int64_t ld, std::int64_t samples, std::int64_t n, float* out) {
    const std::int64_t stride = unit_stride(samples);
    for (std::int64_t i = 0; i < n; ++i, out += stride) {
        for (std::int64_t b = 0; b < samples; ++b) out[b] = rows[b * ld + i];
        std::fill(out + samples, out + stride, 0.0f);
    }
}

std::vector<float> unit_biases(const UnitJob& job, int layer) {
    const Step& step = job.network.step(layer);
    const int n = static_cast<int>(step.tensor.fan_out);
    PanelMatrix scaled = job.engine.matrix(1, n);
    job.engine.elementwise(&ModeKernels::scale, job.network.bias(step.tensor), 1, n, step.bias_factor, scaled.view());
    std::vector<float> biases(n);
    job.engine.kernels().unpack(scaled.view(), 1, n, biases.data(), n);
    return biases;
}

void unit_inputs(const UnitJob& job, int layer, std::int64_t batch, float* out) {
    const std::int64_t size = job.batch.size, row = batch * size, stride = unit_stride(size);
    const std::int64_t n = job.network.step(layer).tensor.fan_in;
    if (layer == 0) return unit_transpose(job.batch.x + row * n, n, size, n, out);
    const Step& below = job.network.step(layer - 1);
    unit_transpose(job.sums(layer - 1, row), n, size, n, out);
    const std::vector<float> bias = unit_biases(job, layer - 1);
    job.engine.elementwise(&ModeKernels::unit_boundary, out, bias.data(), below.enter, below.leave, static_cast<int>(n),
                           static_cast<int>(stride));
    // Back from the scaled domain, exactly.
    const float factor = 1.0f / job.network.step(layer).bias_factor;
    for (std::int64_t k = 0; k < n; ++k) {
        for (std::int64_t b = 0; b < size; ++b) out[k * stride + b] *= factor;
        std::fill(out + k * stride + size, out + (k + 1) * stride, 0.0f);
    }
}

void unit_prepare(const UnitJob& job, BatchRange batches) {
    const std::int64_t first_row = batches.begin * job.batch.size, rows = batches.count() * job.batch.size;
    const std::int64_t tile = std::min(tile_samples, rows);
    parallel(job.threads, (rows + tile - 1) / tile, [&](WorkQueue& queue) {
        Pass pass(job, tile);
        for (std::int64_t item; queue.take(item);) {
            pass.run(first_row + item * tile, static_cast<int>(std::min(tile, rows - item * tile)));
        }
    });
    const int depth = job.layout.depth();
    parallel(job.threads, batches.count() * depth, [&](WorkQueue& queue) {
        Directions directions(job);
        for (std::int64_t item; queue.take(item);) {
            directions.run(static_cast<int>(item % depth), batches.begin + item / depth);
        }
    });
}

}  // namespace fpes

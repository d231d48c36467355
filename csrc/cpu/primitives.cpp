#include "primitives.hpp"

#include <algorithm>
#include <atomic>
#include <thread>

#include "parallel.hpp"

namespace fpes {
namespace {

// Rows of the left operand that one thread takes at a time: some k's of them stay in the second-level cache while the
// panels of the right operand pass by.
constexpr std::int64_t gemm_rows = 96;
// Panels that one thread packs at a time.
constexpr std::int64_t packed_panels = 8;
// Rows of outputs whose losses one thread finds at a time: a multiple of any vector's lanes.
constexpr std::int64_t loss_rows = 64;
// Floats that an elementwise operation gives to one thread at a time.
constexpr std::int64_t elementwise_grain = 1 << 16;

// Work that others wait for, as soon as somebody is at each piece of it.
class Pending {
   public:
    explicit Pending(std::int64_t pieces) : left_(pieces) {}
    void done() { left_.fetch_sub(1, std::memory_order_release); }
    void wait() const {
        while (left_.load(std::memory_order_acquire) > 0) std::this_thread::yield();
    }

   private:
    std::atomic<std::int64_t> left_;
};

// Some rows of a product, a part of k at a time. Where the right operand's last panel isn't full its columns are
// computed aside, for whole vectors are written.
class GemmBlock {
   public:
    GemmBlock(const Engine& engine, Panels right, float* c, std::int64_t n, std::int64_t k, std::int64_t most_rows)
        : engine_(engine),
          right_(right),
          c_(c),
          n_(n),
          k_(k),
          depth_(part_of(k, engine.kernels().part_depth, engine.width())),
          left_(engine.matrix(most_rows, std::min(k, depth_))),
          last_(engine.matrix(most_rows, engine.width())) {}

    // Rows row ... row + rows - 1, of which the left operand's begin at `a`.
    void run(const float* a, std::int64_t row, int rows) {
        for (std::int64_t first = 0; first < k_; first += depth_) {
            const auto depth = static_cast<int>(std::min(depth_, k_ - first));
            engine_.kernels().pack(a + first, k_, rows, depth, left_.view());
            for (std::int64_t j = 0; j < n_; j += engine_.width()) multiply(row, rows, j, first, depth);
        }
        const std::int64_t whole = n_ - n_ % engine_.kernels().lanes, panel = whole / engine_.width() * engine_.width();
        if (whole < n_) {
            engine_.kernels().unpack(last_.view(), rows, static_cast<int>(n_ - panel), c_ + row * n_ + panel, n_);
        }
    }

   private:
    // Parts of k are nearly equal: a multiple of `step`, at most `most`.
    static std::int64_t part_of(std::int64_t k, std::int64_t most, std::int64_t step) {
        const std::int64_t parts = std::max<std::int64_t>(1, (k + most - 1) / most);
        return (k + parts * step - 1) / (parts * step) * step;
    }

    void multiply(std::int64_t row, int rows, std::int64_t j, std::int64_t first, int depth) {
        const auto columns = static_cast<int>(std::min<std::int64_t>(engine_.width(), n_ - j));
        const bool whole = columns % engine_.kernels().lanes == 0;
        const Panels left = left_.view(), b = engine_.at_row(engine_.at_column(right_, j), first);
        engine_.in_product(&ModeKernels::product_part, left.data, left.stride, b.data, first > 0,
                           whole ? c_ + row * n_ + j : last_.view().data, whole ? n_ : std::int64_t{engine_.width()},
                           rows, columns, depth);
    }

    const Engine& engine_;
    Panels right_;
    float* c_;
    std::int64_t n_, k_, depth_;
    PanelMatrix left_;  // rows and k's that are being multiplied
    PanelMatrix last_;
};

}  // namespace

// Packing and multiplying are items of one queue, for to wake the threads twice takes longer than to pack a small
// operand. Items are handed out in order: when the first block of rows is taken, somebody packs the last panels.
void gemm(const Engine& engine, int threads, const float* a, const float* b, float* c, std::int64_t m, std::int64_t n,
          std::int64_t k) {
    const Kernels& kernels = engine.kernels();
    PanelMatrix right = engine.matrix(k, n);
    const std::int64_t packed = packed_panels * kernels.width, pieces = (n + packed - 1) / packed;
    // Every thread gets as many rows as any other.
    const std::int64_t rounds = (m + gemm_rows * threads - 1) / (gemm_rows * threads);
    const std::int64_t block = (m + rounds * threads - 1) / (rounds * threads);
    Pending packing(pieces);
    parallel(threads, pieces + (m + block - 1) / block, [&](WorkQueue& queue) {
        GemmBlock rows(engine, right.view(), c, n, k, block);
        for (std::int64_t item; queue.take(item);) {
            if (item < pieces) {
                const std::int64_t begin = item * packed, columns = std::min(packed, n - begin);
                kernels.pack(b + begin, n, static_cast<int>(k), static_cast<int>(columns),
                             engine.at_column(right.view(), begin));
                packing.done();
            } else {
                packing.wait();
                const std::int64_t row = (item - pieces) * block;
                rows.run(a + row * k, row, static_cast<int>(std::min(block, m - row)));
            }
        }
    });
}

void bias_add(const Engine& engine, int threads, const float* v, const float* bias, float* out, std::int64_t rows,
              std::int64_t n) {
    const std::int64_t grain = std::max<std::int64_t>(1, elementwise_grain / n);
    parallel_ranges(threads, rows, grain, [&](std::int64_t begin, std::int64_t end) {
        engine.elementwise(&ModeKernels::bias_add, v + begin * n, bias, end - begin, n, out + begin * n);
    });
}

void multiply(const Engine& engine, int threads, const float* v, float factor, float* out, std::int64_t count) {
    parallel_ranges(threads, count, elementwise_grain, [&](std::int64_t begin, std::int64_t end) {
        engine.elementwise(&ModeKernels::multiply, v + begin, factor, end - begin, out + begin);
    });
}

void losses(const Engine& engine, int threads, const float* outputs, std::int64_t rows, std::int64_t count,
            const Targets& targets, float* losses) {
    const auto n = static_cast<int>(count);
    parallel(threads, (rows + loss_rows - 1) / loss_rows, [&](WorkQueue& queue) {
        PanelMatrix tile = engine.matrix(loss_rows, count);
        Buffer<float> found(loss_rows);
        for (std::int64_t item; queue.take(item);) {
            const std::int64_t first = item * loss_rows;
            const auto height = static_cast<int>(std::min(loss_rows, rows - first));
            engine.kernels().pack(outputs + first * count, n, height, n, tile.view());
            engine.elementwise(&ModeKernels::losses, targets, first, tile.view(), height, n, found.data());
            std::copy_n(found.data(), height, losses + first);
        }
    });
}

void multiply_add_chains(const Engine& engine, int threads, std::int64_t steps) {
    parallel(threads, threads, [&](WorkQueue& queue) {
        Buffer<float> out(engine.kernels().lanes);
        for (std::int64_t item; queue.take(item);) {
            engine.elementwise(&ModeKernels::multiply_add_chains, steps, out.data());
        }
    });
}

}  // namespace fpes
